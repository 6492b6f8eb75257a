"""cluster.yaml and agent.yaml to frozen values, with errors true to the line."""

from vaultpki.config.agent import dump_agent, load_agent
from vaultpki.config.cluster import load_cluster
from vaultpki.config.declared import schema
from vaultpki.config.durations import format_duration, parse_duration
from vaultpki.config.starter import starter

__all__ = ["dump_agent", "format_duration", "load_agent", "load_cluster", "parse_duration", "schema", "starter"]
