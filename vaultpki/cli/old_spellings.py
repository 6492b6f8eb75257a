"""Old spellings, as of options of `agent` that are commands now; each works for one release and names the new one."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click


@dataclass(frozen=True, slots=True)
class OldSpellings:
    """What was given of the old options."""

    join: Path | None
    dir: Path | None
    kubeconfig_dir: Path | None
    kubelet_dir: Path | None
    hooks: str | None
    install_unit: bool
    print_unit: str | None
    docs: str | None


def old_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the old options, hidden, and pass them on as one value, `old`; None if none was given."""
    path = click.Path(path_type=Path, readable=False)

    @click.option("--join", hidden=True, type=path)
    @click.option("--dir", hidden=True, type=path)
    @click.option("--kubeconfig-dir", hidden=True, type=path)
    @click.option("--kubelet-dir", hidden=True, type=path)
    @click.option("--hooks", hidden=True, type=click.Choice(["static-pods"]))
    @click.option("--install-unit", hidden=True, is_flag=True)
    @click.option("--print-unit", hidden=True)
    @click.option("--docs", hidden=True)
    @functools.wraps(function)
    def with_old(**options: Any) -> int:
        old = OldSpellings(**{name: options.pop(name) for name in OldSpellings.__slots__})
        given = any(getattr(old, name) not in (None, False) for name in OldSpellings.__slots__)
        return function(old=old if given else None, **options)

    return with_old


def obey(old: OldSpellings, file: Path, log_format: Literal["text", "json"], *, allow_http: bool) -> bool:
    """Do what the old options ask for; return whether the command ends with that."""
    from vaultpki.cli import join, template
    from vaultpki.config.agent import load_agent

    places = join.JoinFolders(old.dir, old.kubeconfig_dir, old.kubelet_dir)
    if old.hooks is not None and old.join is None:
        raise click.UsageError(
            "--hooks goes with `vaultpki join FILE`; afterwards `hooks` in agent.yaml says what is run"
        )
    if old.print_unit is not None:
        tell_new("agent --print-unit", f"vaultpki template {old.print_unit}", log_format)
        template.print_template(old.print_unit, file, old.docs, allow_http=allow_http)
        return True
    if old.docs is not None:
        raise click.UsageError("--docs goes with --print-unit")
    if old.join is None and places.given:
        raise click.UsageError(
            f"{places.given} goes with `vaultpki join FILE`; afterwards `directory` and `folders` in agent.yaml say "
            "where files go"
        )
    if old.join is not None:
        tell_new("agent --join", f"vaultpki join {old.join}", log_format)
        joining = join.Joining(places, static_pods=old.hooks is not None)
        join.enter_cluster(file, old.join, joining, log_format, allow_http=allow_http)
    if old.install_unit:
        if old.join is None:
            tell_new("agent --install-unit", "vaultpki join --unit", log_format)
        join.write_units(load_agent(file, allow_http=allow_http), allow_http=allow_http)
        join.say_unit_commands()
    return old.install_unit


def tell_new(old: str, command: str, log_format: Literal["text", "json"]) -> None:
    """Say that these words of the command line are an old spelling of a command."""
    from vaultpki.host.log import Event, writer

    writer(log_format, sys.stderr)(Event("old-spelling", _sentence(old, command), "warning"))


def told_new(old: str, new: str) -> None:
    """Say on standard error that an option is an old spelling, and what to write instead."""
    click.echo(_sentence(old, new), err=True)


def _sentence(old: str, new: str) -> str:
    return f"`{old}` is an old spelling, which the next release no longer knows; use `{new}`"
