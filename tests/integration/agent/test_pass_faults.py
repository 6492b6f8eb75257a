"""`agent --once` on disks that fail, fill up or cannot be written, where somebody tampered, and twice at once.

Against the real server: the live pairs stay whole, sentences say what is wrong, one more pass sets all right, and
nothing is signed that could not be laid down.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.faults import disturbed_passes, system_calls, unexpected_files
from helpers.faults.disturbed_passes import RENEWED, STEMS, Trials
from helpers.faults.small_disks import Disk, private_disk
from helpers.faults.system_calls import Call, Fault
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran, environment
from helpers.vault.cluster_factory import ClusterFactory

pytestmark = pytest.mark.on_node

ATTEMPTS = 25
# Faults in `make conformance`; `make exhaustive` takes every call.
SAMPLE = 20
SOME = (
    unexpected_files.fifo,
    unexpected_files.folder,
    unexpected_files.huge,
    unexpected_files.link,
    unexpected_files.text,
)
Pairs = dict[str, disturbed_passes.Files]
Faults = Callable[[list[Call]], list[Fault]]


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    return clusters.applied(disturbed_passes.SPEC)


def all_of(one: Callable[[int], None], count: int, at_once: int = 8) -> None:
    # More than there are processors: a pass that replaced something waits some seconds for watchers.
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        for _ in pool.map(one, range(count)):
            pass


def told(done: Ran, what: str) -> bool:
    """Whether all was done; sentences say why not."""
    lines = done.stderr.splitlines()
    assert "Traceback" not in done.stdout + done.stderr, f"{what}: {done.stderr}"
    assert all(line.startswith("vaultpki: ") for line in lines), f"{what}: {done.stderr}"
    assert done.returncode == 0 or (done.returncode == 1 and lines), f"{what}: exit {done.returncode}: {done.stderr}"
    return done.returncode == 0


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(
            lambda points: system_calls.rotating(system_calls.of_each_kind(points), SAMPLE),
            id="some",
            marks=pytest.mark.conformance,
        ),
        pytest.param(lambda points: system_calls.rotating(points, 10**6), id="each", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize(("begin", "due"), [(disturbed_passes.first_issue, STEMS), (disturbed_passes.renewal, RENEWED)])
def test_a_fault_leaves_whole_pairs(
    begin: Callable[[AppliedCluster, Path], Trials],
    due: tuple[str, ...],
    faults: Faults,
    cluster: AppliedCluster,
    tmp_path: Path,
) -> None:
    made = begin(cluster, tmp_path)
    points = made.points()
    chosen = faults(points)
    assert len(chosen) > 15
    disturbed_passes.each_disturbed(made, chosen, due, told)


# -- nothing is signed that could not be laid down -------------------------------------------------------------------


def signed(cluster: AppliedCluster, since: int) -> int:
    return sum(f"{cluster.prefix}/" in path and "/sign/" in path for _, path in cluster.server.writes(since))


def one_pass(disk: Disk, node: NodeFolder) -> Ran:
    done = disk.run(disturbed_passes.command(node), environment())
    told(done, "a pass")
    return done


@pytest.fixture(params=["pki", "state"])
def crowded(
    request: pytest.FixtureRequest, cluster: AppliedCluster, tmp_path: Path
) -> Iterator[tuple[NodeFolder, Disk, Pairs]]:
    """A node whose pairs are due, one of its two folders on a small disk."""
    # Not on a copy: kubeconfigs name their folder, so there bundles would be due too, and fail before any pair.
    node = disturbed_passes.renewal(cluster, tmp_path).base
    before = disturbed_passes.pairs(node)
    folder = node.folder / request.param
    aside = folder.rename(folder.with_name("aside"))
    with private_disk(folder, "size=256k,mode=700" if request.param == "state" else "size=256k,mode=755") as disk:
        # From within, since a mount covers the folder for nobody else.
        copied = disk.run(["cp", "-a", f"{aside}/.", str(folder)], environment())
        assert copied.returncode == 0, copied.stderr
        yield node, disk, before


def seen(disk: Disk, node: NodeFolder) -> NodeFolder:
    return NodeFolder(node.name, disk.seen(node.folder))


def renewed(disk: Disk, node: NodeFolder, before: Pairs) -> None:
    done = one_pass(disk, node)
    assert done.returncode == 0, done.stderr
    for stem, found in disturbed_passes.pairs(seen(disk, node)).items():
        assert disturbed_passes.whole(stem, found) and (found != before[stem]) is (stem in RENEWED), stem
    disturbed_passes.clean(seen(disk, node))


def test_a_full_disk_costs_no_signature(crowded: tuple[NodeFolder, Disk, Pairs], cluster: AppliedCluster) -> None:
    node, disk, before = crowded
    start = cluster.server.audit_position()
    for blocks in (0, 1, 3):
        disk.fill(leaving=blocks)
        done = one_pass(disk, node)
        assert done.returncode == 1 and "the disk is full; free some space" in done.stderr, done.stderr
        assert disturbed_passes.pairs(seen(disk, node)) == before and signed(cluster, start) == 0, blocks
    disk.empty()
    renewed(disk, node, before)
    assert signed(cluster, start) == len(RENEWED)


def test_a_read_only_disk_costs_no_signature(crowded: tuple[NodeFolder, Disk, Pairs], cluster: AppliedCluster) -> None:
    node, disk, before = crowded
    start = cluster.server.audit_position()
    disk.remount("ro")
    done = one_pass(disk, node)
    assert done.returncode == 1 and "read-only" in done.stderr, done.stderr
    assert disturbed_passes.pairs(seen(disk, node)) == before and signed(cluster, start) == 0
    disk.remount("rw")
    renewed(disk, node, before)
    assert signed(cluster, start) == len(RENEWED)


@pytest.mark.conformance
def test_a_used_up_quota_costs_no_signature(cluster: AppliedCluster, tmp_path: Path) -> None:
    made = disturbed_passes.renewal(cluster, tmp_path)
    before = disturbed_passes.pairs(made.base)
    # What is done before Vault is asked to sign: the proof that it can be laid down.
    points = [call for call in made.points() if "probe." in call.line and call.name in ("mkdirat", "openat", "write")]
    assert {"pki/.vaultpki/probe.", "state/.probe."} == {
        word for call in points for word in ("pki/.vaultpki/probe.", "state/.probe.") if word in call.line
    }
    first = {(call.name, "pki/" in call.line): call for call in reversed(points)}
    for number, point in enumerate(first.values()):
        fault = Fault(point, "error=EDQUOT")
        for attempt in range(ATTEMPTS):
            # How many requests the first thread sends by itself, and so its writes before, differs from run to run.
            node, log = made.copy(f"quota-{number}-{attempt}"), tmp_path / "strace.log"
            start = cluster.server.audit_position()
            done = made.run(node, "-o", str(log), *fault.options)
            if any("probe." in line and "INJECTED" in line for line in log.read_text().splitlines()):
                assert not told(done, str(fault)) and "the disk quota is used up" in done.stderr, done.stderr
                assert disturbed_passes.pairs(node) == before and signed(cluster, start) == 0, str(fault)
                break
        else:
            pytest.fail(f"{fault} was not met in {ATTEMPTS} passes")


# -- a power cut -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [disturbed_passes.first_issue, disturbed_passes.renewal])
def test_nothing_is_told_before_it_lasts(
    begin: Callable[[AppliedCluster, Path], Trials], cluster: AppliedCluster, tmp_path: Path
) -> None:
    made = begin(cluster, tmp_path)
    node, calls = made.recorded()
    lines = [call.line for call in calls]
    told = r'^write\(1<.*"(issued|renewed|wrote)'
    assert any(re.match(told, line) for line in lines)
    assert system_calls.hasty(lines, node.folder, told) == []
    # The control: the checker needs each of these.
    files = ["kubelet.crt", "kube-proxy.key", "kubernetes-ca.crt", r"\.spec\.json\.\w+", r"\.agent\.json\.\w+"]
    for path in [*files, r"\.vaultpki/kubelet\.\w{16}", r"\.vaultpki", "/state"]:
        kept = [line for line in lines if not re.match(rf"fsync\(\d+<[^>]*{path}>", line)]
        assert len(kept) < len(lines) and system_calls.hasty(kept, node.folder, told), path


# -- tampering -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def settled(shared_clusters: ClusterFactory) -> tuple[Trials, AppliedCluster]:
    """A node whose pairs are due, for tests that work on copies of it."""
    cluster = shared_clusters.applied(disturbed_passes.SPEC)
    return disturbed_passes.renewal(cluster, shared_clusters.folder), cluster


def test_the_state_folder_was_tampered_with(settled: tuple[Trials, AppliedCluster]) -> None:
    made, _ = settled
    before = disturbed_passes.pairs(made.base)
    cases = [(name, put) for name in ("spec.json", "agent.json", "secret-id") for put in SOME]

    def one(number: int) -> None:
        name, put = cases[number]
        what = f"{put.__name__} in the place of {name}"
        node = made.copy(f"tampered-{number}")
        kept = (node.state / name).rename(node.folder / "kept")
        put(node.state / name)
        told(node.run(expect={0, 1}), what)
        assert all(disturbed_passes.whole(stem, found) for stem, found in disturbed_passes.pairs(node).items()), what
        unexpected_files.removed(node.state / name)
        kept.rename(node.state / name)
        node.run()
        changed = {stem for stem, found in disturbed_passes.pairs(node).items() if found != before[stem]}
        assert changed == set(RENEWED), f"{what}: {changed}"
        disturbed_passes.clean(node)

    all_of(one, len(cases))


def test_a_name_that_somebody_took_keeps_the_others_from_nothing(settled: tuple[Trials, AppliedCluster]) -> None:
    made, _ = settled
    before = disturbed_passes.pairs(made.base)
    node = made.copy("taken")
    taken = node.pki / "kubelet.key"
    taken.unlink()
    taken.write_text("theirs")
    done = node.run(expect=1)
    assert not told(done, "taken") and f"{taken}: this file was not made by vaultpki" in done.stderr
    after = disturbed_passes.pairs(node)
    assert after["kube-proxy"] != before["kube-proxy"] and disturbed_passes.whole("kube-proxy", after["kube-proxy"])
    assert after["kubelet-client"] == before["kubelet-client"]
    assert after["kubelet"] == before["kubelet"] | {"kubelet.key": b"theirs"}
    taken.unlink()
    node.run()
    assert disturbed_passes.whole("kubelet", disturbed_passes.pairs(node)["kubelet"])
    disturbed_passes.clean(node)


# -- two at once -----------------------------------------------------------------------------------------------------

ROUNDS = 6


def test_two_agents_on_one_directory(settled: tuple[Trials, AppliedCluster]) -> None:
    """Started together: who comes second finds nothing left to do, and nothing is signed twice."""
    made, cluster = settled
    before = disturbed_passes.pairs(made.base)

    def together(number: int) -> None:
        node = made.copy(f"together-{number}")
        started = [
            subprocess.Popen(
                disturbed_passes.command(node),
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        ended = [process.communicate(timeout=90) for process in started]
        assert [process.returncode for process in started] == [0, 0], ended
        assert sorted(out.count("renewed ") for out, _ in ended) == [0, len(RENEWED)], ended
        for stem, found in disturbed_passes.pairs(node).items():
            assert disturbed_passes.whole(stem, found) and (found != before[stem]) is (stem in RENEWED), stem
        assert disturbed_passes.hooked(node)["kubelet"] == disturbed_passes.hooked(made.base)["kubelet"] + 1
        disturbed_passes.clean(node)

    start = cluster.server.audit_position()
    # The second one waits for some seconds only, so the first one must not be held up by many others.
    all_of(together, ROUNDS, at_once=2)
    assert signed(cluster, start) == ROUNDS * len(RENEWED)
