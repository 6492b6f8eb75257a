"""When the file that `KUBECONFIG` names is looked at, and what becomes of a wait whose API server goes away."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.example_cluster import WITH_POOL, load
from vaultpki.cli.running_cluster import RunningCluster
from vaultpki.errors import Denied, StateConflict, Unavailable
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.live import own_server
from vaultpki.live.trust import Expected

ACCESS = KubeAccess("some.conf", "https://10.0.0.1:6443", "PEM", token="t")
VAULT: Any = SimpleNamespace(clock_offset=0.0)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "some.conf")
    monkeypatch.setattr("vaultpki.kube.kubeconfig.read", lambda path: ACCESS)
    monkeypatch.setattr("vaultpki.live.own_server.only_own_server", lambda access, *_: access)


def looked(running: RunningCluster, *answers: Any) -> list[Any]:
    cluster: Any = SimpleNamespace(name="prod")
    left = iter(answers)

    def read(access: KubeAccess) -> Any:
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return [running.look(cluster, VAULT, read) for _ in answers]


@pytest.mark.usefixtures("own")
def test_one_that_never_answers_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert looked(RunningCluster(), Unavailable("it is away"), "not asked any more") == [None, None]
    said = capsys.readouterr().err.splitlines()
    assert said == ["asking https://10.0.0.1:6443 too, of KUBECONFIG", "KUBECONFIG is not used: it is away"]


@pytest.mark.usefixtures("own")
def test_one_that_has_answered_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    running = RunningCluster()
    assert looked(running, "seen") == ["seen"]
    with pytest.raises(Unavailable):
        looked(running, Unavailable("it restarts"))
    # It may not show everything to this user, which is no reason to end the command.
    assert looked(running, Denied("it may not"), "seen", Denied("it may not")) == [None, "seen", None]
    assert capsys.readouterr().err.count("not used") == 1


@pytest.mark.usefixtures("own")
def test_what_fails_for_a_file_that_was_given_ends_the_command() -> None:
    with pytest.raises(Unavailable):
        looked(RunningCluster(Path("given.conf")), Unavailable("it is away"))


def test_without_a_kubeconfig_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert looked(RunningCluster(), "not asked") == [None]


def test_without_a_ca_of_the_cluster_no_server_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = load(tmp_path, WITH_POOL)
    monkeypatch.setattr("vaultpki.live.trust.from_vault", lambda *_: Expected("prod", (), {"kubernetes": ()}, "Vault"))
    # An empty text would have Python trust the CAs of the machine.
    with pytest.raises(StateConflict):
        own_server.only_own_server(ACCESS, cluster, VAULT, datetime.now(UTC))
