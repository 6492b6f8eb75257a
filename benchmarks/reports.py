"""Reports of nodes as agents of this release fill them: every certificate, bundle, reader and pin of a node."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from types import MappingProxyType
from typing import Final

from vaultpki import __version__
from vaultpki.certificates import ROOT
from vaultpki.identity.access import node_certificates
from vaultpki.layout import trust_bundles
from vaultpki.model import Certificate, Cluster, Node
from vaultpki.pki.facts import Facts
from vaultpki.readers import start_only
from vaultpki.records.changes import LONGEST_LOOK
from vaultpki.records.node_report import BundleReport, CertificateReport, NodeReport, ReaderReport, Seen

_POLL: Final = 300
_LIFE: Final = timedelta(days=30)
_AGE: Final = timedelta(days=3)


@dataclass(frozen=True, slots=True)
class Cas:
    """The CAs by domain: the one that signs, and the SHA-256 of all that nodes trust."""

    signing: Mapping[str, Facts]
    trusted: Mapping[str, frozenset[str]]


def filled(
    cluster: Cluster,
    node: Node,
    cas: Cas,
    seen: Mapping[str, Seen],
    now: datetime,
    leaves: Mapping[str, Facts] = MappingProxyType({}),
) -> NodeReport:
    """Return the report of a node that holds all that it should; `seen` are the revisions that it has read.

    A certificate that is not among `leaves` is signed by nobody: its serial number comes from the node's name.
    """
    wanted = node_certificates(cluster, node)
    bundles = {each.ca for each in trust_bundles(cluster.layout, node.roles, wanted)}
    readers = [each for ca in bundles for each in start_only(ca, node.roles)]
    root = cas.signing[ROOT].fingerprint
    signed = now - _AGE
    return NodeReport(
        time=now,
        agent=__version__,
        seen=seen,
        certificates={
            want.name: _certificate(node, want, cas.signing[want.ca], leaves.get(want.name), signed) for want in wanted
        },
        bundles={ca: BundleReport(cas.trusted[ca], signed) for ca in (*bundles, ROOT)},
        readers={
            f"{each.ca}/{each.component}": ReaderReport(now, cas.trusted[each.ca], running=True, healthy=True)
            for each in readers
        },
        pins=(root,),
        poll=_POLL,
        look=LONGEST_LOOK,
        trust=root[:16],
        in_use=(str(uuid.uuid5(uuid.NAMESPACE_DNS, node.name)),),
    )


def _certificate(node: Node, want: Certificate, ca: Facts, leaf: Facts | None, signed: datetime) -> CertificateReport:
    return CertificateReport(
        want.ca,
        "ok",
        leaf.not_after if leaf is not None else signed + _LIFE,
        f"{leaf.serial:x}" if leaf is not None else sha256(f"{node.name} {want.name}".encode()).hexdigest()[:40],
        (leaf.authority_key_id if leaf is not None else ca.subject_key_id) or "",
        (ca.fingerprint,),
        installed=signed,
        not_before=leaf.not_before if leaf is not None else signed,
        renew_after=signed + _LIFE / 2,
    )
