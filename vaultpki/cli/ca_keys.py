"""`vaultpki ca` for service-account keys: their rotation by the commands of CAs, and `vaultpki ca jwks`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from vaultpki.cli.common import opened, print_json, print_lines, server_now, spec_option, terminal
from vaultpki.cli.progress import reading
from vaultpki.cli.wait import Ahead, Wait, until_open
from vaultpki.errors import Refused, SpecError, StateConflict, VaultpkiError
from vaultpki.redact import printable

if TYPE_CHECKING:
    from vaultpki.cli.running_cluster import RunningCluster
    from vaultpki.kube.token_flags import TokensInUse
    from vaultpki.model import Cluster
    from vaultpki.provision.cluster_facts import KeyStepDone
    from vaultpki.records.rotation import Method
    from vaultpki.token_keys.steps import KeysSaid
    from vaultpki.vault import Vault

_JWKS: Final = '{"keys": ['


@dataclass(frozen=True, slots=True)
class RotateOptions:
    """How a person wants a CA or the keys replaced; `stolen` are nodes whose keys alone were stolen."""

    method: Method
    stolen: tuple[str, ...] = ()
    yes: bool = False


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What a person says on the command line of a step; `running` is looked at for each step.

    `token_life` is in seconds. The other fields are as in `rotation.confirmations` and `token_keys.steps.KeysSaid`.
    """

    restarted: Collection[str] = ()
    checked: Collection[str] = ()
    replaced: Collection[str] = ()
    without: Collection[str] = ()
    token_life: int | None = None
    running: RunningCluster | None = None
    yes: bool = False

    def said(self, cluster: Cluster, vault: Vault) -> KeysSaid:
        """Return it with what the running cluster shows now."""
        from vaultpki.token_keys.steps import KeysSaid

        tokens = read_tokens(self.running, cluster, vault)
        return KeysSaid(self.restarted, self.replaced, self.without, self.token_life, tokens, self.checked)


def read_tokens(
    running: RunningCluster | None, cluster: Cluster, vault: Vault, *, metrics: bool = False
) -> TokensInUse | None:
    """Return what the running cluster shows of tokens; None without a kubeconfig."""
    if running is None:
        return None
    from vaultpki.kube import tokens

    return running.look(cluster, vault, partial(tokens.read_tokens, metrics=metrics))


def rotate(cluster: Cluster, vault: Vault, how: RotateOptions, *, wait: bool, as_json: bool) -> int:
    """Begin a rotation of all keys, or take the certificates of stolen nodes out."""
    from vaultpki.key_rotation import commands as keys
    from vaultpki.procedures import key_text
    from vaultpki.records.rotation import Method
    from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS

    emergency = how.method is Method.EMERGENCY
    if emergency and not how.yes:
        _ask(key_text.emergency_lines(how.stolen), SERVICE_ACCOUNT_KEYS, "what is to be rotated", as_json=as_json)
    done = keys.rotate(cluster, vault, server_now(vault), emergency=emergency, stolen=how.stolen)
    if wait:
        options = StepOptions()
        return tell(cluster, vault, until_rest(cluster, vault, options, back=False, quiet=as_json), as_json=as_json)
    return tell(cluster, vault, done, as_json=as_json)


def under_way(cluster: Cluster, vault: Vault) -> bool:
    """Return whether service-account keys are being rotated."""
    from vaultpki.provision.rotation_records import read_key_record

    if not cluster.service_account_keys:
        return False
    record = read_key_record(cluster, vault).record
    return record is not None and record.active


def take_step(
    cluster: Cluster, vault: Vault, options: StepOptions, *, back: bool, wait: bool, as_json: bool
) -> int | None:
    """Take in what nodes report, and a step of a rotation; return the exit code, None if nothing was there to do."""
    from vaultpki.key_rotation import commands as keys

    _confirm_life(cluster, vault, options, as_json=as_json)
    if wait and under_way(cluster, vault):
        done = until_rest(cluster, vault, options, back=back, quiet=as_json)
        return tell(cluster, vault, done, as_json=as_json)
    with reading(vault) as counted:
        done = keys.advance(cluster, counted, server_now(vault), options.said(cluster, vault), back=back)
    if wait and done.waits:
        options = replace(options, restarted=(), checked=(), replaced=())
        done = until_rest(cluster, vault, options, back=back, quiet=as_json)
    if not (done.moved or done.changed or done.waits or done.may_start or done.to_read or done.notes):
        return None
    return tell(cluster, vault, done, as_json=as_json)


def admit_meanwhile(
    cluster: Cluster, vault: Vault, told: set[str], replaced: Collection[str] = (), restarted: Collection[str] = ()
) -> None:
    """Take in the keys of nodes that join while a CA is rotated, and say so on standard error.

    `replaced` are nodes that were installed anew, `restarted` components that a person has restarted; those of no
    interest here are left out. What is wrong with the keys, or unusual, stops no CA: it is said
    once, and added to `told`.
    """
    from vaultpki.key_rotation import commands as keys
    from vaultpki.procedures import key_text
    from vaultpki.token_keys.steps import KeysSaid

    def tell_once(text: str) -> None:
        if text not in told:
            click.echo(printable(f"service-account keys: {text}"), err=True)
        told.add(text)

    try:
        said = KeysSaid(restarted, replaced)
        done = keys.advance(cluster, vault, server_now(vault), said)
    except (SpecError, StateConflict, Refused) as error:
        tell_once(str(error))
        return
    if not done.changed:
        for note in done.notes:
            tell_once(note)
        return
    for line in key_text.key_lines(done, server_now(vault), cluster.file):
        click.echo(line, err=True)


def until_rest(cluster: Cluster, vault: Vault, options: StepOptions, *, back: bool, quiet: bool) -> KeyStepDone:
    """Take steps until the keys are at rest and no node waits, or another operator has turned the rotation round."""
    from vaultpki.key_rotation import commands as keys
    from vaultpki.procedures import key_text
    from vaultpki.records.service_account import KEY_TABLE, KeyState

    def take() -> KeyStepDone:
        nonlocal options
        done = keys.advance(cluster, vault, server_now(vault), options.said(cluster, vault), back=back)
        # What a person has said was restarted counts once: it is in the record now. The life of tokens is said for
        # each state that waits for it, which this command may reach.
        options = replace(options, restarted=(), checked=(), replaced=())
        return done

    def ahead(before: KeyStepDone | None, done: KeyStepDone) -> Ahead:
        record, last = done.record, before.record if before is not None else None
        if last is not None and last.active and record is not None:
            # `ca continue` ends a rollback too.
            ended = (last.state, record.state) == (KeyState.RETURNING, KeyState.STEADY)
            if record.state not in KEY_TABLE.ahead(last.state, back=back or ended):
                return Ahead(
                    "another operator has turned the rotation of service-account keys round; this command has stopped"
                )
        if (record is None or not record.active) and (back or not done.waits):
            return Ahead()
        now = server_now(vault)
        return Ahead(key_text.progress_line(done, now), 0.0 if done.moved else until_open(done.gate, now))

    return Wait(take=take, ahead=ahead).until_rest(quiet=quiet)


def tell(cluster: Cluster, vault: Vault, done: KeyStepDone, *, as_json: bool) -> int:
    """Print where keys stand; return the exit code: 3 where something is waited for."""
    from vaultpki.procedures import key_text

    now = server_now(vault)
    if as_json:
        print_json({"moved": done.moved, "changed": done.changed, "rotation": key_text.key_json(done)})
    else:
        print_lines(key_text.key_lines(done, now, cluster.file))
    return 0 if done.moved or not (done.waits or done.notes) else 3


def _confirm_life(cluster: Cluster, vault: Vault, options: StepOptions, *, as_json: bool) -> None:
    """Have a person confirm that tokens live shorter than the flags of the API servers say."""
    from vaultpki.key_rotation.scene import read_keys
    from vaultpki.procedures import key_text

    if options.token_life is None:
        return
    tokens = read_tokens(options.running, cluster, vault, metrics=True)
    known = read_keys(cluster, vault, server_now(vault), tokens=tokens).facts.life.seconds
    if known is not None and known <= options.token_life:
        return
    lines = list(key_text.life_lines(options.token_life, known, tokens))
    if options.yes:
        for line in lines:
            click.echo(printable(line), err=True)
        return
    _ask(lines, "yes", "that this is so", as_json=as_json)


def _ask(lines: Iterable[str], word: str, what: str, *, as_json: bool) -> None:
    """Show what is at stake, and have a person confirm it by a word."""
    if not terminal() or as_json:
        raise VaultpkiError("this needs a person's word and there is no terminal to ask on; pass --yes")
    print_lines(lines)
    if click.prompt(f"Type {word} to confirm {what}", default="", show_default=False) != word:
        raise VaultpkiError(f"that is not {word}; nothing was changed")


@click.command("jwks", short_help="Write the public keys of all tokens that count now.")
@spec_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write it here and not to standard output."
)
def jwks_command(file: Path, allow_http: bool, output: Path | None) -> None:
    """Write the public keys of all tokens that count now, as the JSON Web Key Set of the cluster's issuer.

    It is what every API server shows at /openid/v1/jwks once it has loaded all keys. Publish it wherever others check
    tokens of this cluster, before nodes sign with new keys: the page service-account-keys.md says when.

    \b
    Example:
      vaultpki ca jwks -o jwks.json
    """
    from vaultpki.cli import own_file
    from vaultpki.key_rotation.scene import refuse_no_keys
    from vaultpki.live import trust
    from vaultpki.pki import jwk
    from vaultpki.records.service_account import NO_KEYS_YET

    with opened(file, allow_http=allow_http, applied=True) as (cluster, vault, _):
        refuse_no_keys(cluster)
        vault.pin_to_leader()
        found = trust.token_keys_in_vault(cluster, vault, trust.from_vault(cluster, vault, server_now(vault)))
    if not found.certificates:
        raise StateConflict(NO_KEYS_YET)
    lines = ",\n".join(f"  {json.dumps(each)}" for each in jwk.key_set(found.certificates)["keys"])
    text = f"{_JWKS}\n{lines}\n]}}\n"
    if output is None:
        click.echo(text, nl=False)
        return
    own_file.replace_own(output, text, marks={_JWKS}, what="key set", for_all=True)
