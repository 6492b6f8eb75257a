"""The only road to a Vault or OpenBao server, and the only importer of hvac."""

from vaultpki.vault.client import Vault, explained
from vaultpki.vault.settings import Settings, from_environment
from vaultpki.vault.wire import HEALTH, Answer, Capabilities, Json, Request, check_named, member, text

__all__ = [
    "HEALTH",
    "Answer",
    "Capabilities",
    "Json",
    "Request",
    "Settings",
    "Vault",
    "check_named",
    "explained",
    "from_environment",
    "member",
    "text",
]
