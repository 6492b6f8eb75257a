"""A node's side: its files, its agent as a process, and how it is enrolled."""
