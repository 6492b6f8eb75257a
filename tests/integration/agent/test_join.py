"""Join files on the node: used twice, late, wrong, tampered with or broken, each told in a sentence of its own."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.node.passes import passed
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import write_tls
from vaultpki.config.agent import load_agent
from vaultpki.host.static_pod import MANIFEST_FOLDER
from vaultpki.node import pins
from vaultpki.node import state as agent_state
from vaultpki.pki import x509
from vaultpki.pki.roots import Roots


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(enrolled_nodes.SPEC)


@pytest.fixture(scope="module")
def other(shared_clusters: ClusterFactory) -> AppliedCluster:
    """Another cluster on the same server."""
    return shared_clusters.applied(enrolled_nodes.SPEC)


def refused(node: NodeFolder, file: Path, *more: str) -> str:
    """What a join is told that must fail; it says it in one sentence, and leaves everything as it was before."""
    before, existed = contents(node), node.folder.exists()
    ran = vaultpki(*enrolled_nodes.joining(node, file), *more, expect=1)
    assert ran.stdout == "" and ran.stderr.startswith("vaultpki: ") and ran.stderr.count("\n") == 1, ran
    assert contents(node) == before and node.folder.exists() == existed
    wrap_token = json.loads(file.read_text()).get("wrap_token") if file.suffix == ".json" else None
    assert not wrap_token or wrap_token not in ran.stderr
    return ran.stderr.removeprefix("vaultpki: ").rstrip("\n")


def contents(node: NodeFolder) -> dict[str, tuple[int, bytes]]:
    """Mode and content of all there is on the node."""
    return {name: (mode, content) for name, (_, _, mode, content) in node.snapshot().items()}


@pytest.mark.parametrize("umask", [0o000, pytest.param(0o777, marks=pytest.mark.on_node)])
def test_what_a_join_leaves(cluster: AppliedCluster, node: NodeFolder, file: Path, umask: int) -> None:
    ran = enrolled_nodes.join(node, file, umask=umask)
    assert ran.stdout.startswith(f"w-1 has joined {cluster.name}; its configuration is {node.config}\n")
    assert {path.name: enrolled_nodes.mode(path) for path in node.state.iterdir()} == {
        "agent.json": 0o600,
        "secret-id": 0o600,
        "secret-id.json": 0o600,
        "joined": 0o600,
        "spec.json": 0o600,
        "vault-ca.pem": 0o644,
    }
    assert enrolled_nodes.mode(node.state) == 0o700 and enrolled_nodes.mode(node.config) == 0o644
    config = load_agent(node.config)
    assert (config.cluster, config.prefix, config.node, config.pool) == (
        cluster.name,
        cluster.prefix,
        "w-1",
        "autoscaled",
    )
    assert config.root_sha256 == cluster.root_sha256 and config.state == str(node.state)
    node.run()


@pytest.mark.on_node
def test_all_that_is_said_is_json_where_that_is_asked_for(
    applier: Enroller, node: NodeFolder, file: Path, tmp_path: Path
) -> None:
    ran = vaultpki(*enrolled_nodes.joining(node, file), "--log-format", "json")
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.stderr == "" and {"issued", "bundles"} < {event["event"] for event in told}
    assert (told[0]["event"], told[0]["node"], told[0]["cluster"]) == ("joined", "w-1", applier.cluster.name)
    assert told[0]["message"] == f"w-1 has joined {applier.cluster.name}; its configuration is {node.config}"
    thief = NodeFolder("w-1", tmp_path / "thief")
    ran = vaultpki(*enrolled_nodes.joining(thief, file), "--log-format", "json", expect=1)
    (line,) = ran.stderr.splitlines()
    assert ran.stdout == "" and json.loads(line)["level"] == "error"
    assert json.loads(line)["message"].startswith("the join file has been used already, and not by this node")


def test_used_twice(applier: Enroller, node: NodeFolder, file: Path, tmp_path: Path) -> None:
    enrolled_nodes.join(node, file)
    # On the node that used it, it is done already.
    assert "has joined" in enrolled_nodes.join(node, file).stdout
    said = refused(NodeFolder("w-1", tmp_path / "thief"), file)
    assert said == (
        "the join file has been used already, and not by this node: somebody may have intercepted it. Run "
        "`vaultpki lock w-1`, find out who had the file, and ask for a new one "
        "(`vaultpki enroll w-1 --pool autoscaled`)"
    )


def test_late(applier: Enroller, node: NodeFolder, tmp_path: Path) -> None:
    enrolled_nodes.vacate(applier.cluster, "w-1")
    file = applier.join_file("w-1", tmp_path / "join.json", pool="autoscaled", wrap_ttl="1s")
    time.sleep(2.5)
    ended = json.loads(file.read_text())["expires"]
    assert refused(node, file) == (
        f"the join file ended at {ended}; ask for a new one (`vaultpki enroll w-1 --pool autoscaled`)"
    )


@pytest.mark.on_node
def test_of_another_cluster_or_node(
    applier: Enroller, other: AppliedCluster, node: NodeFolder, file: Path, tmp_path: Path
) -> None:
    enrolled_nodes.join(node, file)
    theirs = Enroller(other, other.token()).join_file("w-1", tmp_path / "theirs.json", pool="autoscaled")
    said = refused(node, theirs)
    assert said == (
        f"the join file is for node w-1 of {other.name}, and {node.config} is of node w-1 of {applier.cluster.name}; "
        "name another agent.yaml with -c"
    )
    second = applier.join_file("w-2", tmp_path / "w-2.json", pool="autoscaled")
    assert "is for node w-2 of" in refused(node, second)
    enrolled_nodes.join(NodeFolder("w-1", tmp_path / "theirs"), theirs)
    enrolled_nodes.join(NodeFolder("w-2", tmp_path / "second"), second)


def test_the_pin_is_looked_at_before_the_token_is_spent(
    cluster: AppliedCluster, other: AppliedCluster, node: NodeFolder, file: Path, tmp_path: Path
) -> None:
    mark = cluster.server.audit_position()
    pinned = enrolled_nodes.edited(file, tmp_path / "pinned.json", root_sha256=other.root_sha256)
    assert "is not the one pinned" in refused(node, pinned) or "pin" in refused(node, pinned)
    renamed = enrolled_nodes.edited(file, tmp_path / "renamed.json", cluster=other.name)
    said = refused(node, renamed)
    assert said == (
        f"the join file is for cluster {other.name}, and what Vault has at {cluster.prefix} is "
        f"'{cluster.name} root CA'. The file was changed or mixed up. Tell whoever enrolled w-1, and ask for a new one"
    )
    assert "sys/wrapping/unwrap" not in [path for _, path in cluster.server.requests(mark)]
    assert not node.state.exists()
    enrolled_nodes.join(node, file)


@pytest.mark.on_node
@pytest.mark.skipif(os.path.isdir(MANIFEST_FOLDER), reason="this machine runs static pods")
def test_hooks_for_static_pods_where_there_are_none(cluster: AppliedCluster, node: NodeFolder, file: Path) -> None:
    """In the layout document, where units run the components unless somebody has made manifests."""
    mark = cluster.server.audit_position()
    assert refused(node, file, "--hooks", "static-pods") == (
        "--hooks static-pods: there is no /etc/kubernetes/manifests, so no component runs as a static pod here. Leave "
        "the option out, and write hooks that restart this node's units into agent.yaml"
    )
    assert "sys/wrapping/unwrap" not in [path for _, path in cluster.server.requests(mark)]
    enrolled_nodes.join(node, file)
    said = vaultpki("join", "-c", node.config, "--unit", "--hooks", "static-pods", expect=2).stderr
    assert "--hooks goes with a join file; afterwards agent.yaml says it" in said


# What is not as `vaultpki enroll` writes it is refused by tests/unit/records.
CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "version": ({"version": 0}, "version: is not as `vaultpki enroll` writes it"),
    "newer": ({"version": 2, "more": 1}, "has version 2 and this vaultpki speaks 1; install the newer vaultpki"),
    "prefix": ({"prefix": "vaultpki/none"}, "vaultpki/none/"),
    "node": ({"node": "w-2"}, "was not made for this node's secret id: the file was tampered with or mixed up"),
    "node-listed": ({"node": "cp-1", "pool": None}, "was not made for this node's secret id"),
    "pool": ({"pool": "batch"}, "Vault rejects the credential in the join file for w-1"),
    "pool-none": ({"pool": None}, "was not made for this node's secret id"),
    "addresses": ({"addresses": ["https://127.0.0.1:1"]}, "cannot be reached"),
    "addresses-http": ({"addresses": ["http://192.0.2.1:8200"]}, "is plain http"),
    "ca_pem": (
        {"ca_pem": "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n"},
        "cannot be used as a CA file",
    ),
    "ca_pem-none": ({"ca_pem": None}, "; the join file names no CA, and this machine's did not sign it: "),
    "namespace": ({"namespace": "team1/none"}, "the namespace team1/none does not exist at https://127.0.0.1:"),
    "root_sha256": ({"root_sha256": "0" * 64}, "pin"),
    "role_id": ({"role_id": "00000000-0000-0000-0000-000000000000"}, "role_id or pool was changed on its way"),
    "wrap_token": ({"wrap_token": "s.AAAAAAAAAAAAAAAAAAAAAAAA"}, "has been used already, and not by this node"),
    "expires": ({"expires": "2020-01-01"}, "expires: is not as"),
}


def test_tampered(cluster: AppliedCluster, applier: Enroller, node: NodeFolder, file: Path, tmp_path: Path) -> None:
    assert json.loads(file.read_text()).keys() <= {name.partition("-")[0] for name in CHANGED} | {"cluster"}
    for what, (fields, said) in CHANGED.items():
        changed = enrolled_nodes.edited(file, tmp_path / "changed.json", **fields)
        if what == "namespace" and cluster.server.product == "vault":
            # HashiCorp's community edition does not look at it.
            enrolled_nodes.join(NodeFolder("w-1", tmp_path / what), changed)
        else:
            assert said in refused(node, changed), what
        if what in ("pool", "role_id", "namespace"):
            # Only the login shows it, with what the token has brought.
            file.unlink()
            applier.join_file("w-1", file, pool="autoscaled", replace=True)


def test_a_tampered_file_does_not_harm_a_node_that_works(
    applier: Enroller, node: NodeFolder, file: Path, tmp_path: Path
) -> None:
    enrolled_nodes.join(node, file)
    token = enrolled_nodes.wrapped(applier.cluster, f"auth/{applier.cluster.prefix}/pooled/role/w-1/secret-id")
    wrong = "00000000-0000-0000-0000-000000000000"
    bad = enrolled_nodes.edited(file, tmp_path / "bad.json", role_id=wrong, wrap_token=token)
    refused(node, bad)
    assert not passed(node).failures


@pytest.mark.on_node
def test_another_ca_stands_at_the_address(node: NodeFolder, file: Path, tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    ca_pem = write_tls(tmp_path / "tls").read_text()
    said = refused(node, enrolled_nodes.edited(file, tmp_path / "changed.json", ca_pem=ca_pem))
    assert said.endswith(
        "; the CA in the join file did not sign it: whoever enrolled w-1 must look at vault.ca_file in cluster.yaml, "
        "and make a new join file (`vaultpki enroll w-1 --pool autoscaled`)"
    )
    assert "does not verify" in said and "VAULT_CACERT" not in said
    enrolled_nodes.join(node, file)


def test_a_token_that_wraps_something_else(
    cluster: AppliedCluster, node: NodeFolder, file: Path, tmp_path: Path
) -> None:
    """Such as a secret id of another node, a token, or whatever an attacker may have had wrapped."""
    role = f"auth/{cluster.prefix}/pooled/role/w-9"
    made = cluster.server.api("POST", role, {"token_policies": f"{cluster.prefix}/pool/autoscaled"})
    assert made.status == 204
    for path, body in ((f"{role}/secret-id", {}), ("sys/wrapping/wrap", {"secret_id": "mine"})):
        token = enrolled_nodes.wrapped(cluster, path, body=body, ttl="5m")
        said = refused(node, enrolled_nodes.edited(file, tmp_path / "changed.json", wrap_token=token))
        assert said.startswith("the join file's token was not made for this node's secret id"), said
        # It was only looked at.
        assert cluster.server.api("POST", "sys/wrapping/unwrap", token=token).status == 200


@pytest.mark.on_node
def test_broken(node: NodeFolder, tmp_path: Path) -> None:
    broken = tmp_path / "broken.txt"
    found = refused(node, broken)
    assert found.startswith(f"{broken}: cannot be read (No such file or directory); name the join file you were given")
    broken.touch(0o600)
    broken.write_bytes(b"{")
    found = refused(node, broken)
    assert found.startswith(f"{broken}: is not a join file; ask the person who enrolled this node for a new one")


@pytest.mark.on_node
def test_a_node_that_joins_again_keeps_what_its_people_changed(applier: Enroller, tmp_path: Path) -> None:
    node = NodeFolder("w-again", tmp_path / "node")
    enrolled_nodes.join(node, applier.join_file("w-again", tmp_path / "first.json", pool="autoscaled"))
    node.configure("poll: 5m", "poll: 7m")
    with node.config.open("a") as stream:
        stream.write('certificates: {kubelet: {mode: "0640"}}\nhooks: {kubelet: [["true"]]}\n')
    config, state = load_agent(node.config), str(node.state)
    held = x509.read_certificates((node.pki / "kubelet-ca-chain.crt").read_bytes())
    root = next(facts for facts in held if facts.fingerprint == config.root_sha256)
    pins.save(config, Roots((root,), (), frozenset({"ab" * 32}), frozenset({"cd" * 32})))
    agent_state.save(state, replace(agent_state.load(state), revisions={"etcd": 1 << 40}, root=root.fingerprint))
    enrolled_nodes.join(node, applier.join_file("w-again", tmp_path / "fresh.json", pool="autoscaled", replace=True))
    # What it has seen of records and roots is forgotten; whose folders they are is not.
    assert pins.load(state) == Roots((root,), (), frozenset({"ab" * 32}))
    assert agent_state.load(state).revisions == {}
    config = load_agent(node.config)
    assert config.poll == 420 and config.hooks and config.certificates["kubelet"].mode == 0o640
    # The credential that it had before is destroyed, and so is what was in either join file.
    assert len(enrolled_nodes.accessors(applier.cluster, "w-again", "pooled")) == 1
