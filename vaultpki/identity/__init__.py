"""Who a node is to Vault: its login and policies, how it is enrolled, locked and revoked, and what Vault has of it."""
