"""Makes kubeadm's own configuration for a node from a checked cluster.yaml, and writes it as a folder.

kubeadm runs with an external CA here: it finds every certificate in place, and makes none. Only `cli` imports this
room. Entry: `files.made`.
"""
