"""A Kubernetes cluster seen from outside: its API, the flags of its components, and the objects that hold CAs."""
