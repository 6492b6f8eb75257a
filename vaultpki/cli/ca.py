"""`vaultpki ca`: rotate the CAs of a cluster, step by step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vaultpki.cli import offered
from vaultpki.cli.ca_keys import RotateOptions, StepOptions, jwks_command
from vaultpki.cli.ca_outside import csr_command, import_command
from vaultpki.cli.ca_recover import ask_name, recover_command
from vaultpki.cli.common import (
    json_option,
    opened,
    print_json,
    print_lines,
    screen,
    server_now,
    spec_option,
    yes_option,
)
from vaultpki.cli.progress import reading
from vaultpki.cli.running_cluster import OWN_CLUSTER, RunningCluster
from vaultpki.cli.wait import PATIENCE
from vaultpki.errors import Attention, VaultpkiError
from vaultpki.redact import printable

if TYPE_CHECKING:
    from vaultpki.ca.run import Step
    from vaultpki.identity.nodes import NodeList
    from vaultpki.kube.objects import KubeTrust
    from vaultpki.model import Cluster
    from vaultpki.procedure.gate import Gate
    from vaultpki.provision.cluster_facts import KeyStepDone
    from vaultpki.rotation.course import Course
    from vaultpki.vault import Vault

wait_option = click.option("--wait", is_flag=True, help="Go on until the rotation is at rest; show what it waits for.")
without_option = click.option(
    "--without",
    multiple=True,
    metavar="NODE",
    shell_complete=offered.nodes,
    help="Do not wait for this node, or for certificates of this name (admin). Can be repeated.",
)
restarted_option = click.option(
    "--restarted",
    multiple=True,
    metavar="NODE/COMPONENT",
    help="You have restarted this component, which no agent can see, after `ca status` named it. Can be repeated.",
)
checked_option = click.option(
    "--checked",
    multiple=True,
    type=click.Choice(["pods", "outside", "kubelet-serving-ca", "jwks"]),
    help="You have seen to this yourself, as `ca status` asks for it. Can be repeated.",
)
kubeconfig_option = click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Of the cluster: look at its kube-root-ca.crt and pods. For the CA kubelet look at its kubelet-serving-ca. "
    "For service-account-keys look at the flags of its API servers and at Secrets with tokens.  "
    f"{OWN_CLUSTER}",
)
replaced_option = click.option(
    "--replaced",
    multiple=True,
    metavar="NODE",
    shell_complete=offered.nodes,
    help="You have installed this control-plane node anew, or others take its service-account key for retired: take a "
    "new one in. Can be repeated.",
)
token_life_option = click.option(
    "--token-life",
    metavar="DURATION",
    help="For service-account-keys: tokens live no longer than this, whatever flags say. Asks.",
)


def _step_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options of the commands that take a step, and pass what a person says as one value, `options`."""

    @functools.wraps(function)
    def with_options(
        *,
        without: tuple[str, ...],
        restarted: tuple[str, ...],
        checked: tuple[str, ...],
        replaced: tuple[str, ...],
        token_life: str | None,
        kubeconfig: Path | None,
        yes: bool,
        **others: Any,
    ) -> int:
        from vaultpki.values.durations import parse_duration

        life = None if token_life is None else parse_duration(token_life)
        running = RunningCluster(kubeconfig)
        return function(options=StepOptions(restarted, checked, replaced, without, life, running, yes), **others)

    made: Callable[..., int] = with_options
    said = (token_life_option, replaced_option, kubeconfig_option, checked_option, restarted_option)
    for option in (json_option, wait_option, yes_option("With --token-life"), *said, without_option, spec_option):
        made = option(made)
    return made


def _method_options(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options that say how a CA is replaced, and pass them on as one value, `how`."""

    @click.option("--same-key", is_flag=True, help="Only renew the CA's certificate: certificates of nodes stay valid.")
    @click.option("--emergency", is_flag=True, help="The key was stolen: distrust first, which is an outage.")
    @click.option(
        "--stolen",
        multiple=True,
        metavar="NODE",
        shell_complete=offered.nodes,
        help="With --emergency, of service-account-keys: only the key of this node, which is locked. Can be repeated.",
    )
    @yes_option("With --emergency")
    @functools.wraps(function)
    def with_method(*, same_key: bool, emergency: bool, stolen: tuple[str, ...], yes: bool, **options: Any) -> int:
        from vaultpki.records.rotation import Method

        if same_key and emergency:
            raise click.UsageError("--same-key keeps the key, so it does not help against a stolen one; leave one out")
        method = Method.EMERGENCY if emergency else Method.SAME_KEY if same_key else Method.NEW_KEY
        return function(how=RotateOptions(method, stolen, yes), **options)

    return with_method


@click.group("ca")
def ca_command() -> None:
    """Show and rotate the CAs of a cluster, and the keys with which it signs tokens.

    CAs are root, kubernetes, kubelet, etcd and front-proxy, and service-account, which certifies the keys that sign
    tokens; those keys are called service-account-keys.

    \b
    Example:
      vaultpki ca status
      vaultpki ca rotate etcd
      vaultpki ca continue --wait
    """


@ca_command.command("status", short_help="Show each CA, where its rotation stands, who it waits for.")
@spec_option
@kubeconfig_option
@json_option
def status_command(file: Path, allow_http: bool, kubeconfig: Path | None, as_json: bool) -> None:
    """Show each CA, where its rotation stands, which node it waits for and why, and what to do next.

    Exit 3 if a CA cannot sign or expires soon, nodes do not follow its record, an adoption waits for a person, or a
    stolen service-account key still counts. Writes nothing.

    \b
    Example:
      vaultpki ca status
    """
    from datetime import UTC

    from vaultpki.ca import commands, fleet, status
    from vaultpki.ca.scene import read_scene
    from vaultpki.findings.cluster import of_cas, of_problems
    from vaultpki.findings.finding import to_json
    from vaultpki.identity import root_pin
    from vaultpki.identity.adoption_record import shown_adoption
    from vaultpki.procedures import ca_text, key_text
    from vaultpki.procedures.adoption_standing import of_adoption
    from vaultpki.provision import ca_ends
    from vaultpki.provision.cluster_facts import under_way
    from vaultpki.provision.rotation_records import move_sentence
    from vaultpki.records.service_account import KEYS_RECORD
    from vaultpki.show import node_table, record_writers

    with opened(file, allow_http=allow_http, applied=True) as (cluster, vault, _):
        now = server_now(vault)
        with reading(vault) as counted:
            found = commands.read_members(cluster, counted)
            scene = read_scene(cluster, counted, now, found=found)
            running = RunningCluster(kubeconfig)
            cas = status.status(scene, _pods(running, cluster, counted))
            adopted = shown_adoption(cluster, counted)
            adoption = of_adoption(adopted.record, scene.members, now, cluster.file)
            keys = _keys_of(cluster, counted, now, running, found)
            written = fleet.written_by(cluster, counted, scene.records, adopted)
        written |= {KEYS_RECORD: keys.written} if keys is not None and keys.record is not None else {}
        findings = tuple(of_cas(ca_ends.read(cluster, vault, datetime.now(UTC)), cas, cluster.file))
        findings += (adoption,) if adoption is not None else ()
        findings += tuple(of_problems(filter(None, [adopted.problem]), cluster.file))
    soon = [each for each in findings if each.name in ("ca-expires", "not-read") or each is adoption]
    if as_json:
        document = {**ca_text.status_json(cas, now), "findings": [to_json(each) for each in findings]}
        document["written"] = record_writers.writers_json(written)
        if keys is not None:
            document["service_account_keys"] = key_text.key_json(keys)
            if keys.record is not None and keys.record.active:
                document["rotation"] = document["service_account_keys"]
        print_json(document)
    else:
        active = under_way(cas)
        pin = root_pin.advice(cluster, active.record if active is not None else None)
        who = tuple(record_writers.writer_lines(cluster, written))
        moves = move_sentence(cluster, scene.move) if scene.move is not None and scene.move.active else ""
        lines = ca_text.status_lines(cas, now, str(file), pin=pin, width=screen().width, writers=who, moves=moves)
        for line in lines:
            click.echo(line)
        if keys is not None:
            click.echo("")
            print_lines(key_text.key_lines(keys, now, str(file)))
        for line in node_table.finding_lines(soon):
            click.echo(line)
    expires = any(each.attention for each in soon if each is not adoption)
    needs = (
        (any(ca.problem for ca in cas), "a CA of this cluster cannot sign"),
        (adopted.problem, "the record of an adoption needs a person"),
        (expires, "a CA of this cluster expires soon"),
        (adoption is not None and adoption.attention, "the adoption of this cluster waits for a person"),
        (keys is not None and keys.counting, "tokens of a stolen key are still accepted"),
        (any(ca.left_over for ca in cas), "nodes trust a CA that the server does not have"),
        (keys is not None and keys.differing, "nodes do not accept every service-account key"),
        (any(ca.apart for ca in cas), "nodes do not follow a record of a CA"),
    )
    for met, what in needs:
        if met:
            raise Attention(f"{what}; see above")


@ca_command.command("rotate", short_help="Begin to replace a CA.")
@click.argument("domain", shell_complete=offered.cas)
@spec_option
@_method_options
@click.option("--spread", default="1h", show_default=True, help="How long nodes take to replace their certificates.")
@without_option
@wait_option
@json_option
def rotate_command(
    domain: str,
    file: Path,
    allow_http: bool,
    how: RotateOptions,
    spread: str,
    without: tuple[str, ...],
    wait: bool,
    as_json: bool,
) -> int:
    """Begin to replace a CA; `ca continue` takes each further step once every node is ready.

    DOMAIN is root, kubernetes, kubelet, etcd, front-proxy or service-account, or service-account-keys for the keys
    with which API servers sign tokens. At first nothing changes for nodes, and `ca abort` leads back.

    \b
    Example:
      vaultpki ca rotate etcd
      vaultpki ca rotate kubernetes --spread 6h --wait
      vaultpki ca rotate kubelet --without w-17
      vaultpki ca rotate etcd --same-key
      vaultpki ca rotate etcd --emergency --yes
      vaultpki ca rotate service-account-keys
      vaultpki ca rotate service-account-keys --emergency --stolen cp-2
    """
    from vaultpki.ca import commands, listeners
    from vaultpki.ca.run import Step
    from vaultpki.cli import ca_keys, ca_wait
    from vaultpki.procedures import ca_text
    from vaultpki.records.rotation import EVERY_DOMAIN, MOST_SPREAD, Method
    from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
    from vaultpki.rotation.confirmations import Confirmations
    from vaultpki.rotation.course import Course
    from vaultpki.values.durations import parse_duration

    method, emergency = how.method, how.method is Method.EMERGENCY
    patience = PATIENCE if wait else None
    if domain == SERVICE_ACCOUNT_KEYS:
        if method is Method.SAME_KEY:
            raise click.UsageError("--same-key is for CAs; leave it out")
        if without:
            raise click.UsageError("no control-plane node can be left out; remove it from cluster.yaml")
        if how.stolen and not emergency:
            raise click.UsageError("--stolen needs --emergency; add it")
        if wait and not emergency:
            raise click.UsageError(
                "--wait cannot come to the end here, since the cluster is looked at before old keys are given up; run "
                "`vaultpki ca continue --kubeconfig admin.conf --wait` after it"
            )
        with opened(file, allow_http=allow_http, applied=True, patience=patience) as (cluster, vault, _):
            return ca_keys.rotate(cluster, vault, how, wait=wait, as_json=as_json)
    if domain not in EVERY_DOMAIN:
        raise click.UsageError(
            f"there is no CA {domain!r}; write one of {', '.join((*EVERY_DOMAIN, SERVICE_ACCOUNT_KEYS))}"
        )
    if how.stolen:
        raise click.UsageError(f"--stolen is for {SERVICE_ACCOUNT_KEYS}; leave it out")
    seconds = parse_duration(spread)
    if seconds > MOST_SPREAD:
        raise click.UsageError(f"--spread is at most {MOST_SPREAD // 86400}d")
    with opened(file, allow_http=allow_http, applied=True, patience=patience) as (cluster, vault, _):
        if emergency and not how.yes:
            why = f"an emergency rotation of {domain} is an outage and"
            lines = ca_text.emergency_lines(domain, joined=bool(cluster.token_pools))
            ask_name(domain, why, lines, as_json=as_json)
        with reading(vault) as counted:
            begun = commands.rotate(cluster, counted, domain, method, seconds, server_now(vault), without)
        record = begun.record
        stays = ca_text.spread_sentence(record, seconds)
        for note in begun.notes:
            click.echo(printable(f"{note}."), err=True)
        if wait:
            if stays:
                click.echo(printable(f"{stays}."), err=True)

            def take(course: Course | None, pods: KubeTrust | None) -> Step:
                said = Confirmations(pods=pods, look=listeners.probe_listeners)
                return commands.advance(cluster, vault, server_now(vault), said, course)

            course = Course(record, back=False)
            done = ca_wait.until_rest(vault, take, lambda: None, course, back=False, begun=True, quiet=as_json)
            return _tell(cluster, done, server_now(vault), as_json=as_json)
        step = Step(record, _gate_after(cluster, vault, domain, strict=not emergency), moved=True, note=stays)
        return _tell(cluster, step, server_now(vault), as_json=as_json)


@ca_command.command("continue", short_help="Take the next step of a rotation.")
@_step_options
def continue_command(file: Path, allow_http: bool, options: StepOptions, wait: bool, as_json: bool) -> int:
    """Take the next step of a rotation if every node is ready for it. Exit 3 if it waits for something.

    Can be killed and run again at any time.

    \b
    Example:
      vaultpki ca continue
      vaultpki ca continue --restarted cp-1/kube-apiserver
      vaultpki ca continue --checked outside
      vaultpki ca continue --without w-17 --wait
      vaultpki ca continue --kubeconfig admin.conf
      vaultpki ca continue --kubeconfig admin.conf --token-life 1d
    """
    return _go(file, options, back=False, allow_http=allow_http, wait=wait, as_json=as_json)


@ca_command.command("abort")
@_step_options
def abort_command(file: Path, allow_http: bool, options: StepOptions, wait: bool, as_json: bool) -> int:
    """Take the next step of the rollback to the old CA. Exit 3 if it waits for something.

    \b
    Example:
      vaultpki ca abort
      vaultpki ca abort --wait
    """
    return _go(file, options, back=True, allow_http=allow_http, wait=wait, as_json=as_json)


ca_command.add_command(recover_command)
ca_command.add_command(csr_command)
ca_command.add_command(import_command)
ca_command.add_command(jwks_command)


def _keys_of(
    cluster: Cluster, vault: Vault, now: datetime, running: RunningCluster, found: NodeList
) -> KeyStepDone | None:
    """Return where service-account keys stand; None if the cluster has none of its own."""
    from vaultpki.cli.ca_keys import read_tokens
    from vaultpki.key_rotation import commands as keys

    if not cluster.service_account_keys:
        return None
    return keys.status(cluster, vault, now, read_tokens(running, cluster, vault), found=found)


def _pods(running: RunningCluster | None, cluster: Cluster, vault: Vault) -> KubeTrust | None:
    """Return what the running cluster shows of the root; None without a kubeconfig."""
    from vaultpki.kube import api as kube_api

    return None if running is None else running.look(cluster, vault, kube_api.read_trust)


def _go(file: Path, options: StepOptions, *, back: bool, allow_http: bool, wait: bool, as_json: bool) -> int:
    """Take one step, or with `wait` all of them."""
    from vaultpki.ca import commands, listeners
    from vaultpki.cli import ca_keys, ca_wait
    from vaultpki.rotation.confirmations import Confirmations
    from vaultpki.token_keys.gates import LEGACY

    without = [name for name in options.without if name != LEGACY]
    said = Confirmations(without, options.restarted, options.checked, look=listeners.probe_listeners)
    patience, told = PATIENCE if wait else None, set[str]()
    with opened(file, allow_http=allow_http, applied=True, patience=patience) as (cluster, vault, _):
        course = commands.begun(cluster, vault, back=back)
        # A rollback without any rotation is that of a CA at rest, which some may still accept, or there is none.
        at_rest = back and course is None and not ca_keys.under_way(cluster, vault)
        if cluster.service_account_keys and course is None and not at_rest:
            code = ca_keys.take_step(cluster, vault, options, back=back, wait=wait, as_json=as_json)
            if code is not None:
                return code
        elif options.token_life is not None:
            raise click.UsageError("--token-life is for a rotation of service-account-keys; leave it out")
        elif options.replaced and (back or not cluster.service_account_keys):
            raise click.UsageError("--replaced is for service-account-keys, and for `ca continue`; leave it out")
        replaced = options.replaced

        def take(course: Course | None, pods: KubeTrust | None) -> Step:
            nonlocal said, replaced
            if cluster.service_account_keys and not at_rest:
                ca_keys.admit_meanwhile(cluster, vault, told, replaced, said.restarted)
                replaced = ()
            # One that waits reads again and again, and says in lines what it waits for.
            with reading(vault, bar=not wait) as counted:
                done = commands.advance(
                    cluster, counted, server_now(vault), replace(said, pods=pods), course, back=back
                )
            # What a person has said counts once.
            said = replace(said, restarted=(), checked=())
            return done

        look = functools.partial(_pods, options.running, cluster, vault)
        done = ca_wait.until_rest(vault, take, look, course, back=back, quiet=as_json) if wait else take(None, look())
        return _tell(cluster, done, server_now(vault), as_json=as_json)


def _gate_after(cluster: Cluster, vault: Vault, domain: str, *, strict: bool) -> Gate | None:
    """Return what a rotation that has begun waits for; None if that is not known, which is said. Its step was made."""
    from vaultpki.ca import commands

    try:
        with reading(vault) as counted:
            found = commands.status(cluster, counted, server_now(vault), strict=strict)
    except VaultpkiError as error:
        click.echo(printable(f"What it waits for is not known: {error}"), err=True)
        return None
    return next((ca.gate for ca in found if ca.domain == domain), None)


def _tell(cluster: Cluster, step: Step, now: datetime, *, as_json: bool) -> int:
    """Print a step; return the exit code: 3 where it waits for something, or something is unusual."""
    from vaultpki.identity import root_pin
    from vaultpki.procedures import ca_text

    if as_json:
        print_json(ca_text.step_json(step))
    else:
        if step.note:
            click.echo(printable(f"{step.note}."))
        pin = root_pin.advice(cluster, step.record)
        print_lines(ca_text.record_lines(step.record, step.gate, now, cluster.file, pin=pin))
        if step.advice:
            click.echo(printable(f"{step.advice[0].upper()}{step.advice[1:]}."))
    return 0 if step.moved or (step.ended and not step.note) else 3
