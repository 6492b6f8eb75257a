"""Checks files on disk: each file of a holder exists, is whole, and says exactly what the table says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

from vaultpki.certificates import ISSUING_CAS, LEAF_BACKDATE, ROOT, SKEW, ca_subject, pair_files
from vaultpki.errors import CertificateUnreadable
from vaultpki.layout import bundle_of, shown
from vaultpki.model import Certificate, Row
from vaultpki.pki import keys, x509
from vaultpki.pki.chains import BundleParts, parts
from vaultpki.pki.facts import EKU, Facts, same_names
from vaultpki.pki.go_parser import unread_by_go
from vaultpki.pki.trust import (
    LEAF_CRITICAL,
    SANE_SIGNATURES,
    fit_key_usage,
    no_issuing_ca,
)
from vaultpki.places import PKI, Layout
from vaultpki.verify import held_files
from vaultpki.verify.held_files import DENIED

Verdict = Literal["accept", "refuse", "unchecked"]
CheckKind = Literal["file", "chain", "handshake", "vault", "live"]

_SECRET: Final = 0o600
_PUBLIC: Final = 0o644

NOT_BY_BUNDLE: Final = "is not the certificate followed by its issuing CA from"
"""What is wrong with a pair whose CA is not in the bundle beside it, before the name of that."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: the expected outcome and the real one.

    `source` presents and `target` judges: NODE/PAIR for the ends of a handshake, a file's name for a file, what a node
    sent to Vault for a request. `got` is `unchecked` if this user may not read what is needed, and then `ok` is false;
    or if a part of a running cluster cannot be reached from here, and then `ok` is None. `detail` tells a person why
    something was refused or not checked.
    """

    name: str
    kind: CheckKind
    source: str
    target: str
    expect: Verdict
    got: Verdict
    ok: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Holder:
    """A node or an operator: the folder of its files, and exactly the certificates that it should contain.

    `cluster` is the name in its CAs' subjects. `places` are further folders by name. `modes` gives the mode of a
    certificate's secret files, by the certificate's name, if it is not 0600. `found` are checks that failed, or could
    not be made, during the search for holders. `foreign` are the foreign CAs that its bundles should hold too, by CA.
    `token_keys` is whether it should have service-account keys, None where no node of the cluster has its own.

    `embedded` says that kubeconfigs hold the pair itself; else they name files by one of `named`, each with the paths
    of all folders by name. `endpoint` is the URL of their server, and `server` that in plain files if it is another.
    """

    name: str
    folder: Path
    certificates: tuple[Certificate, ...]
    cluster: str
    modes: Mapping[str, int] = field(default_factory=dict)
    found: tuple[Check, ...] = ()
    layout: Layout = Layout.DOCUMENT
    places: Mapping[str, Path] = field(default_factory=dict)
    embedded: bool = False
    foreign: Mapping[str, tuple[Facts, ...]] = field(default_factory=dict)
    token_keys: bool | None = None
    endpoint: str = ""
    server: str = ""
    named: tuple[Mapping[str, str], ...] = ()

    def at(self, folder: str) -> Path:
        """Return the path of one of the folders by its name."""
        return self.places.get(folder, self.folder)

    def bundle(self, ca: str, folder: str = PKI, *, chain: bool = False) -> Path:
        """Return the bundle of a CA for a reader in one of the folders."""
        found = bundle_of(self.layout, ca, folder, chain=chain)
        return self.at(found.folder) / found.file

    def authorities(self) -> frozenset[Facts]:
        """Return the cluster's own certificates in the holder's bundles that hold roots too."""
        return frozenset(facts for ca in ISSUING_CAS for facts in self.own_cas(ca, chain=True))

    def own_cas(self, ca: str, folder: str = PKI, *, chain: bool = False) -> tuple[Facts, ...]:
        """Return the certificates in a bundle that are not those of foreign CAs, whatever names those have."""
        foreign = self.foreign.get(ca, ())
        return tuple(facts for facts in read_bundle(self.bundle(ca, folder, chain=chain)) if facts not in foreign)

    def parts(self, ca: str) -> BundleParts:
        """Return the parts of the chains of the cluster's own CAs in the bundle of a CA that holds roots too."""
        return self.split(self.own_cas(ca, chain=True))

    def split(self, held: Sequence[Facts], *, ours: bool = False) -> BundleParts:
        """Return the parts of the chains in such a bundle; `ours` says that the root was made for this cluster."""
        return parts(held, root_name=ca_subject(self.cluster, ROOT), ours=ours)

    def bundle_name(self, ca: str, *, chain: bool = False) -> str:
        """Return the name of a bundle of a CA in messages, by default of the issuing-only one."""
        found = bundle_of(self.layout, ca, chain=chain)
        return shown(found.folder, found.file)


@dataclass(frozen=True, slots=True)
class PairOnDisk:
    """One certificate of one holder as it is on disk.

    `leaf` is None if the .crt file has none; `no_key` says why there is no key: a sentence, or DENIED.
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
        return self.holder.at(self.certificate.folder) / pair_files(self.certificate.stem)[0]

    @property
    def key(self) -> Path:
        return self.holder.at(self.certificate.folder) / pair_files(self.certificate.stem)[1]


def tried(
    name: str,
    kind: CheckKind,
    source: str,
    target: str,
    *,
    good: bool = True,
    refusal: str,
    accepted: str = "",
) -> Check:
    """Return the check with the outcome `refusal`: why it was refused, or the empty string if it was accepted.

    The refusal DENIED means that the check could not be made. `good` says whether it should have been accepted.
    """
    expect: Verdict = "accept" if good else "refuse"
    got: Verdict = "unchecked" if refusal == DENIED else "refuse" if refusal else "accept"
    return Check(name, kind, source, target, expect, got, got == expect, refusal or accepted)


_JSON: Final = {"source": "from", "target": "to"}


def to_json(checks: Sequence[Check]) -> dict[str, Any]:
    """Return what `verify --json` prints; programs rely on it."""
    return {
        "checks": [{_JSON.get(key, key): value for key, value in asdict(check).items()} for check in checks],
        "ok": all(check.ok is not False for check in checks),
    }


def read_bundle(path: Path) -> tuple[Facts, ...]:
    """Read the certificates of a bundle; none if the file is missing or is not a bundle."""
    data, _ = held_files.read(path, None)
    try:
        return x509.read_certificates(data) if data is not None else ()
    except CertificateUnreadable:
        return ()


def pair_checks(
    holder: Holder, row: Row, certificate: Certificate, now: datetime
) -> tuple[PairOnDisk, tuple[Check, ...]]:
    """Check the files of one pair at time `now`, not its kubeconfig; return the pair, and the checks."""
    names = crt_name, key_name, pem_name = pair_files(certificate.stem)
    secret = holder.modes.get(certificate.name, _SECRET)
    folder = holder.at(certificate.folder)
    crt, crt_problems = held_files.read(folder / crt_name, _PUBLIC)
    key, key_problems = held_files.read(folder / key_name, secret)
    pem, pem_problems = held_files.read(folder / pem_name, secret)
    leaf: Facts | None = None
    if crt is not None:
        try:
            leaf, *issuers = x509.read_certificates(crt)
        except CertificateUnreadable as error:
            crt_problems.append(str(error))
        else:
            beside = holder.bundle(row.ca, certificate.folder)
            held = holder.own_cas(row.ca, certificate.folder)
            above = holder.parts(row.ca)
            issuing = tuple(facts for facts in held if issuing_problem(facts, holder, row.ca, above) is None)
            crt_problems += leaf_problems(leaf, certificate, now)
            crt_problems += dict.fromkeys(f"has {odd}" for facts in (leaf, *issuers) if (odd := unread_by_go(facts)))
            if not chain_fits(leaf, issuers, issuing, above.roots):
                crt_problems.append(f"{NOT_BY_BUNDLE} {beside.name}")
    if key is not None:
        try:
            if leaf is None:
                keys.read_key(key)
            elif not x509.matches(key, leaf):
                key_problems.append(f"is not the key of {crt_name}")
        except CertificateUnreadable as error:
            key_problems.append(str(error))
    if pem is not None and crt is not None and key is not None and pem != key + crt:
        pem_problems.append(f"is not {key_name} followed by {crt_name}")
    owned = held_files.odd_owners(folder / name for name in names)
    for name, problems in zip(names, (crt_problems, key_problems, pem_problems), strict=True):
        problems.extend(filter(None, [owned.get(folder / name)]))
    shown_names = [shown(certificate.folder, name) for name in names]
    found = list(zip(shown_names, (crt_problems, key_problems, pem_problems), strict=True))
    checks = tuple(
        tried(certificate.name, "file", holder.name, name, refusal="; ".join(problems)) for name, problems in found
    )
    no_key = "" if key is not None else DENIED if DENIED in key_problems else f"there is no key of {key_name}"
    return PairOnDisk(holder, certificate, row, leaf, no_key), checks


def chain_fits(leaf: Facts, behind: Sequence[Facts], issuing: Sequence[Facts], roots: Sequence[Facts]) -> bool:
    """Return whether the chain after the leaf is its issuing CA, or what is served while the root is rotated.

    That is the issuing CA, the CAs between it and the new root, the cross certificate of that, and the issuing CA's
    certificate of the old root; see `succession.chain`. Otherwise a CA between is not served: GnuTLS then refuses, with
    the issuing CA alone, what it takes without, which needs the issuer of the last served certificate in its bundle
    (tried with GnuTLS 3.7).
    """
    if not behind or behind[0] not in issuing or not x509.signed_by(leaf, behind[0]):
        return False
    keys = {root.public_key for root in roots}
    upper = list(behind[1:])
    if len(upper) > 1 and upper[-1] in issuing and x509.signed_by(leaf, upper[-1]):
        del upper[-1]
    if not upper:
        return True
    *middle, cross = upper
    linked = all(x509.signed_by(one, signer) for one, signer in pairwise([behind[0], *upper]))
    vouches = cross.public_key in keys and cross not in roots and bool(x509.issuer_of(cross, roots))
    return linked and vouches and keys.isdisjoint(facts.public_key for facts in middle)


def leaf_problems(leaf: Facts, want: Certificate, now: datetime) -> Iterator[str]:
    """Yield what differs between a certificate and what the table wants at time `now`."""
    if not same_names(leaf.subject, want.subject):
        for what, words in _WORDS.items():
            has, should = getattr(leaf.subject, what), getattr(want.subject, what)
            # Only the order of a tuple does not count.
            if has != should and (isinstance(has, str) or sorted(has) != sorted(should)):
                yield f"{words} is {_listed(has)}, should be {_listed(should)}"
    longest = timedelta(seconds=want.ttl + LEAF_BACKDATE + SKEW)
    usages = f"extended key usage is {_usage_words(leaf)}, should be {_USAGE_WORDS[want.usage.value]}"
    checks = (
        (leaf.usages != EKU[want.usage], usages),
        (not fit_key_usage(leaf, want.usage), "key usage is not digitalSignature, marked critical"),
        (leaf.further_names, "has names that are not in the table"),
        (leaf.is_ca, "is a CA"),
        (leaf.critical - LEAF_CRITICAL, "has a critical extension that was not requested"),
        (leaf.signature not in SANE_SIGNATURES, "has a weak signature"),
        (leaf.key is not want.key, "has a key of another type than requested"),
        (leaf.not_before > now, "is not valid yet"),
        (leaf.not_after <= now, "has expired"),
        (leaf.not_after - leaf.not_before > longest, "is valid for longer than requested"),
    )
    yield from (problem for fails, problem in checks if fails)


_WORDS: Final = {"common_name": "CN", "organization": "O", "dns": "DNS SAN", "ips": "IP SAN"}
_USAGE_WORDS: Final = {"client": "clientAuth", "server": "serverAuth", "both": "clientAuth and serverAuth"}


def _usage_words(leaf: Facts) -> str:
    return _USAGE_WORDS[leaf.usage.value] if leaf.usage else ", ".join(sorted(leaf.usages)) or "absent"


def _listed(value: str | tuple[str, ...]) -> str:
    return json.dumps(value) if isinstance(value, str) else ", ".join(map(json.dumps, value)) or "none"


def issuing_problem(facts: Facts, holder: Holder, ca: str, above: BundleParts) -> str | None:
    """Return why it is not an issuing CA of the holder's cluster below those CAs, as the rest of a sentence."""
    return no_issuing_ca(facts, ca_subject(holder.cluster, ca), outside=above.outside)
