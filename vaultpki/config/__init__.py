"""What people write: cluster.yaml and agent.yaml, their keys, their schema, and whether their parts fit together.

Errors name file, line and field. Entry: `cluster.load_cluster` and `agent.load_agent`.
"""
