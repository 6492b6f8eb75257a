"""What `vaultpki admit` refuses, and what it says, without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from vaultpki import readers
from vaultpki.cli import admit
from vaultpki.errors import StateConflict, VaultpkiError
from vaultpki.identity.credentials import SecretId
from vaultpki.key_rotation import admission
from vaultpki.key_rotation.admission import KeysAhead, WaitingKey
from vaultpki.procedure.gate import Waiting
from vaultpki.provision.cluster_facts import KeyStepDone
from vaultpki.records.service_account import KeyRecord, KeyState, NodeKeys

NOW = datetime(2026, 12, 1, tzinfo=UTC)
MADE = SecretId("8c1d0000-0000-4000-8000-000000000001", NOW, 86400)
KEY = WaitingKey("cp-2", "ab" * 32, "cd" * 32, MADE, NOW)
NOTHING = KeyStepDone(None)
ALL: Any = SimpleNamespace(file="cluster.yaml", file_option="")
VAULT: Any = SimpleNamespace(clock_offset=0.0)


def known(*, admitted: bool) -> KeyStepDone:
    record = KeyRecord(KeyState.STEADY, 1, NOW, {"cp-2": NodeKeys(1, 1, admitted=admitted)})
    return KeyStepDone(record, joining=() if admitted else (Waiting("cp-2", "waits to start"),))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the server has: the keys that wait, and where all stand after each admission."""
    found: dict[str, Any] = {"ahead": KeysAhead((KEY,), NOTHING), "done": [known(admitted=True)], "confirmed": []}

    @contextmanager
    def opened(*args: object, **options: object) -> Iterator[tuple[Any, Any, Any]]:
        yield ALL, VAULT, None

    def made(cluster: object, vault: object, now: datetime, confirmed: dict[str, str]) -> KeyStepDone:
        found["confirmed"].append(confirmed)
        done: KeyStepDone = found["done"].pop(0)
        return done

    monkeypatch.setattr(admit, "opened", opened)
    monkeypatch.setattr(admission, "waiting_keys", lambda *args: found["ahead"])
    monkeypatch.setattr(admission, "admit", made)
    monkeypatch.setattr("vaultpki.cli.wait.time.sleep", lambda seconds: None)
    return found


def run(*words: str, answer: str = "") -> Result:
    return CliRunner().invoke(admit.admit_command, words, input=answer, standalone_mode=False)


def test_it_says_that_nothing_waits(given: dict[str, Any]) -> None:
    given["ahead"] = KeysAhead((), KeyStepDone(None, may_start=("cp-1",)))
    ran = run("--wait")
    assert (ran.return_value, given["confirmed"]) == (0, [])
    assert ran.output.splitlines() == [
        "No control plane waits with a new key.",
        "kube-apiserver may run, and is not seen there now, on: cp-1.",
    ]
    assert json.loads(run("--json").output)["keys"] == []


def test_it_shows_each_key_and_asks(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(run().exception) == "there is no terminal to ask on; look at these keys, and pass --yes"
    assert str(run("--json").exception) == "there is no terminal to ask on; look at these keys, and pass --yes"
    monkeypatch.setattr(admit, "terminal", lambda: True)
    ran = run(answer="n\n")
    assert isinstance(ran.exception, VaultpkiError) and str(ran.exception) == "nothing was admitted"
    assert given["confirmed"] == []
    assert ran.output.splitlines()[:5] == [
        "These control planes wait with a new service-account key:",
        "  cp-2",
        f"    certificate of the key: SHA-256 {'ab' * 32}",
        "    credential: 8c1d0000-0000-4000-8000-000000000001, made 2026-12-01T00:00:00Z",
        "    last report: 2026-12-01T00:00:00Z",
    ]
    assert "Let this control plane start? [y/N]" in ran.output
    assert run(answer="y\n").return_value == 0 and given["confirmed"] == [{"cp-2": "cd" * 32}]


def test_it_waits_until_the_keys_that_were_shown_are_admitted(given: dict[str, Any]) -> None:
    given["done"] = [known(admitted=False), known(admitted=False), known(admitted=True)]
    ran = run("--yes", "--wait")
    assert ran.return_value == 0 and not given["done"]
    assert "service-account-keys are steady, waits for cp-2: waits to start" in ran.output
    given["done"] = [known(admitted=False)]
    assert run("--yes").return_value == 3


def test_a_key_that_is_not_taken_is_not_waited_for(given: dict[str, Any]) -> None:
    given["done"] = [NOTHING, NOTHING]
    ran = run("--yes", "--wait")
    assert ran.return_value == 3
    assert "These nodes report another key than you were shown: cp-2. Run it again." in ran.output
    found = json.loads(run("--yes", "--json").output)
    assert (found["admitted"], found["waiting"]) == ([], ["cp-2"])


def test_two_live_credentials_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaultpki.identity.credentials.secret_ids", lambda *args: ("a", "b"))
    with pytest.raises(StateConflict) as refused:
        admission._live_credentials(ALL, VAULT, ["cp-2"])
    assert str(refused.value) == (
        "cp-2 has 2 live credentials, so its key may be that of a copy. Nothing was admitted. An agent that has just "
        "renewed its credential ends the old one within minutes: then run it again. Else run `vaultpki lock cp-2`, and "
        "enroll it again"
    )


def test_a_node_says_what_to_run_and_in_which_order_a_new_cluster_starts() -> None:
    run_it = "First run on the operator's machine: `vaultpki admit --wait`"
    assert readers.not_admitted(False) == f"Do not start kube-apiserver here yet. {run_it}"
    assert readers.not_admitted(False, first=True) == (
        "Do not start kube-apiserver here yet. In a new cluster let all control planes join, run the command once, "
        f"then start API servers one by one. {run_it}"
    )
    assert readers.not_admitted(True).endswith("Run on the operator's machine: `vaultpki admit --wait`")
