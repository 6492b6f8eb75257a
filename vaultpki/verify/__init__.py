"""Proves that every client that must be accepted is, and no other: files, chains, TLS handshakes, a forbidden list.

Entries: `matrix.verify`, `vault_trial.verify_vault`.
"""
