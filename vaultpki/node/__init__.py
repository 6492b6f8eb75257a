"""What a node keeps for itself: its credential, its pins, what Vault says it holds, and its memory of passes."""
