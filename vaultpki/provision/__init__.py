"""The server side: which objects a cluster needs in Vault, what is there, the plan between both, and applying it.

Entry: `apply.apply`.
"""
