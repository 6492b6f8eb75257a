"""Proof on a running cluster: what listeners present, whom they accept, and the copies of CAs in its API server."""
