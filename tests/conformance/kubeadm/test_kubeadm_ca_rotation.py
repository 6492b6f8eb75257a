"""The real kubeadm makes three control planes with etcd, and etcd's CA is rotated and aborted there under load.

One cluster for the whole module, and the tests continue each other: a rotation whole, in which the kubelet of one node
is stopped; a control plane that is reset, and joins again; an abort; and last, what happens if nobody looks.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from helpers.kube import kubeadm_planes
from helpers.kube.ca_operator import STEP_SECONDS
from helpers.kube.client_load import OPERATORS
from helpers.kube.components import Programs
from helpers.kube.kubeadm_planes import POD_NODE, Planes, Seen
from helpers.vault import servers
from helpers.vault.servers import wait_for
from vaultpki.records.rotation import State

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(2400)]

# Its kubelet is stopped for a while.
STILL = "cp-1"
# It leaves etcd, and comes back.
AGAIN = "cp-3"
KEPT = "cp-1"
SPREAD = 10
HOOK_SECONDS = 60
WHY = "does the kubelet run"
HELD_LOOKS = 5
# Half as many requests as in `make soak-rotations`, since other tests need the processors too.
PACE = 2


@pytest.fixture(scope="module")
def planes(
    stands: Callable[[], None], programs: Programs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Planes]:
    folder = tmp_path_factory.mktemp("planes")
    with (
        servers.running("bao", folder / "server", None) as server,
        kubeadm_planes.standing(server, programs, folder / "kube") as made,
    ):
        stands()
        yield made


@dataclass(frozen=True, slots=True)
class Held:
    """While a kubelet was stopped: what the rotation waited for, what that node's agent wrote, and if etcd moved."""

    waiting: dict[str, str]
    state: State
    agent: str
    moved: bool


@pytest.fixture(scope="module")
def rotated(planes: Planes) -> tuple[Seen, Held]:
    """etcd's CA is rotated whole. The first node with the turn cannot restart anything at first."""
    # Its hook gives up, and says why, after a minute instead of four.
    kubeadm_planes.configure(planes.nodes[STILL], "hook_timeout: 4m", f"hook_timeout: {HOOK_SECONDS}s")
    planes.nodes[STILL].machine.processes["agent"].restart()
    with planes.under_load(PACE) as seen:
        planes.kubelet(STILL, "stop")
        planes.rotate("etcd", spread=SPREAD)
        planes.advance("etcd", State.PUBLISHED)

        until = time.monotonic() + servers.SHARED * HOOK_SECONDS
        while WHY not in planes.agent_said(STILL) and time.monotonic() < until:
            planes.ca("continue")
            time.sleep(2)
        before = seen.watch.changes[:]
        for _ in range(HELD_LOOKS):
            planes.ca("continue")
            time.sleep(2)
        moved = seen.watch.changes != before or seen.watch.times_down(STILL) > 0
        held = Held(planes.waiting(), planes.record("etcd").state, planes.agent_said(STILL), moved)
        planes.kubelet(STILL, "start")
        planes.rest("etcd")
    print(f"\nrotated: {seen.told()}\n{seen.watch.shown()}\n{seen.load.failures}")
    return seen, held


@dataclass(frozen=True, slots=True)
class Joined:
    """What `kubeadm reset` said, and the members of etcd before anybody removed the one that was left behind."""

    reset: str
    members: str


@pytest.fixture(scope="module")
def joined(planes: Planes, rotated: tuple[Seen, Held]) -> Joined:
    """A control plane that has no admin.conf is reset, its member removed by hand, and it joins again."""
    kubernetes = planes.cluster.kubernetes
    said = kubeadm_planes.reset(planes.cluster, AGAIN)
    members = planes.etcdctl(KEPT, "member list")
    (member,) = re.findall(rf"(?m)^(\w+), started, {AGAIN},", members)
    planes.etcdctl(KEPT, f"member remove {member}")
    kubernetes.kubectl(kubernetes.admin, "delete", "node", AGAIN)
    planes.nodes[AGAIN].vaultpki("agent", "--once")
    kubeadm_planes.join(planes.cluster, AGAIN)
    planes.cluster.run("rm /etc/kubernetes/admin.conf", AGAIN)
    planes.await_ready()
    return Joined(said, members)


@pytest.fixture(scope="module")
def aborted(planes: Planes, joined: Joined) -> Seen:
    """A rotation of etcd's CA is taken back once every certificate is of the new one."""
    with planes.under_load(PACE) as seen:
        planes.rotate("etcd", spread=SPREAD)
        planes.advance("etcd", State.SWITCHED)
        planes.rest("etcd", act="abort")
    print(f"\naborted: {seen.told()}\n{seen.watch.shown()}\n{seen.load.failures}")
    return seen


@pytest.fixture(scope="module")
def believed(planes: Planes, aborted: Seen) -> Seen:
    """The first member does not come back, and an operator says that it was restarted, and looks no further."""
    with planes.under_load(PACE) as seen:
        planes.rotate("etcd", spread=SPREAD)
        planes.advance("etcd", State.PUBLISHED)
        first = await_turn(planes)
        wait_for(lambda: seen.watch.times_down(first) > 0, STEP_SECONDS, seen.watch.shown, pause=0.1)
        planes.kubelet(first, "stop")

        def two_down() -> bool:
            words = {f"{first}/{component}" for component in ("etcd", "kube-apiserver")}
            words -= {*planes.record("etcd").restarted}
            said = [each for word in sorted(words) for each in ("--restarted", word)]
            # It is refused as long as the agent has not reported the turn.
            planes.ca("continue", *said, expect=(0, 1, 3))
            return seen.watch.most_down > 1

        wait_for(two_down, STEP_SECONDS, lambda: f"never two:\n{seen.watch.shown()}", pause=1)
        planes.kubelet(first, "start")
    print(f"\nbelieved: {seen.told()}\n{seen.watch.shown()}")
    return seen


def await_turn(planes: Planes) -> str:
    """Has the rotation continued until a node has the turn; returns its name."""
    found: list[str] = []

    def given() -> bool:
        found[:] = [name for name, reason in planes.waiting("continue").items() if "has the turn" in reason]
        return bool(found)

    wait_for(given, STEP_SECONDS, lambda: str(planes.waiting()), pause=1)
    return found[0]


# The rotation


def test_it_went_through_every_state(planes: Planes, rotated: tuple[Seen, Held]) -> None:
    forward = [State.PREPARED, State.PUBLISHED, State.SWITCHED, State.RETIRED, State.DONE]
    assert [state for _, state in planes.steps][: len(forward)] == forward


def test_every_member_was_restarted_and_never_two_at_once(planes: Planes, rotated: tuple[Seen, Held]) -> None:
    """Looked at every 200 ms; a member counts as down until the quorum answers it again."""
    judge_members(rotated[0])
    # The API servers too, and the balancer saw it.
    assert all(len(planes.balancer.away[name]) >= 2 for name in planes.nodes), planes.balancer.away


def test_no_request_failed_and_nobody_complained(rotated: tuple[Seen, Held]) -> None:
    judge_requests(rotated[0])


def test_a_stopped_kubelet_holds_the_gate(rotated: tuple[Seen, Held]) -> None:
    """The rotation names the node, and its agent says why."""
    held = rotated[1]
    assert held.state is State.PUBLISHED
    assert STILL in held.waiting and not held.moved, held
    assert WHY in held.agent, held.agent


# A control plane that leaves and comes back


def test_a_reset_without_admin_conf_leaves_the_member_behind(joined: Joined) -> None:
    """Which is why docs/kubeadm.md says what to do then."""
    assert f"started, {AGAIN}," in joined.members, joined.members


def test_a_control_plane_joins_after_a_rotation(planes: Planes, joined: Joined) -> None:
    names = re.findall(r"(?m)^\w+, started, ([\w-]+),", planes.etcdctl(AGAIN, "member list"))
    assert sorted(names) == sorted(planes.nodes)
    assert planes.etcdctl(AGAIN, "endpoint health --cluster").count("is healthy") == len(planes.nodes)
    kubernetes = planes.cluster.kubernetes
    kubernetes.run_pod("again", node=AGAIN)
    assert kubernetes.kubectl(kubernetes.admin, "logs", "again").stdout == "hello\n"


# The rollback


def test_it_was_taken_back(planes: Planes, aborted: Seen) -> None:
    back = [State.PREPARED, State.PUBLISHED, State.SWITCHED, State.RETURNING, State.STEADY]
    assert [state for _, state in planes.steps][5:10] == back, planes.steps


def test_on_the_way_back_never_two_members_were_down(aborted: Seen) -> None:
    judge_members(aborted)


def test_on_the_way_back_no_request_failed_and_nobody_complained(aborted: Seen) -> None:
    judge_requests(aborted)


# The control


def test_control_a_restart_that_nobody_looked_at_takes_the_quorum(believed: Seen) -> None:
    """So the look at every member sees it, and the rule is needed."""
    assert believed.watch.most_down > 1 and believed.watch.seconds(2) > 0, believed.watch.shown()
    with pytest.raises(AssertionError):
        judge_members(believed)


def judge_members(seen: Seen) -> None:
    watch = seen.watch
    assert watch.most_down == 1, f"{watch.most_down} at once\n{watch.shown()}"
    # Once for both CAs, and once for one.
    assert all(watch.times_down(name) == 2 for name in watch.machines), watch.shown()
    assert watch.looks > seen.seconds * len(watch.machines), seen.told()


def judge_requests(seen: Seen) -> None:
    assert seen.of_tls == [] and seen.unauthorized == [] and seen.complaints() == []
    # etcd drops what is on its way to a leader that hands over (raft, leadTransferee), and tells who asked after 7 s.
    # An API server that ends closes kept connections, maybe just as a request is sent: Go's clients send it again
    # (net/http, errServerClosedIdle), and this one does not.
    lost = [
        each
        for each in seen.load.failures
        if "etcdserver: " in each.text or (each.client == "write" and each.text.startswith("RemoteDisconnected"))
    ]
    # A kubelet asks the kube-apiserver of its own node whom it may let in, and keeps the answer for five minutes. While
    # that server restarts, logs and exec on the node fail once the answer is too old (docs/kubeadm.md).
    away = seen.balancer.away[POD_NODE]
    unasked = [
        each
        for each in seen.load.failures
        if "Authorization error (user=kube-apiserver-kubelet-client" in each.text
        and any(begin <= each.at <= end for begin, end in away)
    ]
    late = [each for each in seen.load.failures if each.late]
    assert [each for each in seen.load.failures if each not in lost + unasked + late] == [], seen.told()
    assert len(late) <= seen.load.worked.total() / 200, late
    assert len(lost) <= 1 + seen.load.worked.total() / 1000, lost
    worked = seen.load.worked
    assert worked["write"] > 100 and worked["exec"] > 10 and worked["logs"] > 20, worked
    assert all(worked[f"list as {who}"] > 60 and not seen.load.missed(who) for who in OPERATORS), worked
