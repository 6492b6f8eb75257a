"""Says what an operator adds to what nodes report, when a step of a rotation is to be taken; pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vaultpki.kube.objects import KubeTrust
from vaultpki.records.rotation import RotationRecord
from vaultpki.rotation import listener_trust
from vaultpki.rotation.listener_trust import Look


@dataclass(frozen=True, slots=True)
class Confirmations:
    """What an operator says and lets be looked at.

    `without` are nodes, or names of operators' certificates, that no gate waits for any more. `restarted` are the
    components (`cp-1/etcd`) that a person has restarted and that no agent can see. `checked` are further words of a
    person (`CHECKS`). `pods` is what the Kubernetes cluster shows, None without
    `--kubeconfig`. `look` asks the listeners of nodes before a step that depends on whom they trust, and before a turn
    passes on; None asks nobody.
    """

    without: Collection[str] = ()
    restarted: Collection[str] = ()
    checked: Collection[str] = ()
    pods: KubeTrust | None = None
    look: Look | None = None

    def noted(self, record: RotationRecord) -> RotationRecord:
        """Return the record with what was said; what was seen on a restarted node before counts no more."""
        record = listener_trust.confirmed(record, self.restarted)
        return record.noted(excused=self.without, restarted=self.restarted, checked=self.checked)


NOTHING_CONFIRMED = Confirmations()
"""What an operator says who only asks for the next step."""
