"""Runs the whole product on one machine: an embedded OpenBao, an example cluster, every node and the operator.

It calls the same functions as the commands. It imports every room above it; only `cli` imports it.
Entry: `run.demo`.
"""
