"""The old CAs of a cluster, imported with their keys by whoever has the printed policy for that, and no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from helpers.vault.applied_cluster import AppliedCluster, vaultpki


class KeptCa(Protocol):
    """A CA with its key, both as PEM."""

    @property
    def pem(self) -> str: ...

    @property
    def key_pem(self) -> str: ...


def bring_in(cluster: AppliedCluster, cas: Mapping[str, KeptCa], *, apply: bool = True) -> None:
    """`ca import --key` of each domain's CA, and `apply`, which grants nodes and the adopter what they need."""
    for domain, ca in cas.items():
        folder = cluster.folder / f"former-{domain}"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "ca.crt").write_text(ca.pem)
        (folder / "ca.key").touch(0o600)
        (folder / "ca.key").write_text(ca.key_pem)
        words = ("-f", cluster.file, "--domain", domain, "--key", folder / "ca.key", folder / "ca.crt")
        vaultpki("ca", "import", *words, env=cluster.environment("importer"))
    if apply:
        cluster.apply()


def remove(cluster: AppliedCluster, domain: str, *, expect: int = 0) -> str:
    """`ca import --remove` of one; returns what it says of a fault."""
    words = ("-f", cluster.file, "--yes", "--remove", domain)
    return vaultpki("ca", "import", *words, env=cluster.environment("importer"), expect=expect).stderr


def usages(cluster: AppliedCluster) -> dict[str, str]:
    """The usage of each imported CA by its domain, "" without an issuer; those without a mount are missing."""
    found = {}
    for domain in ("kubernetes", "etcd", "front-proxy"):
        mount = f"{cluster.prefix}/imported-{domain}"
        if cluster.server.api("GET", f"sys/mounts/{mount}").status == 200:
            answer = cluster.server.api("GET", f"{mount}/issuer/imported")
            found[domain] = str(answer.data["usage"]) if answer.status == 200 else ""
    return found
