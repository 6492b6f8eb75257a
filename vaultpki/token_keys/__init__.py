"""The rules by which service-account keys are rotated: states, gates, turns, and what the record takes from reports.

Nothing here reads a server, a file or the clock; `key_rotation` carries out what is decided.
"""
