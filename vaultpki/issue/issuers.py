"""Reads the issuers that Vault's CA mounts show, and decides which of them are trusted."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Final

from vaultpki.certificates import BUNDLES, ISSUING_CAS, MOST_ISSUERS, ROOT, ca_subject
from vaultpki.disk.folders import Folders
from vaultpki.errors import BadAnswer, CertificateUnreadable, Denied, Refused, StoreError
from vaultpki.layout import bundle_of
from vaultpki.pki import chains, roots
from vaultpki.pki.chains import trust_below, with_chains
from vaultpki.pki.facts import Facts, Trust, UntrustedCa
from vaultpki.pki.roots import Roots
from vaultpki.pki.succession import RotationView, trust_during_rotation
from vaultpki.pki.trust import self_signed, usability
from vaultpki.places import Layout
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.vault import Answer, Vault, shown_certificate, shown_request

# Of certificates that were shown before: five bundles of a cluster below a PKI outside have about twenty.
_MOST_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class Issuers:
    """The certificates that the CA mounts show, as PEM: those of each issuing CA by its name, and the root mount's.

    `defaults` are the SHA-256 of the default issuers by CA, "" for a mount that has none; a CA is missing if its mount
    does not say. `unshown` says, as the rest of a sentence, why a mount shows no issuer. `by_id` are the certificates
    that were just read, by CA and issuer id. `kept` are certificates that were shown before, among which CAs above the
    issuing ones may be.
    """

    issuing: Mapping[str, tuple[str, ...]]
    roots: tuple[str, ...]
    defaults: Mapping[str, str] = field(default_factory=dict)
    unshown: Mapping[str, str] = field(default_factory=dict)
    by_id: Mapping[tuple[str, str], str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()


def fetch_issuers(
    vault: Vault,
    prefix: str,
    named: Mapping[str, Collection[str]] = MappingProxyType({}),
    known: Mapping[tuple[str, str], str] = MappingProxyType({}),
    cas: Collection[str] = ISSUING_CAS,
    before: Issuers | None = None,
) -> Issuers:
    """Read the issuers of the cluster's CA mounts, those of the issuing CAs `cas`; Vault shows them without a token.

    Of more than MOST_ISSUERS on a mount it reads the default, those with an id or name in `named`, by CA, and the
    first of the others. `known` are certificates that were read before, as `by_id`: an issuer keeps its certificate for
    its whole life, so it is not read again. With `before` only the mounts of `cas` are asked, and the rest stays.
    Raises BadAnswer if the root's mount shows none.
    """
    mounts = {ca: f"{prefix}/{ca}" for ca in (*(() if before is not None else (ROOT,)), *cas)}
    listed = {ca: _listed(vault, mount) for ca, mount in mounts.items()}
    wanted = [
        (ca, name)
        for ca, answer in listed.items()
        if isinstance(answer, Answer)
        for name in _chosen(answer, named.get(ca, ()))
    ]
    # In turn over one connection: a thousand nodes would else make eight thousand TLS handshakes.
    unread = [each for each in wanted if each not in known]
    answers = vault.map(vault.call, [shown_request(mounts[ca], name) for ca, name in unread], width=1)
    read = {
        (ca, name): shown_certificate(mounts[ca], name, answer)
        for (ca, name), answer in zip(unread, answers, strict=True)
    }
    by_id = {each: read.get(each) or known[each] for each in wanted}
    found: dict[str, list[str]] = {ca: [] for ca in mounts}
    defaults: dict[str, str] = {}
    for (ca, name), pem in by_id.items():
        found[ca].append(pem)
        about = listed[ca].key_info  # type: ignore[union-attr]
        if any("is_default" in each for each in about.values()):
            defaults.setdefault(ca, "")
        if about.get(name, {}).get("is_default") is True:
            for facts in certificates(found[ca][-1:]):
                defaults[ca] = facts.fingerprint
    if before is None and not found[ROOT]:
        raise BadAnswer(f"{mounts[ROOT]} shows no issuer; run `vaultpki plan` where the cluster is applied")
    unshown = {ca: answer if isinstance(answer, str) else "it shows no issuer" for ca, answer in listed.items()}
    unshown = {ca: why for ca, why in unshown.items() if not found[ca]}
    issuing = {ca: tuple(found[ca]) for ca in cas}
    if before is None:
        return Issuers(issuing, tuple(found[ROOT]), defaults, unshown, by_id)
    defaults = {ca: each for ca, each in before.defaults.items() if ca not in cas} | defaults
    unshown = {ca: each for ca, each in before.unshown.items() if ca not in cas} | unshown
    return Issuers({**before.issuing, **issuing}, before.roots, defaults, unshown, {**known, **by_id})


def _listed(vault: Vault, mount: str) -> Answer | str:
    """The issuers of a mount; for an issuing CA's that is gone or closed the reason, as the rest of a sentence."""
    try:
        answer: Answer = vault.api.secrets.pki.list_issuers(mount_point=mount)
    except (Denied, Refused) as error:
        if mount.endswith(f"/{ROOT}"):
            raise
        # To a node's token a mount that is gone is a path that its policy does not name.
        return f"its issuers cannot be listed ({error})"
    return answer


def _chosen(listed: Answer, named: Collection[str]) -> tuple[str, ...]:
    about = listed.key_info

    def rank(name: str) -> int:
        mine = about.get(name, {})
        if mine.get("is_default") is True:
            return 0
        return 1 if name in named or mine.get("issuer_name") in named else 2

    return tuple(sorted(listed.keys, key=rank)[:MOST_ISSUERS])


def roots_below(
    issuers: Issuers,
    root_sha256: str | tuple[str, ...],
    record: RotationRecord | None,
    now: datetime,
    *,
    cluster: str,
    known: Roots | None = None,
    behind: bool = False,
    held: Mapping[str, Sequence[str]] = MappingProxyType({}),
    views: Mapping[str, RotationView] = MappingProxyType({}),
) -> Roots:
    """Return the roots of one with this pin; `record` is that of the root's rotation, `known` what it has learnt.

    Of several pins the owner has written the further ones beside the first, as in `roots.follow`.
    `behind` is as in `roots.follow`, `held` and `views` as in `follow`: a root is dropped or parked only if every
    domain keeps a CA that can be used. Raises as `roots.follow`.
    """

    def keeps(before: Roots, after: Roots) -> bool:
        first, then = (follow(issuers, held, views, above, now, cluster=cluster) for above in (before, after))
        return all(usability(then[ca].issuing, now) >= usability(first[ca].issuing, now) for ca in then)

    name = ca_subject(cluster, ROOT)
    pin, *further = (root_sha256,) if isinstance(root_sha256, str) else root_sha256
    shown = shown_roots(issuers)
    return roots.follow(pin, known, shown, record, now, name=name, behind=behind, keeps=keeps, further=further)


def shown_roots(issuers: Issuers) -> tuple[Facts, ...]:
    """Return the certificates on the root's mount that can be read."""
    return tuple(certificates(issuers.roots))


def trusts(
    issuers: Issuers,
    above: Roots,
    now: datetime,
    *,
    cluster: str,
    held: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> dict[str, Trust]:
    """Build each CA's trust: issuing CAs below a trusted root that have the name of this CA of `cluster`.

    Everything else that a mount shows is untrusted. `held` are the SHA-256 of issuing CAs, by CA, that are trusted
    already and stay when a CA above them expires.
    """
    shown = (*_shown(issuers, above), *_kept(issuers, above))
    return {
        ca: trust_below(
            [pem.encode() for pem in issuers.issuing[ca]],
            above.trusted,
            now,
            name=ca_subject(cluster, ca),
            parked=above.parked,
            shown=shown,
            root_name=ca_subject(cluster, ROOT),
            held=held.get(ca, ()),
        )
        for ca in issuers.issuing
    }


def follow(
    issuers: Issuers,
    held: Mapping[str, Sequence[str]],
    views: Mapping[str, RotationView],
    above: Roots,
    now: datetime,
    *,
    cluster: str,
) -> dict[str, Trust]:
    """Build each CA's trust from what the mounts show and what was trusted before (`held`, PEM by CA), by `views`.

    The word on a CA needs no `shown`, `held` and `default`: they are filled in here. The same rules apply to `held` as
    to what is shown, and what they refuse of it is not reported as untrusted. `held` of the root may have CAs above.
    """
    issuers = replace(issuers, kept=(*issuers.kept, *held.get(ROOT, ())))
    before = replace(issuers, issuing={ca: tuple(held.get(ca, ())) for ca in issuers.issuing})
    already = {ca: {facts.fingerprint for facts in certificates(pems)} for ca, pems in before.issuing.items()}
    shown = trusts(issuers, above, now, cluster=cluster, held=already)
    known = trusts(before, above, now, cluster=cluster, held=already)
    crosses = _served_crosses(issuers, above, views.get(ROOT, RotationView()))
    upper = _shown(issuers, above), _kept(issuers, above)
    found = {}
    for ca, trust in shown.items():
        fit = {*trust.issuing, *known[ca].issuing}
        issuing = tuple(sorted(fit, key=lambda facts: (facts.not_before, facts.serial), reverse=True))
        view = replace(
            views.get(ca, RotationView()),
            shown=frozenset(facts.fingerprint for facts in trust.issuing),
            held=frozenset(facts.fingerprint for facts in known[ca].issuing),
            default=issuers.defaults.get(ca),
        )
        during = trust_during_rotation(replace(trust, issuing=issuing, crosses=crosses), view, now)
        found[ca] = with_chains(during, *upper, root_name=ca_subject(cluster, ROOT))
    return found


def _shown(issuers: Issuers, above: Roots) -> tuple[Facts, ...]:
    """Return the certificates on all mounts, among which CAs above are looked for: an import may put them on any."""
    pems = (*issuers.roots, *(pem for pems in issuers.issuing.values() for pem in pems))
    return _not_given_up(pems, above)


def _kept(issuers: Issuers, above: Roots) -> tuple[Facts, ...]:
    return _not_given_up(tuple(dict.fromkeys(issuers.kept))[:_MOST_KEPT], above)


def _not_given_up(pems: Iterable[str], above: Roots) -> tuple[Facts, ...]:
    # The key of a root that was given up may be a thief's, and a parked one is not trusted now.
    refused = {*above.given_up, *map(roots.key_id, above.parked)}
    return tuple(facts for facts in certificates(dict.fromkeys(pems)) if roots.key_id(facts) not in refused)


def _served_crosses(issuers: Issuers, above: Roots, view: RotationView) -> tuple[Facts, ...] | None:
    """Return the cross certificates that are served: clients that hold the old root alone verify the new one's CAs."""
    if view.frozen:
        return None
    if view.record is None or view.record.state not in (State.SWITCHED, State.RETRUSTING):
        return ()
    return roots.crosses(above, shown_roots(issuers))


def installed_bundles(folders: Folders, layout: Layout) -> dict[str, str]:
    """Read the issuing-only bundles of a node or operator, as text by CA; those that cannot be read are left out."""
    found = {}
    for ca in ISSUING_CAS:
        name, folder = bundle_of(layout, ca).file, bundle_of(layout, ca).folder
        with contextlib.suppress(StoreError, UnicodeDecodeError):
            found[ca] = (folders.read(folder, BUNDLES, [name])[name].data or b"").decode("ascii")
    return {ca: text for ca, text in found.items() if text}


def installed_roots(folders: Folders, layout: Layout) -> Iterator[str]:
    """Yield the certificates in the installed bundles that hold roots, as PEM, where they can be read."""
    from vaultpki.pki import x509

    for ca in ISSUING_CAS:
        place = bundle_of(layout, ca, chain=True)
        with contextlib.suppress(StoreError, CertificateUnreadable):
            held = folders.read(place.folder, BUNDLES, [place.file])[place.file].data
            yield from (facts.pem for facts in x509.read_certificates(held or b""))


def untrusted_cas(
    issuers: Issuers, trust: Mapping[str, Trust], above: Roots, record: RotationRecord | None, cluster: str
) -> Iterator[tuple[str, UntrustedCa]]:
    """Yield the name of each CA with each certificate on its mount that is not trusted there, the root mount included.

    `record` is that of the root's rotation. At most MOST_ISSUERS for each CA: a hostile server can put any number of
    certificates into one issuer.
    """
    shown, name = shown_roots(issuers), ca_subject(cluster, ROOT)
    # What stands above a pinned intermediate is in no chain of ours, and is expected beside it.
    over = chains.above([root for root in above.trusted if not self_signed(root)], shown)
    known_cas = {facts for known in trust.values() for facts in (*known.between, *known.tops)}.union(over)
    # The CAs of a new root from outside are there before this node takes it, those of an old one a little longer.
    sides = {ca.sha256 for ca in (record.old, record.new) if ca is not None} if record is not None else set()
    for facts in (each for each in shown if each.fingerprint in sides):
        known_cas |= {*chains.between(shown, (facts,), root_name=name), *chains.tops((facts,), shown)}
    strange = roots.untrusted_roots(above, shown, record, name=name, chains=known_cas)
    for facts in strange[:MOST_ISSUERS]:
        yield ROOT, UntrustedCa(facts.subject_text, facts.fingerprint, "it is not the pinned root CA")
    for ca, known in trust.items():
        for each in known.untrusted[:MOST_ISSUERS]:
            yield ca, each


def certificates(pems: Iterable[str]) -> Iterator[Facts]:
    """Yield the first certificate of each PEM that can be read."""
    from vaultpki.pki import x509

    for pem in pems:
        with contextlib.suppress(CertificateUnreadable):
            yield x509.read_certificates(pem.encode())[0]
