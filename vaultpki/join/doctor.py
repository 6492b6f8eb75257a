"""Examine a node before a join, or when something is wrong: each finding has a sentence that says what to do.

It leaves nothing behind and uses nothing up: a join file stays good, nothing is signed, no file changes. A joined node
logs in, and that token ends by itself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Literal

from vaultpki.agent.token_keys import TOKEN_FILES
from vaultpki.certificates import BUNDLES, SERVICE_ACCOUNT_FILES, SKEW, file_set, pair_files
from vaultpki.disk import files, owner_mark, room
from vaultpki.disk.folders import Folders
from vaultpki.errors import NeedsJoin, Sealed, StateConflict, StoreError, VaultpkiError
from vaultpki.host import hook_files, processes, setting_files, static_pod, units
from vaultpki.host.hook_files import PATH
from vaultpki.issue.issuers import fetch_issuers, roots_below, trusts
from vaultpki.join import checks
from vaultpki.join.checks import JoinPlan
from vaultpki.join.enter import join_settings, refuse_other_token
from vaultpki.kube import flags
from vaultpki.layout import shown, trust_bundles
from vaultpki.model import AgentConfig, Hook
from vaultpki.node import assignment, credential, jwt_claims, pins, servers, state
from vaultpki.node.secret_id import JoinStep, SecretIdFiles, digest
from vaultpki.places import HIDDEN_FOLDER, KUBECONFIGS, PKI, Layout
from vaultpki.records.join_file import Join
from vaultpki.redact import printable
from vaultpki.vault import HEALTH, Settings, Vault

DoctorVerdict = Literal["ok", "warning", "failed", "unchecked"]

# A clock that is off by more than this is worth a word long before anything fails at SKEW.
_ODD_CLOCK = 60


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """One check: what was looked at, how it went, and one sentence that says what was found or what to do."""

    check: str
    verdict: DoctorVerdict
    detail: str


_AWAY = "no address of Vault answers"


def before_join(plan: JoinPlan, now: datetime, *, allow_http: bool) -> Iterator[DoctorCheck]:
    """Examine this machine for a join with `plan`; the join file stays unused."""
    join = plan.join
    failed = dict(checks.failed_checks(plan))
    for name, _ in checks.CHECKS:
        yield DoctorCheck(name, "failed" if name in failed else "ok", str(failed.get(name, "")))
    settings = join_settings(join, allow_http=allow_http)
    away = yield from _addresses(settings)
    if away:
        for check in ("cluster", "join file"):
            yield DoctorCheck(check, "unchecked", away)
        return
    yield from _tried("cluster", lambda: _cluster(Vault(settings), join, plan.state, now))
    yield from _tried("join file", lambda: _token(plan, Vault(replace(settings, token=join.wrap_token)), now))
    yield from _flags(join.layout, plan.paths)


def of_node(config: AgentConfig, now: datetime, *, allow_http: bool) -> Iterator[DoctorCheck]:
    """Examine a node that has joined."""
    yield DoctorCheck("agent.yaml", "ok", "")
    yield from _tried("state folder", lambda: _state(config))
    for name, path in config.paths.items():
        if name != KUBECONFIGS:
            yield from _tried(f"directory {path}", partial(_whose, path, config))
    for path in _written(config):
        yield from _tried(f"{path} can be written", partial(_writable, path))
    yield from _files(config)
    yield from _token_keys(config)
    yield from _mounts(config.paths)
    yield from _hooks(config)
    here = servers.at_home(config)
    try:
        settings = credential.server_settings(here, allow_http=allow_http)
    except VaultpkiError as error:
        yield DoctorCheck("Vault's CA", "failed", str(error))
        return
    away = yield from _addresses(settings)
    if not away:
        vault = Vault(settings)
        yield from _tried("cluster", lambda: _cluster(vault, here, config.state, now))
        yield from _tried("login", lambda: _login(here, allow_http=allow_http))
    else:
        yield DoctorCheck("cluster", "unchecked", away)
        yield DoctorCheck("login", "unchecked", away)
    spec = assignment.copy(config)
    yield from _flags(config.layout, config.paths, token_keys=spec is not None and spec.token_key is not None)


def to_json(findings: tuple[DoctorCheck, ...]) -> dict[str, Any]:
    """Return what `doctor --json` prints."""
    return {"checks": [asdict(finding) for finding in findings], "ok": fine(findings)}


def fine(findings: tuple[DoctorCheck, ...]) -> bool:
    """Return whether nothing failed."""
    return not any(finding.verdict == "failed" for finding in findings)


def _tried(check: str, work: Callable[[], str]) -> Iterator[DoctorCheck]:
    try:
        yield DoctorCheck(check, "ok", work())
    except VaultpkiError as error:
        yield DoctorCheck(check, "failed", str(error))


def _addresses(settings: Settings) -> Generator[DoctorCheck, None, str]:
    """Ask each address of Vault by itself; returns why none of them can serve this node, "" if one can."""
    reached, away = False, _AWAY
    for address in settings.addresses:
        vault = Vault(replace(settings, addresses=(address,)), patience=0.0)
        try:
            answer = vault.call(HEALTH)
        except VaultpkiError as error:
            # It answers, and says what it needs.
            away = str(error) if isinstance(error, Sealed) else away
            yield DoctorCheck(f"Vault at {address}", "failed", str(error))
            continue
        reached = True
        version = printable(str(answer.body.get("version", "unknown"))[:40])
        yield DoctorCheck(f"Vault at {address}", "ok", f"version {version}")
        offset = vault.clock_offset
        if offset is not None:
            yield _clock(offset, address)
    return "" if reached else away


def _clock(offset: float, address: str) -> DoctorCheck:
    check = f"clock beside {address}"
    # A Date header has whole seconds, and an answer takes its time.
    off = abs(offset)
    side = "behind" if offset > 0 else "ahead of"
    text = f"this machine's clock is {off:.0f} s {side} the server's"
    if off > SKEW:
        return DoctorCheck(check, "failed", f"{text}; nothing is signed until it is set right, such as by chrony")
    if off > _ODD_CLOCK:
        return DoctorCheck(check, "warning", f"{text}; set it right before it is more than {SKEW} s")
    return DoctorCheck(check, "ok", "")


def _cluster(vault: Vault, who: AgentConfig | Join, state: str, now: datetime) -> str:
    """Read the cluster's CAs, which needs no token: the namespace, the prefix and the pin are right then."""
    issuers = fetch_issuers(vault, who.prefix)
    # A node may have learnt of another root since it joined.
    named = pins.every_pin(who) if isinstance(who, AgentConfig) else who.root_sha256
    above = roots_below(issuers, named, None, now, cluster=who.cluster, known=pins.load(state))
    found = trusts(issuers, above, now, cluster=who.cluster)
    missing = sorted(ca for ca, trust in found.items() if not trust.live)
    if missing:
        raise StateConflict(
            f"no CA of {', '.join(missing)} is in date, so nothing of it can be signed; run `vaultpki plan` where the "
            "cluster is applied"
        )
    strange = sum(len(trust.untrusted) for trust in found.values())
    return f"{strange} CAs on its mounts are not trusted; `vaultpki plan` names them" if strange else ""


def _token(plan: JoinPlan, vault: Vault, now: datetime) -> str:
    step = SecretIdFiles(plan.state).join_step()
    token = digest(plan.join.wrap_token)
    if step is not None and step.token == token and step.stage != "opening":
        if step.stage != "new":
            return "this node has used it already"
    else:
        step = JoinStep(token, "new")
    refuse_other_token(plan.join, step, vault, now)
    return f"good until {plan.join.expires:%Y-%m-%d %H:%M:%S}Z"


def _state(config: AgentConfig) -> str:
    if lost := credential.lost_folder(config):
        raise StoreError(lost)
    room.prove(config.state, checks.STATE_BYTES, checks.STATE_ENTRIES)
    if config.auth.method == "approle" and SecretIdFiles(config.credentials).current() is None:
        raise StoreError(f"{config.state} holds no credential of this node; {credential.joining(config, lost=True)}")
    return "" if files.exists(config.state) else "it is not there yet"


def _written(config: AgentConfig) -> Iterator[str]:
    """Yield the folders of files that the agent writes to, and those of the manifests that its hooks change."""
    yield from config.paths.values()
    pods = [hook.name for hooks in config.hooks.values() for hook in hooks if hook.kind == "static_pod"]
    yield from sorted({os.path.dirname(path) for pod in pods if files.exists(path := static_pod.manifest(pod))})


def _writable(path: str) -> str:
    """Prove that the agent can write in this folder; the folder itself holds links, and a hidden one the files."""
    hidden = f"{path}/{HIDDEN_FOLDER}"
    room.prove(path, checks.STATE_BYTES, checks.STATE_ENTRIES)
    if files.exists(hidden):
        room.prove(hidden, checks.PAIRS_BYTES, checks.PAIRS_ENTRIES)
    return ""


def _whose(path: str, config: AgentConfig) -> str:
    owner_mark.refuse_foreign(path, owner_mark.holder_of(config))
    return "" if files.exists(path) else "it is not there yet"


def _files(config: AgentConfig) -> Iterator[DoctorCheck]:
    """Find files of somebody else in the place of ours, and pairs that are missing."""
    check = "files"
    try:
        spec = assignment.read_copy(config)
        if spec is None:
            nothing = f"nothing was ever issued here; run `vaultpki agent -c {config.file}`"
            if credential.lost_folder(config):
                nothing = f"{config.state} is missing, which knows what belongs here"
            yield DoctorCheck(check, "unchecked", nothing)
            return
        wanted: list[tuple[str, str, tuple[str, ...]]] = [
            (want.folder, file_set(want.stem), pair_files(want.stem)) for want in spec.certificates
        ]
        wanted += [
            (each.folder, BUNDLES, (each.file,)) for each in trust_bundles(config.layout, spec.roles, spec.certificates)
        ]
        wrong = False
        with Folders.open(config.paths, create=False, write=False) as folders:
            for folder, name, names in wanted:
                try:
                    folders.refuse_taken(folder, name, names)
                    held = folders.read(folder, name, names)
                except StoreError as error:
                    yield DoctorCheck(check, "failed", str(error))
                    wrong = True
                    continue
                for one in [one for one in names if held[one].problem]:
                    wrong = True
                    what = "you may not read it; run as root" if held[one].problem == "denied" else held[one].problem
                    yield DoctorCheck(check, "failed", f"{shown(folder, one)}: {what}")
        if not wrong:
            yield DoctorCheck(check, "ok", "")
    except StoreError as error:
        yield DoctorCheck(check, "failed", str(error))


def _token_keys(config: AgentConfig) -> Iterator[DoctorCheck]:
    """Find what is wrong with this node's service-account keys, and whether its kube-apiserver may be started."""
    check = "service-account keys"
    try:
        spec = assignment.read_copy(config)
        if spec is None or spec.token_key is None:
            return
        with Folders.open(config.paths, create=False, write=False) as folders:
            held = folders.read(PKI, SERVICE_ACCOUNT_FILES, TOKEN_FILES)
    except StoreError as error:
        yield DoctorCheck(check, "failed", str(error))
        return
    problems = [f"{name}: {stored.problem}" for name, stored in held.items() if stored.problem]
    waits = state.load(config.state).not_admitted
    if [stored.problem for stored in held.values()] == ["foreign"] * len(held):
        text = "sa.key and sa.pub are not of this agent; `vaultpki ca status` says whether it takes them over"
        yield DoctorCheck(check, "warning", text)
    elif problems and waits and [stored.problem for stored in held.values()] == ["missing"] * len(held):
        # They are written once the node is admitted.
        yield DoctorCheck(check, "warning", waits)
    elif problems:
        yield DoctorCheck(check, "failed", "; ".join(problems))
    else:
        yield DoctorCheck(check, "warning" if waits else "ok", waits)


def _mounts(paths: Mapping[str, str], table: str = "/proc/self/mountinfo") -> Iterator[DoctorCheck]:
    """Find single files of ours that are mounted by themselves: such a mount never follows a renewal."""
    with contextlib.suppress(OSError), open(table, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            # proc(5): the fifth field is the mount point, with octal escapes for white space.
            point = line.split(" ")[4]
            if any(point.startswith(f"{path}/") for path in paths.values()) and os.path.isfile(point):
                text = f"{printable(point)} is mounted by itself and never follows a renewal; mount its folder"
                yield DoctorCheck("mounts", "failed", text)


def _hooks(config: AgentConfig) -> Iterator[DoctorCheck]:
    for key, hooks in config.hooks.items():
        for hook in hooks:
            problem = _hook_problem(hook, config)
            yield DoctorCheck(f"hook of {key}", "failed" if problem else "ok", problem)


def _hook_problem(hook: Hook, config: AgentConfig) -> str:
    if hook.kind == "command":
        if shutil.which(hook.argv[0], path=PATH) is None:
            return f"{ascii(hook.argv[0])[1:-1]} is not a program that can be run; correct the hook in agent.yaml"
    elif hook.kind == "static_pod":
        path = static_pod.manifest(hook.name)
        if not files.exists(path):
            return f"{path} is missing; correct the hook in agent.yaml, or start the pod"
    elif shutil.which("systemctl", path=PATH) is None:
        return "this machine has no systemctl; use a command or a static pod in the hook"
    return hook_files.why_refused(hook, path=PATH, own=config.paths.values()) or units.unit_problem(hook) or ""


def _login(config: AgentConfig, *, allow_http: bool) -> str:
    vault: Vault | None
    if config.auth.method == "approle":
        # Not `login`: it takes up an older secret id again if Vault refuses the current one, which changes files.
        secret = SecretIdFiles(config.credentials).current() or ""
        vault = credential.present(config, credential.server(config, allow_http=allow_http), secret)
        if vault is None:
            raise NeedsJoin(f"Vault rejects this node's credential; {credential.joining(config)}")
    else:
        vault = credential.login(config, allow_http=allow_http)
        if config.auth.method == "jwt":
            _refuse_other_node(config)
    own = credential.own_record(config)
    if not vault.stored(f"{config.prefix}/config", own):
        raise StateConflict(f"Vault has no record {own} of cluster {config.cluster}; run `vaultpki apply` for it")
    return ""


def _refuse_other_node(config: AgentConfig) -> None:
    """Raise StateConflict if this node logs in by the token of another one: Vault signs nothing of this node then."""
    path = config.auth.path or ""
    other = jwt_claims.other_node((files.read_swapped(path) or b"").decode("ascii", "replace").strip(), config.node)
    if other is not None:
        of = f"is of {other}" if other else "names no node"
        raise StateConflict(
            f"Vault takes the token in {path}, but it {of}, and this is {config.node} ({config.file}): Vault signs no "
            f"certificate of {config.node} for it; have the issuer put a token of this node there, or correct `node`"
        )


def _flags(layout: Layout, paths: Mapping[str, str], *, token_keys: bool = False) -> Iterator[DoctorCheck]:
    found = processes.running()
    if not found:
        yield DoctorCheck(
            "component flags", "unchecked", "no component of Kubernetes or etcd that this user may see runs here"
        )
    for component, arguments in found.items():
        problems = list(flags.findings(component, arguments, layout, paths, token_keys=token_keys))
        file = flags.flags_of(arguments).get(flags.AUTHORIZATION_FILE, "")
        if component == "kube-apiserver" and file:
            if configuration := setting_files.mapping(file):
                problems += flags.authorization_findings(configuration)
            else:
                text = f"{printable(file)} of --{flags.AUTHORIZATION_FILE} cannot be read here"
                yield DoctorCheck("authorization file", "unchecked", text)
        for each in problems:
            yield DoctorCheck(f"flags of {component}", "failed", f"{printable(each.problem)}; {each.remedy}")
        if not problems:
            yield DoctorCheck(f"flags of {component}", "ok", "")
