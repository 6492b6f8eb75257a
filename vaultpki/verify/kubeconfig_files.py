"""Checks the kubeconfigs of a holder: server, CA and files are those of cluster.yaml, as its agent writes them."""

from __future__ import annotations

import json
import os
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from vaultpki import assets
from vaultpki.errors import CertificateUnreadable
from vaultpki.issue.bundles_and_kubeconfigs import Site, kubeconfig
from vaultpki.issue.signing import FileOwner
from vaultpki.pki import x509
from vaultpki.places import KubeconfigFile
from vaultpki.verify import held_files
from vaultpki.verify.on_disk import Check, PairOnDisk, tried

_FILES: Final = ("certificate-authority", "client-certificate", "client-key")
_CA_DATA: Final = "certificate-authority-data"


def kubeconfig_checks(pair: PairOnDisk) -> Iterator[Check]:
    """Check the kubeconfig of a pair, if it has one.

    That of a node is as its agent writes it, to the byte. A person's own may name either bundle, and kubectl may have
    written it anew.
    """
    holder, certificate = pair.holder, pair.certificate
    if certificate.kubeconfig is None:
        return
    path = holder.at(certificate.kubeconfig_folder) / certificate.kubeconfig
    data, problems = held_files.read(path, holder.modes.get(certificate.name, 0o600))
    problems += _problems(pair, data) if data is not None else ()
    yield tried(certificate.name, "file", holder.name, certificate.kubeconfig, refusal="; ".join(problems))


def _problems(pair: PairOnDisk, data: bytes) -> list[str]:
    have = _fields(data)
    if have is None:
        return ["is not a kubeconfig with one cluster, one user and one context"]
    wanted = [_holding_pair(pair, have)] if pair.holder.embedded else list(_naming_files(pair))
    if data in wanted:
        return []
    found = min((list(_differences(have, _fields(each) or {})) for each in wanted), key=len)
    return found or ([] if pair.row.operator else ["is not in the form that the agent writes"])


def _naming_files(pair: PairOnDisk) -> Iterator[bytes]:
    holder, certificate = pair.holder, pair.certificate
    chains = (True, False) if pair.row.operator else (False,)
    plain = certificate.kubeconfig_file is not KubeconfigFile.LINKED
    server = (holder.server if plain else "") or holder.endpoint
    for paths in holder.named:
        site = Site(holder.cluster, server, holder.layout, paths, FileOwner())
        yield from (kubeconfig(site, certificate, chain=chain).data for chain in chains)


def _holding_pair(pair: PairOnDisk, have: Mapping[str, Any]) -> bytes:
    """Return the kubeconfig that holds the pair and the CAs beside it; the order of the CAs is free."""
    holder = pair.holder
    paths = (holder.bundle(pair.certificate.ca, chain=True), pair.crt, pair.key)
    beside, crt, key = (held_files.read(path, None)[0] or b"" for path in paths)
    try:
        held = b64decode(have.get(_CA_DATA) or "", validate=True)
        same = set(x509.read_certificates(held)) == set(x509.read_certificates(beside))
    except (CertificateUnreadable, ValueError, TypeError):
        held, same = b"", False
    return assets.embedded_kubeconfig(
        cluster=holder.cluster,
        server=holder.endpoint,
        ca_pem=held if same else beside,
        user=pair.certificate.subject.common_name,
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
    moved = {(os.path.dirname(str(have.get(key))), os.path.dirname(str(want.get(key)))) for key in _FILES}
    same = [os.path.basename(str(have.get(key))) == os.path.basename(str(want.get(key))) for key in _FILES]
    ((has, should), *others) = moved
    elsewhere = all(same) and not others and has != should
    if elsewhere:
        yield f"names files in {_shown(has)}, should be in {_shown(should)}"
    for key, value in want.items():
        if have.get(key) == value or (elsewhere and key in _FILES):
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
