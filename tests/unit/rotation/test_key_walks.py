"""Random walks of operators, agents and time through rotations of service-account keys; no live token is refused."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from helpers.node.imagined_planes import ImaginedCluster, ImaginedPlane
from vaultpki.records.service_account import KeyRecord, KeyState
from vaultpki.rotation import key_course, key_gates, key_holders, key_turns
from vaultpki.rotation.key_course import KeyScene
from vaultpki.rotation.key_holders import KeyHolder, LoadedKeys


def steady(*names: str, shared: bool = False) -> ImaginedCluster:
    """A cluster whose nodes have been admitted, or share one key and have no record."""
    cluster = ImaginedCluster({})
    for name in names:
        plane = cluster.planes[name] = ImaginedPlane(name, shared=shared)
        if not shared:
            join(cluster, plane)
    return cluster


def join(cluster: ImaginedCluster, plane: ImaginedPlane) -> None:
    for _ in range(12):
        everybody(cluster)
        if plane.may and not plane.running:
            plane.start(cluster.now)
            everybody(cluster)
            return
        cluster.operate()
    raise AssertionError(plane)


def everybody(cluster: ImaginedCluster) -> None:
    for plane in cluster.planes.values():
        if not plane.gone:
            plane.passed(cluster.record, cluster.now, reports=True)
            cluster.check()
    cluster.later(70)


def settle(cluster: ImaginedCluster, goal: KeyState, *, back: bool) -> None:
    """Go on one way until all is at rest: it must always be possible."""
    for _ in range(120):
        if cluster.at_rest(goal):
            return
        everybody(cluster)
        for plane in cluster.planes.values():
            if plane.may and not plane.running and not plane.gone:
                plane.start(cluster.now)
        if cluster.record is None or not cluster.record.active:
            cluster.operate()
        else:
            cluster.operate(back=back)
        cluster.later(600)
        cluster.check()
    raise AssertionError((goal, cluster.record))


def test_from_nothing_to_two() -> None:
    cluster = steady("cp-1", "cp-2")
    assert cluster.at_rest(KeyState.STEADY)
    assert cluster.record is not None and all(keys.admitted for keys in cluster.record.nodes.values())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_on_and_back(count: int) -> None:
    cluster = steady(*(f"cp-{number + 1}" for number in range(count)))
    for states in ((KeyState.PUBLISHED,), (KeyState.SWITCHED,), (KeyState.RETIRED,)):
        cluster.rotate()
        while cluster.record is not None and cluster.record.state not in states:
            everybody(cluster)
            cluster.operate()
            cluster.later(600)
            cluster.check()
        settle(cluster, KeyState.STEADY, back=True)
    cluster.rotate()
    settle(cluster, KeyState.DONE, back=False)


@pytest.mark.parametrize("seed", range(40))
def test_random_walks(seed: int) -> None:
    walk(seed)


def test_without_each_rule_some_walk_refuses_a_token(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules of the model, taken out of the code one by one."""
    for module, name, other in WITHOUT[rule]:
        monkeypatch.setattr(module, name, other)
    for seed in range(120):
        try:
            walk(seed)
        except AssertionError as error:
            if "refuses a token" in str(error):
                return
    raise AssertionError(f"no walk needs the rule {rule}")


@pytest.mark.parametrize("echo", [True, False])
def test_a_report_of_an_earlier_record_opens_no_gate(echo: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """cp-2 has dropped the old keys in RETIRED and could not say so; on the way back its report of before says both."""
    if not echo:
        for module in (key_gates, key_turns):
            monkeypatch.setattr(module, "fresh", lambda record, holder: holder.keys is not None)
    cluster = steady("cp-1", "cp-2")
    cluster.rotate()
    while cluster.record is not None and cluster.record.state is not KeyState.RETIRED:
        everybody(cluster)
        cluster.operate()
        cluster.later(600)
    two = cluster.planes["cp-2"]
    two.passed(cluster.record, cluster.now, reports=False)
    two.start(cluster.now)
    assert cluster.operate(back=True)
    cluster.planes["cp-1"].passed(cluster.record, cluster.now, reports=True)
    cluster.later(600)
    # The next step would have cp-1 sign with its old key.
    assert cluster.operate(back=True) is not echo
    if not echo:
        one = cluster.planes["cp-1"]
        one.passed(cluster.record, cluster.now, reports=True)
        one.start(cluster.now)
        with pytest.raises(AssertionError, match="cp-2 refuses"):
            cluster.check()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "rule" in metafunc.fixturenames:
        metafunc.parametrize("rule", WITHOUT)


def of_disk(record: KeyRecord, holder: KeyHolder) -> LoadedKeys:
    keys = holder.keys
    return LoadedKeys(keys.union, keys.union, keys.signing) if keys is not None else NOTHING


def since_the_record(record: KeyRecord, scene: KeyScene, stated: int | None = None) -> KeyRecord:
    return replace(record, signing_since=record.since, life=scene.life.seconds or 0)


NOTHING = LoadedKeys(frozenset(), frozenset(), "")
WITHOUT: dict[str, list[tuple[object, str, object]]] = {
    "life": [(key_gates, "_life", lambda step: 0)],
    "since": [(key_course, "timed", since_the_record)],
    "started": [(each, "loaded", of_disk) for each in (key_gates, key_turns, key_holders)],
    "admit": [(key_course, "may_start", lambda record, name, holders: ())],
    "union": [(key_gates, "wanted_union", lambda record: frozenset())],
}


def walk(seed: int) -> None:
    """One walk: 150 things happen in some order, and then it must be possible to go home and to be done."""
    # Not for secrets.
    dice = random.Random(seed)  # noqa: S311
    cluster = steady("cp-1", "cp-2")
    views: dict[str, KeyRecord | None] = {}
    for _ in range(150):
        name = dice.choice(list(cluster.planes))
        plane = cluster.planes[name]
        match dice.randrange(10):
            case 0 | 1 | 2 | 3:
                plane.passed(cluster.record, cluster.now, reports=dice.random() < 0.8)
                views.pop(name, None)
            case 4:
                # A pass that has read the record some time ago.
                plane.passed(views.get(name, cluster.record), cluster.now, reports=dice.random() < 0.8)
            case 5:
                views[name] = cluster.record
            case 6:
                cluster.operate()
            case 7:
                cluster.operate(back=dice.random() < 0.5)
            case 8:
                cluster.rotate()
            case _:
                cluster.later(dice.choice((5, 70, 600, 4000)))
        if plane.running and dice.random() < 0.1:
            # Machines restart whenever they like.
            plane.start(cluster.now)
        if "cp-3" not in cluster.planes and dice.random() < 0.02:
            cluster.planes["cp-3"] = ImaginedPlane("cp-3")
        if plane.may and not plane.running:
            plane.start(cluster.now)
        cluster.check()
    record = cluster.record
    assert record is not None
    if record.active:
        settle(cluster, KeyState.STEADY, back=True)
    cluster.rotate()
    settle(cluster, KeyState.DONE, back=False)
