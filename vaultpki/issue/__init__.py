"""Obtains one certificate: the key and the CSR are made here, Vault signs, the answer is checked, files are made.

Nodes and operators share it. Entries: `signing.sign`, `operator.issue`.
"""
