"""Tells the root that signs on a server from the one that cluster.yaml asks for: moving to another is a rotation; pure.

Until a rotation of the root has switched, a cluster.yaml with another root describes what is to come. Commands then go
by the root that the server has, with the chain that its mount shows, which cluster.yaml does not name any more. Whether
that root may be trusted decides `anchor`, by the SHA-256 in cluster.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from vaultpki.certificates import ROOT, ca_subject
from vaultpki.model import Cluster, OutsideRoot
from vaultpki.pki.trust import named
from vaultpki.records import above

if TYPE_CHECKING:
    from vaultpki.pki.facts import Facts


def is_ours(cluster: Cluster, root: Facts) -> bool:
    """Return whether a root was made for this cluster, by its name."""
    return named(root, ca_subject(cluster.name, ROOT))


def differs(cluster: Cluster, root: Facts) -> bool:
    """Return whether cluster.yaml asks for another root than this one: another kind, or another one from outside."""
    outside = cluster.authority.outside
    if outside is None or not outside.anchor:
        return is_ours(cluster, root) is (outside is not None)
    return above.sha256(outside.anchor) != root.fingerprint


def in_force(cluster: Cluster, root: Facts, others: Iterable[str]) -> Cluster:
    """Return the cluster with this root; `others` are the further CAs of its chain on its mount, as PEM.

    Its pins stay those of cluster.yaml, the one of this root first if it is among them. Without any the root is pinned.
    """
    if not differs(cluster, root):
        return cluster
    authority = cluster.authority
    pins = tuple(pin for pin in (authority.root_sha256, *authority.other_roots) if pin)
    outside = None if is_ours(cluster, root) else OutsideRoot(root.pem, tuple(others))
    if root.fingerprint in pins:
        pins = (root.fingerprint, *(pin for pin in pins if pin != root.fingerprint))
    elif not pins and outside is not None:
        pins = (root.fingerprint,)
    first = pins[0] if pins else None
    return replace(cluster, authority=replace(authority, outside=outside, root_sha256=first, other_roots=pins[1:]))
