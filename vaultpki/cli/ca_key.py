"""`vaultpki ca import --key` and `--remove`: a CA that exists already, with its private key."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from vaultpki.cli.common import load_spec, open_vault, opened, path_option, print_json, server_now, terminal
from vaultpki.errors import ArgumentError, SpecError, StoreError, VaultpkiError
from vaultpki.records.adoption import OLD_CAS
from vaultpki.redact import first_few, printable, stamp

if TYPE_CHECKING:
    from vaultpki.ca.imported import OldCaMount
    from vaultpki.model import Cluster
    from vaultpki.outside.imported_key import ExistingCa, KeyFile
    from vaultpki.pki.keys import PrivateKey

STDIN: Final = Path("-")
"""Stands for standard input in place of a file."""

_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """What `ca import` is told of a CA with its key: files, the domain to import for, and the domain to remove."""

    key: Path | None
    passphrase: Path | None
    domain: str | None
    remove: str | None

    def refuse_mixed(self, files: Sequence[Path], *, dry_run: bool, requests: Path | None) -> None:
        """Raise UsageError for options and files that do not go together."""
        if self.key is None and (self.passphrase is not None or self.domain is not None):
            raise click.UsageError("--passphrase-file and --domain are for --key")
        if self.remove is not None and (files or self.key is not None or dry_run):
            raise click.UsageError("--remove takes no files, and neither --key nor --dry-run")
        if self.remove is None and not files:
            raise click.UsageError("name the files with the certificates")
        if self.key is not None and requests is not None:
            raise click.UsageError("--csr is for what a signer sent back, and --key for a CA that exists already")
        if self.key == STDIN and self.passphrase == STDIN:
            raise click.UsageError("--key and --passphrase-file cannot both be standard input")


def key_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options of a CA with its key, and pass them on as one value, `of_key`."""

    @functools.wraps(function)
    def command(**values: Any) -> int:
        of_key = KeyOptions(*(values.pop(field) for field in ("key", "passphrase", "domain", "remove")))
        return function(of_key=of_key, **values)

    for option in (
        click.option(
            "--remove", type=click.Choice(OLD_CAS), help="Delete the imported CA of this domain, and its key."
        ),
        click.option(
            "--domain", type=click.Choice(OLD_CAS), help="With --key: whose CA it is, if its name says it not."
        ),
        path_option("--passphrase-file", "passphrase", help="Its first line decrypts the key; - is standard input."),
        path_option("--key", help="Import the former CA in FILE with this private key; - is standard input."),
    ):
        command = option(command)
    return command


def import_key(
    file: Path, files: Sequence[Path], key: Path, options: KeyOptions, *, allow_http: bool, dry_run: bool, as_json: bool
) -> int:
    """Import the CA in `files` with its private key, which `key` holds; returns the exit code."""
    from vaultpki.ca import imported, returned
    from vaultpki.outside import imported_key

    imported.refuse_plain_http(open_vault(load_spec(file, allow_http=allow_http), allow_http=allow_http)[0])
    # All of it before a server is asked: who mistypes a passphrase waits for nobody.
    private = _read_key(key, options.passphrase)
    sent = returned.read_files(files)
    with opened(file, allow_http=allow_http, applied=True) as (cluster, vault, _):
        existing = imported_key.pair(private, sent, server_now(vault))
        ca = imported.domain_of(cluster, existing.certificate, options.domain)
        found = imported.look(cluster, vault, ca)
        changed = False if dry_run else imported.bring(cluster, vault, ca, existing)
    _tell(cluster, ca, existing, found, changed=changed, dry_run=dry_run, as_json=as_json)
    return 0


def remove_imported(file: Path, domain: str, *, allow_http: bool, yes: bool, as_json: bool) -> int:
    """Remove the imported CA of a domain with its key; returns the exit code."""
    from vaultpki.ca import imported

    with opened(file, allow_http=allow_http, applied=True) as (cluster, vault, _):
        found = imported.look(cluster, vault, domain)
        if found.there and not yes:
            if as_json or not terminal():
                raise VaultpkiError("there is no terminal to ask on; pass --yes to remove the imported CA and its key")
            what = f"the imported CA of {domain} (SHA-256 {found.ca.sha256})" if found.ca else "a half import"
            click.confirm(f"Remove {what} with its key from {vault.address}? Vault cannot bring it back.", abort=True)
        removed = imported.remove(cluster, vault, domain)
    if as_json:
        print_json({"domain": domain, "removed": removed})
    elif removed:
        click.echo(f"- imported CA {domain}: issuer, key and mount are deleted at {vault.address}")
        click.echo("Its key may lie elsewhere too: on control planes, and in backups of them and of Vault.")
        click.echo(_apply(cluster))
    else:
        click.echo(f"No CA was imported for {domain}.")
    return 0


def _apply(cluster: Cluster) -> str:
    return f"Run `vaultpki apply{cluster.file_option}` next."


def _read_key(path: Path, passphrase: Path | None) -> PrivateKey:
    from vaultpki.outside import imported_key

    shown = "standard input" if path == STDIN else printable(str(path))
    try:
        found = imported_key.find_key(_content(path, imported_key.MOST_KEY_BYTES, "--key"))
        return _decrypted(found, passphrase, shown)
    except imported_key.WrongPassphrase as error:
        raise ArgumentError(f"{shown} {error.problem}") from None
    except SpecError as error:
        raise StoreError(f"{shown} {error.problem}") from None


def _decrypted(found: KeyFile, passphrase: Path | None, shown: str) -> PrivateKey:
    """Return the key; its passphrase comes from the file, else from the terminal, and from nowhere else."""
    from vaultpki.outside import imported_key

    if not found.encrypted:
        return imported_key.read_key(found, None)
    if passphrase is not None:
        text = _content(passphrase, imported_key.MOST_PASSPHRASE_BYTES + 2, "--passphrase-file")
        return imported_key.read_key(found, text.partition(b"\n")[0].removesuffix(b"\r"))
    for left in reversed(range(_TRIES)):
        try:
            return imported_key.read_key(found, _ask(f"Passphrase of {shown}: "))
        except imported_key.WrongPassphrase:
            if not left:
                raise
            click.echo("It does not decrypt the key; try again.", err=True)
    raise AssertionError


def _ask(prompt: str) -> bytes:
    """Ask on the terminal, without an echo; ArgumentError if there is none."""
    import getpass
    import warnings

    try:
        with warnings.catch_warnings():
            # getpass would go on with standard input, and show what is typed.
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(prompt).encode()
    except (EOFError, OSError, UnicodeError, getpass.GetPassWarning):
        raise ArgumentError(
            "the key is encrypted, and there is no terminal to ask for its passphrase on: give it by "
            "--passphrase-file FILE, or --passphrase-file - for standard input"
        ) from None


def _content(path: Path, limit: int, option: str) -> bytes:
    """Return the content of a secret file, or of standard input.

    A file that others can read is refused. A pipe counts only where the shell has opened it, as in `<(command)` and
    /dev/fd/3: who opens another one waits for somebody to write into it.
    """
    from vaultpki.values import input_file, permissions

    try:
        if path == STDIN:
            if sys.stdin.isatty():
                raise StoreError(f"{option} - reads standard input, which is a terminal: name a file, or use a pipe")
            return input_file.content(os.dup(sys.stdin.fileno()), limit)
        fd = permissions.open_file(str(path))
        mode = os.fstat(fd).st_mode & 0o777
        if mode & 0o077:
            os.close(fd)
            raise StoreError(
                f"{printable(str(path))}: others can read it (mode {mode:04o}): run `chmod 600`, and if others had "
                "access to it, take the key as stolen"
            )
        return input_file.content(fd, limit)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "this is not a usable path"
        hint = "; `-` reads standard input" if isinstance(error, input_file.NotRegular) else ""
        raise StoreError(f"{printable(str(path))}: it cannot be read ({why}){hint}") from None


def _tell(
    cluster: Cluster, ca: str, existing: ExistingCa, found: OldCaMount, *, changed: bool, dry_run: bool, as_json: bool
) -> None:
    from vaultpki.identity import imported

    facts, mount = existing.certificate, imported.mount(cluster, ca)
    trusted = any(each.ca == ca and each.sha256 == facts.fingerprint for each in cluster.authority.also_trust)
    if as_json:
        document: dict[str, Any] = {
            "domain": ca,
            "mount": mount,
            "subject": facts.subject_text,
            "sha256": facts.fingerprint,
            "not_after": stamp(facts.not_after),
            "trusted": trusted,
            "changed": changed,
            "dry_run": dry_run,
            "ignored": list(existing.others),
        }
        print_json(document)
        return
    what = f"CA {ca}: {printable(facts.subject_text)}, until {facts.not_after:%Y-%m-%d}, SHA-256 {facts.fingerprint}"
    if dry_run:
        known = found.ca is not None and found.ca.sha256 == facts.fingerprint
        click.echo(f"  {what}: {'imported already' if known else 'can be imported'}; nothing was changed")
    else:
        click.echo(f"+ {what}, at {mount}" if changed else f"  {what}: imported already, nothing was changed")
    if existing.others:
        click.echo(f"? not sent, since the key is not theirs: {first_few(existing.others)}")
    if not trusted:
        click.echo(f"? no node trusts it: name its file below ca.also_trust.{ca} in {cluster.file}")
    if changed:
        click.echo("It signs nothing now. Its key also lies where you took it from, and in all copies and backups.")
        click.echo(_apply(cluster))
