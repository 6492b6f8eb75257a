"""What a pass knows before Vault is asked: the copy of its last answer on the disk, and what follows from that."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from vaultpki.agent import ca_trust, pairs
from vaultpki.agent.context import Context
from vaultpki.agent.pairs import PairFiles, PairStatus
from vaultpki.errors import CertificateRefused, CertificateUnreadable
from vaultpki.node import assignment, credential
from vaultpki.node.assignment import Assignment
from vaultpki.node.at_rest import AtRest
from vaultpki.node.procedures import records_of
from vaultpki.pki.facts import Trust


@dataclass(frozen=True, slots=True)
class Known:
    """The copy of Vault's last answer; the trust that follows from it and the pairs, if they tell whether to ask Vault.

    `enough` is whether Vault need not be asked: its answer is recent, and nothing is due. `rest` is with what one
    request may be enough, None if the pass has to look at everything. `on_disk` are the files of all pairs.
    """

    copy: Assignment | None
    rest: AtRest | None = None
    on_disk: tuple[PairFiles, ...] = ()
    trust: Mapping[str, Trust] | None = None
    items: tuple[PairStatus, ...] = ()
    enough: bool = False


def from_disk(context: Context) -> Known:
    """Return what the disk says; asks nobody."""
    copy = assignment.copy(context.config, records_of(context.options.procedures))
    if copy is None:
        return Known(None)
    fresh, rest = copy.fresh(context.clock, context.age), _rest(context)
    if fresh or rest is not None:
        # A copy whose CAs have expired meanwhile says nothing.
        with contextlib.suppress(CertificateRefused, CertificateUnreadable):
            trust = trust_now(context, copy)
            on_disk = pairs.read(context.folders, copy.certificates)
            items = compare(context, on_disk, trust, context.options.force)
            return Known(copy, rest, on_disk, trust, items, fresh and not any(item.wants_signing for item in items))
    return Known(copy)


def _rest(context: Context) -> AtRest | None:
    """Return what this pass may poll with; None if it has to look at everything, such as for a person who asks."""
    rest, config = context.options.rest, context.config
    if rest is None or not context.options.share or not rest.holds(config, context.clock, context.began):
        return None
    return rest if credential.in_place(config) else None


def trust_now(context: Context, answer: Assignment) -> Mapping[str, Trust]:
    """Return the trust in each CA by an answer of Vault. Raises CertificateRefused, as `ca_trust.trust_of`."""
    try:
        procedures = context.options.procedures
        return ca_trust.trust_of(context.config, answer, context.state.value, context.now, procedures)
    except CertificateRefused as error:
        # With a wrong clock every date is wrong: say that instead.
        raise context.found.failures.get("clock", error) from None


def compare(
    context: Context, on_disk: tuple[PairFiles, ...], trust: Mapping[str, Trust], force: frozenset[str] = frozenset()
) -> tuple[PairStatus, ...]:
    """Compare the pairs with what is wanted, by the agent's state of this moment; `force` as in `PassOptions`."""
    return pairs.compare(context.config, on_disk, trust, context.state.value, context.now, force)
