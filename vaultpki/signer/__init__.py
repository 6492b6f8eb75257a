"""Has Vault sign the cluster's certificate requests that are approved: which ones, by rules, and the process.

The rules are pure; nothing here holds the key of a CA.
"""
