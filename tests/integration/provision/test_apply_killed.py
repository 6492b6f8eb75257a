"""`apply` cut off after any of its writes: the next one converges to what an uncut one makes, nothing doubled."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.faults.cutting_proxy import Proxy, proxied
from helpers.faults.drawn import Drawn
from helpers.vault.applied_cluster import environment
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import SPEC, AuditedCluster
from helpers.vault.server_contents import ISSUERS, Listing, listing
from helpers.vault.servers import Server
from vaultpki.errors import Sealed, Unavailable
from vaultpki.provision.desired import marker
from vaultpki.vault import Settings, Vault


@pytest.fixture
def proxy(own_server: Server) -> Iterator[Proxy]:
    # A server of its own: some seventy clusters would make every later test's lists long.
    with proxied(own_server) as one:
        yield one


def cut_off(proxy: Proxy, cluster: AuditedCluster) -> Vault:
    """The server for the cluster's applier, through a proxy that ends connections."""
    return Vault(Settings((proxy.address,), ca_pem=proxy.ca_pem, token=cluster.token()))


def uncut(clusters: ClusterFactory) -> tuple[Listing, int]:
    """What one undisturbed apply makes, and with how many writes."""
    cluster, server = clusters.written(SPEC), clusters.server
    since = server.audit_position()
    cluster.applied_here()
    made, writes = listing(server, cluster.name), len(server.writes(since))
    for name in ISSUERS:
        assert len(made[f"vaultpki/CLUSTER/{name}/keys"]) == len(made[f"vaultpki/CLUSTER/{name}/issuers"]) == 1
    assert made["vaultpki/CLUSTER/root/roles"] == {} and writes > 50
    assert set(made["auth/vaultpki/CLUSTER/listed/role"]) == {"cp-1", "worker-1"}
    return made, writes


def whole(cluster: AuditedCluster, expected: Listing, when: str) -> None:
    """The cluster is what an uncut apply makes, and a further apply writes nothing."""
    assert listing(cluster.server, cluster.name) == expected, when
    since = cluster.server.audit_position()
    assert cluster.applied_here() == (), when
    assert cluster.server.writes(since) == [], when


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
    clusters = ClusterFactory(own_server, tmp_path)
    expected, writes = uncut(clusters)
    for cut in range(1 + drawn.below(step), writes + 1, step):
        cluster = clusters.written(SPEC)
        proxy.arm(cut, reopens=reopens)
        if reopens:
            cluster.applied_here(cut_off(proxy, cluster))
        else:
            with pytest.raises(Sealed):
                cluster.applied_here(cut_off(proxy, cluster))
            cluster.applied_here()
        assert proxy.writes >= cut
        whole(cluster, expected, f"cut after write {cut} of {writes}")


@pytest.mark.on_node
def test_a_killed_process_is_followed_by_one_that_ends_well(clusters: ClusterFactory, drawn: Drawn) -> None:
    expected, writes = uncut(clusters)
    cluster, server, last = clusters.written(SPEC), clusters.server, 1 + drawn.below(writes)
    since = server.audit_position()
    command, env = [sys.executable, "-m", "vaultpki", "apply", "-f"], environment(cluster.environment())
    child = subprocess.Popen([*command, str(cluster.file), "--yes"], env=env, stdout=subprocess.DEVNULL)
    try:
        while len(server.writes(since)) < last and child.poll() is None:
            time.sleep(0.001)
        assert not child.returncode
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    cluster.applied_here()
    whole(cluster, expected, f"killed after write {last}")


# Seconds into the request at which its client ends.
DELAYS = (0, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.009, 0.014)


@pytest.mark.parametrize(
    "number", [pytest.param(1, id="drawn"), pytest.param(len(DELAYS), id="each", marks=pytest.mark.exhaustive)]
)
def test_the_server_is_cut_off_while_it_makes_a_ca(
    own_server: Server, proxy: Proxy, tmp_path: Path, drawn: Drawn, number: int
) -> None:
    """A client's end can be the end of what the server does for it: keys and issuers lie there that are half made."""
    clusters = ClusterFactory(own_server, tmp_path)
    expected, _ = uncut(clusters)
    for part in ("/root/generate/", "/intermediate/generate/", "/intermediate/set-signed"):
        for after in drawn.some(DELAYS, number):
            cluster = clusters.written(SPEC)
            proxy.arm_within(part, after)
            with pytest.raises((Sealed, Unavailable)):
                cluster.applied_here(cut_off(proxy, cluster))
            cluster.applied_here()
            whole(cluster, expected, f"cut off in {part} after {after} s")


def test_a_server_that_was_cut_off_while_it_made_a_key(clusters: ClusterFactory) -> None:
    """As above, in one certain state: a key lies there that nothing refers to."""
    expected, _ = uncut(clusters)
    cluster, server = clusters.written(SPEC), clusters.server
    model = cluster.model
    for ca in ISSUERS:
        mount = model.mount(ca)
        body = {"type": "pki", "description": marker(model)}
        assert server.api("POST", f"sys/mounts/{mount}", body).status == 204
        # The first key of a mount becomes its default.
        for name in ("first", f"{ca}-1"):
            made = {"key_name": name, "key_type": "ec", "key_bits": 256}
            assert server.api("POST", f"{mount}/keys/generate/internal", made).status == 200
        assert server.api("DELETE", f"{mount}/key/first").status in (200, 204)
        assert server.api("GET", f"{mount}/config/keys").data["default"] == ""
    cluster.applied_here()
    whole(cluster, expected, "with keys that nothing refers to")
