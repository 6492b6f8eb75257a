"""Writes and reads the reports of nodes: what a node says that it holds, which the gates of a rotation count.

A node may write anything here. What cannot be read counts as missing, so that a false report affects its own node only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Final, TypeVar

from vaultpki import kubernetes_versions
from vaultpki.certificates import SERVICE_ACCOUNT
from vaultpki.readers import READERS
from vaultpki.records import adoption_report
from vaultpki.records.adoption_report import AdoptionReport
from vaultpki.records.changes import LONGEST_LOOK
from vaultpki.records.rotation import BEYOND, EVERY_DOMAIN
from vaultpki.records.service_account import MOST_IN_UNION
from vaultpki.redact import moment, printable, stamp
from vaultpki.values import names

_MOST_ENTRIES: Final = 64
_LONGEST: Final = 300
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]{1,64}")
# Seconds: the most that agent.yaml takes.
_LONGEST_POLL: Final = 86400

# The pauses of an agent allow hardly more, and a node that says more hides its own clone only.
_MOST_LOST: Final = 20
# The current secret id, and the one before until it is destroyed.
_MOST_IN_USE: Final = 2

# The key in use, the next one, and what an attempt before left.
_MOST_KEYS: Final = 4
_LONGEST_PEM: Final = 8192
# Seconds: the most that kube-apiserver grants (kubernetes pkg/apis/authentication/validation).
_LONGEST_LIFE: Final = 1 << 32
_KEY_NUMBER: Final = re.compile(r"[1-9][0-9]{0,7}")

_COMPONENTS: Final = frozenset(each.component for each in READERS)

_Entry = TypeVar("_Entry")

SURPLUS: Final = "surplus"
"""The state of a certificate that its node's record does not name."""

PRUNE: Final = "vaultpki agent --once --prune"
"""The command that removes those at once, on the node; nothing else does."""


@dataclass(frozen=True, slots=True)
class CertificateReport:
    """One certificate: its CA's domain, its state, `serial` and the issuer's key id in hex, and its end.

    `served` are the SHA-256 of the chain after the leaf in its file. `installed` is since when the
    file holds this leaf with this chain; None if the agent does not know. `not_before` and `renew_after` are None
    if it cannot be read, or does not say.
    """

    ca: str
    state: str
    not_after: datetime | None = None
    serial: str = ""
    issuer_key_id: str = ""
    served: tuple[str, ...] = ()
    installed: datetime | None = None
    not_before: datetime | None = None
    renew_after: datetime | None = None


@dataclass(frozen=True, slots=True)
class BundleReport:
    """The issuing-only bundle of one CA: the SHA-256 of the certificates in it, and since when it has them."""

    sha256: frozenset[str]
    installed: datetime


@dataclass(frozen=True, slots=True)
class ReaderReport:
    """A component that reads a bundle only when it starts: when it last did, and the SHA-256 in that bundle then.

    `started` is None if no process was seen. `running` says whether the report's pass saw the process, `healthy`
    whether the component's own endpoint said so then. `problem` is what is wrong with a component that is not both,
    as a part of a sentence. `stopped` is since when the agent knows that the component does not run; None if it runs,
    and if the agent cannot know that.
    """

    started: datetime | None
    sha256: frozenset[str] = frozenset()
    running: bool = False
    healthy: bool = False
    problem: str = ""
    stopped: datetime | None = None

    @property
    def sound(self) -> bool:
        """Whether the component was seen to run, and said itself that it is healthy."""
        return self.running and self.healthy


@dataclass(frozen=True, slots=True)
class TokenKeysReport:
    """The service-account keys of a control-plane node, and what its kube-apiserver has of them in memory.

    `own` are the certificates of the node's own keys, as PEM by number. `union` are the SHA-256 of the certificates in
    `sa.pub`, and `signing` is that of the node's own certificate whose key is `sa.key`; "" if there is none.
    `installed` is since when both files are as they are. `loaded_union` and `loaded_signing` are the same of the files
    with which kube-apiserver was started; empty if that is not known. `reader` says when it was, and whether it runs
    and is healthy. `seen` are the revisions of the record of these keys, 0 for none.

    `extends` and `longest` are how long tokens live by the flags with which kube-apiserver was started:
    `--service-account-extend-token-expiration`, and `--service-account-max-token-expiration` in seconds, 0 if it is not
    set. None if they are not known. `shared` is the SHA-256 in hex of the public key (its SubjectPublicKeyInfo in DER)
    of an `sa.key` that this agent has not made; "" if there is none. `shared_key` is the type of that key, "" if it is
    none of ours. `admitted` is False where the node has read that its kube-apiserver must not run yet. `issuer` and
    `jwks_uri` are the flags by which kube-apiserver names where tokens are checked; "" if not set or not known.
    """

    seen: Seen
    own: Mapping[int, str] = field(default_factory=dict)
    union: frozenset[str] = frozenset()
    signing: str = ""
    installed: datetime | None = None
    loaded_union: frozenset[str] = frozenset()
    loaded_signing: str = ""
    reader: ReaderReport = field(default_factory=lambda: ReaderReport(None))
    extends: bool | None = None
    longest: int | None = None
    shared: str = ""
    admitted: bool = True
    shared_key: str = ""
    issuer: str = ""
    jwks_uri: str = ""

    @property
    def loaded(self) -> bool:
        """Whether a kube-apiserver that runs and is healthy was started with the files that are on the disk."""
        return self.reader.sound and self.holds_files

    @property
    def holds_files(self) -> bool:
        """Whether the kube-apiserver that runs was started with the files that are on the disk."""
        same = self.loaded_union == self.union and self.loaded_signing == self.signing
        return bool(self.union) and bool(self.signing) and same


@dataclass(frozen=True, slots=True)
class Seen:
    """The revision of a rotation record that a pass read, and the highest that the node has ever read."""

    revision: int
    highest: int

    @property
    def behind(self) -> bool:
        """Whether the server shows an older record than before: it was restored from a snapshot."""
        return self.revision < self.highest


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node's report. Times are the server's.

    `seen` has the rotation records by domain; a domain without a record has revision 0. `bundles` are by CA; `readers`
    by `CA/COMPONENT`. `owed` are the keys of hooks that have not run, `failed` those of them that were tried, `waiting`
    the domains whose turn to restart this node awaits. `pins` are the SHA-256 of the roots that it accepts,
    `written_pins` those of a list in its agent.yaml. `poll` is how many seconds pass between two polls; 0 if the agent
    does not stay. `look` is how many seconds pass at most between two reports of a node at rest; 0 if the agent writes
    one at each poll. `trust` names the CAs in the node's bundles. `not_followed` are the revisions of records, by
    domain, that are too far ahead of what the node has read to be followed. `lost` is how many secret ids may live that
    nobody has, since the answers were lost. `in_use` are the accessors of those that the node has, the current one
    first; empty if it does not know each of them. `kubernetes` are the versions of Kubernetes that components run with,
    by component; without those that the agent cannot see. `foreign` are the SHA-256 of the foreign CAs in the bundles,
    by CA; `bundles` do not have those. `foreign_ignored` are those of the ones that the cluster's record offers and the
    node does not take. `by_hand` are those of `owed` that wait for a person. `adoption` is what the node says of the
    adoption of its machine; None if the machine is not taken over. `token_keys` are the service-account keys of a
    control-plane node; None where a node has none of its own. `surplus` are the pairs on the node that its record does
    not name, by their files.
    """

    time: datetime
    agent: str = ""
    seen: Mapping[str, Seen] = field(default_factory=dict)
    certificates: Mapping[str, CertificateReport] = field(default_factory=dict)
    bundles: Mapping[str, BundleReport] = field(default_factory=dict)
    readers: Mapping[str, ReaderReport] = field(default_factory=dict)
    owed: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    untrusted: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    poll: int = 0
    look: int = 0
    trust: str = ""
    not_followed: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0
    in_use: tuple[str, ...] = ()
    kubernetes: Mapping[str, str] = field(default_factory=dict)
    foreign: Mapping[str, frozenset[str]] = field(default_factory=dict)
    foreign_ignored: Mapping[str, frozenset[str]] = field(default_factory=dict)
    by_hand: tuple[str, ...] = ()
    written_pins: tuple[str, ...] = ()
    adoption: AdoptionReport | None = None
    token_keys: TokenKeysReport | None = None
    surplus: Mapping[str, CertificateReport] = field(default_factory=dict)

    @property
    def held(self) -> tuple[CertificateReport, ...]:
        """Return every certificate that the node says it has, the surplus ones too."""
        return (*self.certificates.values(), *self.surplus.values())

    @property
    def next_within(self) -> int:
        """Return within how many seconds a node that works writes its next report; 0 if it does not say."""
        return self.look + 2 * self.poll if self.poll else 0


def to_json(report: NodeReport) -> dict[str, Any]:
    """Return the report as it is stored."""
    return {
        "version": 1,
        "time": stamp(report.time),
        "agent": report.agent,
        "poll": report.poll,
        **({"look": report.look} if report.look else {}),
        "trust": report.trust,
        "rotation": {
            domain: {"revision": seen.revision, "highest": seen.highest, "behind": seen.behind}
            for domain, seen in report.seen.items()
        },
        "certificates": _plain(report.certificates),
        "bundles": _plain(report.bundles),
        "readers": _plain(report.readers),
        "hooks": {"owed": list(report.owed), "failed": list(report.failed), "waiting": list(report.waiting)},
        "pins": list(report.pins),
        "failures": list(report.failures),
        "strangers": [printable(text)[:_LONGEST] for text in report.untrusted],
        **({"not_followed": dict(report.not_followed)} if report.not_followed else {}),
        **({"lost_credentials": report.lost} if report.lost else {}),
        **({"credentials_in_use": list(report.in_use)} if report.in_use else {}),
        **({"kubernetes": dict(report.kubernetes)} if report.kubernetes else {}),
        **({"foreign_cas": _sorted(report.foreign)} if report.foreign else {}),
        **({"foreign_cas_ignored": _sorted(report.foreign_ignored)} if report.foreign_ignored else {}),
        **({"by_hand": list(report.by_hand)} if report.by_hand else {}),
        **({"written_pins": list(report.written_pins)} if report.written_pins else {}),
        **({"adoption": adoption_report.to_json(report.adoption)} if report.adoption is not None else {}),
        **({"token_keys": _token_keys_to_json(report.token_keys)} if report.token_keys else {}),
        **({"surplus": _plain(report.surplus)} if report.surplus else {}),
    }


def _token_keys_to_json(keys: TokenKeysReport) -> dict[str, Any]:
    return {
        "revision": keys.seen.revision,
        "highest": keys.seen.highest,
        "own": {str(number): pem for number, pem in keys.own.items()},
        "union": sorted(keys.union),
        "signing": keys.signing,
        "installed": stamp(keys.installed) if keys.installed else None,
        "loaded_union": sorted(keys.loaded_union),
        "loaded_signing": keys.loaded_signing,
        "kube_apiserver": {each.name: _value(getattr(keys.reader, each.name)) for each in fields(keys.reader)},
        **({"extends": keys.extends} if keys.extends is not None else {}),
        **({"longest": keys.longest} if keys.longest is not None else {}),
        **({"shared": keys.shared} if keys.shared else {}),
        **({} if keys.admitted else {"admitted": False}),
        **({"shared_key": keys.shared_key} if keys.shared_key else {}),
        **({"issuer": keys.issuer} if keys.issuer else {}),
        **({"jwks_uri": keys.jwks_uri} if keys.jwks_uri else {}),
    }


def _sorted(found: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    return {ca: sorted(each) for ca, each in found.items()}


def _plain(entries: Mapping[str, CertificateReport | BundleReport | ReaderReport]) -> dict[str, dict[str, Any]]:
    """Return entries as they are stored: each field under its own name."""
    return {name: {each.name: _value(getattr(one, each.name)) for each in fields(one)} for name, one in entries.items()}


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, frozenset | tuple):
        return sorted(value) if isinstance(value, frozenset) else list(value)
    return printable(value)[:_LONGEST] if isinstance(value, str) else value


def read(value: object) -> NodeReport | None:
    """Return the report in the data of a record; None if it has no time. What is not of its form is left out."""
    report = value if isinstance(value, Mapping) else {}
    when = moment(report.get("time"))
    if when is None:
        return None
    hooks = _mapping(report.get("hooks"))
    return NodeReport(
        time=when,
        agent=_text(report.get("agent")),
        seen={
            domain: seen for domain, seen in _each(report.get("rotation"), _read_revisions) if domain in EVERY_DOMAIN
        },
        certificates=dict(_each(report.get("certificates"), _certificate)),
        bundles={ca: one for ca, one in _each(report.get("bundles"), _bundle) if ca in EVERY_DOMAIN},
        readers=dict(_each(report.get("readers"), _reader)),
        owed=_texts(hooks.get("owed")),
        waiting=_texts(hooks.get("waiting")),
        pins=_hashes(report.get("pins")),
        failures=_texts(report.get("failures")),
        untrusted=_texts(report.get("strangers")),
        failed=_texts(hooks.get("failed")),
        poll=_number(report.get("poll"), _LONGEST_POLL),
        look=_number(report.get("look"), LONGEST_LOOK),
        trust=_hex(report.get("trust")),
        not_followed={
            domain: revision
            for domain, number in _mapping(report.get("not_followed")).items()
            if domain in EVERY_DOMAIN and (revision := _number(number, BEYOND - 1))
        },
        lost=_number(report.get("lost_credentials"), _MOST_LOST),
        in_use=_in_use(report.get("credentials_in_use")),
        kubernetes={
            component: version
            for component, version in _mapping(report.get("kubernetes")).items()
            if component in _COMPONENTS and kubernetes_versions.is_version(version)
        },
        foreign=_hashes_by_ca(report.get("foreign_cas")),
        foreign_ignored=_hashes_by_ca(report.get("foreign_cas_ignored")),
        by_hand=_texts(report.get("by_hand")),
        written_pins=_hashes(report.get("written_pins")),
        adoption=adoption_report.read(report.get("adoption")),
        token_keys=_token_keys(report.get("token_keys")),
        surplus=dict(_each(report.get("surplus"), _certificate)),
    )


def with_own_rows_only(report: NodeReport, rows: Mapping[str, str]) -> NodeReport:
    """Return the report with those certificates alone that the node may hold; `rows` are its rows and their CAs.

    A node may write any name, such as that of another node's certificate, and any CA. Token keys count only for a node
    that has the row of those.
    """
    kept = {name: one for name, one in report.certificates.items() if rows.get(name) == one.ca}
    token_keys = report.token_keys if SERVICE_ACCOUNT in rows else None
    return replace(report, certificates=kept, token_keys=token_keys)


def last_expiry(report: NodeReport) -> datetime | None:
    """Return when the last of the certificates expires; None if the report has none."""
    return max((one.not_after for one in report.held if one.not_after is not None), default=None)


def _each(value: object, reading: Callable[[Mapping[str, Any]], _Entry | None]) -> list[tuple[str, _Entry]]:
    found = []
    for name, entry in list(_mapping(value).items())[:_MOST_ENTRIES]:
        one = reading(_mapping(entry))
        if one is not None and isinstance(name, str) and len(name) <= _LONGEST:
            found.append((printable(name), one))
    return found


def _read_revisions(entry: Mapping[str, Any]) -> Seen | None:
    revision, highest = entry.get("revision"), entry.get("highest")
    if not all(type(number) is int and 0 <= number < BEYOND for number in (revision, highest)):
        return None
    return Seen(revision, highest)  # type: ignore[arg-type]


def _certificate(entry: Mapping[str, Any]) -> CertificateReport | None:
    ends = entry.get("not_after")
    when = moment(ends)
    if ends is not None and when is None:
        return None
    return CertificateReport(
        ca=_text(entry.get("ca")),
        state=_text(entry.get("state")),
        not_after=when,
        serial=_hex(entry.get("serial")),
        issuer_key_id=_hex(entry.get("issuer_key_id")),
        served=_hashes(entry.get("served")),
        installed=moment(entry.get("installed")),
        not_before=moment(entry.get("not_before")),
        renew_after=moment(entry.get("renew_after")),
    )


def _bundle(entry: Mapping[str, Any]) -> BundleReport | None:
    installed = moment(entry.get("installed"))
    return None if installed is None else BundleReport(frozenset(_hashes(entry.get("sha256"))), installed)


def _reader(entry: Mapping[str, Any]) -> ReaderReport | None:
    """Read a reader; None for a start that is none, which must not pass for a component that was not seen."""
    when = entry.get("started")
    started = moment(when)
    if started is None and (when is not None or "running" not in entry):
        return None
    return ReaderReport(
        started,
        frozenset(_hashes(entry.get("sha256"))),
        running=entry.get("running") is True,
        healthy=entry.get("healthy") is True,
        problem=_text(entry.get("problem")),
        stopped=moment(entry.get("stopped")) if entry.get("running") is not True else None,
    )


def _token_keys(value: object) -> TokenKeysReport | None:
    entry = _mapping(value)
    seen, reader = _read_revisions(entry), _reader(_mapping(entry.get("kube_apiserver")))
    if seen is None or reader is None:
        return None
    own = {
        int(number): pem
        for number, pem in list(_mapping(entry.get("own")).items())[:_MOST_KEYS]
        if isinstance(number, str) and _KEY_NUMBER.fullmatch(number)
        if isinstance(pem, str) and len(pem) <= _LONGEST_PEM
    }
    signing, loaded = entry.get("signing"), entry.get("loaded_signing")
    return TokenKeysReport(
        seen,
        own,
        frozenset(_hashes(entry.get("union"), MOST_IN_UNION)),
        next(iter(_hashes([signing])), ""),
        moment(entry.get("installed")),
        frozenset(_hashes(entry.get("loaded_union"), MOST_IN_UNION)),
        next(iter(_hashes([loaded])), ""),
        reader,
        extends if isinstance(extends := entry.get("extends"), bool) else None,
        longest if type(longest := entry.get("longest")) is int and 0 <= longest <= _LONGEST_LIFE else None,
        next(iter(_hashes([entry.get("shared")])), ""),
        entry.get("admitted") is not False,
        _text(entry.get("shared_key")),
        _text(entry.get("issuer")),
        _text(entry.get("jwks_uri")),
    )


def _hashes_by_ca(value: object) -> dict[str, frozenset[str]]:
    found = {ca: frozenset(_hashes(_mapping(value).get(ca))) for ca in EVERY_DOMAIN}
    return {ca: each for ca, each in found.items() if each}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object, most: int) -> int:
    return value if type(value) is int and 0 < value <= most else 0


def _in_use(value: object) -> tuple[str, ...]:
    """Return the accessors; none if one of them is not an accessor, since whoever reads them must know all."""
    entries = value if isinstance(value, list) and len(value) <= _MOST_IN_USE else []
    return tuple(entries) if all(names.fits(entry, names.uuid) for entry in entries) else ()


def _hex(value: object) -> str:
    return value if isinstance(value, str) and _HEX.fullmatch(value) else ""


def _text(value: object) -> str:
    return printable(value[:_LONGEST]) if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    entries = value[:_MOST_ENTRIES] if isinstance(value, list) else []
    return tuple(_text(entry) for entry in entries if isinstance(entry, str))


def _hashes(value: object, most: int = _MOST_ENTRIES) -> tuple[str, ...]:
    entries = value[:most] if isinstance(value, list) else []
    return tuple(entry for entry in entries if isinstance(entry, str) and _SHA256.fullmatch(entry))
