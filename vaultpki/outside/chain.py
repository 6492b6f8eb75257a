"""Decides which CAs above the issuing ones leave a cluster: expired ones, and those that its owner names no more; pure.

A CA leaves only if everything below it has a way up without it, so no client loses a path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from vaultpki.pki.facts import Facts
from vaultpki.pki.trust import in_date
from vaultpki.pki.ways_up import Ends, ways_up
from vaultpki.values import der


@dataclass(frozen=True, slots=True)
class ChainChanges:
    """What becomes of the CAs above, by the names under which they were given.

    `leaving` are not named any more, and nothing needs them. `needed` are not named either, each with what is still
    below it. `renewed` are later certificates of named ones, which they stand for. `left_out` are named ones that have
    expired and that nothing needs.
    """

    leaving: tuple[str, ...] = ()
    needed: Mapping[str, tuple[str, ...]] | None = None
    renewed: Mapping[str, Facts] | None = None
    left_out: frozenset[str] = frozenset()


def changes(
    named: Mapping[str, Facts],
    extra: Mapping[str, Facts],
    lower: Mapping[str, Sequence[Facts]],
    anchor: Facts,
    now: datetime,
) -> ChainChanges:
    """Return what becomes of the CAs above: `named` by the cluster's owner, and `extra` ones that are there beside.

    `lower` are the certificates that need a way up to the root through `anchor`, by names for people.
    """
    kept = {name: facts for name, facts in {**named, **extra}.items() if in_date(facts, now)}
    left_out = {
        name
        for name, facts in named.items()
        if facts.not_after <= now and not _needing(facts, lower, kept.values(), anchor)
    }
    leaving, needed, renewed = list[str](), dict[str, tuple[str, ...]](), dict[str, Facts]()
    # Those that end first leave first: of two for one key the later one stays.
    for name, facts in sorted(extra.items(), key=lambda each: (each[1].not_after, each[0])):
        others = [each for other, each in kept.items() if other != name]
        older = next((each for each in named.values() if is_renewal(facts, each)), None)
        if older is not None:
            renewed[name] = older
        elif needing := _needing(facts, lower, others, anchor):
            needed[name] = needing
        else:
            leaving.append(name)
            kept.pop(name, None)
    return ChainChanges(tuple(leaving), needed, renewed, frozenset(left_out))


def is_renewal(facts: Facts, older: Facts) -> bool:
    """Return whether it is a later certificate than `older` for the same key and the same name, byte for byte."""
    later = facts.not_after > older.not_after and facts.public_key == older.public_key
    return later and der.certificate_parts(facts.der).subject == der.certificate_parts(older.der).subject


def _needing(
    facts: Facts, lower: Mapping[str, Sequence[Facts]], others: Iterable[Facts], anchor: Facts
) -> tuple[str, ...]:
    """Return what has no way up as good as now without this CA; `others` are the CAs above that stay."""
    rest, order = tuple(others), tuple(Ends)

    def reach(each: Facts, known: Sequence[Facts]) -> int:
        return order.index(ways_up(each, known, anchor)[0].ends)

    return tuple(
        name for name, cas in lower.items() if any(reach(each, (*rest, facts)) < reach(each, rest) for each in cas)
    )
