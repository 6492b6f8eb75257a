"""One pass over a node, and what is done on a node by hand: join, status, doctor.

A pass reads what is on the disk, asks Vault for what is missing or due, installs it through `disk`, runs the hooks of
`host` and reports. Entry: `run.run`.
"""
