"""A node's entry into a cluster: what would make it fail, the join itself, its hooks; doctor, which examines a node.

All that can be checked is checked before the wrapping token is used, since it works only once. Entry: `enter.join`.
"""
