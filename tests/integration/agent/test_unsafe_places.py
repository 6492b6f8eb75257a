"""What others could change or exchange is told in one sentence; until it is mended nothing is asked for or run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from helpers.node.posix_acls import ACCESS, USER, give
from helpers.node.resident_agent import resident
from helpers.vault.applied_cluster import ONE_WORKER, AppliedCluster, NodeFolder, Ran, vaultpki
from helpers.vault.cluster_factory import ClusterFactory

# Paths are looked at before any server is asked.
pytestmark = pytest.mark.on_node

STRANGER = 1234
Spoil = Callable[[Path], object]


def writable(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o002)


def writable_by_group_0(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o020)


def given_away(path: Path) -> None:
    os.chown(path, STRANGER, STRANGER)


def lent(path: Path) -> None:
    give(path, USER, STRANGER, 7 if path.is_dir() else 6)


SPOIL: dict[str, Spoil] = {
    "writable": writable,
    "writable by group 0": writable_by_group_0,
    "given away": given_away,
    "lent by an ACL": lent,
}


def some_of(places: Iterable[str]) -> list[Any]:
    """Each place spoilt in one way, and the first one in every way; all of them in `make exhaustive`."""
    made = []
    for number, place in enumerate(places):
        for spoil in SPOIL:
            exhaustive = number > 0 and spoil != "writable"
            made.append(pytest.param(place, spoil, marks=[pytest.mark.exhaustive] if exhaustive else []))
    return made


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied()


@pytest.fixture(scope="module")
def base(cluster: AppliedCluster) -> NodeFolder:
    """A node with its CA file and hook program in folders of their own."""
    node = cluster.equip("worker-1", further="hooks: {kubelet: [[HERE/bin/hook]]}\n")
    for folder, name in (("ca", "vault-ca.crt"), ("bin", "hook")):
        (node.folder / folder).mkdir()
        (node.folder / folder / name).write_bytes(cluster.server.ca_file.read_bytes())
    (node.folder / "bin/hook").write_text(f"#!/bin/sh\necho ran >> {node.folder}/hooks\n")
    (node.folder / "bin/hook").chmod(0o755)
    node.configure("HERE", str(node.folder))
    node.configure(str(cluster.server.ca_file), f"{node.folder}/ca/vault-ca.crt")
    return node


@pytest.fixture
def node(base: NodeFolder, tmp_path: Path) -> NodeFolder:
    """A copy that has not run yet."""
    copy = NodeFolder(base.name, tmp_path / "node")
    shutil.copytree(base.folder, copy.folder)
    for file in (copy.config, copy.folder / "bin/hook"):
        file.write_text(file.read_text().replace(str(base.folder), str(copy.folder)))
    return copy


def ran_hooks(node: NodeFolder) -> int:
    log = node.folder / "hooks"
    return len(log.read_text().splitlines()) if log.exists() else 0


def sentence(ran: Ran, path: Path) -> str:
    """The one sentence that the agent ended with, which names the path and is no traceback."""
    assert ran.stdout == "" and ran.stderr.count("\n") == 1, ran
    assert ran.stderr.startswith("vaultpki: ") and f"{path}: " in ran.stderr, ran.stderr
    return ran.stderr


def mend(text: str, path: Path) -> None:
    """What the sentence says, done."""
    commands = re.findall(r"`([^`]+)`", text)
    assert commands, text
    for command in commands:
        if command.startswith("setfacl -b "):
            # A machine without the package acl.
            os.removexattr(command.removeprefix("setfacl -b "), ACCESS)
        elif command.startswith("ch"):
            subprocess.run(["sh", "-c", command], check=True)


PLACES: dict[str, Callable[[NodeFolder], Path]] = {
    "agent.yaml": lambda node: node.config,
    "its folder": lambda node: node.folder,
    "a folder above": lambda node: node.folder.parent,
    "the state folder": lambda node: node.state,
    "the directory": lambda node: node.pki,
    "the CA file": lambda node: node.folder / "ca/vault-ca.crt",
    "the CA file's folder": lambda node: node.folder / "ca",
}


@pytest.mark.parametrize(("place", "spoil"), some_of(PLACES))
def test_nobody_is_asked_and_nothing_is_run(place: str, spoil: str, cluster: AppliedCluster, node: NodeFolder) -> None:
    path = PLACES[place](node)
    node.pki.mkdir()
    SPOIL[spoil](path)
    before, position = node.snapshot(memory=False), cluster.server.audit_position()
    told = sentence(node.run(expect=1), path)
    assert cluster.server.requests(position) == [] and ran_hooks(node) == 0
    # Whom to ask is looked up once the directory is held.
    assert place.startswith("the CA file") or node.snapshot(memory=False) == before
    mend(told, path)
    assert node.run().stderr == "" and ran_hooks(node) == 1
    # A node on which nothing is due looks all the same.
    if not place.startswith("the CA file"):
        SPOIL[spoil](path)
        position = cluster.server.audit_position()
        commands = [("agent", "--once"), ("renew", "--all"), ("agent",)]
        for command in commands if spoil == "writable" else commands[:1]:
            assert sentence(vaultpki(command[0], "-c", node.config, *command[1:], expect=1), path) == told
        assert cluster.server.requests(position) == [] and ran_hooks(node) == 1


def test_nobody_is_asked_with_a_token_of_another_kind(cluster: AppliedCluster, node: NodeFolder) -> None:
    """The state folder holds no credential of theirs, and yet what Vault says would be kept in it."""
    token = node.folder / "token"
    token.write_text(cluster.server.token)
    token.chmod(0o600)
    role_id = re.search(r"auth: .*", node.config.read_text())
    assert role_id
    node.configure(role_id[0], f"auth: {{method: token_file, path: {token}}}")
    node.state.chmod(0o777)
    position = cluster.server.audit_position()
    sentence(node.run(expect=1), node.state)
    assert cluster.server.requests(position) == []


@pytest.mark.parametrize(("place", "spoil"), some_of(["bin/hook", "bin"]))
def test_a_hooks_program_that_others_could_change_is_not_run(place: str, spoil: str, node: NodeFolder) -> None:
    path = node.folder / place
    SPOIL[spoil](path)
    ran = node.run(expect=3)
    [line] = [line for line in ran.stderr.splitlines() if "hook" in line]
    assert f"hooks.kubelet[0]: {path}: " in line and "was not run: " in line and ran_hooks(node) == 0, ran.stderr
    assert (node.pki / "kubelet.crt").exists(), "a hook keeps nobody from his certificate"


def test_a_hook_that_others_could_change_is_told_before_it_is_due(node: NodeFolder) -> None:
    node.run()
    script = node.folder / "bin/hook"
    os.chown(script, STRANGER, STRANGER)
    node.configure(str(script), f"sh, {script}")
    said = f"hooks.kubelet[0]: {script}: the file belongs to the user {STRANGER}"
    ran = node.run()
    [line] = [line for line in ran.stderr.splitlines() if "hook" in line]
    assert said in line and str(node.config) in line and line.endswith("; this hook will not be run"), ran.stderr
    ran = vaultpki("doctor", "-c", node.config, expect=3)
    assert f"FAILED       hook of kubelet: {node.config}:" in ran.stdout and said in ran.stdout, ran.stdout


def test_a_link_to_agent_yaml_is_followed_where_nobody_else_can_lead_it_elsewhere(
    node: NodeFolder, tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/agent.yaml").symlink_to(node.config)
    assert vaultpki("agent", "-c", tmp_path / "etc/agent.yaml", "--once").stderr == ""
    (tmp_path / "etc").chmod(0o777)
    for arguments in (["--once"], []):
        ran = vaultpki("agent", "-c", tmp_path / "etc/agent.yaml", *arguments, expect=1)
        sentence(ran, tmp_path / "etc")


def test_an_agent_that_stays_keeps_what_it_has_read(node: NodeFolder) -> None:
    with resident(node) as agent:
        agent.await_issued()
        node.config.write_text(node.config.read_text().replace("bin/hook", "bin/evil"))
        writable(node.config)
        agent.process.send_signal(signal.SIGHUP)
        [event] = agent.await_said("what was read before goes on", 20)
        assert f"{node.config}: others may write to the file (mode 0646)" in event["message"]
        assert "chmod go-w" in event["message"]
        node.config.chmod(0o644)
        agent.process.send_signal(signal.SIGHUP)
        agent.await_said("was read again", 20)


SPEC = (
    ONE_WORKER
    + "templates:\n  motd: {file: motd.conf, template: more/motd.tmpl, roles: [worker]}\n"
    + "pools:\n- {name: cloud, roles: [worker], node_names: 'c-*', jwt: {issuer: 'https://issuer.example.com', "
    + "audiences: [vaultpki], node_claim: node, public_keys_file: more/keys.pem}}\n"
)


@pytest.fixture
def spec(clusters: ClusterFactory) -> AppliedCluster:
    made = clusters.written(SPEC)
    (made.folder / "more").mkdir(parents=True)
    (made.folder / "more/motd.tmpl").write_text("of ${node}\n")
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", made.folder / "key.pem"], check=True
    )
    subprocess.run(
        ["openssl", "ec", "-in", made.folder / "key.pem", "-pubout", "-out", made.folder / "more/keys.pem"],
        check=True,
        capture_output=True,
    )
    return made


@pytest.mark.parametrize(
    ("place", "spoil"), some_of(["cluster.yaml", "vault-ca.crt", "more/motd.tmpl", "more/keys.pem", "more", "."])
)
def test_cluster_yaml_and_what_it_names(place: str, spoil: str, spec: AppliedCluster) -> None:
    path = spec.folder / place
    run = ("plan", "-f", spec.file)
    vaultpki(*run, env=spec.environment())
    SPOIL[spoil](path)
    position = spec.server.audit_position()
    ran = vaultpki(*run, env=spec.environment(), expect=1)
    told = sentence(ran, path)
    named = {"vault-ca.crt": "ca_file", "more/motd.tmpl": "template", "more/keys.pem": "public_keys_file"}
    assert named.get(place, "") in told and spec.server.requests(position) == []
    mend(told, path)
    vaultpki(*run, env=spec.environment())


def test_init_follows_no_link_that_somebody_put_there(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("theirs")
    (tmp_path / "cluster.yaml").symlink_to("other")
    ran = vaultpki("init", "-o", tmp_path / "cluster.yaml", "--force", expect=1)
    assert ran.stderr.count("\n") == 1 and (tmp_path / "other").read_text() == "theirs"
