"""`vaultpki csr check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from vaultpki.cli.common import (
    environment_kubeconfig,
    json_option,
    path_option,
    print_json,
    print_lines,
    spec_file_option,
)
from vaultpki.redact import printable

if TYPE_CHECKING:
    from vaultpki.signer.requests import CsrObject
    from vaultpki.signer.rules import ClusterLook

_ENDINGS: Final = (".pem", ".csr", ".yaml", ".yml", ".json")
# The rules that look at the running cluster too, by signer name.
_OF_CLUSTER: Final = {"kubernetes.io/kube-apiserver-client-kubelet": ("20",), "kubernetes.io/kubelet-serving": ("25",)}


@click.group("csr")
def csr_command() -> None:
    """Look at certificate requests of the cluster as the signer does.

    \b
    Example:
      vaultpki csr check node-csr-x7k2p --kubeconfig admin.conf
    """


@csr_command.command("check", short_help="Say which rule of the signer a certificate request meets.")
@click.argument("request", metavar="FILE|NAME")
@spec_file_option("The cluster's spec.")
@path_option(
    "--kubeconfig",
    metavar="FILE",
    help="How to reach the cluster, such as admin.conf; for a NAME also by the variable.  [env var: KUBECONFIG]",
)
@json_option
def check_command(request: str, file: Path, kubeconfig: Path | None, as_json: bool) -> None:
    """Say which rule of the signer a certificate request breaks first, or by which role Vault signs it. Read-only.

    NAME is that of a CertificateSigningRequest in the cluster. FILE is one as YAML or JSON, or a request in PEM, which
    is taken for one that a node makes for itself, or that somebody makes for a person. Its name ends in .pem, .csr,
    .yaml or .json, or has a slash. Two rules look at the running cluster: for a FILE they need --kubeconfig. Vault is
    not asked. Exit 3 if the request is not signed.

    \b
    Example:
      vaultpki csr check node-csr-x7k2p --kubeconfig admin.conf
      vaultpki csr check alice.csr
      vaultpki csr check request.yaml
    """
    from vaultpki.cli.common import load_spec
    from vaultpki.csr_roles import signer_facts
    from vaultpki.errors import Attention, StateConflict
    from vaultpki.signer.rules import BrokenRule, served, verdict
    from vaultpki.values.durations import format_duration

    facts = signer_facts(load_spec(file, allow_http=True))
    if facts is None:
        raise StateConflict(f"{file} has no signer, so nobody signs requests of this cluster; write signer there")
    path = Path(request) if "/" in request or request.endswith(_ENDINGS) else None
    found, look = _read(request, path, kubeconfig)
    role, rule = "", ""
    left_out: tuple[str, ...] = ()
    if found.signer not in served(facts):
        said = f"{printable(found.signer)} is not served in this cluster, so the signer does not answer"
    elif isinstance(judged := verdict(found, facts, look), BrokenRule):
        rule, said = judged.rule, judged.message
    else:
        role, life = judged.role.name, format_duration(judged.ttl)
        said = f"it passes the rules: once it is approved, Vault signs it by the role {role} for {life}"
        left_out = _OF_CLUSTER.get(found.signer, ()) if look is None else ()
    if as_json:
        print_json(
            {
                "name": found.name,
                "signer": found.signer,
                "username": found.username,
                "approved": found.approved,
                "denied": found.denied,
                "failed": found.failed,
                "issued": found.certificate,
                "role": role or None,
                "rule": rule or None,
                "message": said,
                "left_out": [*left_out],
            }
        )
    else:
        by = f" by {printable(found.username)}" if found.username else ""
        lines = [f"{printable(found.name)}: a request to {printable(found.signer)}{by}"]
        lines.append(f"rule {rule}: {said}" if rule else said)
        lines += [f"rule {each} looks at the running cluster too: pass --kubeconfig FILE" for each in left_out]
        print_lines(lines)
    if not role:
        raise Attention("this request is not signed; see above")


def _read(request: str, path: Path | None, kubeconfig: Path | None) -> tuple[CsrObject, ClusterLook | None]:
    """Return the request, and what the rules look at in the running cluster; None without a way to that."""
    from datetime import UTC, datetime

    from vaultpki.errors import ArgumentError, SpecError
    from vaultpki.kube import kubeconfig as document
    from vaultpki.signer import requests
    from vaultpki.signer.known import KnownRequests
    from vaultpki.signer.requests_api import RequestsApi
    from vaultpki.signer.seen import LiveLook, NodesSeen
    from vaultpki.values import yaml_tree

    if path is None and kubeconfig is None and (kubeconfig := environment_kubeconfig()) is None:
        raise click.UsageError("a request of the cluster is read by --kubeconfig FILE; name a file otherwise")
    look = None
    if kubeconfig is not None:
        access, known = document.read(kubeconfig), KnownRequests()
        api = RequestsApi(lambda: access)
        known.replace(api.list()[0])
        look = LiveLook(api, known, NodesSeen(api), anew=True, now=datetime.now(UTC))
    if path is None:
        item = look.api.read(request) if look is not None else None
        if item is None:
            raise ArgumentError(f"the cluster has no request {printable(request)}; see `kubectl get csr`")
    else:
        text = yaml_tree.read_text(path)
        if "CertificateSigningRequest" not in text:
            return requests.supposed(text.encode(), str(path)), look
        item = yaml_tree.typed_mapping(text, yaml_tree.shown(path))
    found = requests.csr_object(item)
    if found is None:
        raise SpecError("is no CertificateSigningRequest of certificates.k8s.io/v1; name one", file=request)
    return found, look
