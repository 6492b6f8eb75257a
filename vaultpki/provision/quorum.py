"""Tells what a plan means for etcd's quorum and for the control plane, when their nodes come and go; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vaultpki.model import Cluster, NodeRole
from vaultpki.provision.plan import Change, Impact
from vaultpki.redact import escaped, first_few

SMALLER_QUORUM = "smaller-quorum"
QUORUM = "quorum"
NO_ETCD = "no-etcd"
NO_CONTROL_PLANE = "no-control-plane"


def impact_of(cluster: Cluster, changes: Sequence[Change]) -> Iterator[Impact]:
    """Return what changes for etcd and the control plane; nothing if the same nodes have these roles."""
    before, after = _holders(cluster, changes, NodeRole.ETCD)
    # Of a new cluster only what a person would not expect.
    if before != after and (before or len(after) % 2 == 0):
        yield _etcd(before, after)
    before, after = _holders(cluster, changes, NodeRole.CONTROL_PLANE)
    if before and not after:
        detail = f"no control-plane node is left ({_names(before)} {_verb(before, 'leaves', 'leave')}): "
        yield Impact(
            NO_CONTROL_PLANE,
            f"{detail}nobody gets a certificate of kube-apiserver, kube-scheduler or kube-controller-manager any more, "
            "and the cluster ends with those that are there",
            nodes=len(before),
        )


def _holders(cluster: Cluster, changes: Sequence[Change], role: NodeRole) -> tuple[set[str], set[str]]:
    """Return the nodes with a role before and after the changes."""
    after = {node.name for node in cluster.nodes if role in node.roles}
    before, head = set(after), f"{cluster.mount('config')}/nodes/"
    for change in changes:
        if change.kind != "config" or not change.name.startswith(head) or "roles" not in change.fields:
            continue
        name, (old, _) = change.name.removeprefix(head), change.fields["roles"]
        before.discard(name)
        if isinstance(old, list) and role.value in old:
            before.add(name)
    return before, after


def _etcd(before: set[str], after: set[str]) -> Impact:
    joins, leaves = after - before, before - after
    moves = [
        f"{_names(names)} {_verb(names, f'{verb}s', verb)}"
        for names, verb in ((joins, "join"), (leaves, "leave"))
        if names
    ]
    who = ", ".join(moves)
    if not after:
        return Impact(
            NO_ETCD,
            f"etcd: no member is left ({who}): this ends the cluster's etcd, and all that Kubernetes has stored there",
            nodes=len(leaves),
        )
    had, has = _spare(len(before)), _spare(len(after))
    if len(before) == len(after):
        text = f"etcd: {_members(len(after))} as before ({who}): exchange one member at a time"
        return Impact(QUORUM, text, nodes=len(joins | leaves))
    number = f"{len(before)} -> {_members(len(after))} ({who})" if before else _members(len(after))
    text = f"etcd: {number}: the quorum is {len(after) // 2 + 1}, so etcd tolerates {_loss(has)}"
    text += f" ({_loss(had)} before)" if before else ""
    if len(after) % 2 == 0:
        text += f"; an even number is no safer than {len(after) - 1}"
    if leaves:
        how = "remove it from etcd" if len(leaves) == 1 else "remove them from etcd one at a time"
        text += f"; {how} first (`etcdctl member remove`)"
    return Impact(SMALLER_QUORUM if before and has < had else QUORUM, text, nodes=len(joins | leaves))


def _spare(members: int) -> int:
    """Return how many members may fail while the others still have a quorum (more than half of all)."""
    # https://etcd.io/docs/v3.6/faq/#what-is-failure-tolerance
    return max(0, (members - 1) // 2)


def _loss(spare: int) -> str:
    return f"the loss of {spare or 'none'}"


def _members(count: int) -> str:
    return f"{count} {'member' if count == 1 else 'members'}"


def _names(names: set[str]) -> str:
    return first_few([escaped(name) for name in sorted(names)])


def _verb(names: set[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several
