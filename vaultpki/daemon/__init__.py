"""The agent that stays: its loop, its lock, what it logs, its metrics, and how other commands ask it for a pass."""
