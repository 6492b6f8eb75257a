"""Checks of what lies on disk: each file of a holder is there, is whole, and says exactly what the table says."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from vaultpki import regular
from vaultpki.ca_rules import LEAF_CRITICAL, SANE_SIGNATURES, no_issuing_ca, no_root
from vaultpki.certificates import ISSUING_CAS, LEAF_BACKDATE, SKEW, bundle, ca_subject, chain_bundle, pair_files
from vaultpki.errors import CertificateUnreadable
from vaultpki.facts import EKU, Facts, same_names
from vaultpki.model import Certificate, Row
from vaultpki.values import dataclass

Verdict = Literal["accept", "refuse", "unchecked"]
Kind = Literal["file", "chain", "handshake", "vault"]

DENIED: Final = "cannot be read as this user; run as root"

_LARGEST: Final = 256 * 1024
_SECRET: Final = 0o600
_PUBLIC: Final = 0o644
_KEY_USAGE_OID: Final = "2.5.29.15"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried: what should have come of it, and what did.

    `source` and `target` are who presents and who judges: NODE/PAIR for the ends of a handshake, a file's name for
    what is read, a request for what a node asked of Vault. `got` is `unchecked` where this user may not read what
    should have been tried, which is never `ok`. `detail` says why something was refused or not tried, in words for a
    person.
    """

    name: str
    kind: Kind
    source: str
    target: str
    expect: Verdict
    got: Verdict
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A node or an operator: the folder of its files, and exactly the certificates that should lie there.

    `cluster` is the name that its CAs carry. `modes` gives the mode of a certificate's secret files, by the
    certificate's name, where it is not 0600. `found` are checks that failed, or could not be made, as the holder was
    looked for.
    """

    name: str
    folder: Path
    certificates: tuple[Certificate, ...]
    cluster: str
    modes: Mapping[str, int] = field(default_factory=dict)
    found: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class Laid:
    """One certificate of one holder as it lies on disk.

    `leaf` is None where the .crt file gives none, `no_key` says why there is no key: a sentence, or DENIED.
    """

    holder: Holder
    certificate: Certificate
    row: Row
    leaf: Facts | None
    no_key: str = ""

    @property
    def label(self) -> str:
        return f"{self.holder.name}/{self.certificate.name}"

    @property
    def crt(self) -> Path:
        return self.holder.folder / pair_files(self.certificate.stem)[0]

    @property
    def key(self) -> Path:
        return self.holder.folder / pair_files(self.certificate.stem)[1]


def tried(
    name: str,
    kind: Kind,
    source: str,
    target: str,
    *,
    good: bool = True,
    refusal: str,
    accepted: str = "",
) -> Check:
    """A check whose outcome is `refusal`: why it was refused, or the empty string where it was accepted.

    DENIED as the refusal means that it could not be made. `good` says whether it should have been accepted.
    """
    expect: Verdict = "accept" if good else "refuse"
    got: Verdict = "unchecked" if refusal == DENIED else "refuse" if refusal else "accept"
    return Check(name, kind, source, target, expect, got, got == expect, refusal or accepted)


def to_json(checks: Sequence[Check]) -> dict[str, Any]:
    """What `verify --json` prints, as the design fixes it."""
    return {
        "checks": [
            {
                "name": check.name,
                "kind": check.kind,
                "from": check.source,
                "to": check.target,
                "expect": check.expect,
                "got": check.got,
                "ok": check.ok,
                "detail": check.detail,
            }
            for check in checks
        ],
        "ok": all(check.ok for check in checks),
    }


def client_cas(server: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    """The CAs whose clients this server row lets in: those of the rows that are there to reach it.

    Rows of the user's own do not widen what the server of a built-in row trusts.
    """
    clients = [row for row in rows if row.usage.client and row.target == server.source]
    clients = [row for row in clients if row.built_in] or clients
    return tuple(dict.fromkeys(row.ca for row in clients))


def needed_cas(holder: Holder, rows: Mapping[str, Row]) -> tuple[str, ...]:
    """The CAs whose bundles the holder cannot do without: its own, its clients' and those of the servers it dials."""
    needed: set[str] = set()
    for row in (rows[certificate.name] for certificate in holder.certificates):
        needed.add(row.ca)
        if row.usage.server:
            needed.update(client_cas(row, tuple(rows.values())))
        if row.usage.client:
            needed.update(other.ca for other in rows.values() if other.usage.server and other.source == row.target)
    return tuple(ca for ca in ISSUING_CAS if ca in needed)


def read_bundle(path: Path) -> tuple[Facts, ...]:
    """The certificates of a bundle; none where the file is missing or no bundle."""
    from vaultpki import x509

    data, _ = _read(path, None)
    try:
        return x509.read_certificates(data) if data is not None else ()
    except CertificateUnreadable:
        return ()


def bundle_checks(holder: Holder, rows: Mapping[str, Row], now: datetime) -> Iterator[Check]:
    """Both bundles of every CA that the holder needs, and of any other that lies in its folder."""
    needed = needed_cas(holder, rows)
    for ca in ISSUING_CAS:
        for name, root in ((bundle(ca), False), (chain_bundle(ca), True)):
            path = holder.folder / name
            if ca in needed or os.path.lexists(path):
                refusal = "; ".join(_bundle_problems(holder, ca, path, root, now))
                yield tried(f"bundle of {ca}", "file", holder.name, name, refusal=refusal)


def pair_checks(holder: Holder, row: Row, certificate: Certificate, now: datetime) -> tuple[Laid, tuple[Check, ...]]:
    """The files of one pair at time `now`, and what the pair is for the checks that follow."""
    from vaultpki import x509

    names = crt_name, key_name, pem_name = pair_files(certificate.stem)
    secret = holder.modes.get(certificate.name, _SECRET)
    crt, crt_problems = _read(holder.folder / crt_name, _PUBLIC)
    key, key_problems = _read(holder.folder / key_name, secret)
    pem, pem_problems = _read(holder.folder / pem_name, secret)
    leaf: Facts | None = None
    if crt is not None:
        try:
            leaf, *issuers = x509.read_certificates(crt)
        except CertificateUnreadable as error:
            crt_problems.append(str(error))
        else:
            held = read_bundle(holder.folder / bundle(row.ca))
            issuing = tuple(facts for facts in held if _issuing_problem(facts, holder, row.ca) is None)
            crt_problems += _leaf_problems(leaf, certificate, now)
            if len(issuers) != 1 or issuers[0] not in issuing or x509.issuer_of(leaf, issuers) is None:
                crt_problems.append(f"is not the certificate followed by its issuing CA out of {bundle(row.ca)}")
    if key is not None:
        try:
            if leaf is None:
                x509.read_key(key)
            elif not x509.matches(key, leaf):
                key_problems.append(f"is not the key of {crt_name}")
        except CertificateUnreadable as error:
            key_problems.append(str(error))
    if pem is not None and crt is not None and key is not None and pem != key + crt:
        pem_problems.append(f"is not {key_name} followed by {crt_name}")
    found = list(zip(names, (crt_problems, key_problems, pem_problems), strict=True))
    if certificate.kubeconfig is not None:
        path = holder.folder / certificate.kubeconfig
        found.append((certificate.kubeconfig, _kubeconfig_problems(path, certificate, secret)))
    checks = tuple(
        tried(certificate.name, "file", holder.name, name, refusal="; ".join(problems)) for name, problems in found
    )
    no_key = "" if key is not None else DENIED if DENIED in key_problems else f"there is no key of {key_name}"
    return Laid(holder, certificate, row, leaf, no_key), checks


_LeafCheck = Callable[[Facts, Certificate, datetime], bool]

_LEAF: Final[tuple[tuple[str, _LeafCheck], ...]] = (
    ("carries names beside those of the table", lambda leaf, want, now: not leaf.further_names),
    ("is a CA", lambda leaf, want, now: not leaf.is_ca),
    ("has a critical extension that nobody asked for", lambda leaf, want, now: leaf.critical <= LEAF_CRITICAL),
    ("has a weak signature", lambda leaf, want, now: leaf.signature in SANE_SIGNATURES),
    ("has a key of another kind than asked for", lambda leaf, want, now: leaf.key is want.key),
    ("is not valid yet", lambda leaf, want, now: leaf.not_before <= now),
    ("has expired", lambda leaf, want, now: now < leaf.not_after),
    (
        "lives longer than asked for",
        lambda leaf, want, now: leaf.not_after - leaf.not_before <= timedelta(seconds=want.ttl + LEAF_BACKDATE + SKEW),
    ),
)


def _leaf_problems(leaf: Facts, want: Certificate, now: datetime) -> Iterator[str]:
    if not same_names(leaf.subject, want.subject):
        for what in ("common_name", "organization", "dns", "ips"):
            has, should = getattr(leaf.subject, what), getattr(want.subject, what)
            if (sorted(has) if isinstance(has, tuple) else has) != (
                sorted(should) if isinstance(should, tuple) else should
            ):
                yield f"{_WORDS[what]} is {_listed(has)}, should be {_listed(should)}"
    if leaf.usages != EKU[want.usage]:
        yield f"extended key usage is {_usage_words(leaf)}, should be {_USAGE_WORDS[want.usage.value]}"
    # RFC 5280, 4.2.1.3 and 4.2.1.12: key encipherment is for an RSA key's exchange, and so for servers only.
    rsa_server = want.usage.server and leaf.key is not None and leaf.key.rsa
    allowed = {"digital_signature", "key_encipherment"} if rsa_server else {"digital_signature"}
    if not {"digital_signature"} <= leaf.key_usage <= allowed or _KEY_USAGE_OID not in leaf.critical:
        yield "key usage is not digitalSignature, marked critical"
    yield from (problem for problem, good in _LEAF if not good(leaf, want, now))


_WORDS: Final = {"common_name": "CN", "organization": "O", "dns": "DNS SAN", "ips": "IP SAN"}
_USAGE_WORDS: Final = {"client": "clientAuth", "server": "serverAuth", "both": "clientAuth and serverAuth"}


def _usage_words(leaf: Facts) -> str:
    return _USAGE_WORDS[leaf.usage.value] if leaf.usage else ", ".join(sorted(leaf.usages)) or "absent"


def _listed(value: str | tuple[str, ...]) -> str:
    return json.dumps(value) if isinstance(value, str) else ", ".join(map(json.dumps, value)) or "none"


def _issuing_problem(facts: Facts, holder: Holder, ca: str) -> str | None:
    return no_issuing_ca(facts, ca_subject(holder.cluster, ca))


def _bundle_problems(holder: Holder, ca: str, path: Path, root: bool, now: datetime) -> Iterator[str]:
    from vaultpki import x509

    data, problems = _read(path, _PUBLIC)
    yield from problems
    if data is None:
        return
    try:
        held = x509.read_certificates(data)
    except CertificateUnreadable as error:
        yield str(error)
        return
    roots = [facts for facts in held if x509.issuer_of(facts, (facts,))]
    issuing = [facts for facts in held if facts not in roots]
    signers = roots or [
        facts for facts in read_bundle(holder.folder / chain_bundle(ca)) if x509.issuer_of(facts, (facts,))
    ]
    for facts in issuing:
        if problem := _issuing_problem(facts, holder, ca):
            yield f"holds {facts.subject_text}, which is no issuing CA of {ca}: {problem}"
    for facts in roots:
        if problem := no_root(facts):
            yield f"holds {facts.subject_text}, which is no root CA: {problem}"
    if not any(facts.not_before <= now < facts.not_after for facts in issuing):
        yield "holds no issuing CA that is in date"
    if root and not roots:
        yield "lacks the root CA"
    if signers and any(x509.issuer_of(facts, signers) is None for facts in issuing):
        yield "holds an issuing CA that its root did not sign"
    if not root and roots:
        # Any certificate below the root would pass: a node's certificate would be root on etcd's data.
        yield "holds the root CA, which lets in the clients of every other CA"


def _kubeconfig_problems(path: Path, certificate: Certificate, mode: int) -> list[str]:
    data, problems = _read(path, mode)
    if data is None:
        return problems
    import yaml

    crt_name, key_name, _ = pair_files(certificate.stem)
    try:
        config = yaml.safe_load(data)
        ((user,), (cluster,), (context,)) = (config["users"], config["clusters"], config["contexts"])
        files = [user["user"]["client-certificate"], user["user"]["client-key"]]
        files.append(cluster["cluster"]["certificate-authority"])
        server = str(cluster["cluster"]["server"])
        named = (context["context"]["user"], context["context"]["cluster"], context["name"])
        whole = named == (user["name"], cluster["name"], config["current-context"])
        paths = [Path(file) for file in files]
        extra = {*user["user"], *cluster["cluster"]} - _KUBECONFIG_KEYS
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, LookupError, TypeError, ValueError):
        return [*problems, "is not a kubeconfig of one cluster, one user and one context by file names"]
    if not whole:
        problems.append("its current context is not its user on its cluster")
    if [path.name for path in paths[:2]] != [crt_name, key_name]:
        problems.append(f"does not name {crt_name} and {key_name}")
    if paths[2].name not in (bundle(certificate.ca), chain_bundle(certificate.ca)):
        problems.append(f"does not name a bundle of the CA {certificate.ca}")
    if len({path.parent for path in paths}) != 1 or not paths[0].is_absolute():
        problems.append("does not name files of one folder by absolute paths")
    if not server.startswith("https://"):
        problems.append("its server is not an https URL")
    if extra:
        problems.append(f"holds {', '.join(sorted(map(str, extra)))}, which nothing renews or which weakens TLS")
    return problems


_KUBECONFIG_KEYS: Final = {"client-certificate", "client-key", "certificate-authority", "server"}


def _read(path: Path, mode: int | None) -> tuple[bytes | None, list[str]]:
    """The content of a holder's file, None where it cannot be had, and what is wrong with it.

    Links are followed as long as they stay in the folder, as those of the store do: a folder that somebody else has
    made must not show what lies elsewhere.
    """
    try:
        real = os.path.realpath(path)
        if not real.startswith(f"{os.path.realpath(path.parent).rstrip('/')}/"):
            return None, ["is a link that leads out of its folder"]
        data, about = regular.read(real, _LARGEST, follow=False)
    except FileNotFoundError:
        return None, ["is missing"]
    except PermissionError:
        return None, [DENIED]
    except IsADirectoryError:
        return None, ["is not a file"]
    except regular.NotRegular:
        return None, ["is a FIFO, a socket or a device"]
    except regular.TooLarge:
        return None, [f"is longer than {_LARGEST // 1024} KiB"]
    except OSError as error:
        return None, [f"cannot be read: {error.strerror}"]
    has = stat.S_IMODE(about.st_mode)
    return data, [] if mode is None or has == mode else [f"mode is {has:04o}, should be {mode:04o}"]
