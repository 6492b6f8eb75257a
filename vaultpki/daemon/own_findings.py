"""Judges the agent's own view by the rules of `status`, so that metrics, `/healthz` and `status` say the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from vaultpki.findings.catalogue import CATALOGUE, Severity

if TYPE_CHECKING:
    from vaultpki.agent.status import CertificateStatus, Status
    from vaultpki.daemon.view import CertificateView, View

OWN: Final = tuple(kind for kind in CATALOGUE if kind.own)
"""The kinds of findings that an agent can have about its own node."""

_ENDED: Final = frozenset({"missing", "broken", "expired", "revoked"})


def states(view: View, now: float) -> Mapping[str, int]:
    """Return 1 for each kind of finding that the node has at `now` (Unix seconds), and 0 for each other one."""
    from vaultpki.findings.nodes import of_status

    row = of_status(_status(view, now), datetime.fromtimestamp(now, UTC), name=view.node)
    # The end of a CA that asks only for a plan is no finding that a person must act on.
    has = {each.name for each in row.findings if each.attention or each.kind.severity is Severity.INFO}
    return {kind.name: int(kind.name in has) for kind in OWN}


def unusable(view: View, now: float) -> Iterator[tuple[str, str]]:
    """Yield the name and the state of each certificate that is missing, broken, expired or revoked.

    One whose kubeconfig is wrong comes with what is wrong.
    """
    for each in view.certificates:
        if (state := _state(each, now)) in _ENDED:
            yield each.name, state
        elif each.odd:
            yield each.name, each.odd


def _state(each: CertificateView, now: float) -> str:
    if each.not_after is None or each.state in ("missing", "broken"):
        return "missing" if each.state == "missing" else "broken"
    return "expired" if each.not_after <= now else each.state


def _status(view: View, now: float) -> Status:
    """Return the view as `status` has it, as far as findings depend on it."""
    # Loaded late: they bring along what reads certificates.
    from vaultpki.agent.status import Status
    from vaultpki.host.hooks import Owed
    from vaultpki.pki.ca_life import expiry

    moment = datetime.fromtimestamp(now, UTC)
    unread = view.unseen or view.unread
    return Status(
        node=view.node,
        agent=view.state,
        seen=tuple(_certificate(each, view, now) for each in view.certificates),
        faults={**view.faults, **({"files": unread} if unread else {})},
        owed={key: Owed(since, attempts) for key, (attempts, since) in view.hooks.items()},
        reachable=view.vault_reachable,
        error=None,
        cas=view.cas,
        ends=tuple(expiry(one, moment) for one in view.ends),
        readers={name: name for name in view.readers},
        foreign=view.foreign,
        by_hand=view.by_hand,
        not_admitted=view.not_admitted,
        surplus={pair.place: pair for pair in view.surplus},
        bundles=view.bundles,
        token_keys=view.token_keys,
        asked=datetime.fromtimestamp(view.last_pass, UTC),
        next_within=view.next_within,
    )


def _certificate(each: CertificateView, view: View, now: float) -> CertificateStatus:
    from vaultpki.agent.status import CertificateStatus, is_late
    from vaultpki.pki.renewal import PairState

    state = PairState(_state(each, now))
    late = each.renew_after is not None and is_late(now - each.renew_after, view.poll, each.asked or 0)
    wrong = bool(each.odd) or (state is not PairState.OK and (late or not each.only_due))
    return CertificateStatus(each.name, "", None, None, state, (), wrong)
