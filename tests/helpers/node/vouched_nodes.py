"""A cluster whose pools trust an issuer's tokens, and machines as images of such nodes bring them up."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from helpers.vault.applied_cluster import NodeFolder, Ran
from helpers.vault.jwt_issuer import Issuer
from helpers.vault.plan_commands import AuditedCluster
from helpers.vault.server_calls import Answer
from vaultpki.model import KeyType, Pool, Subject
from vaultpki.pki import keys
from vaultpki.records import report_paths
from vaultpki.verify.forbidden_signing import allowed

NODES = "nodes:\n- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}\n"
LISTED = '- {name: autoscaled, roles: [worker], node_names: "w-*"}\n'
JWT = "{issuer: https://issuer.example, audiences: [vaultpki], node_claim: node, public_keys_file: keys.pem}"
CLOUD = f'- {{name: cloud, roles: [worker], node_names: "c-*", jwt: {JWT}}}\n'
EDGE = f'- {{name: edge, roles: [worker], node_names: "e-*", jwt: {JWT}}}\n'
SPEC = f"{NODES}pools:\n{LISTED}{CLOUD}{EDGE}"
WITHOUT = f"{NODES}pools:\n{LISTED}"


@dataclass(frozen=True, slots=True)
class Vouched(AuditedCluster):
    """A cluster whose pools trust an issuer; keys.pem lies beside its cluster.yaml."""

    issuer: Issuer

    def write(self, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "keys.pem").write_text(self.issuer.public_pem)
        AuditedCluster.write(self, text)

    def login(self, token: str, pool: str = "cloud") -> Answer:
        return self.server.api("POST", f"auth/{self.prefix}/jwt/login", {"role": pool, "jwt": token}, token="")

    def logged_in(self, node: str, pool: str = "cloud") -> str:
        """A Vault token of the node."""
        answer = self.login(self.issuer.token(node), pool)
        assert answer.status == 200, answer
        made: str = answer.body["auth"]["client_token"]
        return made

    def image(self, node: str, *, pool: str = "cloud", token: str | None = None) -> NodeFolder:
        """A node's folder as an image would bring it: agent.yaml, and the issuer's token."""
        node_folder = NodeFolder(node, self.folder / "nodes" / node)
        node_folder.folder.mkdir(parents=True)
        put(node_folder, self.issuer.token(node) if token is None else token)
        node_folder.config.write_text(
            f"version: 1\ncluster: {self.name}\nnode: {node}\npool: {pool}\n"
            f"vault: {{addresses: ['{self.server.address}'], ca_file: {self.server.ca_file}}}\n"
            f"root_sha256: {self.root_sha256}\n"
            f"auth: {{method: jwt, path: {node_folder.folder}/token}}\n"
            f"directory: {node_folder.pki}\nstate: {node_folder.state}\n"
        )
        return node_folder

    def pool(self, name: str) -> Pool:
        return next(pool for pool in self.model.pools if pool.name == name)


def put(node: NodeFolder, token: str) -> None:
    file = node.folder / "token"
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(f"{token}\n")


def csr(key: KeyType, subject: Subject) -> str:
    return keys.request(keys.generate_key(key), subject)


def sign(cluster: Vouched, token: str, node: str, pool: str = "cloud", row: str = "kubelet-client") -> Answer:
    """What the node's own request for a row brings with this token."""
    for own in allowed(cluster.model, node, cluster.pool(pool), csr):
        if own.certificate.name == row:
            return cluster.server.api("POST", own.path, own.body, token=token)
    raise AssertionError(row)


def shown(node: NodeFolder, file: str) -> str:
    command = ["openssl", "x509", "-in", f"{node.pki}/{file}", "-noout", "-subject", "-ext", "subjectAltName"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def place(cluster: Vouched, token: str, pool: str = "cloud") -> str:
    """The place where the holder of this token reports."""
    entity = cluster.server.api("POST", "auth/token/lookup", {"token": token}).data["entity_id"]
    return report_paths.by_token(pool, entity)


def entity(cluster: Vouched, node: str) -> str | None:
    """The entity that Vault made when the node logged in; an alias there is the node's name."""
    accessor = cluster.read("sys/auth")[f"{cluster.prefix}/jwt/"]["accessor"]
    body = {"alias_name": node, "alias_mount_accessor": accessor}
    answer = cluster.server.api("POST", "identity/lookup/entity", body)
    return str(answer.data["id"]) if answer.status == 200 else None


def goes_on(ran: Ran, *fragments: str) -> None:
    """What is wrong in one sentence, and when the first of the pairs ends that lie there."""
    wrong, ends = ran.stderr.splitlines()
    assert all(fragment in wrong for fragment in fragments), ran.stderr
    assert ends.startswith("vaultpki: the first certificate here ends at "), ran.stderr
