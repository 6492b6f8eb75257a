"""`vaultpki ca csr` and `vaultpki ca import`: issuing CAs below a root from outside; `ca_key` has a CA with its key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaultpki.cli.ca_key import KeyOptions, import_key, key_options, remove_imported
from vaultpki.cli.common import (
    json_option,
    opened,
    path_option,
    print_json,
    server_now,
    spec_option,
    terminal,
    yes_option,
)
from vaultpki.cli.progress import progress
from vaultpki.errors import Attention, VaultpkiError
from vaultpki.redact import printable

if TYPE_CHECKING:
    from vaultpki.ca.crossing import WantedCross
    from vaultpki.ca.returned import ReturnedFiles
    from vaultpki.model import Cluster
    from vaultpki.records.server_facts import ServerFacts
    from vaultpki.vault import Vault


@click.command("csr", short_help="Write the requests of CAs that wait for an outside signer.")
@spec_option
@path_option("-o", "--output", required=True, help="The folder for the requests; it is made if it is missing.")
@json_option
def csr_command(file: Path, allow_http: bool, output: Path, as_json: bool) -> None:
    """Write the request of each CA that waits for a signer outside, and beside it what the signer must grant.

    For each one DIR gets NAME.csr, NAME.ext with the extensions for OpenSSL, and NAME.txt with the same in words, for a
    form. While a root from outside is replaced, it is the new root, for which the old one must vouch. A file of another
    origin is never overwritten. Changes nothing in Vault.

    \b
    Example:
      vaultpki ca csr -o requests
    """
    from dataclasses import asdict

    from vaultpki.ca import crossing, request_files
    from vaultpki.ca import waiting as ca_waiting

    with opened(file, allow_http=allow_http, applied=True) as (cluster, vault, _):
        cross = crossing.find(cluster, vault, server_now(vault))
        if cross is not None:
            made: tuple[request_files.RequestFiles, ...] = (crossing.write(cluster, cross, output),)
        else:
            ca_waiting.outside_root(cluster)
            found = ca_waiting.find(cluster, vault)
            made = request_files.write(cluster, found.waiting, output) if found.waiting else ()
    if as_json:
        print_json({"folder": str(output), "requests": [asdict(each) for each in made]})
        return
    for line in request_files.shown(made, output):
        click.echo(printable(line))
    if made:
        click.echo(f"Send them to the signer; `vaultpki ca import{cluster.file_option} FILE...` takes what comes back.")
    else:
        click.echo("No issuing CA waits for a signer.")


@click.command("import", short_help="Check and install what an outside signer sent back.")
@spec_option
@click.argument("files", metavar="FILE...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only check the files; nothing is changed.")
@path_option("--csr", "requests", help="With --dry-run: the folder of `ca csr`, so that no server is asked.")
@key_options
@yes_option("If cluster.yaml asks for further changes, or before --remove")
@json_option
def import_command(
    file: Path,
    allow_http: bool,
    files: tuple[Path, ...],
    dry_run: bool,
    requests: Path | None,
    of_key: KeyOptions,
    yes: bool,
    as_json: bool,
) -> int:
    """Check and install what a signer outside sent back, and go on where `apply`, or a rotation, has stopped.

    Takes PEM, DER and PKCS#7, in any order, with the chain or without. Everything is checked before anything is
    written; nothing is installed if a certificate is refused. Can be killed and run again at any time. Exit 3 if a CA
    still waits.

    Another certificate for the key of a CA that is there renews it, without a request: a CA above at once, an issuing
    CA by a rotation with the same key, one after the other.

    With --key it imports a CA of a cluster that is taken over, such as kubeadm's: the key is decrypted here, the pair
    is checked, and it is sent once, over TLS. It signs nothing until nodes go back to it. A passphrase is asked for.

    \b
    Example:
      vaultpki ca import --dry-run --csr requests answer.p7b
      vaultpki ca import answer.p7b
      vaultpki ca import --key ca.key ca.crt
    """
    from vaultpki.ca import crossing, returned
    from vaultpki.ca import waiting as ca_waiting
    from vaultpki.ca.waiting import waits_for_import

    of_key.refuse_mixed(files, dry_run=dry_run, requests=requests)
    if of_key.remove is not None:
        return remove_imported(file, of_key.remove, allow_http=allow_http, yes=yes, as_json=as_json)
    if of_key.key is not None:
        return import_key(file, files, of_key.key, of_key, allow_http=allow_http, dry_run=dry_run, as_json=as_json)
    if requests is not None and not dry_run:
        raise click.UsageError("--csr is for --dry-run: without it the server says what it waits for")
    if requests is not None:
        return _without_server(file, files, requests, allow_http=allow_http, as_json=as_json)
    with opened(file, allow_http=allow_http, applied=True) as (cluster, vault, where):
        if (cross := crossing.find(cluster, vault, server_now(vault))) is not None:
            return _import_cross(cluster, vault, cross, files, dry_run=dry_run, as_json=as_json)
        ca_waiting.outside_root(cluster)
        sent = returned.read_files(files)
        there = ca_waiting.find(cluster, vault)
        now = server_now(vault)
        found = returned.judge(cluster, sent, [each.request for each in there.waiting], now, there)
        if dry_run or not found.fit:
            return _tell(cluster, found, as_json=as_json, dry_run=dry_run)
        if not yes:
            _refuse_further_changes(cluster, vault, where, ask=terminal() and not as_json)
        returned.install_all(cluster, vault, there, found, now)
        _tell(cluster, found, as_json=as_json, dry_run=False)
        stopped = frozenset(ca for ca, record in there.records.items() if waits_for_import(record))
        return _go_on(cluster, vault, where, stopped | found.renewed, found, as_json=as_json)


def _import_cross(
    cluster: Cluster, vault: Vault, wanted: WantedCross, files: tuple[Path, ...], *, dry_run: bool, as_json: bool
) -> int:
    """Check and install the certificate by which the old root vouches for the new one, and take the next step."""
    from vaultpki.ca import crossing, returned

    sent = returned.read_files(files)
    verdict = crossing.judge(sent, wanted, server_now(vault))
    problems = [f"! {each.file} {each.problem}" for each in sent.problems]
    if as_json:
        accepted = verdict.accepted
        refused = [{"file": file, "reason": each.reason, "sentence": each.sentence} for file, each in verdict.refused]
        print_json({"cross": None if accepted is None else accepted[1].fingerprint, "refused": refused})
    else:
        for line in (*problems, *verdict.lines(wanted)):
            click.echo(printable(line))
    if verdict.accepted is None or problems:
        raise VaultpkiError("the cross certificate was refused, and nothing was changed; see above")
    if dry_run:
        return 0
    crossing.install(cluster, vault, verdict.accepted[1])
    _advance(cluster, vault, as_json=as_json)
    return 0


def _without_server(file: Path, files: tuple[Path, ...], requests: Path, *, allow_http: bool, as_json: bool) -> int:
    from datetime import UTC, datetime

    from vaultpki.ca import request_files, returned
    from vaultpki.ca import waiting as ca_waiting
    from vaultpki.config.cluster import load_cluster

    cluster = load_cluster(file, allow_http=allow_http)
    ca_waiting.outside_root(cluster)
    waiting = request_files.read(cluster, requests)
    found = returned.judge(cluster, returned.read_files(files), waiting, datetime.now(UTC))
    return _tell(cluster, found, as_json=as_json, dry_run=True)


def _tell(cluster: Cluster, found: ReturnedFiles, *, as_json: bool, dry_run: bool) -> int:
    """Print what is to be made of the files; return the exit code. Raises VaultpkiError if something is refused."""
    verdict = found.verdict
    if as_json:
        print_json(_document(found))
    else:
        for line in _lines(cluster, found):
            click.echo(printable(line))
    if verdict.refused:
        count = len({(each.domain, each.file) for each in verdict.refused})
        raise VaultpkiError(
            f"{count} {'certificate or file was' if count == 1 else 'certificates or files were'} refused, and nothing "
            "was changed; see above"
        )
    if dry_run and verdict.unanswered:
        raise Attention(f"no certificate is there for {', '.join(verdict.unanswered)}; all others can be imported")
    return 0


def _lines(cluster: Cluster, found: ReturnedFiles) -> Iterator[str]:
    for above in found.above:
        facts, older = above.certificate, above.older
        yield f"+ CA {facts.subject_text}, until {facts.not_after:%Y-%m-%d}, from {above.file}"
        yield f"    in place of the one that ends on {older.not_after:%Y-%m-%d}; certificates of nodes stay as they are"
        yield f"    ca.root_file of {cluster.file} still has that one: put the new one in its place there, and run"
        yield f"    `vaultpki apply{cluster.file_option}`"
    for accepted in found.verdict.accepted:
        domain, ends = accepted.request.domain, f"{accepted.certificate.not_after:%Y-%m-%d}"
        yield f"+ CA {domain}: {accepted.request.subject_text}, until {ends}, from {accepted.file}"
        yield from (f"    {remark}" for remark in accepted.remarks)
        if domain in found.held:
            yield f"    it waits until the rotation of {found.behind} is done: one CA is renewed at a time"
        elif domain in found.renewed:
            yield "    another certificate for the key that it has: certificates of nodes stay as they are"
    for name in found.installed:
        yield f"  CA {name}: its certificate is installed already"
    for ignored in found.verdict.ignored:
        yield f"? {ignored.sentence}"
    for ask in dict.fromkeys(each.ask for each in found.verdict.refused):
        # What is wrong with a CA above is so for each CA below it.
        yield from dict.fromkeys(f"! {each.sentence}" for each in found.verdict.refused if each.ask == ask)
        yield f"    {ask}"


def _document(found: ReturnedFiles) -> dict[str, Any]:
    verdict = found.verdict
    return {
        "accepted": [
            {
                "domain": each.request.domain,
                "file": each.file,
                "sha256": each.certificate.fingerprint,
                "remarks": list(each.remarks),
            }
            for each in verdict.accepted
        ],
        "installed": list(found.installed),
        "above": [
            {"subject": each.certificate.subject_text, "file": each.file, "sha256": each.certificate.fingerprint}
            for each in found.above
        ],
        "renewed": sorted(found.renewed),
        "held": list(found.held),
        "refused": [
            {
                "domain": each.domain,
                "file": each.file,
                "reason": each.reason,
                "sentence": each.sentence,
                "ask": each.ask,
            }
            for each in verdict.refused
        ],
        "unanswered": list(verdict.unanswered),
        "ignored": [{"file": each.file, "reason": each.reason, "sentence": each.sentence} for each in verdict.ignored],
    }


def _refuse_further_changes(cluster: Cluster, vault: Vault, where: ServerFacts, *, ask: bool) -> None:
    """Ask a person if cluster.yaml asks for other changes than an import brings about; VaultpkiError for a no."""
    from vaultpki.provision import apply
    from vaultpki.show import plan as plan_text

    _, plan = apply.observe_and_plan(cluster, vault, where)
    further = [each for each in plan.changes if not apply.follows_import(each)]
    if not further:
        return
    if not ask:
        raise VaultpkiError(
            f"{cluster.file} asks for {len(further)} further changes at {vault.address}, and there is no terminal to "
            f"ask on; run `vaultpki apply{cluster.file_option}` first, or pass --yes"
        )
    for line in plan_text.lines(cluster, plan):
        click.secho(line.text, fg=line.colour)
    if not click.confirm(f"Apply these {len(further)} changes to {vault.address} too?"):
        raise VaultpkiError("nothing was changed")


def _go_on(
    cluster: Cluster, vault: Vault, where: ServerFacts, rotated: frozenset[str], found: ReturnedFiles, *, as_json: bool
) -> int:
    """Continue the apply, and the rotation that waited; `rotated` are the domains with one. Returns the exit code."""
    from vaultpki.cli import apply as cli_apply
    from vaultpki.show import plan as plan_text

    with progress("Applying") as counter:
        done = cli_apply.carry_out(cluster, vault, where, counter, first=None, saved=False, silent=as_json)
    if not as_json:
        click.echo(f"Done: {len(done.changes)} changes, {vault.sent.writes} writes to {vault.address}.")
    imported = {*(each.request.domain for each in found.verdict.accepted), *found.installed} - {*found.held}
    if rotated & imported:
        _advance(cluster, vault, as_json=as_json)
    if done.waiting:
        raise Attention(plan_text.waiting_sentence(cluster.file, done.waiting))
    if found.held:
        one = len(found.held) == 1
        raise Attention(
            f"the CA{'' if one else 's'} {', '.join(found.held)} wait{'s' if one else ''}, since one CA is renewed at "
            f"a time: once `vaultpki ca continue{cluster.file_option}` has ended the rotation of {found.behind}, run "
            "the same `vaultpki ca import` again"
        )
    return 0


def _advance(cluster: Cluster, vault: Vault, *, as_json: bool) -> None:
    """Take the next step of the rotation that waited, and say where it stands."""
    from vaultpki.ca import commands
    from vaultpki.procedures import ca_text

    step = commands.advance(cluster, vault, server_now(vault))
    if not as_json:
        for line in ca_text.record_lines(step.record, step.gate, server_now(vault), cluster.file):
            click.echo(line)
