"""A clean Debian to install packages on: a folder with a small Debian of either release, and commands in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.pages import CHECKOUT
from helpers.vault import operator_tokens
from helpers.vault.servers import Server

RELEASES = {"bookworm": "3.11", "trixie": "3.13"}
"""The Debian releases that the package is for, with their Python."""

# What the kernel gives a machine; the folder's own is empty.
_KERNEL = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'
# Written by dpkg, which has its own idea of the time, and by programs that run.
NOISE = ("var/lib/dpkg/", "var/lib/apt/", "var/log/", "var/cache/", "etc/ld.so.cache", "root/", "tmp/")


@dataclass(frozen=True, slots=True)
class CleanRoot:
    """A Debian below `folder`; what runs in it has a network only if it is asked for."""

    folder: Path

    def run(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        network: bool = False,
        expect: int | None = 0,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """A command to its end, as root, with what it prints on both streams; fails at another exit code."""
        # It sees no process of another test, whose etcd `vaultpki doctor` would examine.
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", *([] if network else ["--net"])]
        ran = subprocess.run(
            [*own, "sh", "-c", _KERNEL, str(self.folder), *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert expect is None or ran.returncode == expect, f"{command}: exit {ran.returncode}\n{ran.stdout}"
        return ran

    def shell(
        self, text: str, *, env: Mapping[str, str] | None = None, network: bool = False, timeout: float = 600
    ) -> str:
        """What a shell prints in /root that runs this text and stops at the first failure."""
        return self.run("bash", "-c", f"set -eu; cd /root; {text}", env=env, network=network, timeout=timeout).stdout

    def path(self, name: str) -> Path:
        """Where a path of this Debian lies."""
        return self.folder / name.lstrip("/")

    def files(self) -> set[str]:
        """Everything there is, by its path from the root, but what changes by itself."""
        found = set()
        for folder, folders, files in os.walk(self.folder):
            for name in (*folders, *files):
                path = os.path.relpath(os.path.join(folder, name), self.folder)
                if not f"{path}/".startswith(NOISE):
                    found.add(path)
        return found


def archive(release: str) -> Path:
    """The archive that a clean root of this release is extracted from; the first call on a machine makes it."""
    assert os.geteuid() == 0, "a clean root is made by root only: run this as root"
    script = CHECKOUT / "packages" / "root"
    ran = subprocess.run([script, release], stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    return Path(ran.stdout.strip())


def extract(folder: Path, release: str = "bookworm") -> CleanRoot:
    """A clean root below this folder, in which Python has no venv and no pip."""
    root = folder / "root"
    root.mkdir(parents=True)
    subprocess.run(["tar", "--extract", "--directory", root, "--file", archive(release)], check=True, timeout=600)
    found = CleanRoot(root)
    venv = f"python{RELEASES[release]}-venv"
    found.run("dpkg", "--purge", "python3-venv", venv, "python3-pip-whl", "python3-setuptools-whl")
    return found


def as_operator(machine: CleanRoot, server: Server, cluster: str) -> dict[str, str]:
    """Write the starter's cluster.yaml for this server into /root; return the environment of an applier there."""
    shutil.copy(server.ca_file, machine.path("/root/vault-ca.crt"))
    machine.shell("vaultpki init")
    spec = machine.path("/root/cluster.yaml")
    text = spec.read_text().replace("https://vault.example.com:8200", server.address)
    spec.write_text(text.replace("cluster: prod", f"cluster: {cluster}"))
    token = operator_tokens.token(server, f"vaultpki/{cluster}", "applier")
    return {"VAULT_ADDR": server.address, "VAULT_TOKEN": token, "VAULT_CACERT": "/root/vault-ca.crt"}
