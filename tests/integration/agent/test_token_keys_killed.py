"""A pass killed as it changes service-account keys: a usable pair each time, and the next pass ends what was begun.

Usable means that kube-apiserver, started then, accepts the tokens that it signs: `sa.pub` has the certificate of
`sa.key`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.faults.disturbed_passes import Trials
from helpers.faults.system_calls import Call, Fault
from helpers.node.agents_with_keys import accepted, copied
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.handmade_keys import SPEC, HandmadeKeys, give_number
from vaultpki.agent import run
from vaultpki.config.agent import load_agent
from vaultpki.model import KeyType
from vaultpki.pki import keys, x509
from vaultpki.records.service_account import KeyRecord, KeyState, NodeKeys

pytestmark = pytest.mark.on_node

SAMPLE = 6
# The keys' own names, of files and of file sets.
_OWN = re.compile(r"""[/"<]sa(?:-[12])?[."/>]""")
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


def passed(node: NodeFolder) -> None:
    # A process that another thread begins just now has a copy of the lock of the pass before until its exec.
    outcome = run.run(load_agent(node.config), run.PassOptions(settle=False, share=0.0, wait=30.0))
    assert not outcome.failures, outcome.failures


def begun(cluster: AppliedCluster, change: Changes) -> NodeFolder:
    """A node that has not yet followed the change."""
    node, other = cluster.equip("cp-1"), cluster.equip("cp-2")
    if change is taken_over:
        for each in (node, other):
            copied(each, SHARED)
            passed(each)
        taken_over(HandmadeKeys(cluster, KeyRecord(KeyState.STEADY, 1, datetime.now(UTC).replace(microsecond=0))))
        node.age(100_000)
        return node
    passed(other)
    if change is nothing:
        return node
    passed(node)
    made = HandmadeKeys.of(cluster, "cp-1", "cp-2")
    if change is admitted:
        node.age(100_000)
        return node
    passed(node)
    for earlier in COURSE[: COURSE.index(change)]:
        earlier(made)
        passed(node)
        passed(other)
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


@pytest.mark.parametrize("change", [nothing, admitted, *COURSE, taken_over])
@pytest.mark.parametrize("size", [SAMPLE, pytest.param(10_000, marks=pytest.mark.exhaustive)])
def test_killed(change: Changes, size: int, clusters: ClusterFactory, tmp_path: Path) -> None:
    base = begun(clusters.applied(OF_KUBEADM if change is taken_over else SPEC), change)
    before = kept(base)
    usable(before)
    trials = Trials(base, tmp_path)
    recorded, calls = trials.recorded()
    points = [call for call in calls if call.changes and str(recorded.folder) in call.line and _OWN.search(call.line)]
    after = kept(recorded)
    assert len(points) > 8 and (after.keys() | before.keys() > {"sa.key", "sa.pub"}) == (change is not nothing), points
    signing = {number: public(each) for number in (1, 2) if (each := after.get(f"sa-{number}.key"))}

    def one(call: Call) -> None:
        fault = Fault(call, "signal=SIGKILL")
        node = trials.copy(f"case-{call.name}-{call.number}")
        ran = trials.run(node, "-o", str(node.folder) + ".log", *fault.options)
        assert ran.returncode in (-9, 137), f"{fault}: not killed: {ran.stderr}"
        found = kept(node)
        usable(found)
        # A key that was in use stays, or the next one that everybody knows has come.
        if "sa.key" in before:
            assert found["sa.key"] in (before["sa.key"], after["sa.key"]), fault
        passed(node)
        last = kept(node)
        usable(last)
        # What was replaced is removed some seconds later, or by the next pass.
        passed(node)
        assert kept(node) == last
        assert last.keys() == after.keys(), (fault, sorted(last))
        assert len({public(last[f"sa-{number}.key"]) for number in signing}) == len(signing)
        hidden = {path.name for path in (node.pki / ".vaultpki").iterdir() if path.name.startswith("sa")}
        sets = len(signing) + ("sa.key" in after)
        assert len(hidden) == 2 * sets, (fault, hidden)
        shutil.rmtree(node.folder)

    with ThreadPoolExecutor(max_workers=4) as pool:
        chosen = {points[index * len(points) // size] for index in range(size)} if size < len(points) else {*points}
        for _ in pool.map(one, sorted(chosen, key=str)):
            pass
