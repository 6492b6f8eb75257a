"""Decides what a rotation of the kubelet CA waits for in the ConfigMap by which others trust kubelets; pure.

A metrics-server, and whatever else scrapes kubelets, trusts them by `kubelet-serving-ca`. No agent writes that: a
person applies it, once nodes trust both CAs and again at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from vaultpki.errors import CertificateUnreadable
from vaultpki.kube.objects import SERVING_CA, KubeTrust
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.rotation.reasons import TRUST_STEPS, command, wanted_cas

DOMAIN: Final = "kubelet"

WORD: Final = SERVING_CA
"""As `--checked kubelet-serving-ca`: a person's word that it was applied; with `--without`, that nobody reads it."""

_FILE: Final = "manifests/kubelet-serving-ca.yaml"


def counts(record: RotationRecord, to: State) -> bool:
    """Return whether a step waits for the ConfigMap: one before which everybody must trust a further CA."""
    return record.domain == DOMAIN and to not in (State.DONE, State.STEADY) and (record.state, to) in TRUST_STEPS


def gate(record: RotationRecord, to: State, own: Gate, found: KubeTrust | None) -> Gate:
    """Return the gate of the nodes with what the ConfigMap keeps it closed for.

    `found` is what the cluster shows, None without `--kubeconfig`.
    """
    if not counts(record, to):
        return own
    if WORD in record.excused:
        return replace(own, excused=(*own.excused, Waiting(WORD, "is left out by `--without`")))
    if found is None:
        reason = "" if WORD in record.checked else _unknown(record, to)
    else:
        lacks = [ca for ca in wanted_cas(record, to) if any(ca.sha256 not in held for held in _held(found))]
        which = " and ".join(ca.title for ca in lacks)
        reason = f"does not hold {which} yet. {_apply()}" if lacks else ""
    return own.also([Waiting(WORD, reason)]) if reason else own


def word_refused(record: RotationRecord, to: State, word: str) -> str:
    """Return why a person's word about something outside does not count now, as a sentence; "" if it does."""
    if word == WORD and counts(record, to):
        return ""
    return f"{record.domain} is {record.state.value}, which does not wait for {word}; leave out `--checked {word}`"


def advice(record: RotationRecord | None, found: KubeTrust | None, *, ended: bool = False) -> str:
    """Return that the ConfigMap must be applied again now that a rotation is at rest, as a sentence; "" if not.

    Without a look at the cluster this is said of a rotation that has just `ended`.
    """
    if record is None or record.domain != DOMAIN or not record.state.resting or record.new is None:
        return ""
    gone = record.old if record.leaf is record.new else record.new
    if WORD in record.excused or not gone.sha256:
        return ""
    if found is None:
        return f"{WORD} in kube-system may still hold {gone.title}, which has left. {_apply()}" if ended else ""
    if all(record.leaf.sha256 in held and gone.sha256 not in held for held in _held(found)):
        return ""
    return f"{WORD} in kube-system does not hold what nodes trust, which is {record.leaf.title} alone. {_apply()}"


def _unknown(record: RotationRecord, to: State) -> str:
    which = " and ".join(ca.title for ca in wanted_cas(record, to))
    return (
        f"must hold {which} before the next step. {_apply()}. Then run `{command(to)} --checked "
        f"{WORD}`. Or have the command look at it: `--kubeconfig FILE`. Or if nobody reads it: `--without {WORD}`"
    )


def _apply() -> str:
    written = "Write it: `vaultpki issue admin --dir DIR`"
    return f"{written}. Apply it, and restart what reads it only at its start: `kubectl apply -f DIR/{_FILE}`"


def _held(found: KubeTrust) -> Iterator[frozenset[str]]:
    """Yield the SHA-256 of the certificates in each file of the ConfigMap; nothing if there is none."""
    from vaultpki.pki import x509

    for text in found.serving:
        try:
            yield frozenset(facts.fingerprint for facts in x509.read_certificates(text.encode()))
        except CertificateUnreadable:
            yield frozenset()
