"""The bundles, kubeconfigs and templated files of a node: one file set in each folder, installed in one step.

`reconcile` has the order: new trust before any leaf that needs it, old trust removed after its last leaf. This module
says what a bundle holds in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Final

from vaultpki import assets
from vaultpki.agent.pairs import PairStatus, of_another, owner_of
from vaultpki.certificates import BUNDLES, ROOT, ca_subject, pair_files
from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import File
from vaultpki.errors import CertificateRefused, CertificateUnreadable, StoreError, TemplateError, VaultpkiError
from vaultpki.issue.bundles_and_kubeconfigs import (
    Site,
    bundle_files,
    bundle_text,
    keep_bundles,
    kubeconfig,
    leading,
    names_pair,
    user_file,
)
from vaultpki.issue.signing import KEY_MODE
from vaultpki.layout import TRUST_BUNDLES, TrustBundle, bundle_of, shown, trust_bundles
from vaultpki.model import AgentConfig, Certificate
from vaultpki.node.assignment import Assignment, SurplusPair
from vaultpki.pki import x509
from vaultpki.pki.chains import tops, trust_below, with_chains
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.trust import self_signed
from vaultpki.places import PKI, KubeconfigFile, Layout
from vaultpki.readers import CA_OF_BUNDLE as HOOKED
from vaultpki.readers import reads_roots

_UNREAD: Final = {"missing": "it is missing", "foreign": "this file was not made by vaultpki; move it away"}


def site_of(config: AgentConfig, endpoint: str) -> Site:
    """Return what this node's files name; raises StoreError if this machine lacks the owner of agent.yaml."""
    owners = {}
    for name, each in config.certificates.items():
        # The pair itself says which owner is missing.
        with contextlib.suppress(StoreError):
            owners[name] = owner_of(each.owner or config.owner)
    return Site(config.cluster, endpoint, config.layout, config.paths, owner_of(config.owner), owners)


def needed(config: AgentConfig, spec: Assignment) -> tuple[TrustBundle, ...]:
    """Return the bundles that this node has, those beside surplus pairs among them."""
    wanted = trust_bundles(config.layout, spec.roles, spec.certificates)
    beside = {pair.folder for pair in spec.surplus} - {PKI}
    every = TRUST_BUNDLES[config.layout]
    return tuple(each for each in every if each in wanted or each.folder in beside)


def with_outgoing(
    config: AgentConfig,
    folders: Folders,
    spec: Assignment,
    trust: Mapping[str, Trust],
    items: Iterable[PairStatus],
    now: datetime,
) -> Mapping[str, Trust]:
    """Return the trust with the CAs that leave the bundles only once this node's own leaves of theirs are replaced.

    In an emergency they leave at once.
    """
    wide = dict(trust)
    for item in items:
        ca, leaf, known = item.want.ca, item.leaf, wide[item.want.ca]
        if leaf is None or item.issuer is not None or leaf.not_after <= now or spec.rotations.at_once(ca):
            continue
        place = bundle_of(config.layout, ca)
        # A folder that cannot be read cannot be written either, so its bundle stays as it is.
        with contextlib.suppress(CertificateRefused, CertificateUnreadable, StoreError):
            held = x509.read_certificates(folders.read(place.folder, BUNDLES, [place.file])[place.file].data or b"")
            below = {facts.fingerprint for facts in (*known.issuing, *held)}
            above = tuple(_above(config, folders, ca))
            signers = [facts for facts in held if facts not in known.issuing and x509.signed_by(leaf, facts)]
            issuing = [facts.pem.encode() for facts in (*known.issuing, *signers)]
            name, root_name = ca_subject(config.cluster, ca), ca_subject(config.cluster, ROOT)
            shown = (*known.between, *known.tops)
            built = trust_below(
                issuing, known.roots, now, name=name, shown=(*shown, *above), root_name=root_name, held=below
            )
            wide[ca] = with_chains(replace(known, issuing=built.issuing), shown, above, root_name=root_name)
    return wide


def _above(config: AgentConfig, folders: Folders, ca: str) -> Iterator[Facts]:
    """Yield the certificates in the installed bundle of a CA that holds those above it too, where it can be read."""
    place = bundle_of(config.layout, ca, chain=True)
    with contextlib.suppress(CertificateUnreadable, StoreError):
        yield from x509.read_certificates(folders.read(place.folder, BUNDLES, [place.file])[place.file].data or b"")


def in_order(config: AgentConfig, trust: Mapping[str, Trust], items: Iterable[PairStatus]) -> Mapping[str, Trust]:
    """Return the trust in the order of the bundles: in kubeadm's layout the signer of the installed leaves is first.

    kubeadm checks leaves against the first certificate of ca.crt alone (cmd/kubeadm/app/phases/certs).
    """
    if config.layout is Layout.DOCUMENT:
        return trust
    leaves: dict[str, list[bytes]] = {}
    for item in items:
        stored = item.stored.get(pair_files(item.want.stem)[0])
        if stored is not None and stored.data is not None:
            leaves.setdefault(item.want.ca, []).append(stored.data)
    return {ca: leading(known, leaves.get(ca, ())) for ca, known in trust.items()}


@dataclass(frozen=True, slots=True)
class BundlesResult:
    """Whether anything changed, what failed by name, and whether an old kubeconfig was kept."""

    changed: bool
    failures: Mapping[str, VaultpkiError]
    kept: bool


def install(
    config: AgentConfig,
    folders: Folders,
    spec: Assignment,
    trust: Mapping[str, Trust],
    waiting: Collection[str] = (),
    *,
    prune: bool = False,
) -> BundlesResult:
    """Make the file sets what they should be, except for names that files of somebody else have.

    `waiting` names certificates that are not installed yet as they should be: an old kubeconfig that names another pair
    is kept until then. So is one that no certificate has any more, unless `prune` is true.
    """
    site = site_of(config, spec.endpoint)
    places = needed(config, spec)
    files = bundle_files(site, places, trust)
    unread = keep_bundles(site, folders, files, places)
    failures: dict[str, VaultpkiError] = {shown(folder, BUNDLES): error for folder, error in unread.items()}
    linked = [want for want in spec.certificates if want.kubeconfig and want.kubeconfig_file is KubeconfigFile.LINKED]
    own = files.setdefault(PKI, {})
    own |= {str(want.kubeconfig): kubeconfig(site, want) for want in linked}
    kept = _keep(folders, own, [want.kubeconfig for want in linked if want.name in waiting])
    try:
        own |= {} if prune else _of_kept_pairs(folders, site, spec)
    except StoreError as error:
        unread[PKI] = failures[shown(PKI, BUNDLES)] = error
    failures |= _add_templates(folders, own, site, spec, config.node)
    changed = False
    for folder, wanted in files.items():
        if folder in unread:
            continue
        for name in tuple(wanted):
            try:
                folders.refuse_taken(folder, BUNDLES, [name])
            except StoreError as error:
                failures[shown(folder, name)] = error
                del wanted[name]
        try:
            changed |= bool(wanted) and folders.install(folder, BUNDLES, wanted)
        except StoreError as error:
            failures[shown(folder, BUNDLES)] = error
    return BundlesResult(changed, failures, kept)


def _of_kept_pairs(folders: Folders, site: Site, spec: Assignment) -> dict[str, File]:
    """Return the installed kubeconfigs that name a pair of this node, and that stay as they are.

    One whose name no certificate or template has now stays with its pair. One whose name is taken stays only if it
    names a surplus pair of another certificate: from a pair that is wanted it can be made again.
    """
    surplus = {(pair.folder, pair.stem): pair for pair in spec.surplus}
    places = {*surplus, *((want.folder, want.stem) for want in spec.certificates)}
    takers: dict[str, Certificate | None] = {template.file: None for template in spec.templates}
    takers |= {want.kubeconfig: want for want in spec.certificates if want.kubeconfig}
    found = {}
    names = [name for name in folders.file_sets().get((PKI, BUNDLES), ()) if name.endswith(".conf")]
    for name, stored in folders.read(PKI, BUNDLES, names).items():
        data = stored.data or b""
        holders = [place for place in places if names_pair(data, site.paths[place[0]], place[1])]
        kept = [surplus[place] for place in holders if place in surplus]
        if any(_blocks(pair, takers[name]) for pair in kept) if name in takers else holders:
            found[name] = File(data, KEY_MODE, site.owner.uid, site.owner.gid)
    return found


def _blocks(pair: SurplusPair, taker: Certificate | None) -> bool:
    """Return whether a surplus pair keeps its kubeconfig from a certificate of that name; from a template it does."""
    if taker is None or pair.leaf is None:
        return taker is None or pair.name != taker.name
    return of_another(taker, pair.name, pair.leaf)


def _add_templates(
    folders: Folders, files: dict[str, File], site: Site, spec: Assignment, node: str
) -> dict[str, VaultpkiError]:
    """Add the user's own files to `files`; return what failed by name."""
    failures: dict[str, VaultpkiError] = {}
    stems = [*(want.stem for want in spec.certificates), *(pair.stem for pair in spec.surplus)]
    taken = {*files, *(name for stem in stems for name in pair_files(stem))}
    for template in spec.templates:
        try:
            files[template.file] = user_file(site, template, taken, node=node)
        except TemplateError as error:
            # A bad template removes neither the file that it made before nor any certificate.
            failures[f"template {template.name}"] = error
            if template.file not in taken and assets.plain_file_name(template.file):
                old = folders.read(PKI, BUNDLES, [template.file])[template.file].data
                if old is not None:
                    files[template.file] = File(old, KEY_MODE, site.owner.uid, site.owner.gid)
        else:
            taken.add(template.file)
    return failures


def _keep(folders: Folders, files: dict[str, File], names: Iterable[str | None]) -> bool:
    """Keep the installed content of these files; return whether one differs."""
    kept = False
    for name in filter(None, names):
        old = folders.read(PKI, BUNDLES, [name])[name].data
        if old is not None and old != files[name].data:
            files[name], kept = replace(files[name], data=old), True
    return kept


def distrusted(
    folders: Folders, bundles: Iterable[TrustBundle], ca: str, known: Trust
) -> tuple[TrustBundle, StoreError] | None:
    """Return why no leaf of this CA may be installed yet, with the installed bundle that does not hold its CA."""
    for each in bundles:
        if each.ca != ca or each.chain:
            continue
        try:
            held = folders.read(each.folder, BUNDLES, [each.file])[each.file].data or b""
        except StoreError as error:
            return each, error
        if not all(facts.pem.encode() in held for facts in known.live):
            return each, StoreError(
                f"{folders.paths[each.folder]}/{each.file}: it is not there with every CA of {ca}, so no certificate "
                "of that CA may come"
            )
    return None


def problems(
    config: AgentConfig,
    folders: Folders,
    spec: Assignment,
    trust: Mapping[str, Trust],
    items: Collection[PairStatus],
    now: datetime,
) -> Iterator[str]:
    """Yield a sentence for each bundle that is not as the last pass left it; the order of its certificates is free."""
    wanted = with_outgoing(config, folders, spec, trust, items, now)
    for each in needed(config, spec):
        known, path = wanted[each.ca], f"{folders.paths[each.folder]}/{each.file}"
        if not known.issuing:
            continue
        try:
            stored = folders.read(each.folder, BUNDLES, [each.file])[each.file]
        except StoreError as error:
            yield str(error)
            continue
        if stored.data is None:
            yield f"{path}: {_UNREAD.get(stored.problem or '', f'it cannot be read ({stored.problem})')}"
            continue
        if _in_any_order(stored.data) != _in_any_order(bundle_text(each, known).encode()):
            yield f"{path}: it does not hold the CAs of {each.ca} that this node trusts, and only those"


def odd_kubeconfigs(
    config: AgentConfig, folders: Folders, spec: Assignment, items: Iterable[PairStatus]
) -> Iterator[tuple[str, str]]:
    """Yield each certificate whose kubeconfig lies with the bundles and is not as it should be, and why in one word."""
    site = site_of(config, spec.endpoint)
    for item in items:
        want = item.want
        if not want.kubeconfig or want.kubeconfig_file is not KubeconfigFile.LINKED or not item.ready:
            continue
        stored = folders.read(PKI, BUNDLES, [want.kubeconfig])[want.kubeconfig]
        if stored.data is None:
            yield want.name, f"kubeconfig-{'missing' if stored.problem == 'missing' else 'unreadable'}"
        elif stored.data != kubeconfig(site, want).data:
            yield want.name, "kubeconfig-outdated"


def installed(folders: Folders, places: Iterable[TrustBundle]) -> dict[str, frozenset[str]]:
    """Return the SHA-256 of the certificates in the installed issuing-only bundles, by CA.

    A CA is missing if one of its bundles cannot be read or differs from another.
    """
    found: dict[str, set[frozenset[str]]] = {}
    for each in places:
        if not each.chain:
            found.setdefault(each.ca, set()).add(_held(folders, each))
    return {ca: next(iter(held)) for ca, held in found.items() if len(held) == 1 and all(held)}


def installed_roots(
    folders: Folders,
    places: Iterable[TrustBundle],
    trusted: frozenset[str],
    foreign: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> frozenset[str]:
    """Return the SHA-256 of the roots in the installed bundles that hold roots; `trusted` if this node has none such.

    `foreign` are the SHA-256 of foreign CAs by domain, which do not count, unless they are `trusted` roots. Empty if
    one of the bundles cannot be read or differs from another.
    """
    chains = [each for each in places if each.chain]
    found = {_held(folders, each, trusted, frozenset(foreign.get(each.ca, ())) - trusted) for each in chains} or {
        trusted
    }
    return next(iter(found)) if len(found) == 1 else frozenset()


def _held(
    folders: Folders, bundle: TrustBundle, pins: Collection[str] = (), foreign: Collection[str] = ()
) -> frozenset[str]:
    """Return the SHA-256 of an installed bundle's certificates, of one with roots only those; empty if it is unread.

    A root is self-signed, or one of `pins`, which may be an intermediate of a PKI outside. The root that signed a pin
    is none of this cluster's, and no certificate of `foreign` counts.
    """
    with contextlib.suppress(CertificateUnreadable, StoreError):
        data = folders.read(bundle.folder, BUNDLES, [bundle.file])[bundle.file].data or b""
        held = [facts for facts in x509.read_certificates(data) if facts.fingerprint not in foreign]
        if not bundle.chain:
            return frozenset(facts.fingerprint for facts in held)
        pinned = [facts for facts in held if facts.fingerprint in pins]
        ends = [facts for facts in held if facts not in pinned and self_signed(facts)]
        roots = [*pinned, *(facts for facts in ends if facts not in tops(pinned, ends))]
        return frozenset(facts.fingerprint for facts in roots)
    return frozenset()


@dataclass(frozen=True, slots=True)
class BundleDigest:
    """Digests of one CA's installed bundles: `read` of what the components read that its hooks restart, in any order.

    `whole` is of both bundles, as reports have it. `own` is `read` without foreign CAs.
    """

    read: str
    whole: str
    own: str = ""


def digests(
    folders: Folders, layout: Layout, foreign: Mapping[str, Collection[Facts]] = MappingProxyType({})
) -> dict[str, BundleDigest]:
    """Return the digests of the installed bundles of each CA, by the key that hooks have for them.

    `foreign` are the foreign CAs that the bundles hold, by CA.
    """
    found = {}
    for key, ca in HOOKED.items():
        place, chain = bundle_of(layout, ca), bundle_of(layout, ca, chain=True)
        issuing = both = b""
        with contextlib.suppress(StoreError):
            stored = folders.read(place.folder, BUNDLES, (place.file, chain.file))
            issuing = stored[place.file].data or b""
            both = b"".join(one.data or b"" for one in stored.values())
        read = both if reads_roots(key) else issuing
        if read:
            whole = both if layout is Layout.DOCUMENT else _in_any_order(both)
            own = read
            for facts in foreign.get(ca, ()):
                own = own.replace(facts.pem.encode(), b"")
            found[key] = BundleDigest(_digest(_in_any_order(read)), _digest(whole), _digest(_in_any_order(own)))
    return found


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:32]


def _in_any_order(data: bytes) -> bytes:
    """Return the certificates of bundles sorted: who trusts the same CAs in another order needs no restart."""
    end = b"-----END CERTIFICATE-----\n"
    return end.join(sorted(set(data.split(end))))
