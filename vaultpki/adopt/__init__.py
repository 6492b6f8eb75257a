"""Taking over a live kubeadm cluster: what is there, what is in the way, and a cluster.yaml for it; reads only.

`inventory.take` reads the cluster, this machine's disk and what listeners present. What follows from that is decided by
the pure modules: `assembly` (what is in use), `draft` (the cluster.yaml) and `obstacles` (what is in the way).
"""
