"""Vault or OpenBao as the certificate authority of a Kubernetes cluster."""

__version__ = "0.1.0"
