"""The node side: what one pass of the agent does, and the daemon that makes pass after pass.

A pass reads what is on the disk, asks Vault for what is missing or due, installs it through `disk`, runs the hooks of
`host` and reports. This room imports every room above it; only `demo` and `cli` import it. Entry: `run.run`.
"""
