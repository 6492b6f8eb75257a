"""The rules by which a CA is rotated: states, gates, reasons, the next write, and what a restored server means.

Nothing here reads a server, a file or the clock; `ca` carries out what is decided. tests/models explores these rules.
"""
