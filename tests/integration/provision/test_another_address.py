"""A raft snapshot takes a cluster to a fresh server at another address: no node joins again, and all renew there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers import page_runner, pages
from helpers.node.enrolled_nodes import SPEC, Enroller, accessors, join
from helpers.node.root_rotation import verifies
from helpers.page_runner import Ran
from helpers.vault import forked_command, servers
from helpers.vault.applied_cluster import NodeFolder, vaultpki
from helpers.vault.plan_commands import AuditedCluster
from helpers.vault.servers import Server
from vaultpki.identity import enrol
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.records.join_file import dump_join

PART = pages.part("operations", "The same Vault at another address")
SAVE, RESTORE, CHANGE, ON_NODE, AGAIN = [f"```console\n{block.text}```\n" for block in pages.blocks(PART)]
FRESH = "https://vault-2.example.com:8200"
RENEWED = {"cp-1": ("etcd-peer", "etcd"), "worker-1": ("kubelet-client", "kubernetes"), "w-1": ("kubelet", "kubelet")}
"""Which certificate each node renews on the fresh server, and of which CA it is."""
INSTEAD: dict[str, str | None] = {
    # Nobody types the key here, or waits until the server has sealed itself.
    "bao operator unseal": "while bao status; do sleep 0.1; done; bao operator unseal $(cat unseal-key)",
    "install -m 0644 vault-2-ca.crt /var/lib/vaultpki/vault-ca.pem": (
        "install -m 0644 vault-2-ca.crt /etc/vaultpki/state/vault-ca.pem"
    ),
}
MOST_WORDS = 350


@dataclass(frozen=True, slots=True)
class TwoServers:
    """The operator's folder, which has a folder of each node, and the servers of before and after."""

    folder: Path
    old: Server
    fresh: Server
    name: str
    environment: dict[str, str]

    @property
    def before(self) -> AuditedCluster:
        return AuditedCluster(self.old, self.folder, self.name)

    @property
    def after(self) -> AuditedCluster:
        return AuditedCluster(self.fresh, self.folder, self.name)

    def joined(self, *names: str) -> dict[str, NodeFolder]:
        """Nodes that have joined at the old server, with agent.yaml where the page has it."""
        nodes = {}
        for name in names:
            node = nodes[name] = NodeFolder(name, self.folder / "nodes" / name)
            (self.folder / name / "etc").mkdir(parents=True)
            (self.folder / name / "etc/vaultpki").symlink_to(node.folder)
            file, pool = self.folder / f"{name}.json", "autoscaled" if name == "w-1" else None
            join(node, Enroller(self.before, self.before.token()).join_file(name, file, pool=pool))
        return nodes

    def run(self, *blocks: str, nodes: Collection[str] = (), without: Collection[str] = ()) -> list[Ran]:
        """The commands of the page in one shell, those of its node on each of these."""
        each = "".join(ON_NODE.replace("cp-1#", f"{name}#") for name in nodes)
        source = "".join(blocks).replace(ON_NODE, each).replace(FRESH, self.fresh.address)
        for file, text in (
            ("root-token", self.old.token),
            ("root-token-2", self.fresh.token),
            ("unseal-key", self.old.unseal_keys[0]),
            ("vault-2-ca.crt", self.fresh.ca_file.read_text()),
        ):
            (self.folder / file).write_text(text)
        ran = page_runner.run(
            source, self.old, self.folder, self.environment, INSTEAD | dict.fromkeys(without), timeout=120
        )
        page_runner.refuse_other_output(ran, self.folder)
        if RESTORE in blocks:
            self.fresh.token, self.fresh.unseal_keys = self.old.token, self.old.unseal_keys
        return ran


@pytest.fixture
def two(
    own_server: Server, server_kind: str, tmp_path: Path, vault_binary: Path | None, cluster_name: str
) -> Iterator[TwoServers]:
    log, folder = own_server.audit_log, tmp_path / "operator"
    with (
        servers.running(server_kind, tmp_path / "fresh", vault_binary, audit_log=log) as fresh,
        forked_command.program(tmp_path / "fork"),
    ):
        folder.mkdir()
        environment = page_runner.equip(folder, own_server, tmp_path / "fork")
        made = TwoServers(folder, own_server, fresh, cluster_name, environment)
        made.before.write(SPEC)
        made.before.apply()
        (folder / "applier.token").write_text(made.before.token())
        yield made


def leaf(node: NodeFolder) -> Facts:
    return x509.read_certificates((node.pki / f"{RENEWED[node.name][0]}.crt").read_bytes())[0]


def bundles(node: NodeFolder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in node.pki.glob("*-ca*.crt")}


def credentials(cluster: AuditedCluster) -> dict[str, list[str]]:
    return {name: accessors(cluster, name, "pooled" if name == "w-1" else "listed") for name in RENEWED}


def renew(node: NodeFolder, server: Server) -> None:
    """The node renews a certificate at this server, of the CA that it had."""
    before, kept = leaf(node), bundles(node)
    vaultpki("renew", "-c", node.config, RENEWED[node.name][0])
    new = leaf(node)
    assert new.serial != before.serial and new.authority_key_id == before.authority_key_id
    # Where its CRL is.
    assert server.address.encode() in new.der and bundles(node) == kept


def state(cluster: AuditedCluster, node: str) -> str:
    """What `nodes` says of the node."""
    ran = vaultpki("nodes", "-f", cluster.file, "--json", env=cluster.environment("viewer"), expect={0, 3})
    (found,) = [each["state"] for each in json.loads(ran.stdout)["nodes"] if each["node"] == node]
    return str(found)


def test_the_page_is_walked_and_every_node_renews(two: TwoServers) -> None:
    assert len(PART.split()) <= MOST_WORDS
    nodes = two.joined(*RENEWED)
    logins = credentials(two.before)
    assert all(len(each) == 1 for each in logins.values())
    # Both servers write into it.
    start = two.fresh.audit_position()
    two.run(SAVE, RESTORE, CHANGE, ON_NODE, nodes=nodes)
    assert two.old.api("GET", "sys/seal-status", token="").body["sealed"]
    for node in nodes.values():
        renew(node, two.fresh)
        vaultpki("status", "-c", node.config)
    # Nobody has joined again: all log in with what they had, and ask for no other credential.
    asked = [path for _, path in two.fresh.writes(start) if path.startswith(("auth/vaultpki/", "sys/wrapping/"))]
    assert len(asked) >= len(nodes) and all(path.endswith("/login") for path in asked), asked
    assert credentials(two.after) == logins
    assert two.after.plan()["changes"] == []
    for name, (_, ca) in RENEWED.items():
        for other in nodes.values():
            if (chain := other.pki / f"{ca}-ca-chain.crt").exists():
                anchors = tuple(x509.read_certificates(chain.read_bytes()))
                assert verifies(two.folder, (leaf(nodes[name]), *anchors), anchors), (name, other.name)
    verified = vaultpki("verify", "-f", two.after.file, "--dir", two.folder / "nodes", "--json")
    assert json.loads(verified.stdout)["ok"]


def test_what_was_changed_since_the_snapshot_is_lost_as_the_page_says(two: TwoServers) -> None:
    """The server is lost. Who has a newer credential joins again, and who was locked since is not."""
    nodes = two.joined("worker-1", "w-1")
    two.run(SAVE, without=["bao operator seal"])
    # It has replaced its credential, and ended the one before some minutes later.
    for part, said in ((2, "replaced this node's own credential"), (1000, "nothing to do")):
        note = nodes["worker-1"].state / "secret-id.json"
        minted = json.loads(note.read_text())
        note.write_text(json.dumps(minted | {"minted": minted["minted"] - minted["ttl"] // part}))
        assert said in vaultpki("agent", "-c", nodes["worker-1"].config, "--once").stdout
    enrol.lock(two.before.model, two.before.client("locker"), "w-1", wait=0)
    assert state(two.before, "w-1") == "locked"
    two.old.stop()

    two.run(RESTORE, CHANGE, ON_NODE, nodes=["w-1"])
    renew(nodes["w-1"], two.fresh)
    assert state(two.after, "w-1") == "ok"
    enrol.lock(two.after.model, two.after.client("locker"), "w-1", wait=0)
    assert state(two.after, "w-1") == "locked"

    two.run(ON_NODE, nodes=["worker-1"], without=["vaultpki agent --once"])
    rejected = "Vault rejects this node's credential"
    assert rejected in vaultpki("agent", "-c", nodes["worker-1"].config, "--once", expect=1).stderr and rejected in PART
    assert state(two.after, "worker-1") == "ok"
    # The join file brings the address and the CA.
    nodes["worker-1"].configure(two.fresh.address, two.old.address)
    (nodes["worker-1"].state / "vault-ca.pem").write_bytes(two.old.ca_file.read_bytes())
    join(nodes["worker-1"], again(two.after, two.folder / "again.json"))
    renew(nodes["worker-1"], two.fresh)


def again(cluster: AuditedCluster, path: Path) -> Path:
    """What `enroll worker-1 --replace` makes, without its ten seconds for logins that are under way."""
    model, vault = cluster.model, cluster.client()
    who, where = enrol.holder(model, "worker-1", None), enrol.place(model, vault)
    made = enrol.enroll(model, vault, "worker-1", who, where, wrap_ttl=300, replace=True, wait=0)
    path.touch(0o600)
    path.write_text(dump_join(made))
    return path


def test_nothing_changes_where_the_name_moves(two: TwoServers) -> None:
    """The fresh server is found by the name of the old one, and has a certificate of the same CA."""
    node = two.joined("worker-1")["worker-1"]
    two.run(SAVE)
    two.old.stop()
    two.fresh.stop()
    settings = two.fresh.folder / "server.hcl"
    port = two.fresh.address.rpartition(":")[2], two.old.address.rpartition(":")[2]
    settings.write_text(settings.read_text().replace(f":{port[0]}", f":{port[1]}"))
    for file in ("server.crt", "server.key", "ca.crt"):
        shutil.copy(two.old.folder / file, two.fresh.folder / file)
    two.fresh.address = two.old.address
    two.fresh.start()
    two.run(RESTORE)
    vaultpki("agent", "-c", node.config, "--once")
    renew(node, two.fresh)
    assert two.after.plan()["changes"] == []
