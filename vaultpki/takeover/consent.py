"""Says whether an agent may do on its machine what cannot be undone: its consent alone ends at retired.

Whoever may write the adoption's record could else lead a machine to the end within minutes. So a day of the machine's
own uptime passes after it has seen retired, in which root there can stop the agent, and its own listeners prove that
nobody needs the old CAs. Root says so at once (`vaultpki adopt node --finish`). Nothing else shortens it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from vaultpki.host import boot_time
from vaultpki.host.boot_time import Moment
from vaultpki.host.pod_manifest import PodManifest
from vaultpki.host.presented import Presented
from vaultpki.kube.flags import own_listener
from vaultpki.layout import API_PORT, KUBELET_PORT
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import Held
from vaultpki.takeover import settings
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import Journal, JournalFile, read

FINISH_AFTER: Final = 24 * 3600
"""Seconds of a machine's uptime after which its agent may do what cannot be undone."""

# The journal is not written at each pass; what was not yet counted is counted by the next one of this boot.
_SAVED_EVERY: Final = 60.0
_LOOPBACK: Final = "127.0.0.1"
# kubernetes pkg/cluster/ports/ports.go.
_OWN: Final = {"kube-controller-manager": 10257, "kube-scheduler": 10259}


def count(journal: JournalFile, now: Moment | None = None) -> None:
    """Count the uptime since this machine has done the steps of RETIRED; a step back begins it anew.

    Raises StoreError.
    """
    known, now = journal.value, now or boot_time.now()
    if known.reached not in (AdoptionState.RETIRED, AdoptionState.DONE):
        if known.counted is not None:
            journal.save(in_retired=0.0, counted=None)
        return
    passed = _passed(known, now)
    if known.counted is None or known.counted.boot != now.boot or passed >= _SAVED_EVERY:
        journal.save(in_retired=known.in_retired + passed, counted=now)


def _passed(known: Journal, now: Moment) -> float:
    """Return the seconds since the last count; how long the machine was off, and when it was off, is not known."""
    same = known.counted is not None and known.counted.boot == now.boot
    return max(now.uptime - known.counted.uptime, 0.0) if same and known.counted is not None else 0.0


def waits(run: TakeOver, now: Moment | None = None) -> str:
    """Return what keeps the agent from the end on this machine, as a sentence; "" if nothing does."""
    known = run.journal.value
    left = FINISH_AFTER - known.in_retired - _passed(known, now or boot_time.now())
    how = "or at once if root says so here (`vaultpki adopt node --finish`)"
    if left > 0:
        hours = f"{left / 3600:.0f} hours" if left > 3600 else "an hour"
        return f"the last step, from which there is no way back: in about {hours} of this machine's uptime, {how}"
    if problem := next(_unproven(run), ""):
        return f"the last step, once its own listeners prove that nobody needs the old CAs, {how}: {problem}"
    return ""


def _unproven(run: TakeOver) -> Iterator[str]:
    """Yield what a listener of this machine shows of an old CA, or why it was not seen."""
    for name, ca, address, port in _listeners(run):
        shown = run.components.presented(address, port)
        place = f"{name} at {address}:{port}"
        if not isinstance(shown, Presented):
            yield f"{place}: {shown}"
            continue
        signers = [run.cas.signer(leaf, each) for leaf in shown.chain[:1] for each in run.cas.old]
        if Held.OLD in signers:
            yield f"{place} shows a certificate of an old CA"
        elif ca == "kubelet" and shown.chain[:1] != run.machine.certificates(f"{run.where.kubelet}/kubelet.crt")[:1]:
            yield f"{place} does not show the certificate that lies there"
        elif ca not in ("", "kubelet") and [run.cas.signer(leaf, ca) for leaf in shown.chain[:1]] != [Held.NEW]:
            yield f"{place} shows no certificate of the new CA"
        old = {each.subject_text for cas in run.cas.old.values() for each in cas}
        if old.intersection(shown.client_cas or ()):
            yield f"{place} lets in clients of an old CA"


def _listeners(run: TakeOver) -> Iterator[tuple[str, str, str, int]]:
    """Yield component, the domain of its certificate ("" for one of its own), address and port on this machine."""
    for component, path in run.machine.static_pods().items():
        flags = PodManifest((read(path) or (b"", None))[0], path).flags
        if component == "kube-apiserver":
            address, port = own_listener(flags, API_PORT)
            yield component, "kubernetes", address or _LOOPBACK, port
        elif component in _OWN:
            address, port = own_listener(flags, _OWN[component])
            if port:
                yield component, "", address or _LOOPBACK, port
        elif run.machine.old.get("etcd"):
            for flag in ("listen-client-urls", "listen-peer-urls"):
                parts = urlsplit(flags.get(flag, "").partition(",")[0])
                if parts.hostname and parts.port and parts.scheme == "https":
                    yield component, "etcd", parts.hostname, parts.port
    if run.machine.has_kubelet():
        found = settings.values_of((read(run.machine.kubelet_settings) or (b"", None))[0])
        address, given = str(found.get("address") or _LOOPBACK), str(found.get("port") or KUBELET_PORT)
        # kubeadm has no CA for it, so the machine does not know the new one.
        yield "kubelet", "kubelet", _LOOPBACK if address in ("0.0.0.0", "::") else address, int(given)  # noqa: S104
