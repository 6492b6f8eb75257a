"""A run that finds nothing changed ends before it reads what agent.yaml means; any change at all, and it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from vaultpki.agent import unchanged
from vaultpki.certificates import SKEW
from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import File
from vaultpki.host.hooks import Owed
from vaultpki.node import assignment
from vaultpki.node import state as memory
from vaultpki.node.state import AgentState
from vaultpki.places import PKI

NOW = 1_780_000_000.0
POLL = 300.0


@dataclass(frozen=True)
class Idle:
    """A node as a pass at NOW left it; the next certificate is due in a thousand seconds."""

    file: Path
    pki: Path
    state: Path

    def due(self, now: float = NOW + 1, *, allow_http: bool = False) -> float | None:
        return unchanged.due(self.file, allow_http=allow_http, now=now)

    def remember(self, **changes: object) -> None:
        memory.save(str(self.state), replace(memory.load(str(self.state)), **changes))  # type: ignore[arg-type]


@pytest.fixture
def idle(tmp_path: Path) -> Idle:
    node = Idle(tmp_path / "agent.yaml", tmp_path / "pki", tmp_path / "state")
    node.file.write_text(f"version: 1\ndirectory: {node.pki}\nstate: {node.state}\n")
    node.state.mkdir(mode=0o700)
    spec = node.state / assignment.COPY
    spec.write_text(json.dumps({"fetched": NOW - 10, "own": {"node": "cp-1"}}))
    spec.chmod(0o600)
    with Folders.open({PKI: str(node.pki)}) as folders:
        folders.install(PKI, "kubelet", {"kubelet.crt": File(b"certificate"), "kubelet.key": File(b"key", 0o600)})
        stamp = assignment.stamp(str(node.state))
        assert stamp is not None
        found = unchanged.digest(unchanged.source_of(node.file.read_bytes()), stamp[1], folders, allow_http=False)
    memory.save(
        str(node.state),
        AgentState(
            quiet=found,
            quiet_since=NOW,
            quiet_until=NOW + 1000,
            quiet_dies=NOW + 5000,
            quiet_directory=str(node.pki),
            quiet_poll=POLL,
        ),
    )
    return node


def test_nothing_changed(idle: Idle) -> None:
    assert idle.due() == NOW + 1000
    assert idle.due(NOW + POLL - 11) == NOW + 1000


@pytest.mark.parametrize("when", [NOW + POLL, NOW - SKEW - 11, NOW - 11, NOW + 1e9])
def test_what_vault_said_is_too_old_or_the_clock_was_set_back(idle: Idle, when: float) -> None:
    assert idle.due(when) is None


def test_something_is_due(idle: Idle) -> None:
    idle.remember(quiet_until=NOW + 20)
    assert idle.due(NOW + 19) == NOW + 20 and idle.due(NOW + 20) is None


def _touched(idle: Idle, name: str, data: bytes) -> None:
    (idle.pki / name).write_bytes(data)


CHANGES: dict[str, Callable[[Idle], object]] = {
    "agent.yaml": lambda idle: idle.file.write_text(idle.file.read_text() + "owner: root:root\n"),
    "agent.yaml is gone": lambda idle: idle.file.unlink(),
    "a certificate": lambda idle: _touched(idle, "kubelet.crt", b"another"),
    "a key's mode": lambda idle: (idle.pki / "kubelet.key").chmod(0o640),
    "a link": lambda idle: (idle.pki / "kubelet.crt").unlink(),
    "a leftover": lambda idle: (idle.pki / ".vaultpki" / "kubelet.0123456789abcdef").mkdir(),
    "the directory": lambda idle: idle.pki.rename(idle.pki.with_name("elsewhere")),
    "what Vault said": lambda idle: (idle.state / assignment.COPY).write_text('{"fetched": 1779999990, "own": {}}'),
    "nothing Vault said": lambda idle: (idle.state / assignment.COPY).unlink(),
    "a hook is owed": lambda idle: idle.remember(owed={"kubelet": Owed(NOW)}),
    "something failed": lambda idle: idle.remember(quiet=""),
    "the memory": lambda idle: (idle.state / memory.STATE_FILE).unlink(),
    "the memory is open to others": lambda idle: (idle.state / memory.STATE_FILE).chmod(0o644),
    "another directory remembered": lambda idle: idle.remember(quiet_directory=str(idle.state)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_looked_at(idle: Idle, change: str) -> None:
    CHANGES[change](idle)
    assert idle.due() is None


def test_another_program_or_option_looks_for_itself(idle: Idle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert idle.due(allow_http=True) is None
    monkeypatch.setattr(unchanged, "__version__", "99")
    assert idle.due() is None


def test_a_state_folder_of_another_node_says_nothing(idle: Idle) -> None:
    """Its path is only looked for by its look; what is found there must have been written for this very file."""
    other = idle.file.with_name("other.yaml")
    other.write_text(f"version: 1\nstate: {idle.state}\ndirectory: {idle.pki}\n")
    assert unchanged.due(other, allow_http=False, now=NOW + 1) is None


def test_it_loads_next_to_nothing(idle: Idle) -> None:
    program = (
        "import json, sys\nfrom pathlib import Path\nfrom vaultpki.agent import unchanged\n"
        f"assert unchanged.due(Path({str(idle.file)!r}), allow_http=False, now={NOW + 1}) == {NOW + 1000}\n"
        "import vaultpki.host.log, vaultpki.cli.agent\nprint(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names = set(json.loads(done.stdout))
    assert names & {"cryptography", "hvac", "yaml", "ssl", "socket", "http.client", "email"} == set()
    assert (
        names
        & {
            f"vaultpki.{room}"
            for room in (
                "agent.run",
                "agent.reconcile",
                "spec.agent_config",
                "spec.records",
                "host.hooks",
                "model",
                "vault",
                "pki.x509",
            )
        }
        == set()
    )
