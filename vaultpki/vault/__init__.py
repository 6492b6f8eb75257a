"""The only road to a Vault or OpenBao server, and the only importer of hvac; its exceptions never leave this room.

hvac calls an adapter of ours, which exchanges HTTP by h11 over sockets with a deadline for everything. Entry:
`Vault`.
"""

from vaultpki.vault.answers import (
    HEALTH,
    Answer,
    Capabilities,
    Json,
    Request,
    check_named,
    member,
    own_program,
    shown_certificate,
    shown_request,
    text,
)
from vaultpki.vault.client import Vault, explained
from vaultpki.vault.route import StandbyReads
from vaultpki.vault.settings import Settings, from_environment

__all__ = [
    "HEALTH",
    "Answer",
    "Capabilities",
    "Json",
    "Request",
    "Settings",
    "StandbyReads",
    "Vault",
    "check_named",
    "explained",
    "from_environment",
    "member",
    "own_program",
    "shown_certificate",
    "shown_request",
    "text",
]
