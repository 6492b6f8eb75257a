"""Checks the bundles of CAs on disk: each holds the CAs that it is for, in whole chains, and no other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from vaultpki.certificates import ISSUING_CAS, pair_files
from vaultpki.errors import CertificateUnreadable
from vaultpki.layout import TRUST_BUNDLES, TrustBundle, client_cas, shown
from vaultpki.model import Row
from vaultpki.pki import chains, x509
from vaultpki.pki.chains import BundleParts, chain_up
from vaultpki.pki.facts import Facts
from vaultpki.pki.go_parser import unread_by_go
from vaultpki.pki.trust import in_date, no_ca_above, no_root
from vaultpki.places import ETCD, PKI, Layout
from vaultpki.verify import held_files
from vaultpki.verify.on_disk import Check, Holder, issuing_problem, read_bundle, tried

_PUBLIC: Final = 0o644


def needed_cas(holder: Holder, rows: Mapping[str, Row]) -> tuple[str, ...]:
    """Return the CAs whose bundles the holder needs: its own, its clients' and those of the servers it connects to."""
    needed: set[str] = set()
    for row in (rows[certificate.name] for certificate in holder.certificates):
        needed.add(row.ca)
        if row.usage.server:
            needed.update(client_cas(row, tuple(rows.values())))
        if row.usage.client:
            needed.update(other.ca for other in rows.values() if other.usage.server and other.source == row.target)
    return tuple(ca for ca in ISSUING_CAS if ca in needed)


def bundle_checks(holder: Holder, rows: Mapping[str, Row], now: datetime) -> Iterator[Check]:
    """Check the bundles of every CA that the holder needs, and of any other that is in its folders."""
    needed = needed_cas(holder, rows)
    read_in = {PKI, ETCD, *(certificate.folder for certificate in holder.certificates)}
    paths = {each: holder.at(each.folder) / each.file for each in TRUST_BUNDLES[holder.layout]}
    owned = held_files.odd_owners(paths.values())
    for each, path in paths.items():
        if (each.ca in needed and each.folder in read_in) or os.path.lexists(path):
            problems = [*_bundle_problems(holder, each, path, now), *filter(None, [owned.get(path)])]
            refusal = "; ".join(problems)
            yield tried(f"bundle of {each.ca}", "file", holder.name, shown(each.folder, each.file), refusal=refusal)


def _bundle_problems(holder: Holder, which: TrustBundle, path: Path, now: datetime) -> Iterator[str]:
    ca, root = which.ca, which.chain
    data, problems = held_files.read(path, _PUBLIC)
    yield from problems
    if data is None:
        return
    try:
        held = x509.read_certificates(data)
    except CertificateUnreadable as error:
        yield str(error)
        return
    if len(set(held)) != len(held):
        yield "holds a certificate twice"
    if data.decode("ascii", "replace") != "".join(facts.pem for facts in held):
        yield "is not the plain form that the agent writes: something else stands in it, or its lines end otherwise"
    yield from (f"holds {facts.subject_text}, which has {odd}" for facts in held if (odd := unread_by_go(facts)))
    yield from _foreign_problems(holder, ca, held)
    own = [facts for facts in held if facts not in holder.foreign.get(ca, ())]
    whole = holder.parts(ca)
    # A bundle of issuing CAs alone does not tell whether the root above is from outside.
    here = holder.split(own, ours=bool(whole.roots) and not whole.outside)
    above = here if here.roots else whole
    yield from _part_problems(holder, ca, here, above, now)
    if not any(facts.not_before <= now < facts.not_after for facts in here.issuing):
        yield "holds no issuing CA that is in date"
    if root and not here.roots:
        yield "lacks the root CA"
    if not root and here.between:
        yield "holds a CA above the issuing ones, so clients of every CA below that would be accepted"
    elif not root and here.roots:
        # Any certificate below the root would be accepted: a node's certificate would have full access to etcd.
        yield "holds the root CA, so clients of every other CA would be accepted"
    if holder.layout is Layout.KUBEADM and held[0] not in (_signers(holder, ca) or own):
        yield "does not begin with the CA that signed the certificates here, which kubeadm compares"


def _part_problems(holder: Holder, ca: str, here: BundleParts, above: BundleParts, now: datetime) -> Iterator[str]:
    """Yield what is wrong with the CAs of a bundle; `above` has those above its issuing CAs, here or in another one."""
    for facts in here.issuing:
        if problem := issuing_problem(facts, holder, ca, above):
            yield f"holds {facts.subject_text}, which is not an issuing CA of {ca}: {problem}"
    for facts in here.roots:
        if problem := no_ca_above(facts, signature=False) if here.outside else no_root(facts):
            yield f"holds {facts.subject_text}, which is not a root CA: {problem}"
    for facts in (*here.between, *(here.roots if here.outside else ())):
        if not in_date(facts, now):
            yield f"holds {facts.subject_text}, which is not in date (it ends on {facts.not_after:%Y-%m-%d %H:%M}Z)"
    if above.roots and any(not chain_up(facts, above.roots, above.between) for facts in here.issuing):
        yield (
            "holds an issuing CA from which no chain leads to a root here"
            if above.outside
            else "holds an issuing CA that its root did not sign"
        )
    needed = chains.above(here.issuing, here.between)
    # A root that takes the place of another one has no issuing CA below it at first.
    idle = chains.unused(here.roots, here.issuing, here.between)
    lower = [facts for facts in here.between if facts not in needed]
    if strange := [facts for facts in lower if not chain_up(facts, idle, here.between)]:
        yield f"holds {strange[0].subject_text}, which stands above no issuing CA of {ca}"


def _foreign_problems(holder: Holder, ca: str, held: Sequence[Facts]) -> Iterator[str]:
    for facts in holder.foreign.get(ca, ()):
        if facts not in held:
            yield (
                f"lacks {facts.subject_text}, which cluster.yaml has below ca.also_trust: its SHA-256 "
                f"{facts.fingerprint} is not in agent.yaml there, or nobody has written the files since"
            )


def _signers(holder: Holder, ca: str) -> set[Facts]:
    """Return the issuing CAs behind the holder's leaves of a CA."""
    paths = (holder.at(each.folder) / pair_files(each.stem)[0] for each in holder.certificates if each.ca == ca)
    return {facts for path in paths for facts in read_bundle(path)[1:2]}
