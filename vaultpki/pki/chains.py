"""Builds the chains from an issuing CA up to a root, over the CAs between them, and the trust that follows; pure.

The root of a cluster may be outside, and signs through CAs of its owner. A server shows those as it shows any issuer,
and is believed nothing about them. A CA between counts only by signatures that are verified from the pinned root down,
and it is never an issuing CA of a domain: those have a path length of 0, and one between has another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Final

from vaultpki.errors import CertificateUnreadable
from vaultpki.pki.facts import Facts, Trust, UntrustedCa
from vaultpki.pki.trust import in_date, named, no_ca_above, no_issuing_ca, self_signed, signed_by

MOST_BETWEEN: Final = 5
"""How many CAs may stand between an issuing CA and the pinned root; a corporate PKI has one or two."""

LARGEST: Final = 16 * 1024
"""The most bytes of DER of a CA above ours; one with an RSA-8192 key and signature has 3 KiB."""

_NOT_SIGNED: Final = "it was not signed by the cluster's root CA"
_NO_CHAIN: Final = "no chain of CAs that may sign leads from it to the pinned root CA"


def between(shown: Iterable[Facts], roots: Sequence[Facts], *, root_name: str = "") -> tuple[Facts, ...]:
    """Return those of `shown` that may stand between an issuing CA and one of `roots`, the upper ones first.

    It begins at the roots, so a signature by a key that none of them vouches for costs one look at a name. Cross
    certificates are left out, which have the key of one of the roots, or the `root_name` of a root that was made for
    this cluster: they vouch for a root, and `roots.successors` judges that. Below such a root nothing stands between:
    it signs the issuing CAs itself.
    """
    keys = {root.public_key for root in roots}
    left = [
        facts
        for facts in dict.fromkeys(shown)
        if facts.public_key not in keys and not (root_name and named(facts, root_name))
        if len(facts.der) <= LARGEST and no_ca_above(facts) is None
    ]
    found: list[Facts] = []
    upper = [root for root in roots if not (root_name and named(root, root_name))]
    for _ in range(MOST_BETWEEN):
        upper = [facts for facts in left if any(_signed(facts, each) for each in upper)]
        left = [facts for facts in left if facts not in upper]
        found += upper
    return tuple(found)


def chain_up(
    facts: Facts, roots: Sequence[Facts], between: Sequence[Facts] = (), now: datetime | None = None
) -> tuple[Facts, ...]:
    """Return the CAs above a certificate, its signer first and one of `roots` last; none if no chain leads there.

    `between` are as the function of that name returns them. It is the shortest chain in which every path length is
    kept; with `now` every CA between is in date, too.
    """
    usable = [each for each in between if now is None or in_date(each, now)]
    chains: list[tuple[Facts, ...]] = [()]
    # So many CAs are below the next one: the certificate itself if it is a CA, and those that the chain has already.
    for below in range(int(facts.is_ca), int(facts.is_ca) + MOST_BETWEEN + 1):
        longer: dict[Facts, tuple[Facts, ...]] = {}
        for chain in chains:
            last = chain[-1] if chain else facts
            for root in roots:
                if _allows(root, below) and _signed(last, root):
                    return (*chain, root)
            for each in usable:
                if each not in longer and _allows(each, below) and _signed(last, each):
                    longer[each] = (*chain, each)
        # A CA that is met again has more CAs below it then.
        usable = [each for each in usable if each not in longer]
        chains = list(longer.values())
    return ()


def above(issuing: Iterable[Facts], between: Sequence[Facts]) -> tuple[Facts, ...]:
    """Return those of `between` that stand in some chain above the issuing CAs, the nearest first.

    A CA that was renewed with its key stands there twice, as both certificates.
    """
    found: list[Facts] = []
    lower = list(issuing)
    while lower:
        lower = [each for each in between if each not in found and any(_signed(one, each) for one in lower)]
        found += lower
    return tuple(found)


def tops(roots: Sequence[Facts], shown: Iterable[Facts]) -> tuple[Facts, ...]:
    """Return the self-signed CAs of `shown` that signed a root that is not self-signed itself: a pinned intermediate.

    Clients built on OpenSSL take no other end of a chain. The key verifies the signature on the pinned certificate, and
    `keys.fit_above` leaves no room for another key that does so. What stands above a CA that is not pinned cannot be
    verified, so with a further CA between the pin and the root no root is found.
    """
    return tuple(
        facts
        for facts in dict.fromkeys(shown)
        if facts not in roots
        and len(facts.der) <= LARGEST
        and no_ca_above(facts, signature=False) is None
        and any(_signed(root, facts) and not self_signed(root) for root in roots)
        and self_signed(facts)
    )


def with_chains(known: Trust, shown: Sequence[Facts], kept: Sequence[Facts], *, root_name: str) -> Trust:
    """Return the trust with the CAs above its issuing CAs, among those that the server shows now.

    A root from outside that has no issuing CA below it yet comes with all CAs between: whoever reads a bundle only when
    it starts must have them before the first leaf is below them. Those of `kept`, which were there before, come only
    where a chain or its end would be missing: a CA above that a server does not show any more is missing in no file,
    and one that was replaced leaves the files.
    """
    middle: tuple[Facts, ...] = ()
    for candidates in (shown, (*shown, *kept)):
        middle = above(known.issuing, between(candidates, known.roots, root_name=root_name))
        if all(chain_up(facts, known.roots, middle) for facts in known.issuing):
            break
    idle = _idle(known, shown, middle, root_name) or _idle(known, kept, middle, root_name)
    middle = (*middle, *idle)
    return replace(known, between=middle, tops=tops(known.roots, shown) or tops(known.roots, kept))


def _idle(known: Trust, shown: Iterable[Facts], middle: Sequence[Facts], root_name: str) -> tuple[Facts, ...]:
    """Return the CAs between below those roots from outside that have no issuing CA, the lower ones first."""
    if all(named(root, root_name) for root in known.roots):
        return ()
    roots = {root for root in unused(known.roots, known.issuing, middle) if not named(root, root_name)}
    if not roots:
        return ()
    found = between(shown, known.roots, root_name=root_name)
    lower = [facts for facts in reversed(found) if facts not in middle]
    return tuple(facts for facts in lower if roots & {*chain_up(facts, known.roots, found)})


def unused(roots: Sequence[Facts], issuing: Iterable[Facts], between: Sequence[Facts]) -> tuple[Facts, ...]:
    """Return the roots to which no chain of these issuing CAs leads, as of one that takes the place of another."""
    used = {facts for each in issuing for facts in chain_up(each, roots, between)}
    return tuple(root for root in roots if root not in used)


@dataclass(frozen=True, slots=True)
class BundleParts:
    """What a bundle for clients holds, by its place in a chain: issuing CAs, CAs between, and the ends of the chains.

    `roots` are self-signed, or CAs that none of the others signed. `outside` says that none of them was made for this
    cluster.
    """

    issuing: tuple[Facts, ...]
    between: tuple[Facts, ...]
    roots: tuple[Facts, ...]
    outside: bool


def parts(held: Sequence[Facts], *, root_name: str, ours: bool = False) -> BundleParts:
    """Split what a bundle for clients holds; `root_name` is the name of a root that was made for this cluster.

    `ours` says that the cluster has such a root, though this bundle may not hold it. It judges no chain: a certificate
    that is no CA counts as an issuing one.
    """
    roots = tuple(facts for facts in held if self_signed(facts))
    if ours or any(named(facts, root_name) for facts in roots):
        # Beside a root of ours, CAs of one from outside stand there while the one takes the place of the other.
        rest = [facts for facts in held if facts not in roots]
        upper = [facts for facts in rest if no_ca_above(facts) is None]
        foreign = [root for root in roots if not named(root, root_name)]
        middle = above([facts for facts in rest if facts not in upper], upper)
        # They are there before an issuing CA is below them.
        middle = (*middle, *(facts for facts in upper if facts not in middle and chain_up(facts, foreign, upper)))
        return BundleParts(tuple(facts for facts in rest if facts not in middle), middle, roots, outside=False)
    upper = [facts for facts in held if facts not in roots and no_ca_above(facts) is None]
    roots = roots or tuple(facts for facts in upper if not any(_signed(facts, each) for each in upper))
    middle = tuple(facts for facts in upper if facts not in roots)
    issuing = tuple(facts for facts in held if facts not in (*middle, *roots))
    return BundleParts(issuing, middle, roots, outside=bool(roots))


def trust_below(
    issuing_pems: Sequence[bytes],
    roots: Sequence[Facts],
    now: datetime,
    *,
    name: str,
    parked: Sequence[Facts] = (),
    shown: Sequence[Facts] = (),
    root_name: str = "",
    held: Collection[str] = (),
) -> Trust:
    """Build the trust in one CA from what its mount shows: issuing CAs with the CN `name`, below one of `roots`.

    `name` is what `certificates.ca_subject` gives; the CN of a later key has a number after it. If no issuing CA is in
    date, none is live. Everything else is reported as untrusted and raises nothing: whoever may write to the mount must
    not be able to stop a node. A CA below a root of `parked` is not trusted, and is not reported as untrusted.

    `shown` are certificates among which CAs between and above are looked for. `root_name` is the name of a root that
    was made for this cluster; one of another name is from outside. `held` are the SHA-256 of issuing CAs that stay
    although a CA above them is out of date.
    """
    from vaultpki.pki import x509

    middle = between(shown, (*roots, *parked), root_name=root_name)
    fit: set[Facts] = set()
    untrusted: dict[str, UntrustedCa] = {}
    for pem in issuing_pems:
        try:
            found = x509.read_certificates(pem)
        except CertificateUnreadable:
            unreadable = sha256(pem).hexdigest()
            untrusted[unreadable] = UntrustedCa("a certificate", unreadable, "it cannot be read")
            continue
        for facts in found:
            at = None if facts.fingerprint in held else now
            whys = [why_untrusted(facts, root, name, middle, root_name=root_name, now=at) for root in roots]
            if None in whys:
                fit.add(facts)
            elif all(why_untrusted(facts, root, name, middle, root_name=root_name) for root in parked):
                # The word of the root that signed it, if one did.
                why = next((str(why) for why in whys if why not in (_NOT_SIGNED, _NO_CHAIN)), str(whys[0]))
                untrusted[facts.fingerprint] = UntrustedCa(facts.subject_text, facts.fingerprint, why)
    ordered = tuple(sorted(fit, key=lambda facts: (facts.not_before, facts.serial), reverse=True))
    live = tuple(facts for facts in ordered if in_date(facts, now))
    over, ends = above(ordered, middle), tops(roots, shown)
    # An import of a whole chain leaves these on the mount of the issuing CA.
    beside = {*over, *ends, *(root for root in roots if root_name and not named(root, root_name))}
    for facts in beside:
        untrusted.pop(facts.fingerprint, None)
    return Trust(
        roots[0],
        ordered,
        live,
        tuple(untrusted.values()),
        signers=live,
        further_roots=tuple(roots[1:]),
        between=over,
        tops=ends,
    )


def why_untrusted(
    facts: Facts,
    root: Facts,
    name: str,
    between: Sequence[Facts] = (),
    *,
    root_name: str = "",
    now: datetime | None = None,
) -> str | None:
    """Return why it is not an issuing CA called `name` below this root, as the rest of a sentence; None if it is one.

    The dates of the CA itself and of the root are not checked; with `now` those of the CAs between are.
    """
    if facts == root:
        return "it is the root CA, which belongs on its own mount alone"
    outside = bool(root_name) and not named(root, root_name)
    if not chain_up(facts, (root,), between):
        return _NO_CHAIN if outside else _NOT_SIGNED
    if now is not None and not chain_up(facts, (root,), between, now):
        late = next((each for each in chain_up(facts, (root,), between) if not in_date(each, now)), root)
        return f"{late.subject_text}, which stands above it, is not in date"
    return no_issuing_ca(facts, name, outside=outside)


def _signed(facts: Facts, issuer: Facts) -> bool:
    return facts.issuer_text == issuer.subject_text and signed_by(facts, issuer)


def _allows(facts: Facts, below: int) -> bool:
    """Return whether so many CAs may stand below it; Go counts every one (crypto/x509, TooManyIntermediates)."""
    return facts.path_length is None or facts.path_length >= below
