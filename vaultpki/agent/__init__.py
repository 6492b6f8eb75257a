"""One pass over a node, in five stages, and how the node stands after it (status).

A pass reads what is on the disk, asks Vault for what is missing or due, installs it through `disk`, runs the hooks of
`host` and reports. Entry: `run.run`.
"""
