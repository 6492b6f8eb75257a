"""Defines what the agent shows of itself at one moment: the view from which metrics and `/healthz` are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from vaultpki.pki.ca_life import CaLife

if TYPE_CHECKING:
    from vaultpki.agent.ca_trust import CaOnNode
    from vaultpki.node.assignment import SurplusPair

AgentState = Literal["ok", "backing-off", "needs-join"]


@dataclass(frozen=True, slots=True)
class LeafView:
    """What one certificate on disk says: `path` is its file, `not_before` and `not_after` are Unix seconds.

    `issuer` is the CN of the CA that signed it, empty if no CA that this node trusts did.
    """

    path: str
    subject: str
    organization: tuple[str, ...]
    issuer: str
    serial: int
    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True)
class CertificateView:
    """One certificate on disk: Unix seconds, TTLs in seconds, and the state as `status` shows it.

    `not_after` and `leaf` are None if there is no certificate. `only_due` says that it needs nothing but a renewal at
    its time. `odd` says in one word what is wrong with its kubeconfig, "" if nothing is.
    """

    name: str
    not_after: float | None
    renew_after: float | None
    asked: int | None
    granted: int | None
    state: str
    last_error_time: float | None = None
    leaf: LeafView | None = None
    only_due: bool = False
    odd: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """What an agent has counted since it was started, and of which node; it is there before the first pass ends.

    `signs` is how many certificates Vault was asked to sign, and `renewals` how many were installed, by name: 0 for one
    that was not replaced since. `tampered` is how many files it has put right that somebody else had changed.
    """

    cluster: str
    node: str
    signs: int = 0
    renewals: Mapping[str, int] = field(default_factory=dict)
    tampered: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """The agent at one moment; times are Unix seconds.

    `hooks` are those still owed: the attempts so far, and since when. `vault_reachable` is None until the first request
    to Vault. `outage_left` is the seconds until the first certificate expires. The agent counts as stuck `stale_after`
    seconds after `last_pass`. `unseen` says why the last pass was cut short, so that `certificates` are older than it,
    and `unread` why the files could not be read just now; both are usually "". `cas` are the node's CAs, and `ends` the
    lives of the root and of the CAs that sign this node's certificates. `readers` are the components by
    `CA/COMPONENT` that were not started again since their bundle changed, or are not healthy; `components` are all that
    run here. `hook_keys` are those of all hooks in agent.yaml. `faults` are what failed, as sentences by what it is,
    and `poll` is how many seconds pass between two passes. `foreign` are sentences about foreign CAs that are offered
    and not taken, and `by_hand` the keys of hooks that wait for a person. `not_admitted` is a sentence that
    kube-apiserver must not run yet. `surplus` are the pairs that the node's record does not name. `bundles` and
    `token_keys` are sentences about trust bundles and files of service-account keys that are not as they should be.
    `next_within` is as in NodeReport.
    """

    node: str
    cluster: str
    state: AgentState
    certificates: tuple[CertificateView, ...]
    hooks: Mapping[str, tuple[int, float]]
    trust_generation: str
    trust_changed: float | None
    vault_reachable: bool | None
    vault_last_ok: float | None
    outage_left: float | None
    last_pass: float
    stale_after: float
    unseen: str = ""
    unread: str = ""
    cas: tuple[CaOnNode, ...] = ()
    ends: tuple[CaLife, ...] = ()
    readers: tuple[str, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)
    poll: int = 0
    components: tuple[str, ...] = ()
    hook_keys: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()
    not_admitted: str = ""
    surplus: tuple[SurplusPair, ...] = ()
    bundles: tuple[str, ...] = ()
    token_keys: tuple[str, ...] = ()
    next_within: int = 0
