"""What lies on this node, until when, and what is wrong: looked at, never touched."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from vaultpki import files, holding, issuance, memory, pairs, renewal
from vaultpki.certificates import BUNDLES, TABLE, pair_files, unit
from vaultpki.errors import CertificateRefused, CertificateUnreadable, StoreError, VaultpkiError
from vaultpki.facts import Facts, Trust
from vaultpki.hooks import Owed
from vaultpki.model import AgentConfig, Certificate
from vaultpki.plain import stamp
from vaultpki.renewal import Reason, State, Verdict
from vaultpki.store import Directory
from vaultpki.values import dataclass

# What became due is no news before an agent had the time to see to it.
_LEAST_DELAY: Final = 900.0
# Of a consumer that nobody knows: as long as the slowest of the table takes.
_RELOAD: Final = max(row.reload for row in TABLE)


@dataclass(frozen=True, slots=True)
class Seen:
    """One certificate as it lies there. `reasons` are the names of the checks that found something."""

    name: str
    path: str
    leaf: Facts | None
    renew_after: datetime | None
    state: State
    reasons: tuple[str, ...]
    wrong: bool


@dataclass(frozen=True, slots=True)
class Status:
    """A node at one moment. `node` is None where only a folder was looked at, `agent` also where nobody may know.

    `reachable` is None where nobody asked Vault; `error` says why it does not answer. `faults` are the agent's own
    words on what fails, and ours on what cannot be looked at, by what; `owed` the hooks that have not run yet.
    """

    node: str | None
    agent: str | None
    seen: tuple[Seen, ...]
    faults: Mapping[str, str]
    owed: Mapping[str, Owed]
    reachable: bool | None
    error: str | None
    trust: str = ""
    trust_since: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nobody needs to look after this node."""
        failed = any(owed.attempts for owed in self.owed.values())
        away = self.reachable is False
        return bool(self.seen) and not (
            away or failed or self.faults or self.agent not in (None, "ok") or any(one.wrong for one in self.seen)
        )


def of_node(config: AgentConfig, now: datetime, *, ask: bool = True, allow_http: bool = False) -> Status:
    """The node of an agent.yaml, however broken it is. `ask` asks Vault whether it is there."""
    known = memory.load(config.state)
    state: str | None = known.state
    faults = {what: fault.text for what, fault in known.faults.items()}
    seen: tuple[Seen, ...] = ()
    found: dict[str, str] = {}
    try:
        spec = holding.read_copy(config)
        if spec is None:
            faults.setdefault("agent", "nothing was ever issued here; run `vaultpki agent`")
        else:
            issuers = issuance.Issuers(spec.issuing, spec.roots)
            trust = issuance.trusts(issuers, config.root_sha256, now, cluster=config.cluster)
            seen, found = _wanted(config, spec, trust, known, now)
    except StoreError as error:
        found = {"state": str(error)}
        # Who may not read the one will hardly have read the other.
        state = None if known == memory.Memory() else state
    except (CertificateRefused, CertificateUnreadable) as error:
        found = {"trust": str(error)}
    for what, text in found.items():
        # The agent may have met the same, and so may all certificates.
        if text not in faults.values():
            faults[what] = text
    reachable, why = _asked(config, allow_http=allow_http) if ask else (None, None)
    return Status(config.node, state, seen, faults, known.owed, reachable, why, known.trust, known.trust_since)


def of_folder(path: str, now: datetime) -> Status:
    """A folder of certificate files by itself, with nobody to say what should be there.

    StoreError where it cannot be looked into.
    """
    names = {row.stem: row.name for row in TABLE}
    seen = []
    faults: dict[str, str] = {}
    with Directory.open(path, create=False, write=False) as directory:
        for name, held in directory.units().items():
            stems = [one.removesuffix(".crt") for one in held if one.endswith(".crt")]
            if name == BUNDLES or len(stems) != 1 or unit(stems[0]) != name:
                continue
            title = names.get(stems[0], stems[0])
            leaf, verdict, denied = _alone(directory, stems[0], now)
            seen.append(_seen(title, f"{path}/{stems[0]}.crt", leaf, verdict, now, _LEAST_DELAY))
            if denied:
                faults[title] = f"{path}/{denied[0]}: permission denied; run as its owner or as root"
    return Status(None, None, tuple(seen), faults, {}, None, None)


def to_json(status: Status) -> dict[str, Any]:
    """What `status --json` prints."""
    return {
        "node": status.node,
        "agent": {
            "state": status.agent,
            "hooks_owed": sorted(status.owed),
            "faults": dict(sorted(status.faults.items())),
        },
        "certificates": [
            {
                "name": one.name,
                "path": one.path,
                "subject": one.leaf.subject_text if one.leaf else None,
                "issuer": one.leaf.issuer_text if one.leaf else None,
                "serial": f"{one.leaf.serial:x}" if one.leaf else None,
                "not_before": stamp(one.leaf.not_before) if one.leaf else None,
                "not_after": stamp(one.leaf.not_after) if one.leaf else None,
                "renew_after": stamp(one.renew_after) if one.renew_after else None,
                "state": one.state.value,
                "reasons": list(one.reasons),
            }
            for one in status.seen
        ],
        "trust": {
            "generation": status.trust or None,
            "since": stamp(datetime.fromtimestamp(status.trust_since, UTC)) if status.trust_since else None,
        },
        "vault": {"reachable": status.reachable, "error": status.error},
        "ok": status.ok,
    }


def _wanted(
    config: AgentConfig, spec: holding.Holding, trust: Mapping[str, Trust], known: memory.Memory, now: datetime
) -> tuple[tuple[Seen, ...], dict[str, str]]:
    """Every wanted certificate, and why one cannot be looked at, by its name or, for all of them, the directory's."""
    faults: dict[str, str] = {}
    try:
        with Directory.open(config.directory, create=False, write=False) as directory:
            looks = []
            for item in pairs.look(config, directory, spec.certificates, trust, known, now):
                if item.problem is None:
                    looks.append((item.want, item.leaf, item.verdict))
                else:
                    faults[item.want.name] = str(item.problem)
                    looks.append((item.want, *_unfit(directory, item.want, now)))
    except StoreError as error:
        faults["directory"] = str(error)
        nothing = Verdict((Reason.MISSING if _gone(config.directory) else Reason.UNREADABLE,), None)
        looks = [(want, None, nothing) for want in spec.certificates]
    delay = max(2.0 * config.poll, _LEAST_DELAY)
    seen = (
        _seen(want.name, f"{config.directory}/{want.stem}.crt", leaf, verdict, now, min(delay, want.ttl / 10))
        for want, leaf, verdict in looks
    )
    return tuple(seen), faults


def _unfit(directory: Directory, want: Certificate, now: datetime) -> tuple[Facts | None, Verdict]:
    """A certificate that `pairs.look` stumbled over: as it is by itself, or unreadable."""
    try:
        leaf, verdict, _ = _alone(directory, want.stem, now)
    except StoreError:
        return None, Verdict((Reason.UNREADABLE,), None)
    # It can be read, so it is what agent.yaml says of its owner that cannot be.
    return leaf, Verdict((*verdict.reasons, Reason.WRONG_OWNER), verdict.renew_after)


def _alone(directory: Directory, stem: str, now: datetime) -> tuple[Facts | None, Verdict, tuple[str, ...]]:
    """A pair with nobody to say what it should be, and the files of it that this user may not read."""
    from vaultpki import x509

    names = pair_files(stem)
    stored = directory.read(unit(stem), names)
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
    return leaf, Verdict(tuple(reasons), after), denied


def _gone(path: str) -> bool:
    with contextlib.suppress(StoreError):
        return not files.there(path)
    return False


def _seen(name: str, path: str, leaf: Facts | None, verdict: Verdict, now: datetime, delay: float) -> Seen:
    overdue = verdict.renew_after is not None and (now - verdict.renew_after).total_seconds() > delay
    only_due = verdict.reasons == (Reason.DUE,)
    wrong = bool(verdict.reasons) and (overdue or not only_due)
    return Seen(name, path, leaf, verdict.renew_after, verdict.state, tuple(r.value for r in verdict.reasons), wrong)


def _asked(config: AgentConfig, *, allow_http: bool) -> tuple[bool, str | None]:
    from vaultpki import credential
    from vaultpki.vault import HEALTH

    try:
        credential.server(config, allow_http=allow_http, patience=0.0).call(HEALTH)
    except VaultpkiError as error:
        return False, str(error)
    return True, None
