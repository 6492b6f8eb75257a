"""`vaultpki enroll`, `vaultpki lock`, `vaultpki unlock` and `vaultpki unenroll`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from vaultpki.cli import offered
from vaultpki.cli.common import json_option, opened, path_option, print_json, spec_option, terminal, yes_option
from vaultpki.cli.progress import progress, reading, say
from vaultpki.errors import ArgumentError, Attention, Denied, VaultpkiError
from vaultpki.places import file_option
from vaultpki.redact import first_few

if TYPE_CHECKING:
    from vaultpki.identity.anchor import Anchors
    from vaultpki.identity.ending import LockRecord
    from vaultpki.identity.enrol import Holder
    from vaultpki.model import Cluster, Node, Pool
    from vaultpki.vault import Vault

_LONGEST_WRAP = 86400
_MOST_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class EnrolOptions:
    """How join files are made, and whether one is for the `signer` on a node.

    `replace` and `yes` say what of a node may end for one: its live credentials, and without asking the lock of it.
    `as_json` says that what was done is printed for programs, `with_spec` that cluster.yaml is put beside it.
    """

    replace: bool
    yes: bool
    as_json: bool
    with_spec: bool
    signer: bool


def _enrol_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how join files are made, and pass them on as one value, `how`."""

    @click.option(
        "--replace",
        is_flag=True,
        help="End every credential that the node has first: of its agent, join files, clones.",
    )
    @yes_option("Of a locked node")
    @json_option
    @click.option(
        "--with-spec", is_flag=True, help="Copy cluster.yaml and its files beside the join file, for `vaultpki verify`."
    )
    @click.option("--signer", is_flag=True, help="For the signer of certificate requests on NODE, a control plane.")
    @functools.wraps(function)
    def with_how(*, replace: bool, yes: bool, as_json: bool, with_spec: bool, signer: bool, **options: Any) -> None:
        if signer and (options["pool"] is not None or options["former_root"] or options["node"] in (None, "-")):
            raise click.UsageError("--signer is for one listed node; leave out --pool, --all and --former-root")
        function(how=EnrolOptions(replace, yes, as_json, with_spec, signer), **options)

    return with_how


@click.command("enroll")
@click.argument("node", required=False, shell_complete=offered.nodes)
@spec_option
@click.option("--pool", metavar="NAME", shell_complete=offered.pools, help="The pool that a new node belongs to.")
@click.option("--wrap-ttl", default="30m", show_default=True, help="How long the join file can be used.")
@click.option("--all", "everyone", is_flag=True, help="All listed nodes; -o names a folder then.")
@_enrol_options
@click.option(
    "--former-root",
    metavar="SHA256",
    help="The root that the node had before, on a server that is lost or left: its folders go over in place.",
)
@path_option(
    "-o", "--output", help="The file to write; with several nodes the folder for NODE.json.  [default: join.json]"
)
def enroll_command(
    node: str | None,
    file: Path,
    allow_http: bool,
    pool: str | None,
    wrap_ttl: str,
    everyone: bool,
    how: EnrolOptions,
    former_root: str | None,
    output: Path | None,
) -> None:
    """Give a node its identity: a single-use join file for `vaultpki join` on the node.

    NODE is a listed node, or with --pool a new one whose name fits the pool. `-` reads many names, one a line.
    A node that has a live credential is enrolled with --replace only. Asks before it gives a new join file to a node
    that somebody has locked. Exits with 3 if some of many nodes were left out.

    With --signer the join file is for the signer of the cluster's certificate requests on NODE, which has a credential
    of its own; --replace ends that one alone.

    \b
    Example:
      vaultpki enroll cp-1 -o join.json
      vaultpki enroll w-17 --pool autoscaled -o join.json
      vaultpki enroll cp-1 --replace -o join.json
      vaultpki enroll --signer cp-1 -o signer-join.json
      vaultpki enroll --all -o joins/ --with-spec
      vaultpki enroll --all --former-root 4f1c... -o joins/
    """
    from vaultpki.cli import spec_copy
    from vaultpki.disk.files import storage_errors
    from vaultpki.identity import ending, enrol, join_files
    from vaultpki.values import names
    from vaultpki.values.durations import parse_duration

    former = names.sha256(former_root) if former_root is not None else None
    if (node is None) == (not everyone):
        raise click.UsageError("name one node, or -, or pass --all")
    seconds = parse_duration(wrap_ttl)
    if seconds > _LONGEST_WRAP:
        raise click.UsageError("--wrap-ttl is at most 24h: a join file is a secret until it expires")
    with opened(file, allow_http=allow_http) as (cluster, vault, _):
        if node is not None and node != "-":
            who = enrol.signer_on(cluster, node) if how.signer else enrol.holder(cluster, node, pool)
            locks = _locks(cluster, vault, [node])
            _refuse_locked(cluster, node, locks, how)
            target = output or Path("signer-join.json" if how.signer else "join.json")
            if locks and not _agreed(locks, yes=how.yes):
                raise VaultpkiError(_no_join_file(locks))
            if how.with_spec:
                spec_copy.write_spec(file, target.absolute().parent)
            with join_files.reserved(cluster, target, node) as put:
                place = _place(cluster, vault, former)
                _warn_of_drift(cluster, vault, [(node, who)])
                put(enrol.enroll(cluster, vault, node, who, place, wrap_ttl=seconds, replace=how.replace, say=say))
            ending.remove_locks(cluster, vault, locks or {})
            if how.as_json:
                print_json({"node": node, "file": str(target), "seconds": seconds})
            else:
                there = f"run `vaultpki join {target.name}` there"
                click.echo(f"wrote {target}: take it to {node} within {wrap_ttl} and {there}")
            _tell_unknown(locks)
            return
        if output is None:
            raise click.UsageError("several nodes need -o FOLDER")
        wanted = _nodes_to_enroll(cluster, pool, everyone=everyone)
        locks = _locks(cluster, vault, [name for name, _ in wanted])
        kept = {} if not locks or _agreed(locks, yes=how.yes) else locks
        wanted = [(name, who) for name, who in wanted if name not in kept]
        place = _place(cluster, vault, former)
        _warn_of_drift(cluster, vault, wanted)
        with storage_errors(str(output)):
            if not output.exists():
                output.mkdir(parents=True)
                output.chmod(0o700)
        if how.with_spec:
            spec_copy.write_spec(file, output.absolute())
        with progress("Enrolling") as counter:
            made = enrol.enroll_many(
                cluster,
                vault,
                wanted,
                output,
                place,
                wrap_ttl=seconds,
                done=lambda: counter.step(len(wanted)),
                replace=how.replace,
                say=counter.tell,
            )
        ending.remove_locks(cluster, vault, (locks or {}).keys() - kept.keys() - set(made.left))
    if how.as_json:
        skipped = {"left_out": sorted({*kept, *made.left}), "seconds": seconds}
        print_json({"folder": str(output), "written": made.written, "kept": made.kept, **skipped})
    else:
        more = f", {made.kept} from an earlier run are still good" if made.kept else ""
        click.echo(f"wrote {made.written} join files to {output}{more}")
    _tell_unknown(locks)
    if kept and made.left:
        click.echo(_no_join_file(kept), err=True)
    elif kept:
        raise Attention(_no_join_file(kept))
    if made.left:
        raise Attention(
            f"{first_few(made.left)} may have a live credential and no join file here that can be kept, and got none. "
            "Pass --replace to end their credentials and to enrol them again. Use no old join file of theirs"
        )


@click.command("lock")
@click.argument("node", shell_complete=offered.nodes)
@spec_option
@json_option
def lock_command(node: str, file: Path, allow_http: bool, as_json: bool) -> None:
    """End every credential of a node at once: secret ids, tokens, open join files, also stolen ones.

    The node itself stays. The agent of a listed or pooled node waits for a new join file (`vaultpki enroll`). Of a node
    that logs in by a token of an issuer the identity in Vault is disabled, until `vaultpki unlock`.

    \b
    Example:
      vaultpki lock cp-1
    """
    from vaultpki.identity import enrol

    with opened(file, allow_http=allow_http) as (cluster, vault, _):
        ended = enrol.lock(cluster, vault, node, say=say)
    if as_json:
        print_json({"node": node, "locked": sorted(ended)})
        return
    if "approle" in ended:
        click.echo(
            f"{node} is locked: all its credentials have ended; `vaultpki enroll` gives it a new one. Its certificates "
            "end by themselves, at their not_after"
        )
    if "jwt" in ended:
        click.echo(
            f"{node} is locked: its identity in Vault is disabled, and no token of its issuer opens anything until "
            f"`vaultpki unlock`. Its certificates end by themselves, at their not_after"
        )


@click.command("unlock")
@click.argument("node", shell_complete=offered.nodes)
@spec_option
@json_option
def unlock_command(node: str, file: Path, allow_http: bool, as_json: bool) -> None:
    """Let a locked node log in again that proves who it is by a token of an issuer.

    Any other node gets a new join file instead (`vaultpki enroll`). One that has a live credential though it was locked
    keeps that, and is shown as locked no longer.

    \b
    Example:
      vaultpki unlock c-17
    """
    from vaultpki.identity import enrol

    with opened(file, allow_http=allow_http) as (cluster, vault, _):
        how = enrol.unlock(cluster, vault, node)
    if as_json:
        print_json({"node": node, "unlocked": how})
        return
    said = {
        "jwt": "is unlocked: it logs in with its issuer's token again",
        "approle": "is unlocked: it keeps the credential that it has",
        None: "was not locked",
    }
    click.echo(f"{node} {said[how]}")


@click.command("unenroll")
@click.argument("node", shell_complete=offered.nodes)
@spec_option
@json_option
@click.option("--revoke", "revoking", is_flag=True, help="Revoke its certificates too: `vaultpki revoke --help`.")
@click.option("--gone", is_flag=True, help="During an adoption: the node itself is gone, its Node object is deleted.")
def unenroll_command(node: str, file: Path, allow_http: bool, as_json: bool, revoking: bool, gone: bool) -> None:
    """End a pooled node's identity: its AppRole is deleted, and its tokens end at once.

    The identity of a node that logs in by a token of an issuer is kept and disabled, so that the token opens nothing. A
    listed node is taken off `nodes` in cluster.yaml instead, and `vaultpki apply` ends it the same way.

    \b
    Example:
      vaultpki unenroll w-17
      vaultpki unenroll w-17 --revoke
    """
    from datetime import UTC, datetime

    from vaultpki.cli.revoke import decide, show, tell
    from vaultpki.identity import adoption_record, enrol, revocation, revoke
    from vaultpki.identity.revocation import Chosen

    done: Chosen | None = None

    def revoke_all() -> None:
        nonlocal done
        # Found anew: until its tokens ended the node may have got more.
        with reading(vault) as counted:
            found = revoke.certificates_of(cluster, counted, node, datetime.now(UTC))
        done = revoke.revoke(cluster, vault, found, say)

    with opened(file, allow_http=allow_http) as (cluster, vault, _):
        if not gone:
            adoption_record.refuse_leaving(cluster, vault, node)
        if revoking:
            # A token that may not read certificates is refused before anything is ended.
            with reading(vault) as counted:
                revoke.certificates_of(cluster, counted, node, datetime.now(UTC))
        ended = enrol.unenroll(cluster, vault, node, say=say, last=revoke_all if revoking else None)
    if not ended:
        raise VaultpkiError(
            f"{node} has no identity in this Vault, so there is nothing to end; "
            f"`vaultpki nodes{file_option(str(file))}` lists the names that do"
        )
    if as_json:
        revoked = {"revoked": revocation.to_json(node, done)} if done is not None else {}
        print_json({"node": node, "ended": sorted(ended), **revoked})
        if done is not None:
            decide(done)
        return
    what = "has no identity any more"
    if "jwt" in ended:
        what = "has a disabled identity and no report any more: no token of its issuer opens anything"
    if done is None:
        click.echo(f"{node} {what}; its certificates end by themselves, at their not_after")
        return
    click.echo(f"{node} {what}")
    show(done)
    tell(node, done, ended=True)
    decide(done)


def _locks(cluster: Cluster, vault: Vault, names: list[str]) -> dict[str, LockRecord] | None:
    """Return those of the nodes that somebody has locked, with the records; None if the token may not look."""
    from vaultpki.identity import ending

    try:
        found = vault.map(lambda name: ending.find_lock(cluster, vault, name), names)
    except Denied:
        # That of an enroller is of an earlier release.
        return None
    return {name: lock for name, lock in zip(names, found, strict=True) if lock is not None}


def _tell_unknown(locks: Mapping[str, LockRecord] | None) -> None:
    if locks is None:
        say("this token may not see whether nodes were locked; `vaultpki apply` gives enrollers that right")


def _agreed(locks: Mapping[str, LockRecord], *, yes: bool) -> bool:
    """Show which nodes are locked, and return whether they may have new join files; False where nobody can be asked."""
    for name, lock in list(locks.items())[:_MOST_SHOWN] if yes or terminal() else ():
        say(f"{name} was {lock.sentence}")
    if yes or not terminal():
        return yes
    return click.confirm(f"End the lock of {first_few(sorted(locks))} by a new join file?")


def _no_join_file(locks: Mapping[str, LockRecord]) -> str:
    """Return that nodes got no join file because they are locked."""
    if len(locks) > 1:
        return f"{first_few(sorted(locks))} are locked and got no join file; pass --yes to end the locks"
    ((name, lock),) = locks.items()
    return f"{name} was {lock.sentence}, and got no join file; pass --yes to end the lock"


def _refuse_locked(cluster: Cluster, node: str, locks: Mapping[str, LockRecord] | None, how: EnrolOptions) -> None:
    """Raise VaultpkiError for the signer on a locked node: it waits for the node itself."""
    if how.signer and locks:
        again = f"`vaultpki enroll{cluster.file_option} {node}`"
        raise VaultpkiError(f"{node} is locked, and the signer on it gets no join file; enrol the node first ({again})")


def _place(cluster: Cluster, vault: Vault, former_root: str | None) -> Anchors:
    """Return what all join files have in common; warns where Vault's record differs."""
    from vaultpki.identity import anchor, enrol

    place = enrol.place(cluster, vault, former_root)
    if place.drift:
        click.echo(anchor.drift_sentence(cluster, place.drift), err=True)
    return place


def _warn_of_drift(cluster: Cluster, vault: Vault, wanted: Sequence[tuple[str, Holder]]) -> None:
    from vaultpki.identity import enrol

    drifts = vault.map(lambda entry: enrol.drift(cluster, vault, entry[1]), wanted)
    names = [name for (name, _), drifted in zip(wanted, drifts, strict=True) if drifted]
    if names:
        click.echo(
            f"Vault's records of {first_few(names)} differ from {cluster.file}; run `vaultpki apply"
            f"{cluster.file_option}` to update them",
            err=True,
        )


def _nodes_to_enroll(cluster: Cluster, pool: str | None, *, everyone: bool) -> list[tuple[str, Node | Pool]]:
    from vaultpki.identity import enrol

    if everyone:
        if pool is not None:
            raise click.UsageError("--all is for listed nodes; give a pool's names on standard input with -")
        return [(node.name, node) for node in cluster.nodes]
    names = list(dict.fromkeys(line.strip() for line in sys.stdin if line.strip()))
    if not names:
        raise ArgumentError("no names came on standard input; give one a line")
    return [(name, enrol.holder(cluster, name, pool)) for name in names]
