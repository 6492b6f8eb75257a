"""The model of an adoption: what machines, their components and their agents do while a kubeadm cluster is taken over.

It goes on where the model of a rotation ends: two issuers on the server, two operators, a record that is set back and
restarts by turns are not explored again. In trust-only adoption no leaf of the old CA can be made by Vault, so the way
back puts the old pairs back. Time is left out but for the actions `five minutes pass` and `a year passes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from models.adoption_tables import ALL, ASIDE, BOTH, ENDED, FORWARD, LEAF, NEW, OLD, SHORT, SIGNER, TRUST


class Node(NamedTuple):
    up: str  # - away, i has read cluster-info, c has a leaf and is not registered, + in the cluster
    agent: bool
    disk: int
    leaf: int
    mem: int  # trust in memory
    show: int  # the leaf that clients of this node show
    free: bool  # its processes were started with kubeconfigs that name files
    rot: bool  # its kubelet runs with rotateCertificates
    sig: bool  # its controller manager signs CSRs
    key: str  # O's key: "" never here, p where kubeadm looks, a aside, - deleted
    kept: int
    said: Any  # what it last reported: with `echo` the steps that the report satisfies, else all it says
    fresh: int  # 0 none, 1 reported, 2 and five minutes have passed
    view: str  # the state that a pass under way had read, "" for none or the present one


class World(NamedTuple):
    phase: str
    info: int  # CAs in cluster-info
    nodes: tuple[Node, ...]
    op: Any  # None, (to, "reports", counted), (to, "write")
    copy: int  # kube-root-ca.crt
    pods: frozenset[int]  # what running pods hold from their start
    outside: tuple[int, int] | None  # trust and leaf of a kubeconfig outside
    secret: bool = True  # kubeadm-certs: O's key for a control plane that joins


class Settings(NamedTuple):
    roles: str  # m control plane, w worker, e etcd member that is no Node, j worker and k control plane that may join
    reads: str = "late"  # late: Kubernetes; start: etcd
    late: bool = True  # passes may read first and write later
    enrolled: bool = False  # all nodes have an agent from the start
    expiry: bool = False
    pods: bool = False
    outside: bool = False
    upgrade: bool = False
    loses: bool = False  # O's key may be lost while it lies aside
    slow: bool = False  # years may pass while nodes stand half-way
    unenrol: bool = False  # agents are taken away in the middle
    imported: bool = False  # O's key is in Vault too
    back: bool = True
    rules: frozenset[str] = ALL


def beginning(s: Settings) -> World:
    nodes = []
    for role in s.roles:
        if role in "jk":
            nodes.append(Node("-", False, 0, 0, 0, 0, False, False, False, "", 0, None, 0, ""))
            continue
        kube = s.reads == "late"
        nodes.append(
            Node(
                *("+", s.enrolled, OLD, OLD, OLD, OLD, False, kube and role == "w", kube and role == "m"),
                *("p" if role == "m" else "", 0, None, 0, ""),
            )
        )
    pods = frozenset({OLD}) if s.pods else frozenset[int]()
    return World("P", OLD, tuple(nodes), None, OLD, pods, (OLD, OLD) if s.outside else None)


def signs(phase: str, s: Settings) -> bool:
    if "signer-off" not in s.rules:
        return phase != "D"
    left_out = ("U" if "signer-on" not in s.rules else "") + ("S" if "close" not in s.rules else "")
    return phase in SIGNER and phase not in left_out


def onward(s: Settings) -> Mapping[str, str]:
    return FORWARD if "close" in s.rules and s.reads == "late" else SHORT


def signing(w: World) -> bool:
    return any(n.up == "+" and n.sig for n in w.nodes)


def passed(w: World, n: Node, role: str, v: str, s: Settings) -> Node:
    """Return what an agent that had read the state `v` leaves behind."""
    disk = TRUST[v] if "pinned" in s.rules else NEW
    leaf, kept, key, sig = n.leaf, n.kept, n.key, n.sig
    wanted = LEAF[v] if "leafword" in s.rules else NEW
    if wanted == NEW and leaf != NEW:
        leaf, kept = NEW, leaf if "kept" in s.rules else 0
    elif wanted == OLD and leaf == NEW:
        if s.imported:
            leaf, kept = OLD, 0
        elif kept == OLD or (kept == ENDED and "enddate" not in s.rules):
            leaf, kept = kept, 0
        elif "resign" in s.rules and (key in ("p", "a") or (role in "wj" and signing(w))):
            leaf, kept = OLD, 0
    if key and key != "-":
        key = "a" if v in ASIDE and "aside" in s.rules else "p"
        if v == "D" or (v == "R" and "last" not in s.rules):
            key = "-"
    if v == "D" or (v == "R" and "last" not in s.rules):
        kept = 0
    if role in "mk" and s.reads == "late":
        sig = signs(v, s) and key != "-" and ("signfile" in s.rules or disk != BOTH)
    show = leaf if s.reads == "start" else n.show
    return n._replace(disk=disk, leaf=leaf, kept=kept, key=key, sig=sig, show=show, view="")


def halves(n: Node, node: Node) -> Iterator[Node]:
    """Yield what lies on disk when a pass is killed.

    First come the bundles, then the old pair and key go aside, then comes the new pair, last goes what goes.
    """
    n = n._replace(view="")
    if n.kept and not node.kept:
        after = [n._replace(disk=node.disk), n._replace(disk=node.disk, leaf=node.leaf)]
    else:
        after = [n._replace(disk=node.disk), n._replace(disk=node.disk, kept=node.kept)]
        after.append(n._replace(disk=node.disk, kept=node.kept, key=node.key))
    yield from (each for each in after if each not in (n, node))


def restarted(n: Node, role: str, s: Settings) -> Node:
    """Return the node after all its processes started anew and read what lies on its disk."""
    if s.reads == "start":
        return n._replace(mem=n.disk)
    rot = n.rot
    if role in "wj" and n.agent:
        rot = n.leaf != NEW if "rotate-off" in s.rules else True
        if "rotate-on" not in s.rules:
            rot = False
    show = n.show if rot and n.leaf == NEW else n.leaf
    sig = n.sig and ("signfile" in s.rules or n.disk != BOTH)
    return n._replace(mem=n.disk, show=show, free=n.agent, rot=rot, sig=sig)


def five_minutes(n: Node) -> Node:
    """Have followers take what lies on disk; a kubelet that rotates by CSR takes no pair from files."""
    fresh = 2 if n.said else 0
    return n._replace(mem=n.disk, show=n.show if n.rot else n.leaf, fresh=fresh) if n.free else n._replace(fresh=fresh)


def quiet(w: World, s: Settings) -> bool:
    """Return whether nobody has anything to do, nor has left a node without an agent where only agents renew.

    With `slow` years may also pass before a node has begun to follow a state up to switched.
    """
    for n, role in zip(w.nodes, s.roles, strict=True):
        alone = n.up == "+" and not n.agent and n.leaf == OLD
        if n.up in "ic" or (alone and not signs(w.phase, s) and w.phase in "SCRT"):
            return False
        half_way = s.slow and w.phase in "PUS" and n.leaf == OLD and (n.rot or n.sig)
        if n.up == "+" and n.agent and not half_way:
            still = passed(w, n, role, w.phase, s)
            if still != n or restarted(still, role, s) != n:
                return False
    return True


def year(w: World, n: Node, role: str) -> Node:
    """Have leaves of O end that nothing renews: with O's key on the node kubeadm does, for a kubelet the CSR signer."""
    renewed = role == "e" or (n.key in ("p", "a") if role in "mk" else n.rot and signing(w))
    if (n.leaf == OLD and not renewed) or (n.leaf == NEW and not n.agent):
        n = n._replace(leaf=ENDED, show=ENDED)
    if n.show == OLD and not renewed:
        n = n._replace(show=ENDED)
    return n._replace(kept=ENDED) if n.kept == OLD else n
