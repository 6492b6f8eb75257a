"""The root CAs that this node trusts, in STATE/pins.json, from the first rotation of the root on.

    {"version": 1, "trusted": {SHA-256: PEM}, "parked": {SHA-256: PEM}, "former": [SHA-256],
     "given_up": [SHA-256 of a public key], "ignored": [SHA-256]}

agent.yaml names the root with which the node joined. What the node has learnt since is here, and counts as long as it
goes back to that root; a node without this file has that root alone. A join empties it but for `former`, since the
folders of the node are marked with one of these roots.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from vaultpki.certificates import ROOT
from vaultpki.disk import owner_mark
from vaultpki.disk.files import private_folder, read_private, write_private
from vaultpki.errors import CertificateUnreadable, StoreError
from vaultpki.issue.issuers import Issuers, certificates, roots_below
from vaultpki.issue.rotations import Rotations
from vaultpki.model import AgentConfig
from vaultpki.pki.roots import Roots
from vaultpki.values import names

PINS_FILE: Final = "pins.json"
_VERSION: Final = 1


def load(state: str) -> Roots | None:
    """Read the roots that a node has learnt, from its folder `state`; None if there is nothing that can be read."""
    try:
        value = _value(state)
        if value is None:
            return None
        given_up, former = _hashes(value.get("given_up", [])), _hashes(value["former"])
        # 0.2.0 knew one SHA-256 in agent.yaml, and no root that was given up came back by it. 0.3.0 left that file as
        # it was while nothing changed.
        ignored = _hashes(value["ignored"]) if "ignored" in value else former
        return Roots(tuple(_read(value["trusted"])), tuple(_read(value["parked"])), former, given_up, ignored)
    except (CertificateUnreadable, ValueError, KeyError, TypeError, AttributeError):
        return None


def save(config: AgentConfig, roots: Roots) -> None:
    """Write it in one step that survives a crash, unless it is what agent.yaml says. Raises StoreError."""
    before = load(config.state)
    plain = [facts.fingerprint for facts in (*roots.trusted, *roots.parked)] == [config.root_sha256]
    if roots == before or (before is None and plain and not roots.former):
        return
    _write(config.state, roots)


def forget(state: str, roots: Iterable[str] = ()) -> None:
    """Forget what the node has learnt, since it joins anew with another pin. Raises StoreError.

    `roots` are the SHA-256 of this pin and of a root that the node leaves for it, whose folders it keeps.
    """
    former = _every(state).union(roots)
    if former:
        _write(state, Roots((), former=former))


def _write(state: str, roots: Roots) -> None:
    value: dict[str, Any] = {
        "version": _VERSION,
        "trusted": {facts.fingerprint: facts.pem for facts in roots.trusted},
        "parked": {facts.fingerprint: facts.pem for facts in roots.parked},
        "former": sorted(roots.former),
        "given_up": sorted(roots.given_up),
        "ignored": sorted(roots.ignored),
    }
    private_folder(state)
    write_private(f"{state}/{PINS_FILE}", json.dumps(value).encode())


def follow(
    config: AgentConfig,
    issuers: Issuers,
    rotations: Rotations,
    highest: Mapping[str, int],
    now: datetime,
    held: Mapping[str, Sequence[str]],
) -> Roots:
    """Return the roots that count, by what the CA mounts and the record of the root's rotation show.

    `highest` are the highest revisions of the records that this node has read. `held` are the CAs that it trusted until
    now, as PEM by CA; of the roots only those that it had before it kept this file. Raises CertificateRefused as
    `roots.follow`.
    """
    known = load(config.state)
    if known is None:
        own = [facts for facts in certificates(held.get(ROOT, ())) if facts.fingerprint in every_pin(config)]
        own.sort(key=lambda facts: every_pin(config).index(facts.fingerprint))
        known = Roots(tuple(own[:1])) if own else None
    return roots_below(
        issuers,
        every_pin(config),
        rotations.records.get(ROOT),
        now,
        cluster=config.cluster,
        known=known,
        behind=rotations.frozen(ROOT, highest),
        held=held,
        views=rotations.views(highest, {}),
    )


def every_pin(config: AgentConfig) -> tuple[str, ...]:
    """Return each SHA-256 of a root in agent.yaml."""
    return (config.root_sha256, *config.further_roots)


def written(config: AgentConfig) -> tuple[str, ...]:
    """Return those SHA-256 of a list in agent.yaml that bring in a root; none of one SHA-256 alone."""
    known = load(config.state)
    ignored = known.ignored if known is not None else frozenset[str]()
    return tuple(sha256 for sha256 in every_pin(config) if sha256 not in ignored) if config.further_roots else ()


def holder(config: AgentConfig) -> owner_mark.DirectoryOwner:
    """Return the owner that this agent.yaml describes, with all roots that it has had."""
    owner = owner_mark.holder_of(config)
    return replace(owner, others=every(config.state, *every_pin(config)))


def every(state: str, *pins: str) -> frozenset[str]:
    """Return the SHA-256 of every root of the node, if one with these SHA-256 is or was one of them."""
    known = _every(state)
    return known if known.intersection(pins) else frozenset()


def roots_had(config: AgentConfig) -> tuple[str, ...]:
    """Return the SHA-256 of the roots that this node has had, those of agent.yaml first."""
    named = every_pin(config)
    return (*named, *every(config.state, *named))


def _every(state: str) -> frozenset[str]:
    try:
        value = _value(state) or {"trusted": {}, "parked": {}, "former": []}
        return _hashes(value["former"]).union(map(str, value["trusted"]), map(str, value["parked"]))
    except (KeyError, TypeError):
        return frozenset()


def _value(state: str) -> Mapping[str, Any] | None:
    try:
        value = json.loads(read_private(f"{state}/{PINS_FILE}") or b"null")
    except (StoreError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value.get("version") == _VERSION else None


def _hashes(value: Any) -> frozenset[str]:
    return frozenset(sha256 for sha256 in value if names.fits(sha256, names.sha256))


def _read(pems: Mapping[str, str]) -> Iterable[Any]:
    from vaultpki.pki import x509

    return [x509.read_certificates(pem.encode())[0] for pem in pems.values()]
