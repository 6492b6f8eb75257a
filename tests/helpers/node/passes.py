"""A node's passes in the test's own process, without the pause for watchers, and what lies there after them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran, vaultpki
from vaultpki import cli
from vaultpki.agent import run
from vaultpki.agent.context import Outcome
from vaultpki.certificates import pair_files
from vaultpki.config.agent import load_agent
from vaultpki.errors import VaultpkiError
from vaultpki.host.hook_runner import Runner
from vaultpki.pki import x509
from vaultpki.procedures import ON_NODES
from vaultpki.records import node_report
from vaultpki.records.node_report import NodeReport


def passed(
    node: NodeFolder,
    *force: str,
    asks: bool = True,
    share: float = 1.0,
    clock: float | None = None,
    runner: Runner | None = None,
) -> Outcome:
    """A pass that asks Vault for everything; without `asks` only if something is due.

    With a `share` of 0.0 it is one that a person makes.
    """
    if asks and share and (node.state / "spec.json").exists():
        node.age(1e7)
    options = run.PassOptions(ON_NODES, settle=False, share=share, force=frozenset(force))
    return run.run(load_agent(node.config), options, clock=clock, runner=runner)


def passed_well(*nodes: NodeFolder, share: float = 0.0, clock: float | None = None) -> Outcome:
    """The same on each of these nodes, and nothing fails; the outcome of the last."""
    for node in nodes:
        outcome = passed(node, share=share, clock=clock)
        assert not outcome.failures, outcome.failures
    return outcome


def said(outcome: Outcome, name: str) -> list[str]:
    """The sentences of the events of this name."""
    return [event.text for event in outcome.events if event.name == name]


def pair(node: NodeFolder, stem: str) -> tuple[bytes, bytes, bytes]:
    """The three files of a pair."""
    crt, key, pem = ((node.pki / name).read_bytes() for name in pair_files(stem))
    return crt, key, pem


def whole(node: NodeFolder, stem: str) -> bool:
    crt, key, pem = pair(node, stem)
    return x509.matches(key, x509.read_certificates(crt)[0]) and pem == key + crt


def held(node: NodeFolder, file: str) -> set[str]:
    """The SHA-256 of the certificates in a file."""
    return {facts.fingerprint for facts in x509.read_certificates((node.pki / file).read_bytes())}


def serials(node: NodeFolder, stems: Sequence[str]) -> dict[str, int]:
    return {stem: x509.read_certificates((node.pki / f"{stem}.crt").read_bytes())[0].serial for stem in stems}


def report(cluster: AppliedCluster, node: NodeFolder) -> NodeReport:
    """What a node has reported last."""
    found = node_report.read(cluster.read(cluster.report_path(node.name))["data"])
    assert found is not None
    return found


def shown(
    *words: str | Path, expect: int | AbstractSet[int] = 0, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a command prints for programs."""
    found: dict[str, Any] = json.loads(vaultpki(*words, "--json", expect=expect, env=env).stdout)
    return found


def status(node: NodeFolder, *options: str, expect: int | AbstractSet[int] = 0) -> dict[str, Any]:
    return shown("status", "-c", node.config, *options, expect=expect)


def row(cluster: AppliedCluster, node: str, *, expect: int | AbstractSet[int] = frozenset({0, 3})) -> dict[str, Any]:
    """What `nodes` says of a node, to one who may only look."""
    rows = shown("nodes", "-f", cluster.file, expect=expect, env=cluster.environment("viewer"))["nodes"]
    return next(each for each in rows if each["node"] == node)


def command_here(*words: str | Path, expect: int | AbstractSet[int] = 0) -> Ran:
    """A command in the test's process, where a test can put something in the place of what it looks at."""
    # As the product's own `main` does: what a command returns is its exit code.
    ran = CliRunner().invoke(cli.vaultpki, list(map(str, words)), standalone_mode=False)
    code, error = ran.exit_code or int(ran.return_value or 0), ran.stderr
    if isinstance(ran.exception, VaultpkiError):
        code, error = ran.exception.exit_code, f"{error}vaultpki: {ran.exception}\n"
    elif isinstance(ran.exception, click.ClickException):
        code, error = ran.exception.exit_code, f"{error}{ran.exception.format_message()}\n"
    elif ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception
    assert code in ({expect} if isinstance(expect, int) else expect), f"{words}: exit {code}\n{ran.stdout}\n{error}"
    return Ran(words, code, ran.stdout, error)
