"""The commands on service-account keys: read where they stand, decide by the rules of `token_keys`, and write it."""
