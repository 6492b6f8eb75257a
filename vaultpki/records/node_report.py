"""Writes and reads the reports of nodes: what a node says that it holds, which the gates of a rotation count.

A node may write anything here. What cannot be read counts as missing, so that a false report affects its own node only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from vaultpki import kubernetes_versions
from vaultpki.certificates import SERVICE_ACCOUNT
from vaultpki.readers import READERS
from vaultpki.records.adoption_report import ADOPTION, AdoptionReport
from vaultpki.records.changes import LONGEST_LOOK
from vaultpki.records.report_fields import BOOL, LONGEST_TEXT, MOMENT, Or, Printed, ReportPart, Some, SomeByName
from vaultpki.records.rotation import BEYOND, EVERY_DOMAIN
from vaultpki.records.service_account import MOST_IN_UNION
from vaultpki.redact import printable
from vaultpki.values import names
from vaultpki.values.json_object import DIGEST, FLAG, Integer, Items, JsonMember, JsonText, word

_MOST_ENTRIES: Final = 64
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
class MoveReport:
    """What a node says of the move of its cluster to another server.

    `number` is of the hand-over that it has taken, 0 for none. `revision` is the highest of the move's record that it
    has read on either server, `servers` are those at which it logged in during its last pass (`old`, `new`), and
    `error` is what went wrong there, "" if nothing did. `ignores` is the server that it asks nothing any more, since a
    person has called that one lost and the node does not reach it either; "" for none.
    """

    number: int
    revision: int
    servers: tuple[str, ...] = ()
    error: str = ""
    ignores: str = ""


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
    not name, by their files. `move` is what it says of the move to another server, None without one.
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
    move: MoveReport | None = None

    @property
    def held(self) -> tuple[CertificateReport, ...]:
        """Return every certificate that the node says it has, the surplus ones too."""
        return (*self.certificates.values(), *self.surplus.values())

    @property
    def next_within(self) -> int:
        """Return within how many seconds a node that works writes its next report; 0 if it does not say."""
        return self.look + 2 * self.poll if self.poll else 0


class _SeenPart(ReportPart[Seen]):
    """What is read of a rotation's record; `behind` is for people who read the report."""

    def write(self, value: Seen) -> dict[str, Any]:
        return super().write(value) | {"behind": value.behind}


class _TokenKeysPart(ReportPart[TokenKeysReport]):
    """The part on service-account keys, in which the revisions stand beside the other members."""

    def read(self, value: Any, where: str = "") -> TokenKeysReport:
        return super().read({**value, "seen": value} if isinstance(value, Mapping) else value)

    def write(self, value: TokenKeysReport) -> dict[str, Any]:
        made = super().write(value)
        return {**made.pop("seen"), **made}


def _started_or_not(one: ReaderReport, entry: Mapping[str, Any]) -> ReaderReport | None:
    if one.started is None and "running" not in entry:
        return None
    return replace(one, stopped=None) if one.running and one.stopped else one


_REVISIONS: Final = {"revision": Integer(0, BEYOND - 1), "highest": Integer(0, BEYOND - 1)}
_CUT: Final = Printed(cut=True)
_TEXTS: Final = Some(Printed(), _MOST_ENTRIES)
_HEX: Final = JsonText(re.compile(r"[0-9a-f]{1,64}").fullmatch)
_HASHES: Final = Some(DIGEST, _MOST_ENTRIES)
_SET: Final = Some(DIGEST, _MOST_ENTRIES, frozenset)
_UNION: Final = Some(DIGEST, MOST_IN_UNION, frozenset)
_FOREIGN: Final = SomeByName(EVERY_DOMAIN.__contains__, Some(DIGEST, _MOST_ENTRIES, frozenset, least=1))

_CERTIFICATE: Final = ReportPart(
    CertificateReport,
    {
        "ca": Or(_CUT, ""),
        "state": Or(_CUT, ""),
        "not_after": JsonMember(MOMENT, null=True),
        "serial": _HEX,
        "issuer_key_id": _HEX,
        "served": _HASHES,
        "installed": JsonMember(MOMENT, null=True),
        "not_before": JsonMember(MOMENT, null=True),
        "renew_after": JsonMember(MOMENT, null=True),
    },
    must=["not_after"],
)
_CERTIFICATES: Final = SomeByName(lambda name: len(name) <= LONGEST_TEXT, _CERTIFICATE, _MOST_ENTRIES, printable)
_READER: Final = ReportPart(
    ReaderReport,
    {
        "started": JsonMember(MOMENT, null=True),
        "sha256": _SET,
        "running": FLAG,
        "healthy": FLAG,
        "problem": _CUT,
        "stopped": JsonMember(MOMENT, null=True),
    },
    # What is no start must not pass for a component that was not seen.
    also=_started_or_not,
)
_SEEN: Final = SomeByName(EVERY_DOMAIN.__contains__, _SeenPart(Seen, _REVISIONS), _MOST_ENTRIES)
_VERSIONS: Final = SomeByName(_COMPONENTS.__contains__, JsonText(kubernetes_versions.is_version))
_TOKEN_KEYS: Final = _TokenKeysPart(
    TokenKeysReport,
    {
        "seen": ReportPart(Seen, _REVISIONS),
        "own": SomeByName(_KEY_NUMBER.fullmatch, JsonText(lambda pem: len(pem) <= _LONGEST_PEM), _MOST_KEYS, int),
        "union": _UNION,
        "signing": DIGEST,
        "installed": JsonMember(MOMENT, null=True),
        "loaded_union": _UNION,
        "loaded_signing": DIGEST,
        "kube_apiserver": JsonMember(_READER, "reader"),
        "extends": JsonMember(BOOL, left_out=True),
        "longest": JsonMember(Integer(0, _LONGEST_LIFE), left_out=True),
        "shared": JsonMember(DIGEST, left_out=True),
        "admitted": JsonMember(BOOL, left_out=True),
        "shared_key": JsonMember(Printed(), left_out=True),
        "issuer": JsonMember(Printed(), left_out=True),
        "jwks_uri": JsonMember(Printed(), left_out=True),
    },
    must=["reader"],
)
_MOVE: Final = ReportPart(
    MoveReport,
    {
        "number": Integer(0, 999_999),
        "revision": Integer(0, BEYOND - 1),
        "servers": Some(JsonText(("old", "new").__contains__), 2),
        "error": _CUT,
        "ignores": JsonMember(JsonText(("", "old", "new").__contains__), left_out=True),
    },
)
_REPORT: Final = ReportPart(
    NodeReport,
    {
        "time": MOMENT,
        "agent": Printed(),
        "poll": Integer(1, _LONGEST_POLL),
        "look": JsonMember(Integer(1, LONGEST_LOOK), left_out=True),
        "trust": _HEX,
        "rotation": JsonMember(_SEEN, "seen"),
        "certificates": _CERTIFICATES,
        "bundles": SomeByName(
            EVERY_DOMAIN.__contains__,
            ReportPart(BundleReport, {"sha256": Or(_SET, frozenset()), "installed": MOMENT}),
            _MOST_ENTRIES,
        ),
        "readers": SomeByName(lambda name: len(name) <= LONGEST_TEXT, _READER, _MOST_ENTRIES, printable),
        "hooks": JsonMember(ReportPart(dict, {"owed": _TEXTS, "failed": _TEXTS, "waiting": _TEXTS}), spread=True),
        "pins": _HASHES,
        "failures": _TEXTS,
        "strangers": JsonMember(Some(_CUT, _MOST_ENTRIES), "untrusted"),
        "not_followed": JsonMember(SomeByName(EVERY_DOMAIN.__contains__, Integer(1, BEYOND - 1)), left_out=True),
        "lost_credentials": JsonMember(Integer(1, _MOST_LOST), "lost", left_out=True),
        # None if one of them is no accessor, since whoever reads them must know all.
        "credentials_in_use": JsonMember(Items(word(names.uuid), _MOST_IN_USE, doubles=True), "in_use", left_out=True),
        "kubernetes": JsonMember(_VERSIONS, left_out=True),
        "foreign_cas": JsonMember(_FOREIGN, "foreign", left_out=True),
        "foreign_cas_ignored": JsonMember(_FOREIGN, "foreign_ignored", left_out=True),
        "by_hand": JsonMember(_TEXTS, left_out=True),
        "written_pins": JsonMember(_HASHES, left_out=True),
        "adoption": JsonMember(ADOPTION, left_out=True),
        "token_keys": JsonMember(_TOKEN_KEYS, left_out=True),
        "surplus": JsonMember(_CERTIFICATES, left_out=True),
        "move": JsonMember(_MOVE, left_out=True),
    },
    version=True,
)

to_json = _REPORT.write
read = _REPORT.found


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
