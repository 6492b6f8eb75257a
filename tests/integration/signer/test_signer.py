"""The signer of a node through a real server: its join, its files, and what it answers at an API server over TLS.

A real Kubernetes has it in tests/conformance/signer.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509

from helpers.kube import answering_api, signer_stand
from helpers.kube.answering_api import Api
from helpers.node.enrolled_nodes import Enroller
from helpers.node.unit_judges import exposure, judged, refused
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran, environment, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.host.systemd import SIGNER_UNIT, recipe
from vaultpki.node.secret_id import SecretIdFiles
from vaultpki.redact import stamp

SPEC = """\
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.20.0.11]}
signer: {people: {names: ["*@example.com"], groups: [[], [dev]]}}
pools:
- {name: joined, roles: [worker], node_names: "w-*", join: token, networks: [10.20.1.0/24]}
"""
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
USER = "nobody"
AS_USER = ("setpriv", f"--reuid={USER}", "--regid=65534", "--clear-groups", "--")
# What `systemd-analyze security` finds at most; 10 is a service without any protection.
EXPOSURE = 1.3
# The file systems and capabilities of its unit, without systemd.
SANDBOX = f"""\
set -e
folder=$1 trace=$2; shift 2
for each in "$folder" "$trace"; do mount --bind "$each" "$each"; done
mount -o remount,bind,ro /
mount --bind "${{folder%/*}}" "${{folder%/*}}" && mount -o remount,bind,ro "${{folder%/*}}"
mount --bind "$folder" "$folder"
if touch "${{folder%/*}}/agent.yaml" 2>/dev/null; then echo "the sandbox is open" >&2; exit 99; fi
exec strace -f -o "$trace/trace" {" ".join(AS_USER[:-1])} --no-new-privs --inh-caps -all --bounding-set -all "$@"
"""


@dataclass(frozen=True)
class Stand:
    """A signer on cp-1 that runs as nobody, and the API server that its kubeconfig names."""

    cluster: AppliedCluster
    node: NodeFolder
    api: Api

    @property
    def file(self) -> Path:
        return self.node.folder / "signer" / "signer.yaml"

    def run(self, *words: str, expect: int = 0) -> Ran:
        return vaultpki("signer", "-c", self.file, *words, expect=expect, behind=AS_USER)

    def show(self, *items: dict[str, Any], approved: bool = True) -> None:
        """The API server has these requests of a token, a node or an administrator, and no others."""
        shown = []
        for number, item in enumerate(items):
            name = item["metadata"]["name"]
            user = item.get("user") or {"username": "kubernetes-admin", "groups": ["system:masters"]}
            about = {"name": name, "resourceVersion": str(number + 1), "creationTimestamp": stamp(datetime.now(UTC))}
            conditions = [{"type": "Approved", "status": "True"}] if approved else []
            made = {"metadata": about, "spec": item["spec"] | user, "status": {"conditions": conditions}}
            shown.append(made)
            for part in ("", "/status", "/approval"):
                self.api.values[f"{REQUESTS}/{name}{part}"] = made
        self.api.values[REQUESTS] = {"items": shown, "metadata": {"resourceVersion": "1"}}
        self.api.changed.clear()

    def status(self, name: str) -> dict[str, Any]:
        """What was written into the status of a request."""
        found: dict[str, Any] = self.api.values[f"{REQUESTS}/{name}/status"]["status"]
        return found

    def failed(self, name: str) -> str:
        conditions = [each for each in self.status(name)["conditions"] if each["type"] == "Failed"]
        (found,) = conditions or [{"message": ""}]
        assert not conditions or found["reason"] == "VaultpkiRefused"
        message: str = found["message"]
        return message


def by_token(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"user": {"username": signer_stand.TOKEN_USER, "groups": list(signer_stand.TOKEN_GROUPS)}}


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC)


@pytest.fixture(scope="module")
def joined(cluster: AppliedCluster) -> Iterator[NodeFolder]:
    """cp-1, and its signer that joined as nobody, who may enter no folder of pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="signer-"))
    folder.chmod(0o755)
    try:
        node = cluster.equip("cp-1", folder=folder)
        node.run()
        words = ("enroll", "-f", cluster.file, "--signer", "cp-1", "-o", folder / "signer.json")
        vaultpki(*words, env=cluster.environment("applier"))
        vaultpki("join", "-c", node.config, folder / "signer.json", "--user", USER)
        yield node
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def stand(cluster: AppliedCluster, joined: NodeFolder, tmp_path: Path) -> Iterator[Stand]:
    ca = trustme.CA()
    with answering_api.serving({}, ca.issue_cert("127.0.0.1").configure_cert) as api:
        answering_api.access(api, tmp_path, ca.cert_pem.bytes())
        pki = joined.folder / "signers-pki"
        shutil.copytree(joined.pki, pki, dirs_exist_ok=True)
        shutil.copy(tmp_path / "admin.conf", pki / "signer.conf")
        shutil.chown(pki / "signer.conf", USER)
        file = joined.folder / "signer" / "signer.yaml"
        text = file.read_text()
        file.write_text(text.replace(f"directory: {joined.pki}\n", f"directory: {pki}\n"))
        yield Stand(cluster, joined, api)
        file.write_text(text)


def test_its_files_belong_to_its_user_alone(joined: NodeFolder) -> None:
    uid = pwd.getpwnam(USER).pw_uid
    folder = joined.folder / "signer"
    held = {path.name: path.stat() for path in (folder, *folder.iterdir())}
    assert {name for name, about in held.items() if about.st_uid != uid} == set()
    assert {name: about.st_mode & 0o777 for name, about in held.items() if name in ("signer", "secret-id")} == {
        "signer": 0o700,
        "secret-id": 0o600,
    }
    # The agent issues the pair, and gives it and the kubeconfig to the signer's user, and nothing else.
    theirs = {path.name for path in joined.pki.glob("*.*") if path.stat().st_uid == uid}
    assert theirs == {"signer.crt", "signer.key", "signer.pem", "signer.conf"}
    assert "signer: true" in (folder / "signer.yaml").read_text()


def test_the_secret_id_of_the_join_file_was_replaced(joined: NodeFolder) -> None:
    files = SecretIdFiles(str(joined.folder / "signer"))
    os.seteuid(pwd.getpwnam(USER).pw_uid)
    try:
        current = files.current()
        assert current is not None and files.minted(current) is not None
    finally:
        os.seteuid(0)


def test_a_join_file_of_a_signer_is_for_its_node_and_its_user(
    cluster: AppliedCluster, joined: NodeFolder, applier: Enroller, tmp_path: Path
) -> None:
    file = tmp_path / "again.json"
    applier.enroll("--signer", "cp-1", "--replace", "-o", file)
    nobody = vaultpki("join", "-c", joined.config, file, "--user", "no-such-user", expect=1)
    assert "useradd --system" in nobody.stderr
    other = vaultpki("join", "-c", joined.config, file, "--user", "daemon", expect=1)
    assert "name that user with --user" in other.stderr
    option = vaultpki("join", "-c", joined.config, file, "--hooks", "static-pods", expect=2)
    assert "this one is of a signer" in option.stderr
    # None of these has used it up.
    vaultpki("join", "-c", joined.config, file, "--user", USER)


def test_an_agent_and_a_signer_refuse_each_others_configuration(joined: NodeFolder) -> None:
    signer = joined.folder / "signer" / "signer.yaml"
    for command, file, says in (
        ("signer", joined.config, "this is the agent.yaml of a node"),
        ("agent", signer, "this is the signer.yaml of a signer"),
    ):
        assert says in vaultpki(command, "-c", file, "--once", expect=1, behind=AS_USER).stderr


def test_once_answers_what_is_approved(stand: Stand) -> None:
    stand.show(
        by_token(signer_stand.kubelet_client("good", "w-1")),
        by_token(signer_stand.kubelet_client("bad", "cp-1")),
        signer_stand.person("alice", "alice@example.com", "dev"),
        signer_stand.person("mallory", "mallory@evil.com"),
    )
    said = stand.run("--once")
    for name, subject in (("good", "CN=system:node:w-1,O=system:nodes"), ("alice", "CN=alice@example.com,O=dev")):
        leaf, issuer = x509.load_pem_x509_certificates(base64.b64decode(stand.status(name)["certificate"]))
        assert leaf.subject.rfc4514_string() == subject
        leaf.verify_directly_issued_by(issuer)
    assert stand.failed("bad") == "vaultpki signer: cp-1 is a node of cluster.yaml: its agent has its certificates"
    assert stand.failed("mallory") == "vaultpki signer: the name is none of signer.people.names"
    assert "signed good: system:node:w-1 for system:bootstrap:abcdef" in said.stderr


def test_what_nobody_has_approved_is_left_and_a_dry_run_writes_nothing(stand: Stand) -> None:
    stand.show(signer_stand.person("alice", "alice@example.com"), approved=False)
    stand.run("--once")
    assert stand.run("--dry-run").stdout == (
        "alice: would be signed, once it is approved: alice@example.com, by role csr-person for 86400 s\n"
    )
    stand.show(signer_stand.person("mallory", "mallory@evil.com"))
    said = stand.run("--dry-run").stdout
    assert said.startswith("mallory: would be refused by rule 30a: vaultpki signer: the name is none of")
    assert stand.api.changed == []


def test_nothing_is_marked_if_vault_denies_it(stand: Stand) -> None:
    """A refusal of a new token is no verdict on the request: here the policy has lost a path."""
    policy = f"sys/policies/acl/{stand.cluster.prefix}/signer"
    server = stand.cluster.server
    before = server.api("GET", policy).data["policy"]
    rules = json.loads(before)
    rules["path"] = {path: rule for path, rule in rules["path"].items() if "/sign/" not in path}
    assert server.api("PUT", policy, {"policy": json.dumps(rules)}).status == 204
    try:
        stand.show(by_token(signer_stand.kubelet_client("good", "w-2")))
        said = stand.run("--once", expect=3)
        assert "good was not answered" in said.stderr
        assert stand.api.changed == []
    finally:
        assert server.api("PUT", policy, {"policy": before}).status == 204


def test_nothing_is_signed_while_a_command_changes_what_nodes_follow(stand: Stand) -> None:
    path = f"{stand.cluster.prefix}/config/data/changes"
    before = stand.cluster.read(path)["data"]
    server = stand.cluster.server
    assert server.api("POST", path, {"data": {**before, "state": "changing"}}).status == 200
    try:
        stand.show(by_token(signer_stand.kubelet_client("good", "w-3")))
        assert "nothing is signed now" in stand.run("--once", expect=1).stderr
        assert stand.api.changed == []
    finally:
        assert server.api("POST", path, {"data": before}).status == 200


def test_its_unit_runs_it_as_its_user_with_no_right_of_root(joined: NodeFolder) -> None:
    usual = recipe(SIGNER_UNIT, executable=Path("/usr/bin/vaultpki"))
    assert "ExecStart=/usr/bin/vaultpki signer -c /var/lib/vaultpki-signer/signer.yaml\n" in usual
    assert "User=vaultpki-signer\n" in usual and "CapabilityBoundingSet=\n" in usual
    words = ("template", SIGNER_UNIT, "-c", joined.folder / "signer" / "signer.yaml")
    own = vaultpki(*words, behind=AS_USER).stdout
    assert f"User={USER}\n" in own and f"ReadWritePaths=-{joined.folder}/signer\n" in own


def test_systemd_finds_little_to_say_of_its_unit(joined: NodeFolder, tmp_path: Path) -> None:
    own = tmp_path / SIGNER_UNIT
    words = ("template", SIGNER_UNIT, "-c", joined.folder / "signer" / "signer.yaml")
    # systemd advises against nobody, who is only a test's.
    own.write_text(vaultpki(*words, behind=AS_USER).stdout.replace(f"User={USER}\n", "User=daemon\n"))
    said = judged("verify", "--man=no", own)
    assert not [line for line in said.splitlines() if "vaultpki" in line], said
    own.write_text(recipe(SIGNER_UNIT, executable=Path("/usr/bin/vaultpki")))
    assert exposure(own) <= EXPOSURE


def test_it_needs_no_more_than_its_unit_allows(stand: Stand, tmp_path: Path) -> None:
    """Nothing but its own folder can be written, it has no capability, and makes only calls that the unit lets pass."""
    stand.show(
        by_token(signer_stand.kubelet_client("good", "w-9")),
        by_token(signer_stand.kubelet_client("bad", "cp-1")),
    )
    words = (sys.executable, "-m", "vaultpki", "signer", "-c", stand.file, "--once")
    ran = subprocess.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            SANDBOX,
            "sh",
            stand.file.parent,
            tmp_path,
            *words,
        ],
        env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0 and "signed good" in ran.stderr and "refused bad" in ran.stderr, ran.stdout + ran.stderr
    # What comes before is setpriv's.
    _, _, calls = (tmp_path / "trace").read_text().partition(f'execve("{sys.executable}"')
    unit = recipe(SIGNER_UNIT)
    assert "SystemCallFilter=@system-service\nSystemCallFilter=~@privileged @resources\n" in unit
    assert refused(calls.splitlines(), "@privileged", "@resources") == []
