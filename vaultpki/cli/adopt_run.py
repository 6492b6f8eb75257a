"""`vaultpki adopt start`, `status`, `continue` and `abort`: the operator's side of taking over a kubeadm cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from vaultpki.cli.common import (
    json_option,
    kubeconfig_option,
    opened,
    print_json,
    screen,
    server_now,
    spec_option,
    terminal,
    yes_option,
)
from vaultpki.cli.old_spellings import told_new
from vaultpki.cli.wait import REREAD, Ahead, Wait
from vaultpki.errors import VaultpkiError
from vaultpki.places import file_option
from vaultpki.redact import printable

if TYPE_CHECKING:
    from vaultpki.adopt.drive import AdoptionOutcome, AdoptionWords, Ask
    from vaultpki.adopt.look import AdoptionLook

# Seconds between two looks; each reads every report and the whole cluster.
_LOOK: Final = 20.0


def _step_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options of the commands that take a step."""

    @functools.wraps(function)
    def with_old(*, checked: tuple[str, ...], confirm: tuple[str, ...], **options: Any) -> int:
        if confirm:
            told_new("--confirm", f"--checked {confirm[0]}")
        return function(confirmed=(*checked, *confirm), **options)

    checked = click.option(
        "--checked",
        multiple=True,
        metavar="WORD",
        help="You have seen to this yourself, as `adopt status` asks for it: outside, or webhooks. Can be repeated.",
    )
    # Its name until 0.4; elsewhere --confirm is the cluster's name.
    confirm = click.option("--confirm", multiple=True, hidden=True)
    restarted = click.option(
        "--restarted",
        multiple=True,
        metavar="NODE/COMPONENT",
        help="You have restarted this component, which no agent can see, after `adopt status` named it. Repeatable.",
    )
    wait = click.option(
        "--wait",
        is_flag=True,
        help="Go on until the adoption is at rest; show what it waits for, and ask for your words on the terminal.",
    )
    made: Callable[..., int] = with_old
    for option in (json_option, wait, yes_option(), restarted, confirm, checked, kubeconfig_option, spec_option):
        made = option(made)
    return made


without_wildcard_option = click.option(
    "--without-wildcard",
    "given_up",
    multiple=True,
    metavar="NAME",
    help="A wildcard name of today's certificates that is given up, such as '*.example.com'. Can be repeated.",
)


@click.command("start", short_help="Begin to take over a kubeadm cluster.")
@spec_option
@kubeconfig_option
@without_wildcard_option
@yes_option()
@click.option("--wait", is_flag=True, help="Then go on, as `adopt continue --wait` does; also if it has begun before.")
@json_option
def start_command(
    file: Path, allow_http: bool, kubeconfig: Path, given_up: tuple[str, ...], yes: bool, wait: bool, as_json: bool
) -> int:
    """Begin to take over a kubeadm cluster: from now on nodes can enrol, one by one.

    Nothing changes in the cluster. cluster.yaml must be applied, with today's CAs below `ca.also_trust`.

    \b
    Example:
      vaultpki adopt start --kubeconfig admin.conf
      vaultpki adopt start --kubeconfig admin.conf --wait
    """
    from vaultpki.adopt import drive
    from vaultpki.adopt.draft import draft
    from vaultpki.adopt.drive import AdoptionWords

    with _looking(file, kubeconfig, allow_http=allow_http) as look_again:
        look = look_again()
        begun = wait and look.stored.record is not None
        ask = _ask(yes=yes, as_json=as_json)
        made = drive.standing(look) if begun else drive.start(look, draft(look.found, file, given_up=given_up), ask)
    if begun or (wait and made.moved):
        how = {"allow_http": allow_http, "yes": yes, "wait": wait, "as_json": as_json}
        return _go(file, kubeconfig, AdoptionWords(onward=True), back=False, **how)
    return _tell(made, kubeconfig, as_json=as_json)


@click.command("status", short_help="Show where the adoption stands, what comes next.")
@spec_option
@kubeconfig_option
@json_option
def status_command(file: Path, allow_http: bool, kubeconfig: Path, as_json: bool) -> None:
    """Show where the adoption stands, what each node has done, what it waits for, and the one next command.

    Writes nothing, in Vault or in the cluster.

    \b
    Example:
      vaultpki adopt status --kubeconfig admin.conf
    """
    from vaultpki.adopt import drive
    from vaultpki.procedure.gate import Gate

    with _looking(file, kubeconfig, allow_http=allow_http, writes=False) as look_again:
        look = look_again()
    if look.stored.record is None:
        note = f"`vaultpki adopt start{file_option(str(file))} --kubeconfig {kubeconfig}` begins"
        outcome = drive.AdoptionOutcome(
            look, None, Gate(), notes=(f"{look.cluster.name} is not being taken over", note)
        )
    else:
        outcome = drive.standing(look)
    _tell(outcome, kubeconfig, as_json=as_json)


@click.command("continue", short_help="Take the next step of the adoption.")
@_step_options
@click.option(
    "--keep-keys",
    "keep",
    default="",
    metavar="WHERE",
    help="In retired, or with --wait: the last step does not delete the keys of the old CAs, and this notes where you "
    "keep them.",
)
def continue_command(
    file: Path,
    allow_http: bool,
    kubeconfig: Path,
    confirmed: tuple[str, ...],
    restarted: tuple[str, ...],
    keep: str,
    yes: bool,
    wait: bool,
    as_json: bool,
) -> int:
    """Take the next step of the adoption if everybody is ready for it. Exit 3 if it waits for something.

    What it changes in the cluster's API server is named first. Can be killed and run again at any time.

    \b
    Example:
      vaultpki adopt continue --kubeconfig admin.conf
      vaultpki adopt continue --kubeconfig admin.conf --checked outside
      vaultpki adopt continue --kubeconfig admin.conf --wait --yes
    """
    from vaultpki.adopt.drive import AdoptionWords

    if len(keep) > 300 or not keep.isprintable():
        raise click.UsageError("--keep-keys is a short text in one line")
    said = AdoptionWords(confirmed, restarted, keep, onward=wait)
    how = {"allow_http": allow_http, "yes": yes, "wait": wait, "as_json": as_json}
    return _go(file, kubeconfig, said, back=False, **how)


@click.command("abort")
@_step_options
def abort_command(
    file: Path,
    allow_http: bool,
    kubeconfig: Path,
    confirmed: tuple[str, ...],
    restarted: tuple[str, ...],
    yes: bool,
    wait: bool,
    as_json: bool,
) -> int:
    """Take the next step of the way back to kubeadm's own CAs. Exit 3 if it waits for something.

    CSRs are signed again first. From done there is no way back.

    \b
    Example:
      vaultpki adopt abort --kubeconfig admin.conf
      vaultpki adopt abort --kubeconfig admin.conf --wait --yes
    """
    from vaultpki.adopt.drive import AdoptionWords

    how = {"allow_http": allow_http, "yes": yes, "wait": wait, "as_json": as_json}
    return _go(file, kubeconfig, AdoptionWords(confirmed, restarted), back=True, **how)


COMMANDS: Final = (start_command, status_command, continue_command, abort_command)
"""The commands of this file, in the order of an adoption."""


@contextmanager
def _looking(
    file: Path, kubeconfig: Path, *, allow_http: bool, writes: bool = True
) -> Iterator[Callable[[], AdoptionLook]]:
    """Open the server and the cluster, and give what looks at both anew; `writes` is whether agents are told."""
    from contextlib import nullcontext

    from vaultpki.adopt import drive
    from vaultpki.adopt import look as looks
    from vaultpki.ca.announced import announced
    from vaultpki.identity.change_notice import ChangeNotice
    from vaultpki.kube import kubeconfig as document

    access = document.read(kubeconfig)
    with (
        opened(file, allow_http=allow_http, applied=True) as (cluster, vault, _),
        announced(cluster, vault) if writes else nullcontext(ChangeNotice(cluster, vault)) as notice,
    ):

        def look_again() -> AdoptionLook:
            return drive.with_settings(looks.look(cluster, vault, access, server_now(vault), notice))

        yield look_again


def _go(
    file: Path,
    kubeconfig: Path,
    said: AdoptionWords,
    *,
    back: bool,
    allow_http: bool,
    yes: bool,
    wait: bool,
    as_json: bool,
) -> int:
    """Take one step, or with `wait` all of them."""
    from vaultpki.adopt import drive

    ask = _ask(yes=yes, as_json=as_json)

    def once(words: AdoptionWords) -> AdoptionOutcome:
        with _looking(file, kubeconfig, allow_http=allow_http) as look_again:
            return drive.advance(look_again, words, ask, back=back)

    done = _wait(once, said, back=back, quiet=as_json) if wait else once(said)
    return _tell(done, kubeconfig, as_json=as_json, back=back)


def _wait(
    once: Callable[[AdoptionWords], AdoptionOutcome], said: AdoptionWords, *, back: bool, quiet: bool
) -> AdoptionOutcome:
    """Take steps until the adoption is at rest, a person refuses something, or another operator goes another way.

    Where only a person's words are left to wait for, it asks for them on the terminal.
    """
    from dataclasses import replace

    from vaultpki.adopt import standing
    from vaultpki.records.adoption import ADOPTION_TABLE

    asked: tuple[str, ...] = ()

    def take() -> AdoptionOutcome:
        nonlocal said, asked
        done = once(replace(said, confirmed=(*said.confirmed, *_spoken(asked))))
        # What a person has said counts once: it was about the state of then.
        said = replace(said, confirmed=(), restarted=())
        asked = _words_left(done) if terminal() and not quiet else ()
        for line in standing.lacking_lines(done) if asked else ():
            click.echo(line, err=True)
        return done

    def ahead(before: AdoptionOutcome | None, done: AdoptionOutcome) -> Ahead:
        record, last = done.look.stored.record, before.look.stored.record if before is not None else None
        if last is not None and record is not None and record.state not in ADOPTION_TABLE.ahead(last.state, back=back):
            raise VaultpkiError(
                f"another operator leads the adoption the other way ({record.state.value}); this command has stopped: "
                "agree on the way, and let one of you go on"
            )
        if done.over or done.refused or record is None:
            return Ahead()
        # The question is asked at once; until it is answered nothing is looked at.
        return Ahead(standing.progress(done), REREAD if done.moved else 0.0 if asked else _LOOK)

    # What a person has confirmed is about what he saw: the command ends if somebody was faster than its first step.
    own = Wait(take=take, ahead=ahead, ends=lambda _: True, look=_LOOK, again="trying again", tells_faster=True)
    return own.until_rest(quiet=quiet)


def _words_left(done: AdoptionOutcome) -> tuple[str, ...]:
    """Return the words that a person must say before the next step; none as long as it waits for something else too."""
    from vaultpki.adopt.gates import CONFIRMABLE

    waiting = tuple(each.node for each in done.gate.waiting)
    return waiting if CONFIRMABLE.issuperset(waiting) else ()


def _spoken(words: tuple[str, ...]) -> tuple[str, ...]:
    """Ask a person for these words, and return those that were written."""
    if not words:
        return ()
    text = f"Write {' '.join(words)} once that is so, or nothing to look again"
    return tuple(set(click.prompt(text, default="", show_default=False, err=True).split()).intersection(words))


def _ask(*, yes: bool, as_json: bool) -> Ask:
    """Return what names work to a person and asks: with --yes it only names it, without a terminal it refuses."""

    def ask(title: str, lines: Collection[str]) -> bool:
        click.echo(printable(f"{title}:"), err=True)
        for line in lines:
            click.echo(printable(f"  - {line}"), err=True)
        if yes:
            return True
        if not terminal() or as_json:
            click.echo("Nothing of that was done: there is no terminal to ask on; pass --yes to agree.", err=True)
            return False
        return click.confirm("Go on?", default=False, err=True)

    return ask


def _tell(outcome: AdoptionOutcome, kubeconfig: Path, *, as_json: bool, back: bool = False) -> int:
    """Print an outcome; return the exit code: 3 where it waits for something."""
    from vaultpki.adopt import standing

    if as_json:
        print_json(standing.document(outcome))
    else:
        for line in standing.standing_lines(outcome, str(kubeconfig), screen().width, back=back):
            click.echo(printable(line))
    return 0 if outcome.moved or outcome.over else 3
