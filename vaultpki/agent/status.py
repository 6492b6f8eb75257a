"""Report what is installed on this node, until when, and what is wrong; reads only."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from vaultpki.agent import ca_trust, readers_seen, said, token_key_faults, token_keys
from vaultpki.agent.ca_trust import CaOnNode
from vaultpki.agent.files_seen import FilesSeen, look_at_files
from vaultpki.certificates import BUNDLES, TABLE, file_set, pair_files
from vaultpki.disk import files
from vaultpki.disk.folders import Folders
from vaultpki.errors import CertificateRefused, CertificateUnreadable, StoreError, VaultpkiError
from vaultpki.host.hooks import Owed
from vaultpki.model import AgentConfig, Certificate
from vaultpki.node import assignment, credential, servers
from vaultpki.node import state as memory
from vaultpki.node.assignment import SurplusPair
from vaultpki.node.procedures import Procedures, records_of
from vaultpki.pki import ca_life, foreign_cas, key_plan, renewal, x509
from vaultpki.pki.ca_life import CaExpiry
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.renewal import Assessment, PairState, Reason
from vaultpki.places import KUBELET, PKI, inner_folders
from vaultpki.records.node_report import SURPLUS
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
from vaultpki.redact import stamp
from vaultpki.vault import HEALTH, Vault

# A certificate that became due is worth mentioning only once an agent had the time to renew it.
_LEAST_DELAY: Final = 900.0
ENDS_WITH_CA: Final = "ends-with-ca"
"""The reason that is shown for a certificate that no renewal would make live longer."""

POSTPONED: Final = "postponed"
"""The reason that is shown for a renewal that came late and waits for its turn."""

# An unknown consumer counts as slow as the slowest of the table.
_RELOAD: Final = max(row.reload for row in TABLE)


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """One certificate as it is installed. `reasons` are the names of the checks that found something."""

    name: str
    path: str
    leaf: Facts | None
    renew_after: datetime | None
    state: PairState
    reasons: tuple[str, ...]
    wrong: bool


@dataclass(frozen=True, slots=True)
class Status:
    """A node at one moment. `node` is None if only a folder was read; `agent` also if this user may not read the state.

    `reachable` is None if nobody asked Vault; `error` says why it does not answer. `faults` are what the agent reported
    and what could not be read, as sentences by what failed; `owed` are the hooks that have not run yet. `ends` are
    those of the root and of the CAs of this node's certificates. `asked` is when the agent last asked Vault, and
    `answered` when it last had the answer; None if never. `readers` are the components, by `CA/COMPONENT`, that were
    not started again since their bundle changed, or are not healthy, with a sentence about each. `notes` say what was
    not looked at, where that is no fault. `bundles` are sentences about trust bundles that are not as they should be.
    `kubernetes` are the versions of Kubernetes that components of the node run with, where they are known. `foreign`
    are sentences about foreign CAs that are offered and not taken, and `unused` are those about SHA-256 in agent.yaml
    for which none is offered. `by_hand` are the keys of hooks that wait for a person. `standings` are sentences
    about where the machine stands in a procedure, "" for one in which it takes no part. `not_admitted` is a sentence
    that kube-apiserver must not run yet, "" if it may. `keys` are its service-account keys, None where it has none of
    its own, and `token_keys` are sentences about files of those that are not as they should be. `surplus` are the pairs
    that the node's record does not name, by the paths of their certificates. `next_within` is as in NodeReport. `jwt`
    says that it logs in by an issuer's token, so that no join file is for it.
    """

    node: str | None
    agent: str | None
    seen: tuple[CertificateStatus, ...]
    faults: Mapping[str, str]
    owed: Mapping[str, Owed]
    reachable: bool | None
    error: str | None
    trust: str = ""
    trust_since: float = 0.0
    cas: tuple[CaOnNode, ...] = ()
    ends: tuple[CaExpiry, ...] = ()
    pool: str | None = None
    roles: tuple[str, ...] = ()
    answered: datetime | None = None
    asked: datetime | None = None
    readers: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    bundles: tuple[str, ...] = ()
    kubernetes: Mapping[str, str] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()
    standings: tuple[str, ...] = ()
    not_admitted: str = ""
    keys: TokenKeysStatus | None = None
    token_keys: tuple[str, ...] = ()
    surplus: Mapping[str, SurplusPair] = field(default_factory=dict)
    next_within: int = 0
    jwt: bool = False


@dataclass(frozen=True, slots=True)
class TokenKeysStatus:
    """The service-account keys of a node: the number of the key in `sa.key`, and the names in `sa.pub`, in order.

    `numbers` are those of the node's own keys. `shared` says that `sa.key` is not of this agent. `state` is that of the
    record, None without one. `refused` says that `sa.pub` lacks keys of the record, in one sentence; "" if it has all.
    """

    signing: int | None
    union: tuple[str, ...]
    numbers: tuple[int, ...]
    shared: bool
    state: str | None
    refused: str = ""


def of_node(
    config: AgentConfig,
    now: datetime,
    procedures: Procedures,
    *,
    ask: bool = True,
    allow_http: bool = False,
    copied: AgentConfig | None = None,
) -> Status:
    """Report on the node of an agent.yaml, however broken it is.

    `ask` asks Vault whether it answers, and what it shows as revoked. `procedures` are as in PassOptions.

    `copied` is the same configuration with the places to which somebody copied the node's files: only those are read.
    Owners are not compared there, since they are users of the node.
    """
    config, named = copied or config, config
    known = memory.load(config.state)
    faults = {what: fault.text for what, fault in known.faults.items()}
    found: dict[str, str] = {}
    vault, why = _reach_vault(servers.at_home(config), allow_http=allow_http) if ask else (None, None)
    status = Status(
        config.node,
        known.state,
        (),
        faults,
        known.owed,
        vault is not None if ask else None,
        why,
        trust=known.trust,
        trust_since=known.trust_since,
        pool=config.pool,
        asked=_moment(known.asked),
        readers=readers_seen.behind(known),
        kubernetes=memory.kubernetes(known),
        by_hand=known.by_hand,
        not_admitted=known.not_admitted,
        next_within=known.next_within,
        jwt=config.auth.method == "jwt",
    )
    spec: assignment.Assignment | None = None
    try:
        spec = assignment.read_copy(config, records_of(procedures))
        if spec is None:
            # A folder that was collected from a node may well lack the agent's own.
            lost = credential.lost_folder(config) if ask else ""
            faults.setdefault("agent", lost or "nothing was ever issued here; run `vaultpki agent`")
        else:
            roles = tuple(sorted(role.value for role in spec.roles))
            asked = _moment(max(spec.fetched, known.asked))
            status = replace(status, roles=roles, answered=_moment(spec.fetched), asked=asked)
            trust = ca_trust.trust_of(config, spec, known, now, procedures)
            cas = ca_trust.statuses(spec, trust, known)
            ends = ca_trust.ends(spec, trust, now, cluster=config.cluster)
            seen, found, files = _inspect(config, spec, trust, known, now, named)
            # The agent asks too, while it runs.
            if vault is not None and (revoked := dict(said.revoked_leaves(vault, files.items, known.revoked))):
                serials = {name: leaf.serial for name, leaf in revoked.items()}
                known = replace(known, revoked={**known.revoked, **serials})
                seen, found, files = _inspect(config, spec, trust, known, now, named)
            status = replace(status, seen=seen, cas=cas, ends=ends, bundles=files.bundles, token_keys=files.token_keys)
            status = replace(status, keys=_keys(spec, known, files.keys))
            status = replace(status, surplus={f"{config.paths[p.folder]}/{p.stem}.crt": p for p in files.surplus})
            if status.keys is not None and status.keys.refused:
                found = {**found, SERVICE_ACCOUNT_KEYS: status.keys.refused}
            unused = tuple(foreign_cas.unused(config.also_trust, spec.foreign))
            status = replace(status, foreign=tuple(ca_trust.foreign_complaints(trust)), unused=unused)
    except StoreError as error:
        found = {"state": str(error)}
        # A user who may not read the copy has hardly read the state.
        status = replace(status, agent=None if known == memory.AgentState() else known.state)
    except (CertificateRefused, CertificateUnreadable) as error:
        found = {"trust": str(error)}
    for what, text in found.items():
        # The agent may have reported the same already.
        if text not in faults.values():
            faults[what] = text
    return replace(status, standings=tuple(each.standing(config, spec, known).sentence for each in procedures))


def _keys(
    spec: assignment.Assignment, known: memory.AgentState, found: token_keys.KeysOnDisk | None
) -> TokenKeysStatus | None:
    if found is None:
        return None
    record = spec.keys.record
    # Not what the file holds, which somebody else may have changed.
    held = {facts.fingerprint for facts in found.plan.union}
    follows = record is not None and found.held.signing is not None and not token_keys.frozen(spec, known)
    names = key_plan.refused_nodes(record, held) if record is not None and follows else ()
    return TokenKeysStatus(
        found.held.signing,
        tuple(facts.subject.common_name for facts in found.held.union),
        tuple(sorted(found.held.own)),
        bool(found.shared),
        record.state.value if record is not None else None,
        f"service-account keys: {key_plan.refuses(names)}" if names else "",
    )


def _moment(clock: float) -> datetime | None:
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(clock, UTC) if clock else None
    return None


def of_folder(path: str, now: datetime, further: Mapping[str, str] = MappingProxyType({})) -> Status:
    """Report on a folder of certificate files by itself, without knowing what should be there.

    Folders that kubeadm's layout has below it are read too, and those of `further`, by their names. Raises StoreError
    if it cannot be read.
    """
    titles = {(PKI, row.stem): row.name for row in TABLE} | {
        (row.kubeadm.folder, row.kubeadm.stem): row.name for row in TABLE if row.kubeadm
    }
    seen = []
    faults: dict[str, str] = {}
    with Folders.open({PKI: path, **inner_folders(path), **further}, create=False, write=False) as folders:
        for (folder, name), held in folders.file_sets().items():
            stems = [one.removesuffix(".crt") for one in held if one.endswith(".crt")]
            # Keys for tokens are not renewed, whatever dates their certificates have.
            if name == BUNDLES or token_keys.is_ours(name) or len(stems) != 1 or file_set(stems[0]) != name:
                continue
            # A folder of the kubelet's pairs may be named by itself.
            title = titles.get((folder, stems[0])) or titles.get((KUBELET, stems[0]), stems[0])
            leaf, verdict, denied = _alone(folders, folder, stems[0], now)
            seen.append(
                _certificate_status(title, f"{folders.paths[folder]}/{stems[0]}.crt", leaf, verdict, now, _LEAST_DELAY)
            )
            if denied:
                faults[title] = f"{folders.paths[folder]}/{denied[0]}: permission denied; run as its owner or as root"
        odd_keys = tuple(token_key_faults.problems_alone(folders))
    return Status(None, None, tuple(seen), faults, {}, None, None, token_keys=odd_keys)


def to_json(status: Status) -> dict[str, Any]:
    """Return what `status --json` prints."""
    ends = {end.ca: end for end in ca_life.own(status.ends)}
    return {
        "node": status.node,
        "agent": {
            "state": status.agent,
            "hooks_owed": sorted(status.owed),
            "faults": dict(sorted(status.faults.items())),
            "readers": dict(sorted(status.readers.items())),
        },
        "certificates": [
            *(
                {
                    **_leaf_to_json(one.name, one.path, one.leaf, one.state.value, list(one.reasons)),
                    "renew_after": stamp(one.renew_after) if one.renew_after else None,
                }
                for one in status.seen
            ),
            *(
                {**_leaf_to_json(pair.name, path, pair.leaf, SURPLUS, []), "renew_after": None}
                for path, pair in status.surplus.items()
            ),
        ],
        "cas": [
            {
                "domain": one.domain,
                "state": one.state,
                "revision": one.revision,
                "behind": one.behind,
                # Null unless the record is too far ahead of what the node has read.
                "not_followed": one.not_followed,
                # Null for a CA of which this node holds no certificate.
                "not_after": stamp(ends[one.domain].not_after) if one.domain in ends else None,
                "level": ends[one.domain].level.value if one.domain in ends else None,
                "certificates": [_ca_to_json(facts) for facts in one.certificates],
                "also_trusted": [_ca_to_json(facts) for facts in one.foreign],
            }
            for one in status.cas
        ],
        **({"service_account_keys": _keys_to_json(status)} if status.keys is not None else {}),
        "trust": {
            "generation": status.trust or None,
            "since": stamp(datetime.fromtimestamp(status.trust_since, UTC)) if status.trust_since else None,
        },
        "vault": {
            "reachable": status.reachable,
            "error": status.error,
            "asked": stamp(status.asked) if status.asked else None,
            "answered": stamp(status.answered) if status.answered else None,
        },
    }


def _leaf_to_json(name: str, path: str, leaf: Facts | None, state: str, reasons: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "path": path,
        "subject": leaf.subject_text if leaf else None,
        "issuer": leaf.issuer_text if leaf else None,
        "serial": f"{leaf.serial:x}" if leaf else None,
        "not_before": stamp(leaf.not_before) if leaf else None,
        "not_after": stamp(leaf.not_after) if leaf else None,
        "state": state,
        "reasons": reasons,
    }


def _keys_to_json(status: Status) -> dict[str, Any] | None:
    keys = status.keys
    if keys is None:
        return None
    return {
        "signing": keys.signing,
        "accepted": list(keys.union),
        "own": list(keys.numbers),
        "shared": keys.shared,
        "state": keys.state,
        "admitted": not status.not_admitted and not keys.shared,
    }


def _ca_to_json(facts: Facts) -> dict[str, str]:
    return {
        "subject": facts.subject_text,
        "sha256": facts.fingerprint,
        "not_before": stamp(facts.not_before),
        "not_after": stamp(facts.not_after),
    }


def _inspect(
    config: AgentConfig,
    spec: assignment.Assignment,
    trust: Mapping[str, Trust],
    known: memory.AgentState,
    now: datetime,
    named: AgentConfig,
) -> tuple[tuple[CertificateStatus, ...], dict[str, str], FilesSeen]:
    """Return every wanted certificate, why one cannot be read, by its name or "directory" for all, and all files.

    `named` has the places that the files name, which differ from those of `config` in a copy.
    """
    faults: dict[str, str] = {}
    ignored = {Reason.WRONG_OWNER} if named is not config else set()
    files = FilesSeen()
    try:
        with Folders.open(config.paths, create=False, write=False) as folders:
            looks = []
            files = look_at_files(config, folders, spec, trust, known, now, named)
            for item in files.items:
                if item.problem is None:
                    reasons = tuple(each for each in item.verdict.reasons if each not in ignored)
                    looks.append((item.want, item.leaf, replace(item.verdict, reasons=reasons)))
                else:
                    faults[item.want.name] = str(item.problem)
                    looks.append((item.want, *_unfit(folders, item.want, now)))
            faults |= files.faults
    except StoreError as error:
        faults["directory"] = str(error)
        nothing = Assessment((Reason.MISSING if _is_missing(config.directory) else Reason.UNREADABLE,), None)
        looks, files = [(want, None, nothing) for want in spec.certificates], FilesSeen()
    seen = (
        _certificate_status(
            want.name,
            f"{config.paths[want.folder]}/{want.stem}.crt",
            leaf,
            verdict,
            now,
            _delay(config.poll, want.ttl),
            files.kubeconfigs.get(want.name),
        )
        for want, leaf, verdict in looks
    )
    return tuple(seen), faults, files


def _unfit(folders: Folders, want: Certificate, now: datetime) -> tuple[Facts | None, Assessment]:
    """Return a certificate that `pairs.inspect` could not compare: as it is by itself, or unreadable."""
    try:
        leaf, verdict, _ = _alone(folders, want.folder, want.stem, now)
    except StoreError:
        return None, Assessment((Reason.UNREADABLE,), None)
    # It can be read, so the owner that agent.yaml names is the problem.
    return leaf, Assessment((*verdict.reasons, Reason.WRONG_OWNER), verdict.renew_after)


def _alone(folders: Folders, folder: str, stem: str, now: datetime) -> tuple[Facts | None, Assessment, tuple[str, ...]]:
    """Return a pair judged by itself, and its files that this user may not read."""
    names = pair_files(stem)
    stored = folders.read(folder, file_set(stem), names)
    denied = tuple(name for name in names if stored[name].problem == "denied")
    crt, key, pem = (stored[name].data for name in names)
    pair = x509.read_pair(crt, key, pem, None)
    leaf, reasons = pair.leaf, []
    reasons += [Reason.MISSING] if len(pair.missing) > len(denied) else []
    reasons += [Reason.UNREADABLE] if pair.unreadable or denied else []
    reasons += [Reason.KEY_MISMATCH] if not (pair.missing or pair.unreadable or pair.matches) else []
    after = None
    if leaf is not None:
        signed = renewal.signed_at(leaf.not_before, leaf.not_after)
        after = renewal.renew_at(signed, leaf.not_after, 1.0, _RELOAD)
        reasons += [Reason.EXPIRED] if leaf.not_after <= now else [Reason.DUE] if after <= now else []
    return leaf, Assessment(tuple(reasons), after), denied


def is_late(seconds: float, poll: int, ttl: int) -> bool:
    """Return whether a renewal that has been due for so long is late; all in seconds."""
    return seconds > _delay(poll, ttl)


def _delay(poll: int, ttl: int) -> float:
    return min(max(2.0 * poll, _LEAST_DELAY), ttl / 10)


def _is_missing(path: str) -> bool:
    with contextlib.suppress(StoreError):
        return not files.exists(path)
    return False


def _certificate_status(
    name: str,
    path: str,
    leaf: Facts | None,
    verdict: Assessment,
    now: datetime,
    delay: float,
    odd: str | None = None,
) -> CertificateStatus:
    overdue = verdict.renew_after is not None and (now - verdict.renew_after).total_seconds() > delay
    only_due = verdict.reasons == (Reason.DUE,)
    wrong = odd is not None or (bool(verdict.reasons) and (overdue or not only_due))
    # Not wrong by itself: the level of the CA says how urgent it is.
    final = [ENDS_WITH_CA] if verdict.final and Reason.EXPIRED not in verdict.reasons else []
    later = [POSTPONED] if verdict.postponed else []
    reasons = (*(reason.value for reason in verdict.reasons), *final, *later, *([odd] if odd else []))
    return CertificateStatus(name, path, leaf, verdict.renew_after, verdict.state, reasons, wrong)


def _reach_vault(config: AgentConfig, *, allow_http: bool) -> tuple[Vault | None, str | None]:
    """Return Vault, without a token; None if it does not answer, with the reason."""
    try:
        vault = credential.server(config, allow_http=allow_http, patience=0.0)
        vault.call(HEALTH)
    except VaultpkiError as error:
        return None, str(error)
    return vault, None
