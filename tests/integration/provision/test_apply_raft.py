"""`apply` on a raft cluster of three: through a standby, and with the leader killed in the middle."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.vault import operator_tokens
from helpers.vault.applied_cluster import environment
from helpers.vault.raft_cluster import Cluster
from helpers.vault.server_contents import listing
from helpers.vault.servers import wait_for
from vaultpki.errors import Sealed, Unavailable
from vaultpki.vault import Request, Settings, Vault

SPEC = """
cluster: {name}
vault: {{addresses: [{addresses}], ca_file: "{ca_file}"}}
api_server: {{endpoint: "https://10.0.0.11:6443"}}
nodes:
  - {{name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}}
  - {{name: worker-1, roles: [worker], addresses: [10.0.0.21]}}
"""


def spec(folder: Path, cluster: Cluster, name: str) -> Path:
    path = folder / f"{name}.yaml"
    quoted = ", ".join(f'"{address}"' for address in cluster.addresses)
    path.write_text(SPEC.format(name=name, addresses=quoted, ca_file=cluster.ca_file))
    return path


def command(file: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "vaultpki", "apply", "-f", str(file), "--yes", "--json", *words]


def apply(file: Path, env: dict[str, str]) -> dict[str, int]:
    """Runs the command and gives its requests, by kind."""
    ran = subprocess.run(command(file), env=environment(env), capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    made: dict[str, int] = {**json.loads(ran.stdout)["requests"], "changes": len(json.loads(ran.stdout)["changes"])}
    return made


def everywhere(cluster: Cluster, made: str) -> dict[str, str]:
    """The way of an applier who lets cluster.yaml say where Vault is."""
    return {"VAULT_TOKEN": applier(cluster, made)}


def applier(cluster: Cluster, made: str) -> str:
    return operator_tokens.token(cluster.leader(), f"vaultpki/{made}", "applier")


def name() -> str:
    return f"t{secrets.token_hex(5)}"


@pytest.mark.conformance
def test_every_request_goes_to_the_leader(cluster3: Cluster) -> None:
    leader, standby = cluster3.leader(), cluster3.standbys()[0]
    vault = Vault(Settings((standby.address,), ca_file=str(cluster3.ca_file), token=cluster3.token))
    assert vault.address == standby.address
    vault.pin_to_leader()
    assert vault.address == leader.address
    for _ in range(20):
        path = f"sys/policies/acl/{name()}"
        vault.write(path, {"policy": "{}"})
        assert vault.call(Request("GET", path)).found
        vault.call(Request("DELETE", path))
        assert not vault.call(Request("GET", path)).found


@pytest.mark.conformance
def test_a_pinned_client_finds_the_next_leader(cluster3: Cluster) -> None:
    """One address is enough to find the leader, not to find the next one: that one must be among the living."""
    leader, standby = cluster3.leader(), cluster3.standbys()[0]
    addresses = (standby.address, *(a for a in cluster3.addresses if a != standby.address))
    vault = Vault(Settings(addresses, ca_file=str(cluster3.ca_file), token=cluster3.token))
    vault.pin_to_leader()
    assert vault.address == leader.address
    leader.stop()
    vault.write("sys/policies/acl/after", {"policy": "{}"})
    assert vault.address == cluster3.leader().address
    assert vault.call(Request("GET", "sys/policies/acl/after")).found


@pytest.mark.parametrize(
    "moment",
    # Half a minute each, for the nodes to become voters: one of them is enough for every day.
    [
        pytest.param("sys/mounts/{below}/root", marks=pytest.mark.conformance, id="mounts"),
        pytest.param("{below}/root/issuer/root-1", id="issuers"),
        pytest.param("{below}/kubernetes/roles/kube-scheduler", marks=pytest.mark.conformance, id="roles"),
    ],
)
def test_through_a_standby_and_the_leader_dies_in_the_middle(cluster3: Cluster, tmp_path: Path, moment: str) -> None:
    """A standby's reads are some 100 ms old: a run that believed them would make things twice, or miss them."""
    standby, made = cluster3.standbys()[0], name()
    file = spec(tmp_path, cluster3, made)
    first = apply(file, standby.environment(applier(cluster3, made)))
    assert first["changes"] > 40
    expected = listing(cluster3.leader(), made)
    second = apply(file, standby.environment(applier(cluster3, made)))
    assert (second["changes"], second["writes"]) == (0, 0)

    made, leader = name(), cluster3.leader()
    file, path = spec(tmp_path, cluster3, made), moment.format(below=f"vaultpki/{made}")
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(file), env=environment(everywhere(cluster3, made)), **options) as process:  # type: ignore[call-overload]
        try:
            while leader.api("GET", path).status != 200:
                assert process.poll() is None, process.communicate()
            leader.stop()
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert json.loads(out)["changes"]
    assert listing(cluster3.leader(), made) == expected
    second = apply(file, everywhere(cluster3, made))
    assert (second["changes"], second["writes"]) == (0, 0)


def pinned_read(vault: Vault) -> None:
    vault.pin_to_leader()
    vault.call(Request("GET", "sys/mounts"))


@pytest.mark.conformance
def test_without_a_majority_it_is_told_in_time(cluster3: Cluster) -> None:
    for node in cluster3.standbys():
        node.stop()
    last = cluster3.living()[0]
    vault = Vault(
        Settings((last.address,), ca_file=str(cluster3.ca_file), token=cluster3.token), patience=3, request_seconds=2
    )

    def leaderless() -> bool:
        return last.api("GET", "sys/health", token="", timeout=5).status != 200

    wait_for(leaderless, 60, last.runner.log, pause=0.2)
    begun = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        pinned_read(vault)
    assert not isinstance(caught.value, Sealed)
    assert time.monotonic() - begun < 30
