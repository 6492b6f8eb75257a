"""Vault and OpenBao as tests start them, what is applied to them, and what is read from them."""
