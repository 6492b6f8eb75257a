"""The server side: which objects a cluster needs in Vault, what is there, the plan between both, and applying it.

Enrolment and the end of identities belong here too. It imports every room above it. Entry: `apply.apply`.
"""
