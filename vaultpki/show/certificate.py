"""Tells everything about one certificate, in words and as JSON: what it says, its key, where it is used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from vaultpki.certificates import ISSUING_CAS, ROOT, SERVICE_ACCOUNT, TABLE
from vaultpki.findings.nodes import time_left
from vaultpki.identity.by_serial import ServerCertificate
from vaultpki.kube.flags import FLAGS, Expect
from vaultpki.model import Row
from vaultpki.pki.facts import EKU, Facts, serial_text
from vaultpki.readers import READERS
from vaultpki.redact import printable, stamp
from vaultpki.show.node_table import Screen
from vaultpki.show.table import wrapped

_LABEL: Final = 12
_MOST_LINES: Final = 40
_CA_NAME: Final = re.compile(
    rf"(?:.*\bCN=)?\S+ ({'|'.join((ROOT, *ISSUING_CAS, SERVICE_ACCOUNT))}) CA(?: \d+)?(?:,.*)?"
)
_EKU_NAMES: Final = {oid: usage.value for usage, oids in EKU.items() if len(oids) == 1 for oid in oids}


@dataclass(frozen=True, slots=True)
class KeyBeside:
    """The private key of a certificate: where it lies, and whether it belongs to it; never what is in it.

    `matches` is None if that is not known, and `problem` says why.
    """

    path: str
    matches: bool | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Revocation:
    """Whether a certificate was revoked, and who says so: `source` is the rest of a sentence."""

    revoked: bool
    source: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownCertificate:
    """One certificate and where it was found.

    `rows` are the rows of the table that it may be of. `node` holds it, by the place of the file or by its report;
    `path` is its file and `mount` its mount on the server, each empty if it was not looked for there. `chain` is what
    stands after it in its file, or the CAs above it on the server. `revocation` is None if nobody was asked. `reasons`
    are those of `status`, and `wrong` says that they need attention.
    """

    facts: Facts
    rows: tuple[Row, ...] = ()
    node: str = ""
    path: str = ""
    mount: str = ""
    chain: tuple[Facts, ...] = ()
    key: KeyBeside | None = None
    kubeconfig: str = ""
    revocation: Revocation | None = None
    renew_after: datetime | None = None
    reasons: tuple[str, ...] = ()
    wrong: bool = False
    reported_by: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of its row; the subject if it is of none, or of several."""
        return " or ".join(row.name for row in self.rows) or self.facts.subject_text


def of_server(found: ServerCertificate) -> ShownCertificate:
    """Return what a server shows of a certificate."""
    revoked = found.revoked_at is not None
    return ShownCertificate(
        facts=found.facts,
        rows=found.rows,
        node=found.owner,
        mount=found.mount,
        chain=found.chain,
        revocation=Revocation(revoked, f"as {found.mount} shows it", found.revoked_at),
        reported_by=found.holders,
    )


def domain_of(subject: str) -> str:
    """Return the CA that a subject or a common name is of; empty if it has not the form of our CAs."""
    match = _CA_NAME.fullmatch(subject)
    return match[1] if match else ""


def certificate_lines(one: ShownCertificate, now: datetime, screen: Screen) -> Iterator[str]:
    """Yield the lines for people."""
    facts = one.facts
    title = f"{one.name} of {one.node}" if one.node else one.name
    yield from _line("certificate", title, screen)
    if one.path:
        yield from _line("file", one.path, screen)
    for use in _uses(one):
        yield from _line("what for", use["purpose"] or "it is in no row of the table of certificates", screen)
        if use["from"]:
            way = f"{use['from']} -> {use['to']}" if use["to"] else f"{use['from']}, as a server"
            yield from _line("from, to", way, screen)
        read = [f"{each['component']} ({each['setting']})" for each in use["read_by"] if each["setting"]]
        yield from _line("read by", ", ".join(read or [each["component"] for each in use["read_by"]]), screen)
    if one.kubeconfig:
        yield from _line("kubeconfig", one.kubeconfig, screen)
    yield from _line("subject", facts.subject_text, screen)
    yield from _line("names", ", ".join(facts.subject.dns), screen)
    yield from _line("addresses", ", ".join(facts.subject.ips), screen)
    yield from _line("also named", ", ".join(facts.further_names), screen)
    yield from _line("issuer", facts.issuer_text, screen)
    yield from _line("serial", serial_text(facts.serial), screen)
    yield from _line("SHA-256", facts.fingerprint, screen)
    verb = "expires" if facts.not_after > now else "expired"
    yield from _line("valid", f"{_time(facts.not_before)} to {_time(facts.not_after)}", screen)
    yield from _line("", f"it {verb} {time_left(facts.not_after - now)}", screen)
    if one.renew_after is not None:
        yield from _line("renewed", f"after {_time(one.renew_after)}", screen)
    yield from _line("key", _key_text(one), screen)
    yield from _line("usage", _usage_text(facts), screen)
    for number, above in enumerate(one.chain):
        yield from _line("" if number else "chain", f"{above.subject_text}, until {_time(above.not_after)}", screen)
    if not one.chain and not facts.is_ca:
        yield from _line("chain", "nothing stands after it in the file" if one.path else "its CA is gone", screen)
    yield from _line("revoked", _revoked_text(one), screen)
    if one.reported_by:
        yield from _line("reported by", ", ".join(one.reported_by), screen)
    if one.path and (one.reasons or not facts.is_ca):
        yield from _line("state", ", ".join(one.reasons) or "ok", screen)


def to_json(one: ShownCertificate, now: datetime) -> dict[str, Any]:
    """Return what `show --json` prints."""
    facts, key, revocation = one.facts, one.key, one.revocation
    return {
        "name": one.rows[0].name if len(one.rows) == 1 else None,
        "node": one.node or None,
        "path": one.path or None,
        "mount": one.mount or None,
        "used": _uses(one),
        "kubeconfig": one.kubeconfig or None,
        "subject": facts.subject_text,
        "common_name": facts.subject.common_name,
        "organization": list(facts.subject.organization),
        "dns": list(facts.subject.dns),
        "ips": list(facts.subject.ips),
        "further_names": list(facts.further_names),
        "issuer": facts.issuer_text,
        "serial": f"{facts.serial:x}",
        "sha256": facts.fingerprint,
        "not_before": stamp(facts.not_before),
        "not_after": stamp(facts.not_after),
        "seconds_left": int((facts.not_after - now).total_seconds()),
        "renew_after": stamp(one.renew_after) if one.renew_after else None,
        "ca": facts.is_ca,
        "key": {
            "type": facts.key.value if facts.key else None,
            "path": key.path if key else None,
            "matches": key.matches if key else None,
            "problem": key.problem or None if key else None,
        },
        "usage": sorted(_EKU_NAMES.get(oid, oid) for oid in facts.usages),
        "key_usage": sorted(facts.key_usage),
        "chain": [
            {
                "subject": each.subject_text,
                "serial": f"{each.serial:x}",
                "sha256": each.fingerprint,
                "not_after": stamp(each.not_after),
            }
            for each in one.chain
        ],
        "revoked": revocation.revoked if revocation else None,
        "revoked_at": stamp(revocation.at) if revocation and revocation.at else None,
        "reported_by": list(one.reported_by),
        "reasons": list(one.reasons),
        "ok": not one.wrong,
    }


def _uses(one: ShownCertificate) -> list[dict[str, Any]]:
    """Return where the certificate is used: an entry for each row that it may be of, or one for a CA."""
    if one.facts.is_ca:
        return [_use_of_ca(one.facts)]
    return [
        {
            "from": row.source,
            "to": None if row.target == "-" else row.target,
            "purpose": row.purpose,
            "read_by": _read_by(row),
        }
        for row in one.rows
    ]


def _read_by(row: Row) -> list[dict[str, str]]:
    flags = [flag for flag in FLAGS if flag.expect is Expect.CERTIFICATE and flag.of == row.name]
    if flags:
        return [{"component": flag.component, "setting": f"--{flag.name}"} for flag in flags]
    return [{"component": row.source, "setting": f"its kubeconfig {row.kubeconfig}" if row.kubeconfig else ""}]


def _use_of_ca(facts: Facts) -> dict[str, Any]:
    domain = domain_of(facts.subject.common_name)
    signs = ", ".join(row.name for row in TABLE if row.ca == domain)
    purpose = {ROOT: "Signs the issuing CAs of the cluster, and no other certificate.", "": ""}
    readers = [each for each in READERS if each.ca == domain or (domain == ROOT and each.chain)]
    return {
        "from": "",
        "to": None,
        "purpose": purpose.get(domain, f"Signs the certificates of the CA {domain}: {signs}."),
        "read_by": [{"component": each.component, "setting": each.setting} for each in readers],
    }


def _key_text(one: ShownCertificate) -> str:
    kind = one.facts.key.value if one.facts.key else "of a kind that vaultpki never makes"
    if one.key is None:
        return kind
    if one.key.matches is None:
        return f"{kind}; {one.key.path} {one.key.problem}"
    verdict = "belongs to this certificate" if one.key.matches else "belongs to another certificate"
    return f"{kind}; {one.key.path} {verdict}"


def _usage_text(facts: Facts) -> str:
    extended = sorted(_EKU_NAMES.get(oid, oid) for oid in facts.usages)
    words = "CA" if facts.is_ca else " and ".join(extended) or "any"
    return "; ".join(filter(None, (words, ", ".join(sorted(bit.replace("_", " ") for bit in facts.key_usage)))))


def _revoked_text(one: ShownCertificate) -> str:
    found = one.revocation
    if found is None:
        serial = f"{one.facts.serial:x}"
        return f"not known from files; `vaultpki show --serial {serial}` asks the server"
    since = f" since {_time(found.at)}" if found.at else ""
    return f"{'yes' if found.revoked else 'no'}{since}, {found.source}"


def _time(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S}Z"


def _line(label: str, text: str, screen: Screen) -> Iterator[str]:
    """Yield one field with its label; nothing if there is no text."""
    if not text:
        return
    parts: Sequence[str] = [printable(text)]
    if screen.width is not None:
        parts = wrapped(text, screen.width - _LABEL - 1, _MOST_LINES)
    for number, part in enumerate(parts):
        yield f"{'' if number else label:<{_LABEL}} {part}".rstrip()
