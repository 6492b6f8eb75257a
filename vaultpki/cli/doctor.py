"""`vaultpki doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import allow_http_option, config_option, json_option, path_option, print_json
from vaultpki.cli.old_spellings import told_new
from vaultpki.cli.progress import tell_waits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from vaultpki.join.doctor import DoctorCheck
    from vaultpki.model import AgentConfig

_WORDS = {"ok": "ok", "warning": "WARNING", "failed": "FAILED", "unchecked": "not checked"}


@click.command("doctor")
@config_option
@click.argument("join_file", metavar="[FILE]", required=False, type=click.Path(path_type=Path, readable=False))
# Its name until 0.4; elsewhere --join is for `kubeadm join`.
@path_option("--join", "old_join", hidden=True)
@path_option(
    "--dir",
    "directory",
    help="With FILE: the folder of certificate files, as in `join --dir`.  [default: /etc/kubernetes/pki]",
)
@json_option
@allow_http_option
def doctor_command(
    file: Path,
    join_file: Path | None,
    old_join: Path | None,
    directory: Path | None,
    as_json: bool,
    allow_http: bool,
) -> None:
    """Find what is wrong on this machine, before a join or on a node, and say what to do. Changes nothing.

    With a join FILE it examines the machine for that join; the file stays unused.

    On a node it begins with what `vaultpki status` finds there. It looks at the clock, every address of Vault and its
    TLS, the namespace and the cluster's root, the folders and whose they are, foreign files and permissions, hooks, and
    the flags of components that run here. Exit 3 if something failed.

    \b
    Example:
      vaultpki doctor join.json
      vaultpki doctor -c /etc/vaultpki/agent.yaml
    """
    from datetime import UTC, datetime

    from vaultpki.errors import Attention
    from vaultpki.join import doctor

    if old_join is not None:
        told_new("doctor --join", f"vaultpki doctor {old_join}")
        join_file = join_file or old_join
    if directory is not None and join_file is None:
        raise click.UsageError("--dir goes with a join FILE; on a node agent.yaml says where files are")
    tell_waits()
    findings = []
    for finding in _findings(file, join_file, directory, datetime.now(UTC), allow_http=allow_http):
        findings.append(finding)
        if not as_json:
            # At once: an address that does not answer takes its time.
            click.echo(_line(finding))
    if as_json:
        print_json(doctor.to_json(tuple(findings)))
    if not doctor.fine(tuple(findings)):
        raise Attention("something here would fail, or fails; see above")


def _findings(
    file: Path, join_file: Path | None, directory: Path | None, now: datetime, *, allow_http: bool
) -> Iterator[DoctorCheck]:
    from vaultpki.cli.join import JoinFolders, join_plan
    from vaultpki.config.agent import load_agent
    from vaultpki.errors import VaultpkiError
    from vaultpki.join import doctor

    try:
        if join_file is not None:
            plan = join_plan(file, join_file, JoinFolders(directory, None, None), allow_http=allow_http)
        else:
            config = load_agent(file, allow_http=allow_http)
    except VaultpkiError as error:
        yield doctor.DoctorCheck("join file" if join_file is not None else "agent.yaml", "failed", str(error))
        return
    if join_file is not None:
        yield from doctor.before_join(plan, now, allow_http=allow_http)
    else:
        yield from _of_status(config, now, allow_http=allow_http)
        yield from doctor.of_node(config, now, allow_http=allow_http)


def _of_status(config: AgentConfig, now: datetime, *, allow_http: bool) -> Iterator[DoctorCheck]:
    """Yield what `status` finds on this node. Whether Vault answers is asked of each address afterwards."""
    from vaultpki.agent import status
    from vaultpki.findings import nodes
    from vaultpki.join.doctor import DoctorCheck
    from vaultpki.procedures import ON_NODES

    seen = status.of_node(config, now, ON_NODES, allow_http=allow_http)
    found = [one for one in nodes.of_status(seen, now, name=config.node).pressing if one.name != "vault-away"]
    for finding in found:
        yield DoctorCheck(f"status, {finding.name}", "failed" if finding.attention else "warning", finding.advice())
    if not found:
        yield DoctorCheck("status", "ok", "")


def _line(finding: DoctorCheck) -> str:
    from vaultpki.redact import printable

    text = f"{_WORDS[finding.verdict]:<11}  {finding.check}"
    return printable(f"{text}: {finding.detail}" if finding.detail else text)
