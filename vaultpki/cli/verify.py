"""`vaultpki verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vaultpki.cli.common import (
    environment_kubeconfig,
    json_option,
    load_spec,
    needed_policy,
    open_vault,
    path_option,
    spec_option,
)
from vaultpki.cli.progress import progress, say

if TYPE_CHECKING:
    from datetime import datetime

    from vaultpki.model import Cluster
    from vaultpki.vault import Vault
    from vaultpki.verify.on_disk import Check, Holder

# Seconds for which `--live` tries to reach Vault.
_PATIENCE = 5.0


@click.command("verify")
@spec_option
@path_option(
    "--dir", "directory", help="The folder of certificate files: a node's, an operator's, or a folder of nodes."
)
@click.option(
    "--vault", "ask_vault", is_flag=True, help="Ask Vault, as a temporary node, for all that nodes must not have."
)
@click.option("--live", "running", is_flag=True, help="Check the running cluster, read-only; needs --kubeconfig.")
@path_option(
    "--kubeconfig",
    metavar="FILE",
    help="With --live: how to reach the cluster, such as admin.conf.  [env var: KUBECONFIG]",
)
@json_option
def verify_command(
    file: Path,
    directory: Path | None,
    ask_vault: bool,
    running: bool,
    kubeconfig: Path | None,
    allow_http: bool,
    as_json: bool,
) -> None:
    """Check every file and make live handshakes, allowed and forbidden. Exit 3 if anything is wrong.

    With --vault your token (the applier's) makes a temporary node in the cluster's first pool. The node asks Vault for
    everything that no node may have, and is removed. No request would change anything if it were allowed.

    With --live it asks the running cluster: what its components present and whom they let in, which CAs its objects
    hold, and the flags of static pods and kubelets. Vault, --dir or ca.root_sha256 says what is right. It only reads;
    what cannot be reached from here is listed as not checked.

    \b
    Example:
      vaultpki verify --dir /etc/kubernetes/pki
      vaultpki verify --vault
      vaultpki verify --live --kubeconfig admin.conf
      vaultpki verify --live --kubeconfig admin.conf --dir nodes
    """
    import json
    from datetime import UTC, datetime

    from vaultpki import certificates
    from vaultpki.errors import Attention
    from vaultpki.show import verify as verify_text
    from vaultpki.verify import folders, matrix

    if directory is None and not ask_vault and not running:
        raise click.UsageError(
            "choose what to verify: --dir DIR for files, --vault for the server, --live for the running cluster, or "
            "several of them"
        )
    if running and kubeconfig is None:
        # Without --live the variable, which kubectl is for, is no reason to ask the cluster.
        kubeconfig = environment_kubeconfig()
    if running != (kubeconfig is not None):
        raise click.UsageError("--live and --kubeconfig FILE belong together")
    cluster = load_spec(file, allow_http=allow_http or not ask_vault)
    now = datetime.now(UTC)
    checks: tuple[Check, ...] = ()
    report: list[str] = []
    found: tuple[Holder, ...] = ()
    if directory is not None:
        found = folders.find_holders(cluster, directory)
        with progress("Checking files") as counter:
            checks = matrix.verify(found, now=now, rows=certificates.rows(cluster), step=counter.step)
        report.append(verify_text.of_files(checks, len(found)))
    if ask_vault:
        asked = _verify_vault(cluster, now, allow_http=allow_http)
        checks += asked
        report.append(verify_text.of_vault(asked))
    if kubeconfig is not None:
        seen, source = _verify_live(cluster, kubeconfig, found, now, allow_http=allow_http)
        checks += seen
        report.append(verify_text.of_live(seen, source))
    click.echo(json.dumps(matrix.to_json(checks), indent=2) if as_json else "\n".join(report))
    # What no user can check from here counts neither as right nor as wrong.
    made = [check for check in checks if check.ok is not None]
    unmade = sum(check.got == "unchecked" for check in made)
    wrong = sum(not check.ok for check in made) - unmade
    also = f", and {unmade} could not be made as this user" if unmade else ""
    if wrong:
        raise Attention(f"{wrong} of {len(made)} checks failed{also}; correct what they name and run again")
    if unmade:
        raise Attention(f"{unmade} of {len(made)} checks could not be made as this user; run as root")


def _verify_live(
    cluster: Cluster, kubeconfig: Path, holders: tuple[Holder, ...], now: datetime, *, allow_http: bool
) -> tuple[tuple[Check, ...], str]:
    from vaultpki.kube import kubeconfig as document
    from vaultpki.live import cluster as live

    def vault() -> Vault:
        # A cluster can be looked at while Vault is away, and then nobody wants to wait for it.
        return open_vault(cluster, allow_http=allow_http, patience=_PATIENCE)[0]

    access = document.read(kubeconfig)
    say(f"asking {access.server} and every server behind it, for at most {live.TOTAL / 60:.0f} minutes")
    return live.verify(cluster, access, holders, vault, now)


def _verify_vault(cluster: Cluster, now: datetime, *, allow_http: bool) -> tuple[Check, ...]:
    from vaultpki.vault import explained
    from vaultpki.verify import vault_trial

    vault, _ = open_vault(cluster, allow_http=allow_http)
    with explained(vault, needed_policy(cluster)), progress("Asking Vault") as counter:
        return vault_trial.verify_vault(cluster, vault, now=now, step=counter.step)
