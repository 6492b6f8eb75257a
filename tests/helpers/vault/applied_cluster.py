"""A cluster that was applied to a test server, and nodes equipped by hand as enrolment would equip them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.product import PYTHONPATH
from helpers.vault import forked_command, operator_tokens
from helpers.vault.operator_tokens import Who
from helpers.vault.servers import Server
from vaultpki.config.cluster import load_cluster
from vaultpki.identity.access import pooled_approle, takes
from vaultpki.model import Cluster
from vaultpki.pki import x509
from vaultpki.provision import apply as bootstrap
from vaultpki.provision.plan import Change
from vaultpki.records import report_paths as report_place
from vaultpki.records.server_facts import ServerFacts
from vaultpki.vault import Settings, Vault

ROOT = Path(__file__).parents[3]

Ran = subprocess.CompletedProcess[str]
ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Behind this a command sees no process of another test: `doctor` takes the components that it sees for its node's."""
# Variables that nothing reads before vaultpki itself does.
_READ_LATER = ("VAULT_", "BAO_")
_MAIN = "\nimport sys\nfrom vaultpki.__main__ import main\nsys.exit(main())\n"


def vaultpki(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    expect: int | AbstractSet[int] = 0,
    umask: int = 0o022,
    python: str = sys.executable,
    timeout: float = 240,
    behind: Sequence[str] = (),
    root: str = "",
    changed: str = "",
) -> Ran:
    """The product as a whole process, behind another command; fails where it ends with another code than `expect`.

    Without another command, Python or variable that Python reads as it starts, the process is a fork. `root` says why
    it has the root token. `changed` are lines of Python that run in the process before the product does.
    """
    words = list(map(str, arguments))
    if (
        not changed
        and not behind
        and python == sys.executable
        and all(name.startswith(_READ_LATER) for name in env or ())
    ):
        ran = forked_command.run(words, env=environment(env, root), umask=umask, timeout=timeout)
    else:
        ran = subprocess.run(
            [*behind, python, *(("-c", f"{changed}{_MAIN}") if changed else ("-m", "vaultpki")), *words],
            env=environment(env, root),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            umask=umask,
        )
    expected = {expect} if isinstance(expect, int) else expect
    assert ran.returncode in expected, f"{arguments}: exit {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran


def environment(further: Mapping[str, str] | None = None, root: str = "") -> dict[str, str]:
    """Nothing of the tester's own Vault; the checkout is importable. Fails for a root token, unless `root` says why."""
    operator_tokens.refuse_root(dict(further or {}), root)
    return {"PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH, "LC_ALL": "C.UTF-8", **(further or {})}


@dataclass(frozen=True, slots=True)
class NodeFolder:
    """One node: its folder with agent.yaml, `state/secret-id` and, after a run, `pki`."""

    name: str
    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "agent.yaml"

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def run(self, *, expect: int | AbstractSet[int] = 0, umask: int = 0o022) -> Ran:
        """One pass of the agent, as a whole process; it asks Vault only if something is due."""
        text = self.config.read_text()
        assert "layout: kubeadm" not in text or "folders:" in text, "kubelet's folder would be this machine's own"
        return vaultpki("agent", "-c", self.config, "--once", "--if-due", expect=expect, umask=umask)

    def configure(self, old: str, new: str) -> None:
        """Changes agent.yaml, as a person would."""
        text = self.config.read_text()
        assert old in text, text
        self.config.write_text(text.replace(old, new))

    def copied(self, folder: Path) -> NodeFolder:
        """A copy of the whole node in another folder, whose agent.yaml names its own files."""
        shutil.copytree(self.folder, folder, symlinks=True)
        copy = NodeFolder(self.name, folder)
        copy.configure(str(self.folder), str(folder))
        return copy

    def age(self, seconds: float = 3600) -> None:
        """Makes the node's copy of what Vault told look so much older."""
        file = self.state / "spec.json"
        copy = json.loads(file.read_text())
        copy["fetched"] = time.time() - seconds
        file.write_text(json.dumps(copy))

    def snapshot(self, *, memory: bool = True) -> dict[str, tuple[int, int, int, bytes]]:
        """Everything on the node but the locks' own times: inode, mtime, mode and content by path.

        Without `memory` what the agent writes down of a failure is left out, and its folder's own time.
        """
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if not memory and path in (self.state, self.state / "agent.json"):
                continue
            about = path.lstat()
            content = b"" if path.is_dir() else os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(self.folder))] = (about.st_ino, about.st_mtime_ns, about.st_mode, content)
        return found


@dataclass(frozen=True, slots=True)
class AppliedCluster:
    """A folder with cluster.yaml, beside the server it is applied to."""

    server: Server
    folder: Path
    name: str

    @property
    def file(self) -> Path:
        return self.folder / "cluster.yaml"

    @property
    def prefix(self) -> str:
        return f"vaultpki/{self.name}"

    @property
    def model(self) -> Cluster:
        return load_cluster(self.file)

    def write(self, text: str) -> None:
        """cluster.yaml: `text` behind the cluster's name and the server's address."""
        head = f"cluster: {self.name}\nvault: {{addresses: ['{self.server.address}'], ca_file: vault-ca.crt}}\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "vault-ca.crt").write_bytes(self.server.ca_file.read_bytes())
        self.file.write_text(head + text)

    def apply(self, *, expect: int = 0) -> Ran:
        return vaultpki("apply", "-f", self.file, "--yes", env=self.environment(), expect=expect)

    def issue(self, name: str, directory: Path, *, expect: int = 0, umask: int = 0o022) -> Ran:
        return vaultpki(
            *("issue", "-f", self.file, name, "--dir", directory),
            env=self.environment("operator"),
            expect=expect,
            umask=umask,
        )

    def token(self, who: Who = "applier") -> str:
        """A token with exactly the policy that `vaultpki policy` prints for `who`."""
        own = re.search(r"(?m)^prefix: (\S+)$", self.file.read_text())
        return operator_tokens.token(self.server, own[1] if own else self.prefix, who, spec=self.file)

    def environment(self, who: Who = "applier") -> dict[str, str]:
        """What a command of `who` needs to find the server."""
        return self.server.environment(self.token(who))

    def client(self, who: Who = "applier") -> Vault:
        """The product's own client with the token of `who`, for calls of its functions."""
        ca_pem = self.server.ca_file.read_text()
        return Vault(Settings((self.server.address,), ca_pem=ca_pem, token=self.token(who)))

    def applied_here(self, vault: Vault | None = None) -> tuple[Change, ...]:
        """What an apply in this process has changed; as the applier, unless through another client."""
        through = vault or self.client()
        done = bootstrap.apply(self.model, through, ServerFacts((), None), first=None, progress=lambda change: None)
        return done.changes

    def left_to_apply(self, vault: Vault | None = None) -> tuple[Change, ...]:
        """What a plan in this process would change."""
        _, made = bootstrap.observe_and_plan(self.model, vault or self.client(), ServerFacts((), None))
        return made.changes

    def report_place(self, node: str) -> str:
        """Where a node with an AppRole reports, as a path below the store's `data` and `metadata`."""
        cluster = self.model
        listed = any(each.name == node for each in cluster.nodes)
        pool = "" if listed else next(each.name for each in cluster.pools if takes(each, node))
        return report_place.listed(node) if listed else report_place.pooled(pool, node)

    def report_path(self, node: str, *, data: str = "data") -> str:
        """The path of that report in the API; `data` is `metadata` to delete it."""
        return f"{self.prefix}/config/{data}/{self.report_place(node)}"

    def read(self, path: str) -> dict[str, Any]:
        answer = self.server.api("GET", path)
        assert answer.status == 200, (path, answer)
        return answer.data

    @property
    def root_sha256(self) -> str:
        """The pin, as the cluster's own record has it."""
        pin: str = self.read(f"{self.prefix}/config/data/cluster")["data"]["root_sha256"]
        return pin

    def equip(self, node: str, *, pool: str | None = None, folder: Path | None = None, further: str = "") -> NodeFolder:
        """A folder for the node, with a secret id of its AppRole; `further` is appended to agent.yaml."""
        node_folder = NodeFolder(node, folder or self.folder / "nodes" / node)
        mount = f"auth/{self.prefix}/{'pooled' if pool else 'listed'}/role/{node}"
        if pool:
            cluster = self.model
            parameters = pooled_approle(cluster, next(each for each in cluster.pools if each.name == pool))
            assert self.server.api("POST", mount, parameters).status == 204
        minted = _minted(self.server, mount)
        node_folder.state.mkdir(parents=True, mode=0o700)
        secret = node_folder.state / "secret-id"
        secret.touch(mode=0o600)
        secret.write_text(minted)
        role_id = self.read(f"{mount}/role-id")["role_id"]
        lines = [
            "version: 1",
            f"cluster: {self.name}",
            f"prefix: {self.prefix}",
            f"node: {node}",
            *([f"pool: {pool}"] if pool else []),
            f"vault: {{addresses: ['{self.server.address}'], ca_file: {self.server.ca_file}}}",
            f"root_sha256: {self.root_sha256}",
            f"auth: {{method: approle, role_id: {role_id}}}",
            f"directory: {node_folder.pki}",
            f"state: {node_folder.state}",
        ]
        node_folder.config.write_text("\n".join(lines) + f"\n{further}")
        return node_folder


def _minted(server: Server, role: str) -> str:
    """A secret id that lasts: once a minute both servers tidy up, and may lose one that is minted in that moment."""
    while True:
        minted = server.api("POST", f"{role}/secret-id")
        assert minted.status == 200, minted
        time.sleep(0.05)
        accessor = {"secret_id_accessor": minted.data["secret_id_accessor"]}
        if server.api("POST", f"{role}/secret-id-accessor/lookup", accessor).status == 200:
            return str(minted.data["secret_id"])


ONE_WORKER = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
"""


def second_issuer(cluster: AppliedCluster) -> str:
    """Return the fingerprint of a new issuing CA, which is the default of the mount of kubernetes from now on."""
    mount, server = f"{cluster.prefix}/kubernetes", cluster.server
    name = {"common_name": f"{cluster.name} kubernetes CA 2"}
    wanted = {**name, "key_type": "ec", "key_bits": 256}
    csr = server.api("POST", f"{mount}/intermediate/generate/internal", wanted).data["csr"]
    body = {**name, "csr": csr, "ttl": "8760h", "max_path_length": 0, "not_before_duration": "10m"}
    pem = server.api("POST", f"{cluster.prefix}/root/root/sign-intermediate", body).data["certificate"]
    taken = server.api("POST", f"{mount}/intermediate/set-signed", {"certificate": pem}).data
    (issuer_id,) = taken["imported_issuers"]
    assert server.api("POST", f"{mount}/config/issuers", {"default": issuer_id}).status == 200
    return x509.fingerprint(pem.encode())
