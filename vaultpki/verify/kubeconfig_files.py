"""Checks the kubeconfigs of a holder: server, CA and files are those of cluster.yaml, as its agent writes them."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import yaml

from vaultpki import assets
from vaultpki.errors import CertificateUnreadable
from vaultpki.issue.bundles_and_kubeconfigs import Site, kubeconfig
from vaultpki.issue.signing import FileOwner
from vaultpki.model import Certificate
from vaultpki.pki import x509
from vaultpki.places import KubeconfigFile
from vaultpki.verify import held_files

if TYPE_CHECKING:
    from vaultpki.verify.on_disk import Holder

_CA_DATA: Final = "certificate-authority-data"


def kubeconfig_problems(
    holder: Holder, certificate: Certificate, mode: int, pair: Sequence[bytes | None], *, by_agent: bool
) -> list[str]:
    """Return what is wrong with the kubeconfig of a certificate, each as the rest of a sentence about it.

    `pair` are the contents of its .crt and its .key, None for what cannot be read. `by_agent` says that an agent writes
    it, to the byte; a person's own may name either bundle, and kubectl may write it anew.
    """
    data, problems = held_files.read(holder.at(certificate.kubeconfig_folder) / str(certificate.kubeconfig), mode)
    if data is None:
        return problems
    have = _fields(data)
    if have is None:
        return [*problems, "is not a kubeconfig with one cluster, one user and one context"]
    if holder.embedded:
        wanted = [_holding_pair(holder, certificate, pair, have)]
    else:
        wanted = list(_naming_files(holder, certificate, (False,) if by_agent else (False, True)))
    if data in wanted:
        return problems
    found = min((list(_differences(have, _fields(each) or {})) for each in wanted), key=len)
    return [*problems, *(found or ["is not in the form that the agent writes"] * by_agent)]


def _naming_files(holder: Holder, certificate: Certificate, chains: Sequence[bool]) -> Iterator[bytes]:
    plain = certificate.kubeconfig_file is not KubeconfigFile.LINKED
    server = (holder.server if plain else "") or holder.endpoint
    for paths in holder.named:
        site = Site(holder.cluster, server, holder.layout, paths, FileOwner())
        yield from (kubeconfig(site, certificate, chain=chain).data for chain in chains)


def _holding_pair(
    holder: Holder, certificate: Certificate, pair: Sequence[bytes | None], have: Mapping[str, Any]
) -> bytes:
    """Return the kubeconfig that holds the pair and the CAs beside it; the order of the CAs is free."""
    beside = held_files.read(holder.bundle(certificate.ca, chain=True), None)[0] or b""
    try:
        held = b64decode(have.get(_CA_DATA) or "", validate=True)
        same = set(x509.read_certificates(held)) == set(x509.read_certificates(beside))
    except (CertificateUnreadable, ValueError, TypeError):
        held, same = b"", False
    crt, key = (each or b"" for each in pair)
    return assets.embedded_kubeconfig(
        cluster=holder.cluster,
        server=holder.endpoint,
        ca_pem=held if same else beside,
        user=certificate.subject.common_name,
        certificate_pem=crt,
        key_pem=key,
    ).encode()


def _fields(data: bytes) -> dict[str, Any] | None:
    """Return what a kubeconfig says of its one cluster, user and context; None if it is none."""
    try:
        config = yaml.safe_load(data)
        ((user,), (cluster,), (context,)) = (config["users"], config["clusters"], config["contexts"])
        named = (context["context"]["user"], context["context"]["cluster"], context["name"])
        whole = named == (user["name"], cluster["name"], config["current-context"])
        fields = {str(key): value for key, value in (*cluster["cluster"].items(), *user["user"].items())}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, LookupError, TypeError, ValueError, AttributeError):
        return None
    return {**fields, "current context": "its user on its cluster" if whole else "another one"}


def _differences(have: Mapping[str, Any], want: Mapping[str, Any]) -> Iterator[str]:
    for key, value in want.items():
        if have.get(key) == value:
            continue
        # A private key is in no message.
        if key.endswith("-data"):
            yield f"{key} is not that of the files beside it"
        else:
            yield f"{key} is {_shown(have.get(key))}, should be {_shown(value)}"
    if further := sorted(have.keys() - want.keys()):
        yield f"holds {', '.join(further)}, which is not renewed or weakens TLS"


def _shown(value: object) -> str:
    return "missing" if value is None else json.dumps(str(value)[:256])
