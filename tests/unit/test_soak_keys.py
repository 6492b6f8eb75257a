"""What the soak of service-account keys takes for wrong, and that its control runs show something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.kube import held_on_disks
from helpers.kube.key_operator import STATED
from helpers.kube.token_load import AGENT, LIFE
from helpers.node.imagined_planes import ImaginedCluster, ImaginedPlane
from models.explore import LIMIT
from models.service_account_settings import tries
from models.service_account_tables import RULES
from soak.keys import __main__ as soak
from soak.keys import controls
from soak.keys.audit import Audit
from soak.keys.shape import FIRST, LATER, Asked, spec
from soak.keys.table import KeyPhase, report
from soak.phases import Control
from vaultpki.certificates import SERVICE_ACCOUNT, SKEW
from vaultpki.config.cluster import load_cluster
from vaultpki.model import KeyType, NodeRole
from vaultpki.pki import keys
from vaultpki.records.service_account import KeyState
from vaultpki.token_keys import course, gates

REFUSED = ("401 for a token that 198.51.100.11 issued",)
CONTROL = Control("life: a rule", "K1: node 1 refuses tokens")
_TIMES = {"requestReceived": "0776", "stage": "1008"}
EVERY = {one.title: one for one in tries()}


def phase(**what: object) -> KeyPhase:
    return KeyPhase("bao", "rotated", 60.0, 1000, **what)  # type: ignore[arg-type]


def test_a_phase_in_which_nothing_failed_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([phase(otherwise=("connection reset",) * 10)]) == 0
    assert "| bao | rotated | 60 s | 1000 | 0 | 10 | 0 | 0 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        phase(unauthorized=REFUSED),
        phase(otherwise=("connection reset",) * 11),
        phase(broken="AssertionError: a private key lies on two machines"),
        phase(control=CONTROL),
        phase(control=CONTROL, unauthorized=REFUSED, broken="AssertionError: stays published"),
    ],
)
def test_what_must_not_be_ends_with_1(wrong: KeyPhase, capsys: pytest.CaptureFixture[str]) -> None:
    assert report([phase(), wrong]) == 1
    assert "bao, rotated: " in capsys.readouterr().out


def test_tokens_may_be_refused_in_an_emergency_and_must_be_in_a_control_run(capsys: pytest.CaptureFixture[str]) -> None:
    outage = phase(unauthorized=REFUSED, otherwise=REFUSED * 100, outage=True)
    assert report([outage, phase(unauthorized=REFUSED, control=CONTROL)]) == 0
    assert f"1 refused: {REFUSED[0]}" in capsys.readouterr().out


def test_it_says_no_shorter_life_than_tokens_have() -> None:
    """The gate adds SKEW to what is stated, and all machines have one clock."""
    assert STATED + SKEW >= LIFE


def test_every_phase_has_one_name() -> None:
    names = [name for _, known in soak.PARTS for name in known]
    assert len(names) == len(set(names)) and {*controls.CONTROLS} < {*names}


@pytest.mark.parametrize("asked", [Asked(), Asked(own=False), Asked(key="rsa-2048")])
def test_cluster_yaml_says_what_is_asked_for(asked: Asked, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(f"cluster: prod\nvault: {{addresses: ['https://127.0.0.1:8200']}}\n{spec(FIRST | LATER, asked)}")
    made = load_cluster(file)
    assert made.service_account_keys is asked.own
    assert [node.name for node in made.nodes if NodeRole.ETCD in node.roles] == [*FIRST]
    assert len(made.nodes) == len(FIRST) + len(LATER)
    key = made.overrides[SERVICE_ACCOUNT].key if asked.key else None
    assert key is (KeyType.RSA_2048 if asked.key else None)


def found_on_two(folder: Path, *common: bytes) -> list[str]:
    return held_on_disks.on_two({each.name: [each] for each in folder.iterdir()}, common)


def test_a_private_key_on_two_machines_is_found_whatever_its_file(tmp_path: Path) -> None:
    one, other = (keys.generate_key(KeyType.EC_P256) for _ in range(2))
    for name in ("cp-1", "cp-2"):
        (tmp_path / name / "pki").mkdir(parents=True)
    (tmp_path / "cp-1" / "pki" / "sa.key").write_bytes(keys.key_pem(one))
    (tmp_path / "cp-1" / "pki" / "sa-1.key").write_bytes(keys.key_pem(one))
    (tmp_path / "cp-2" / "pki" / "sa.key").write_bytes(keys.key_pem(other))
    assert found_on_two(tmp_path) == []
    (tmp_path / "cp-2" / "pki" / "backup").write_bytes(b"text\n" + keys.key_pem(other) + keys.key_pem(one))
    (found,) = found_on_two(tmp_path)
    assert "cp-1" in found and "cp-2/pki/backup" in found
    assert found_on_two(tmp_path, keys.public_der(one)) == []


def test_the_audit_log_has_who_was_refused_from_now_on_but_for_the_loads_tokens(tmp_path: Path) -> None:
    def event(code: int, client: str, second: int = 20) -> str:
        said = {"verb": "get", "requestURI": "/api", "userAgent": client, "responseStatus": {"code": code}}
        times = {f"{which}Timestamp": f"2026-11-29T16:40:{second}.57{end}Z" for which, end in _TIMES.items()}
        said |= times
        return json.dumps(said, separators=(",", ":")) + "\n"

    folder = tmp_path / "cp-1"
    folder.mkdir()
    log = folder / "audit.log"
    log.write_text(event(401, "before"))
    audit = Audit([folder, tmp_path / "cp-2"])
    gone = (
        'E1129 16:40:18.570916 1 authentication.go:76] "Unable to authenticate the request" err="[context canceled]"\n'
    )
    (folder / "kube-apiserver.log").write_text(
        gone + gone.replace("context canceled", "invalid").replace(":18.", ":20.")
    )
    with log.open("a") as file:
        file.write(event(401, "has gone", 18))
        file.write(event(200, "kubelet") + event(401, "kubelet") + event(401, AGENT) + event(401, "cut off")[:-1])
    assert [*audit.unauthorized()] == ["401 from cp-1 for get /api of kubelet"]


@pytest.mark.parametrize("rule", controls.MODEL)
def test_the_model_says_of_each_rule_what_the_control_run_quotes(rule: str) -> None:
    assert rule in RULES
    found = EVERY[f"keys: two: without {rule}"].run(LIMIT)
    assert not found.holds and found.problem == controls.MODEL[rule]


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> ImaginedCluster:
    """Three nodes at rest, and rules that are on again after the test."""
    for module, name in ((gates, "KEY_GATE_CHECKS"), (gates, "_life"), (gates, "SKEW"), (course, "next_turn")):
        monkeypatch.setattr(module, name, getattr(module, name))
    cluster = ImaginedCluster({})
    for name in ("cp-1", "cp-2", "cp-3"):
        plane = cluster.planes[name] = ImaginedPlane(name)
        for _ in range(12):
            everybody(cluster)
            if plane.may and not plane.running:
                plane.start(cluster.now)
            cluster.operate()
    cluster.rotate()
    return cluster


def everybody(cluster: ImaginedCluster) -> None:
    for plane in cluster.planes.values():
        plane.passed(cluster.record, cluster.now, reports=True)
        cluster.check()
    cluster.later(20)


def reach(cluster: ImaginedCluster, state: KeyState) -> None:
    for _ in range(40):
        if cluster.record is not None and cluster.record.state is state:
            return
        everybody(cluster)
        cluster.operate()
    raise AssertionError(cluster.record)


def test_without_the_gate_on_loaded_unions_a_token_is_refused(steady: ImaginedCluster) -> None:
    exec(controls.WITHOUT_LOADED)  # noqa: S102 - as the control run does
    begin = {plane.started for plane in steady.planes.values()}
    reach(steady, KeyState.SWITCHED)
    # Nobody was asked to restart.
    assert {plane.started for plane in steady.planes.values()} == begin
    steady.record = steady.record.changed(turn="cp-1") if steady.record is not None else None
    with pytest.raises(AssertionError, match="refuses a token that lives"):
        everybody(steady)


def test_without_the_gate_on_the_life_of_tokens_one_is_refused(steady: ImaginedCluster) -> None:
    reach(steady, KeyState.SWITCHED)
    for _ in range(20):
        everybody(steady)
        steady.operate()
    record = steady.record
    assert record is not None and record.state is KeyState.SWITCHED and record.waits_for_tokens
    exec(controls.WITHOUT_LIFE)  # noqa: S102 - as the control run does
    reach(steady, KeyState.RETIRED)
    with pytest.raises(AssertionError, match="refuses a token that lives"):
        reach(steady, KeyState.DONE)
