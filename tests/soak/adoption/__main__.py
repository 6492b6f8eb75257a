"""Adoptions of kubeadm's clusters under load: `make soak-adoption`.

On the smallest cluster: aborts from every state, after each of which the next start goes on; a worker that joins in
every state; commands that are killed at any moment, forward and back; the whole way. On clusters of other shapes: two
stacked members of etcd, and external etcd. Control runs, each without one protection, must fail as the model says.
Last, three control planes, as in the conformance tests, and to the end. Ends with 1, and says why, where a request
failed for a reason of TLS or was answered with 401, where an API server was away for too long, or where a control run
did not fail; prints its figures as Markdown.
"""

from __future__ import annotations

import sys

from soak import command, phases
from soak.adoption import controls, planes, shapes, small
from soak.phases import Phase

PARTS = (
    (small.on, small.PHASES),
    (shapes.on, shapes.PHASES),
    (planes.on, planes.PHASES),
    (controls.on, controls.CONTROLS),
)


def main() -> int:
    def given_up(kind: str, why: str) -> Phase:
        return Phase(kind, "between phases", 0.0, 0, broken=why)

    return phases.report(command.run("soak.adoption", __doc__, PARTS, given_up, kinds=("bao",)))


if __name__ == "__main__":
    sys.exit(main())
