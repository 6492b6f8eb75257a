"""Random walks of operators, agents and time through rotations of service-account keys; no live token is refused."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from helpers.node.imagined_planes import ImaginedCluster, ImaginedPlane, settle, steady, unborn
from vaultpki.records.service_account import KeyRecord, KeyState
from vaultpki.token_keys import course as key_course
from vaultpki.token_keys import gates as key_gates
from vaultpki.token_keys import holders as key_holders
from vaultpki.token_keys import turns as key_turns
from vaultpki.token_keys.course import KeyScene
from vaultpki.token_keys.holders import KeyHolder, LoadedKeys


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
    "admit": [(key_course, "not_loaded_by", lambda record, name, holders: ())],
    "union": [
        (key_gates, "expected_union", lambda record, holder: frozenset()),
        (key_gates, "refused_at", lambda record, holder: ()),
    ],
}


def walk(seed: int, cluster: ImaginedCluster | None = None) -> None:
    """One walk: 150 things happen in some order, and then it must be possible to go home and to be done."""
    # Not for secrets.
    dice = random.Random(seed)  # noqa: S311
    cluster = cluster or steady("cp-1", "cp-2")
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


@pytest.mark.parametrize("seed", range(40))
def test_random_walks(seed: int) -> None:
    walk(seed)


@pytest.mark.parametrize("seed", range(20))
def test_random_walks_from_an_empty_cluster(seed: int) -> None:
    walk(seed, unborn("cp-1", "cp-2"))


@pytest.mark.parametrize("rule", WITHOUT)
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
