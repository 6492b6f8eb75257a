"""Says what an operator adds to what nodes report, when a step of a rotation is to be taken; pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from vaultpki.kube.objects import KubeTrust
from vaultpki.records.rotation import RotationRecord
from vaultpki.rotation import listener_trust
from vaultpki.rotation.listener_trust import Look


@dataclass(frozen=True, slots=True)
class Confirmations:
    """What an operator says and lets be looked at.

    `without` are nodes, or names of operators' certificates, that no gate waits for any more. `restarted` are nodes on
    which a person has restarted what reads the bundle only at its start; there are further words for what is no node
    (`root_gates.WORDS`, `serving_copy.WORD`). `pods` is what the Kubernetes cluster shows, None without
    `--kubeconfig`. `look` asks the listeners of nodes before a step that depends on whom they trust, and before a turn
    passes on; None asks nobody.
    """

    without: Collection[str] = ()
    restarted: Collection[str] = ()
    pods: KubeTrust | None = None
    look: Look | None = None

    def noted(self, record: RotationRecord) -> RotationRecord:
        """Return the record with what was said; what was seen on a restarted node before counts no more."""
        return replace(
            listener_trust.confirmed(record, self.restarted),
            excused=tuple(sorted({*record.excused, *self.without})),
            restarted=tuple(sorted({*record.restarted, *self.restarted})),
        )


NOTHING_CONFIRMED = Confirmations()
"""What an operator says who only asks for the next step."""
