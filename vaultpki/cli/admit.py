"""`vaultpki admit`: lets control planes with new service-account keys start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from vaultpki.cli.common import (
    json_option,
    opened,
    print_json,
    print_lines,
    server_now,
    spec_option,
    terminal,
    yes_option,
)
from vaultpki.cli.wait import LOOK, PATIENCE, Ahead, Wait
from vaultpki.errors import VaultpkiError
from vaultpki.redact import stamp, stamped

if TYPE_CHECKING:
    from datetime import datetime

    from vaultpki.key_rotation.admission import WaitingKey
    from vaultpki.model import Cluster
    from vaultpki.provision.cluster_facts import KeyStepDone
    from vaultpki.vault import Vault

_NOTHING: Final = "No control plane waits with a new key."


@click.command("admit")
@spec_option
@click.option("--wait", is_flag=True, help="Go on until every running API server accepts these keys.")
@yes_option()
@json_option
def admit_command(file: Path, allow_http: bool, wait: bool, yes: bool, as_json: bool) -> int:
    """Let control planes with new service-account keys start. Exit 3 if one of them has to wait.

    It shows node, key and credential of each that waits, and asks. The key goes into the record of all nodes, and the
    running API servers restart one by one. Then kube-apiserver may start on the new node. In a new cluster all nodes
    that have joined are admitted at once. It takes no step of a rotation, and can be killed and run again at any time.

    \b
    Example:
      vaultpki admit
      vaultpki admit --wait
      vaultpki admit --wait --yes
    """
    from vaultpki.key_rotation import admission

    with opened(file, allow_http=allow_http, applied=True, patience=PATIENCE if wait else None) as (cluster, vault, _):
        ahead = admission.waiting_keys(cluster, vault, server_now(vault))
        if not ahead.keys:
            return _tell_nothing(ahead.done, as_json=as_json)
        if not as_json:
            print_lines(_lines(ahead.keys))
        if not yes:
            _ask(len(ahead.keys), as_json=as_json)
        confirmed = {each.node: each.public_key for each in ahead.keys}
        done = _admit(cluster, vault, confirmed, wait=wait, quiet=as_json)
        return _tell(cluster, done, ahead.keys, server_now(vault), as_json=as_json)


def _ask(number: int, *, as_json: bool) -> None:
    if as_json or not terminal():
        raise VaultpkiError("there is no terminal to ask on; look at these keys, and pass --yes")
    what = "this control plane" if number == 1 else f"these {number} control planes"
    if not click.confirm(f"Let {what} start?"):
        raise VaultpkiError("nothing was admitted")


def _admit(cluster: Cluster, vault: Vault, confirmed: dict[str, str], *, wait: bool, quiet: bool) -> KeyStepDone:
    from vaultpki.key_rotation import admission
    from vaultpki.procedures import key_text

    def take() -> KeyStepDone:
        return admission.admit(cluster, vault, server_now(vault), confirmed)

    def ahead(_: KeyStepDone | None, done: KeyStepDone) -> Ahead:
        taken = done.record.nodes if done.record is not None else {}
        if not any(name in taken for name in admission.not_admitted(done, confirmed)):
            return Ahead()
        return Ahead(key_text.progress_line(done, server_now(vault)), LOOK)

    return Wait(take=take, ahead=ahead).until_rest(quiet=quiet) if wait else take()


def _lines(keys: tuple[WaitingKey, ...]) -> Iterator[str]:
    """Yield the keys that wait, for a person to compare with what the nodes have."""
    yield "These control planes wait with a new service-account key:"
    for each in keys:
        yield f"  {each.node}"
        yield f"    certificate of the key: {f'SHA-256 {each.sha256}' if each.sha256 else 'not made yet'}"
        made = each.credential
        yield f"    credential: {f'{made.accessor}, made {stamp(made.created)}' if made is not None else 'none'}"
        if each.reported is not None:
            yield f"    last report: {stamp(each.reported)}"


def _tell_nothing(done: KeyStepDone, *, as_json: bool) -> int:
    from vaultpki.procedures import key_text

    if as_json:
        print_json({"keys": [], "admitted": [], "waiting": [], "rotation": key_text.key_json(done)})
    else:
        print_lines([_NOTHING, *key_text.start_lines(done), *key_text.note_lines(done)])
    return 0


def _tell(cluster: Cluster, done: KeyStepDone, keys: tuple[WaitingKey, ...], now: datetime, *, as_json: bool) -> int:
    """Print what is admitted and what waits; return the exit code."""
    from vaultpki.key_rotation import admission
    from vaultpki.procedures import key_text

    names = [each.node for each in keys]
    left = admission.not_admitted(done, names)
    if as_json:
        print_json(
            {
                "keys": [_key_json(each) for each in keys],
                "admitted": [name for name in names if name not in left],
                "waiting": left,
                "rotation": key_text.key_json(done),
            }
        )
        return 3 if left else 0
    print_lines(key_text.key_lines(done, now, cluster.file))
    taken = done.record.nodes if done.record is not None else {}
    if not done.notes and (other := [name for name in left if name not in taken]):
        print_lines([f"These nodes report another key than you were shown: {', '.join(other)}. Run it again."])
    return 3 if left else 0


def _key_json(key: WaitingKey) -> dict[str, Any]:
    made = key.credential
    return {
        "node": key.node,
        "sha256": key.sha256 or None,
        "credential": None if made is None else {"accessor": made.accessor, "made": stamp(made.created)},
        "reported": stamped(key.reported),
    }
