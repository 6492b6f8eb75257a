"""A pass killed as it changes service-account keys: a usable pair each time, and the next pass ends what was begun.

Usable means that kube-apiserver, started then, accepts the tokens that it signs: `sa.pub` has the certificate of
`sa.key`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.faults.drawn import Drawn
from helpers.faults.os_calls import moments
from helpers.node.agents_with_keys import accepted, copied
from helpers.node.passes import passed_well
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_keys import SPEC, HandmadeKeys, give_number
from vaultpki.model import KeyType
from vaultpki.pki import keys, x509
from vaultpki.records.service_account import KeyRecord, KeyState, NodeKeys

pytestmark = pytest.mark.on_node

Kept = dict[str, bytes]
Changes = Callable[[HandmadeKeys], None]


def nothing(_: HandmadeKeys) -> None:
    """The node makes its first key."""


def admitted(_: HandmadeKeys) -> None:
    """The node gets `sa.key` and `sa.pub`."""


def published(made: HandmadeKeys) -> None:
    """The node makes its next key."""
    made.write(KeyState.PUBLISHED, nodes={name: replace(each, new=2) for name, each in made.record.nodes.items()})
    give_number(made.cluster, 2)


def switched(made: HandmadeKeys) -> None:
    """The node signs with its next key."""
    made.write(nodes=made.taken_in())
    made.write(KeyState.SWITCHED)


def done(made: HandmadeKeys) -> None:
    """The node deletes its old key."""
    nodes = {
        name: replace(each, old=2, certificates={2: each.certificates[2]}) for name, each in made.record.nodes.items()
    }
    made.write(KeyState.DONE, nodes=nodes, lowest=dict.fromkeys(nodes, 2))


def taken_over(made: HandmadeKeys) -> None:
    """The node takes over the one `sa.key` that kubeadm has made, which others have too, and makes its next key."""
    shared = hashlib.sha256(keys.public_der(SHARED)).hexdigest()
    nodes = dict.fromkeys(("cp-1", "cp-2"), NodeKeys(1, 2, admitted=True))
    made.write(KeyState.PUBLISHED, nodes=nodes, shared=shared)
    give_number(made.cluster, 2)


COURSE: tuple[Changes, ...] = (published, switched, done)
SHARED = keys.generate_key(KeyType.RSA_2048)
OF_KUBEADM = SPEC + "certificates: {service-account: {key: rsa-2048}}\n"


def begun(cluster: AppliedCluster, change: Changes) -> NodeFolder:
    """A node that has not yet followed the change."""
    node, other = cluster.equip("cp-1"), cluster.equip("cp-2")
    if change is taken_over:
        for each in (node, other):
            copied(each, SHARED)
            passed_well(each)
        taken_over(HandmadeKeys(cluster, KeyRecord(KeyState.STEADY, 1, datetime.now(UTC).replace(microsecond=0))))
        node.age(100_000)
        return node
    passed_well(other)
    if change is nothing:
        return node
    passed_well(node)
    made = HandmadeKeys.of(cluster, "cp-1", "cp-2")
    if change is admitted:
        node.age(100_000)
        return node
    passed_well(node)
    for earlier in COURSE[: COURSE.index(change)]:
        earlier(made)
        passed_well(node)
        passed_well(other)
    change(made)
    # It looks at everything.
    node.age(100_000)
    return node


def kept(node: NodeFolder) -> Kept:
    """The files of these keys, as one who opens them finds them."""
    return {path.name: path.read_bytes() for path in node.pki.glob("sa*") if path.exists()}


def usable(files: Kept) -> None:
    assert ("sa.key" in files) == ("sa.pub" in files), sorted(files)
    if "sa.key" in files:
        assert public(files["sa.key"]) in accepted(files["sa.pub"])
    for number in (1, 2):
        crt, key = files.get(f"sa-{number}.crt"), files.get(f"sa-{number}.key")
        assert (crt is None) == (key is None), sorted(files)
        assert crt is None or key is None or x509.matches(key, x509.read_certificates(crt)[0])


def public(key: bytes) -> bytes:
    return keys.public_der(keys.read_key(key))


class Judge:
    """What a pass that is killed may leave of these keys; `good` is a node on which one came through."""

    def __init__(self, base: NodeFolder, good: NodeFolder) -> None:
        self.before, self.after = kept(base), kept(good)
        usable(self.before)
        self.signing = {number: public(each) for number in (1, 2) if (each := self.after.get(f"sa-{number}.key"))}

    def looks_at(self, node: NodeFolder, what: str) -> None:
        """A key that was in use stays, or the next one that everybody knows has come."""
        found = kept(node)
        usable(found)
        assert "sa.key" not in self.before or found["sa.key"] in (self.before["sa.key"], self.after["sa.key"]), what

    def one_more_pass(self, node: NodeFolder, what: str) -> None:
        passed_well(node)
        last = kept(node)
        usable(last)
        # What was replaced is removed some seconds later, or by the next pass.
        passed_well(node)
        assert kept(node) == last
        assert last.keys() == self.after.keys(), (what, sorted(last))
        assert len({public(last[f"sa-{number}.key"]) for number in self.signing}) == len(self.signing)
        hidden = {path.name for path in (node.pki / ".vaultpki").iterdir() if path.name.startswith("sa")}
        sets = len(self.signing) + ("sa.key" in self.after)
        assert len(hidden) == 2 * sets, (what, hidden)
        shutil.rmtree(node.folder)


CHANGES = pytest.mark.parametrize("change", [nothing, admitted, *COURSE, taken_over])


@CHANGES
@pytest.mark.parametrize(
    "step", [pytest.param(25, id="some"), pytest.param(1, id="each", marks=pytest.mark.exhaustive)]
)
def test_killed_right_before_a_call(
    change: Changes, step: int, clusters: ClusterFactory, tmp_path: Path, drawn: Drawn
) -> None:
    """Every call is looked at, and one in `step` is followed by another pass."""
    base = begun(clusters.applied(OF_KUBEADM if change is taken_over else SPEC), change)
    good, node, offset = base.copied(tmp_path / "good"), base.copied(tmp_path / "killed"), drawn.below(step)
    passed_well(good)
    may = Judge(base, good)
    # It is what this change is about.
    assert (may.before.keys() | may.after.keys() > {"sa.key", "sa.pub"}) == (change is not nothing)

    def looked_at(number: int) -> bool:
        may.looks_at(node, f"call {number}")
        return number % step == offset

    found = moments(lambda: passed_well(node), node.folder, tmp_path / "moments", looked_at)
    assert max(found) > 20, found
    for number, folder in found.items():
        copy = NodeFolder(node.name, folder)
        copy.configure(str(node.folder), str(folder))
        may.one_more_pass(copy, f"call {number}")
