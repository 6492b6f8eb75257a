"""Decides what an adoption changes in the cluster's API server in each state, and how; pure.

These are all of its writes: nothing else is changed there, and each is named to a person before it is made.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vaultpki.adopt.gates import KEYS_SECRET, joins_open
from vaultpki.kube.cluster import AUTHENTICATION, CLUSTER_INFO
from vaultpki.kube.objects import mapping
from vaultpki.kube.reader import PUBLIC, SYSTEM
from vaultpki.procedure.phases import Side
from vaultpki.records.adoption import AdoptionRecord, AdoptionState
from vaultpki.rotation.adoption_evidence import ClusterSeen
from vaultpki.rotation.adoption_reasons import arrived
from vaultpki.values import pem

_S = AdoptionState

INFO_PATH: Final = f"{PUBLIC}/configmaps/{CLUSTER_INFO}"
SETTINGS_PATH: Final = f"{SYSTEM}/configmaps/kubeadm-config"
DEFAULTS_PATH: Final = f"{SYSTEM}/configmaps/kubelet-config"
_AUTHENTICATION_PATH: Final = f"{SYSTEM}/configmaps/{AUTHENTICATION}"
_KEYS_PATH: Final = f"{SYSTEM}/secrets/{KEYS_SECRET}"

_WITHOUT_KEYS: Final = frozenset({_S.SWITCHED, _S.CLOSED, _S.RETIRED, _S.RETRUSTING, _S.DONE})
_DATA: Final = re.compile(r"(certificate-authority-data[\"']?\s*:\s*[\"']?)([A-Za-z0-9+/=]+)")
_BLOCK: Final = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----\r?\n?")


@dataclass(frozen=True, slots=True)
class ObjectWrite:
    """One change of an object: its path, and as a sentence what is done to it and why; `delete` or replace it."""

    path: str
    text: str
    delete: bool = False


def due(record: AdoptionRecord, seen: ClusterSeen) -> tuple[ObjectWrite, ...]:
    """Return what is to be changed in the cluster for the state of the record, in this order."""
    return tuple(_due(record, seen))


def _due(record: AdoptionRecord, seen: ClusterSeen) -> Iterator[ObjectWrite]:
    wanted = record.accepts
    if seen.info not in (None, wanted):
        yield ObjectWrite(
            INFO_PATH, f"change the ConfigMap {CLUSTER_INFO} in kube-public: {_TRUSTED_BY[wanted]} for nodes that join"
        )
    if joins_open(record):
        for token in seen.tokens:
            yield ObjectWrite(
                f"{SYSTEM}/secrets/bootstrap-token-{token}",
                f"delete the bootstrap token {token} in kube-system: who has begun to join with it trusts the CAs of "
                "before (`kubeadm token create` makes another one)",
                delete=True,
            )
    if seen.keys_secret and (record.state in _WITHOUT_KEYS or joins_open(record)):
        again = "" if record.state in (_S.RETIRED, _S.DONE) else f" ({_UPLOAD} makes it anew where the keys are)"
        yield ObjectWrite(
            _KEYS_PATH, f"delete the Secret {KEYS_SECRET} in kube-system: it holds the keys of the old CAs{again}", True
        )
    if _authentication(record, seen):
        yield ObjectWrite(
            _AUTHENTICATION_PATH,
            f"delete the ConfigMap {AUTHENTICATION} in kube-system: kube-apiserver only adds to it, and writes it anew "
            f"within seconds with {_TRUSTED_BY[wanted]}",
            delete=True,
        )
    if record.state is _S.DONE:
        for path in seen.stale:
            name = path.rpartition("/")[2]
            yield ObjectWrite(
                path, f"change the ConfigMap {name} in kube-system, so that kubeadm's upgrades and joins go by Vault"
            )


def _authentication(record: AdoptionRecord, seen: ClusterSeen) -> bool:
    """Return whether the client CAs that kube-apiserver has published hold one that all have given up."""
    wanted = record.accepts
    if record.state not in (_S.RETIRED, _S.DONE, _S.PREPARED) or not seen.clients:
        return False
    # An API server that still has it would write it again.
    if not seen.planes or not all(arrived(record, each) for each in seen.planes):
        return False
    return any(side is not wanted for side in seen.clients.values())


def cluster_info(found: Mapping[str, Any], wanted: Side, old: Collection[str], new: Collection[str]) -> dict[str, Any]:
    """Return the ConfigMap `cluster-info` with the CAs that are wanted; the rest of its kubeconfig stays as it is.

    `old` and `new` are certificates as PEM. What is there of the old ones keeps its bytes, so that the way back ends
    with what kubeadm wrote. The bootstrap signer signs the new text by itself.
    """
    data = dict(mapping(found.get("data")))
    text = data.get("kubeconfig")
    if not isinstance(text, str):
        return dict(found)

    def changed(match: re.Match[str]) -> str:
        made = _bundle(_decoded(match[2]), wanted, old, new)
        return f"{match[1]}{base64.b64encode(made.encode()).decode()}" if made else match[0]

    return {**found, "data": {**data, "kubeconfig": _DATA.sub(changed, text)}}


def _bundle(held: str, wanted: Side, old: Collection[str], new: Collection[str]) -> str:
    """Return a bundle with exactly the CAs of these sides; others that it holds stay."""
    sides = {Side.OLD: old, Side.NEW: new}
    gone = {sha for side, cas in sides.items() if side not in wanted for each in cas for sha in pem.fingerprints(each)}
    blocks = [block for block in _BLOCK.findall(held) if pem.fingerprints(block).isdisjoint(gone)]
    there = {sha for block in blocks for sha in pem.fingerprints(block)}
    added = [each for side in sides if side in wanted for each in sides[side] if not pem.fingerprints(each) & there]
    kept = "".join(blocks)
    return kept + ("\n" if added and kept and not kept.endswith("\n") else "") + "".join(added)


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("ascii", "replace")
    except (binascii.Error, ValueError):
        return ""


_UPLOAD: Final = "`kubeadm init phase upload-certs --upload-certs`"
_TRUSTED_BY: Final = {Side.OLD: "the old CA alone", Side.BOTH: "both CAs", Side.NEW: "the new CA alone"}
