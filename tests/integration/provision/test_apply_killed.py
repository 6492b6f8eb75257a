"""`apply` cut off after any of its writes: the next one converges to what an uncut one makes, nothing doubled."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.faults.cutting_proxy import Proxy, proxied
from helpers.faults.drawn import Drawn
from helpers.vault import operator_tokens
from helpers.vault.applied_cluster import environment
from helpers.vault.server_contents import ISSUERS, Listing, listing
from helpers.vault.servers import Server
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import Sealed, Unavailable
from vaultpki.model import Cluster
from vaultpki.provision import apply as bootstrap
from vaultpki.provision.desired import marker
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Settings, Vault

SPEC = """
cluster: {name}
vault: {{addresses: ["{address}"]}}
api_server: {{endpoint: "https://10.0.0.11:6443"}}
nodes:
  - {{name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}}
  - {{name: worker-1, roles: [worker], addresses: [10.0.0.21]}}
pools:
  - {{name: autoscaled, roles: [worker], node_names: "w-*"}}
"""


@pytest.fixture
def proxy(own_server: Server) -> Iterator[Proxy]:
    # A server of its own: some seventy clusters would make every later test's lists long.
    with proxied(own_server) as one:
        yield one


def spec(folder: Path, server: Server, name: str) -> Cluster:
    path = folder / f"{name}.yaml"
    path.write_text(SPEC.format(name=name, address=server.address))
    return load_cluster(path)


def apply(cluster: Cluster, vault: Vault) -> int:
    """Applies, and gives how many changes it made."""
    done = bootstrap.apply(cluster, vault, ServerFacts((), None), first=None, progress=lambda change: None)
    return len(done.changes)


def applier(server: Server, cluster: Cluster) -> str:
    return operator_tokens.token(server, cluster.prefix, "applier")


def straight(server: Server, cluster: Cluster) -> Vault:
    """The server for the cluster's applier."""
    return Vault(Settings((server.address,), ca_file=str(server.ca_file), token=applier(server, cluster)))


def cut_off(server: Server, proxy: Proxy, cluster: Cluster) -> Vault:
    """The same, through a proxy that ends connections."""
    return Vault(Settings((proxy.address,), ca_pem=proxy.ca_pem, token=applier(server, cluster)))


def uncut(folder: Path, server: Server) -> tuple[Listing, int]:
    """What one undisturbed apply makes, and with how many writes."""
    cluster = spec(folder, server, f"t{secrets.token_hex(5)}")
    since = server.audit_position()
    apply(cluster, straight(server, cluster))
    made, writes = listing(server, cluster.name), len(server.writes(since))
    for name in ISSUERS:
        assert len(made[f"vaultpki/CLUSTER/{name}/keys"]) == len(made[f"vaultpki/CLUSTER/{name}/issuers"]) == 1
    assert made["vaultpki/CLUSTER/root/roles"] == {} and writes > 50
    assert set(made["auth/vaultpki/CLUSTER/listed/role"]) == {"cp-1", "worker-1"}
    return made, writes


def whole(server: Server, cluster: Cluster, expected: Listing, when: str) -> None:
    """The cluster is what an uncut apply makes, and a further apply writes nothing."""
    assert listing(server, cluster.name) == expected, when
    since = server.audit_position()
    assert apply(cluster, straight(server, cluster)) == 0, when
    assert server.writes(since) == [], when


@pytest.mark.parametrize(
    ("reopens", "step"),
    [
        pytest.param(False, 1, id="client gives up", marks=pytest.mark.exhaustive),
        pytest.param(False, 20, id="client gives up at times", marks=pytest.mark.on_node),
        # A second of waiting for a server that comes back, each time.
        pytest.param(True, 6, id="client goes on", marks=pytest.mark.exhaustive),
        pytest.param(True, 18, id="client goes on at times", marks=[pytest.mark.conformance, pytest.mark.on_node]),
    ],
)
def test_cut_after_every_write(
    own_server: Server, proxy: Proxy, tmp_path: Path, drawn: Drawn, reopens: bool, step: int
) -> None:
    server = own_server
    expected, writes = uncut(tmp_path, server)
    for cut in range(1 + drawn.below(step), writes + 1, step):
        cluster = spec(tmp_path, server, f"t{secrets.token_hex(5)}")
        proxy.arm(cut, reopens=reopens)
        if reopens:
            apply(cluster, cut_off(server, proxy, cluster))
        else:
            with pytest.raises(Sealed):
                apply(cluster, cut_off(server, proxy, cluster))
            apply(cluster, straight(server, cluster))
        assert proxy.writes >= cut
        whole(server, cluster, expected, f"cut after write {cut} of {writes}")


@pytest.mark.on_node
def test_a_killed_process_is_followed_by_one_that_ends_well(server: Server, tmp_path: Path, drawn: Drawn) -> None:
    expected, writes = uncut(tmp_path, server)
    last = 1 + drawn.below(writes)
    cluster = spec(tmp_path, server, f"t{secrets.token_hex(5)}")
    since = server.audit_position()
    command = [sys.executable, "-m", "vaultpki", "apply", "-f", cluster.file, "--yes"]
    env = environment(server.environment(applier(server, cluster)))
    child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while len(server.writes(since)) < last and child.poll() is None:
            time.sleep(0.001)
        assert not child.returncode
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    apply(cluster, straight(server, cluster))
    whole(server, cluster, expected, f"killed after write {last}")


# Seconds into the request at which its client ends.
DELAYS = (0, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.009, 0.014)


@pytest.mark.parametrize(
    "number", [pytest.param(1, id="drawn"), pytest.param(len(DELAYS), id="each", marks=pytest.mark.exhaustive)]
)
def test_the_server_is_cut_off_while_it_makes_a_ca(
    own_server: Server, proxy: Proxy, tmp_path: Path, drawn: Drawn, number: int
) -> None:
    """A client's end can be the end of what the server does for it: keys and issuers lie there that are half made."""
    server = own_server
    expected, _ = uncut(tmp_path, server)
    for part in ("/root/generate/", "/intermediate/generate/", "/intermediate/set-signed"):
        for after in drawn.some(DELAYS, number):
            cluster = spec(tmp_path, server, f"t{secrets.token_hex(5)}")
            proxy.arm_within(part, after)
            with pytest.raises((Sealed, Unavailable)):
                apply(cluster, cut_off(server, proxy, cluster))
            apply(cluster, straight(server, cluster))
            whole(server, cluster, expected, f"cut off in {part} after {after} s")


def test_a_server_that_was_cut_off_while_it_made_a_key(server: Server, tmp_path: Path) -> None:
    """As above, in one certain state: a key lies there that nothing refers to."""
    expected, _ = uncut(tmp_path, server)
    cluster = spec(tmp_path, server, f"t{secrets.token_hex(5)}")
    for ca in ISSUERS:
        mount = cluster.mount(ca)
        body = {"type": "pki", "description": marker(cluster)}
        assert server.api("POST", f"sys/mounts/{mount}", body).status == 204
        # The first key of a mount becomes its default.
        for name in ("first", f"{ca}-1"):
            made = {"key_name": name, "key_type": "ec", "key_bits": 256}
            assert server.api("POST", f"{mount}/keys/generate/internal", made).status == 200
        assert server.api("DELETE", f"{mount}/key/first").status in (200, 204)
        assert server.api("GET", f"{mount}/config/keys").data["default"] == ""
    apply(cluster, straight(server, cluster))
    whole(server, cluster, expected, "with keys that nothing refers to")
