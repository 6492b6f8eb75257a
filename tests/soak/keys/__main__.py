"""Rotations of service-account keys in real clusters of three control planes under load: `make soak-keys`.

Tokens of each API server are used at every one all the time, with the token of a pod, which its kubelet replaces, and
with one of a Secret, which never expires. A whole rotation, in which a node is killed and others join; an abort from
each state; a node that joins, and one that leaves; a stolen node, and all keys stolen; from one shared `sa.key` to own
keys. Control runs, each without one rule of the model, must have tokens refused. After each phase no private key may
lie on two machines. Ends with 1, and says why, where a token was refused, or where a control run did not fail; prints
its figures as Markdown.
"""

from __future__ import annotations

import sys

from soak import command
from soak.keys import phases as own
from soak.keys import shared, table
from soak.keys.table import KeyPhase

PARTS = ((own.on, own.PHASES), (shared.on, shared.PHASES))


def main() -> int:
    def given_up(kind: str, why: str) -> KeyPhase:
        return KeyPhase(kind, "between two phases", 0.0, 0, broken=why)

    return table.report(command.run("soak.keys", __doc__, PARTS, given_up))


if __name__ == "__main__":
    sys.exit(main())
