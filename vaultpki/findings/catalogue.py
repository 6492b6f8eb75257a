"""The catalogue of what can need attention: each kind of finding with its name, weight, meaning and next command."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from vaultpki.records.node_report import PRUNE

Where = Literal["node", "operator"]


class Severity(enum.Enum):
    """How heavy a finding is; the values are those of the alerts."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"

    @property
    def attention(self) -> bool:
        """Return whether a person must act: exit codes tell it."""
        return self is not Severity.INFO


class NodeState(enum.Enum):
    """The state of a node, from what needs attention first to what needs none."""

    EXPIRED = "expired"
    CLONE = "clone"
    BROKEN = "broken"
    UNKNOWN = "unknown"
    REVOKED = "revoked"
    LOCKED = "locked"
    NEEDS_JOIN = "needs-join"
    SILENT = "silent"
    OVERDUE = "overdue"
    FAILING = "failing"
    SURPLUS = "surplus"
    NEW = "new"
    JOINED = "joined"
    OK = "ok"

    @property
    def attention(self) -> bool:
        """Return whether a person must act: exit codes tell it."""
        return self not in (NodeState.NEW, NodeState.JOINED, NodeState.OK)


ORDER: Final = {state: number for number, state in enumerate(NodeState)}
"""The place of each state, the worst first."""


@dataclass(frozen=True, slots=True)
class FindingKind:
    """One kind of finding. `name` is for programs, `means` for people, as one sentence.

    `state` is the state of the node that has it, None for a finding about the cluster. `command` is the next command,
    with places for `node`, `names` and `ca`, and for the options `file` and `pool`; `where` says who runs it: a person
    on the node, or an operator. `own` says that a node can find it about itself, `vault` that Vault shows it.
    """

    name: str
    state: NodeState | None
    severity: Severity
    means: str
    command: str
    where: Where
    own: bool = False
    vault: bool = False


def _critical(name: str, state: NodeState | None, means: str, command: str, where: Where, **seen: bool) -> FindingKind:
    return FindingKind(name, state, Severity.CRITICAL, means, command, where, **seen)


def _warning(name: str, state: NodeState | None, means: str, command: str, where: Where, **seen: bool) -> FindingKind:
    return FindingKind(name, state, Severity.WARNING, means, command, where, **seen)


def _info(name: str, state: NodeState | None, means: str, command: str, where: Where, **seen: bool) -> FindingKind:
    return FindingKind(name, state, Severity.INFO, means, command, where, **seen)


_RENEW: Final = "vaultpki renew {names}"
ENROLL: Final = "vaultpki enroll {node}{file}{pool} -o {node}.json"
ENROLL_AGAIN: Final = "vaultpki enroll {node}{file}{pool} --replace -o {node}.json"
"""The command for a new join file, in place of what a node has."""

LOCK_NODE: Final = "vaultpki lock {node}{file}"
"""The command that ends every credential of a node."""

AGENT_ONCE: Final = "vaultpki agent --once"
"""The command for a pass that asks Vault now."""

APPLY: Final = "vaultpki apply{file}"
"""The command that makes the server what cluster.yaml says."""

_AGENT: Final = "systemctl status vaultpki-agent"
_CA_STATUS: Final = "vaultpki ca status{file}"
_CONTINUE: Final = "vaultpki ca continue{file} --wait"
_ADMIT: Final = "vaultpki admit{file} --wait"
_SIGNER: Final = "systemctl status vaultpki-signer"
_ADOPT_STATUS: Final = "vaultpki adopt status{file} --kubeconfig admin.conf"
_MOVE_STATUS: Final = "vaultpki move status{file}"
_RECOVER: Final = "vaultpki ca recover {ca}{file}"

CATALOGUE: Final = (
    _critical("expired", NodeState.EXPIRED, "A certificate has expired.", _RENEW, "node", own=True, vault=True),
    _critical(
        "many-credentials",
        NodeState.CLONE,
        "The node has more live credentials than it needs: somebody may have copied it, or its join file.",
        LOCK_NODE,
        "operator",
        vault=True,
    ),
    _critical("missing", NodeState.BROKEN, "A file of a pair is missing.", _RENEW, "node", own=True, vault=True),
    _critical(
        "broken",
        NodeState.BROKEN,
        "A pair cannot be used: its key is another one, or a file of it cannot be read or has another mode or owner.",
        _RENEW,
        "node",
        own=True,
        vault=True,
    ),
    _critical(
        "bundle",
        NodeState.BROKEN,
        "A trust bundle is missing, or does not hold the CAs that the node trusts, and only those.",
        AGENT_ONCE,
        "node",
        own=True,
    ),
    _critical(
        "token-keys",
        NodeState.BROKEN,
        "`sa.key` or `sa.pub` is missing, holds a key that does not belong there, or others can read the key.",
        AGENT_ONCE,
        "node",
        own=True,
    ),
    _critical(
        "empty",
        NodeState.BROKEN,
        "There is no certificate where the node's certificates belong.",
        AGENT_ONCE,
        "node",
        own=True,
        vault=True,
    ),
    _critical(
        "revoked",
        NodeState.REVOKED,
        "A certificate was revoked and is still in use.",
        _RENEW,
        "node",
        own=True,
        vault=True,
    ),
    _critical(
        "locked",
        NodeState.LOCKED,
        "Somebody has locked the node, and nobody can log in as it.",
        "vaultpki unlock {node}{file}",
        "operator",
        vault=True,
    ),
    _critical(
        "locked-and-live",
        NodeState.LOCKED,
        "Somebody has locked the node, and it has a live credential: the lock was interrupted, or one was made since.",
        LOCK_NODE,
        "operator",
        vault=True,
    ),
    _critical(
        "needs-join",
        NodeState.NEEDS_JOIN,
        "Vault does not accept the credential of the node.",
        ENROLL,
        "operator",
        own=True,
    ),
    _critical(
        "no-credential",
        NodeState.NEEDS_JOIN,
        "The node has no live credential: it was locked, or its credential has expired.",
        ENROLL,
        "operator",
        vault=True,
    ),
    _warning(
        "not-joined-again",
        NodeState.NEEDS_JOIN,
        "A node that has reported can log in only with a join file that nobody has used.",
        "vaultpki join {node}.json",
        "node",
        vault=True,
    ),
    _warning(
        "fits-no-pool",
        NodeState.UNKNOWN,
        "An identity on a mount of nodes does not belong to a node of cluster.yaml.",
        "vaultpki plan{file}",
        "operator",
        vault=True,
    ),
    _warning(
        "silent",
        NodeState.SILENT,
        "The node has not reported, or its agent has made no pass, for an hour, two polls and ten minutes. If its "
        "agent does not stay, the time is two days.",
        _AGENT,
        "node",
        own=True,
        vault=True,
    ),
    _warning(
        "overdue",
        NodeState.OVERDUE,
        "A certificate should have been renewed by now.",
        _RENEW,
        "node",
        own=True,
        vault=True,
    ),
    _warning(
        "failed",
        NodeState.FAILING,
        "The agent failed at something, or it waits before it tries again.",
        AGENT_ONCE,
        "node",
        own=True,
        vault=True,
    ),
    _warning(
        "hook-failed",
        NodeState.FAILING,
        "A hook failed: the new files are in place, and a component was not told.",
        AGENT_ONCE,
        "node",
        own=True,
        vault=True,
    ),
    _warning(
        "reader-behind",
        NodeState.FAILING,
        "A component runs with an older bundle, or an older server of its kubeconfig, or it is not healthy.",
        _CA_STATUS,
        "operator",
        own=True,
        vault=True,
    ),
    _warning(
        "key-not-admitted",
        NodeState.FAILING,
        "kube-apiserver of the node must not be started yet, or runs although it must not. Not every API server "
        "accepts the tokens of its service-account key.",
        _ADMIT,
        "operator",
        own=True,
        vault=True,
    ),
    _warning(
        "foreign-ca",
        NodeState.FAILING,
        "The node does not take a CA of `ca.also_trust` into its bundles. Or a component that reads them only at its "
        "start waits for a person.",
        ENROLL_AGAIN,
        "operator",
        own=True,
        vault=True,
    ),
    _warning(
        "vault-away",
        NodeState.FAILING,
        "Vault does not answer. Nothing is renewed until it does.",
        "vaultpki doctor",
        "node",
        own=True,
    ),
    _warning(
        "server-behind",
        NodeState.FAILING,
        "The node has read a newer record of a CA's rotation than Vault has: Vault was restored from a snapshot.",
        _RECOVER,
        "operator",
        own=True,
        vault=True,
    ),
    _warning(
        "record-not-followed",
        NodeState.FAILING,
        "The node does not follow the record of a CA's rotation, which no vaultpki wrote.",
        _RECOVER,
        "operator",
        own=True,
        vault=True,
    ),
    _warning(
        "surplus",
        NodeState.SURPLUS,
        "A pair is on the node that its record does not name: it is not renewed, and stays until it expires.",
        PRUNE,
        "node",
        own=True,
        vault=True,
    ),
    _info(
        "agent-old",
        NodeState.OK,
        "The agent of the node is older than 0.3.0, and deletes at once what its record does not name.",
        _AGENT,
        "node",
        vault=True,
    ),
    _warning(
        "report-unreadable",
        NodeState.FAILING,
        "The node's report cannot be read.",
        AGENT_ONCE,
        "node",
        vault=True,
    ),
    _info("not-enrolled", NodeState.NEW, "The node was never enrolled.", ENROLL, "operator", vault=True),
    _info(
        "join-file-unused",
        NodeState.NEW,
        "The node has a join file that nobody has used.",
        "vaultpki join {node}.json",
        "node",
        vault=True,
    ),
    _info("never-reported", NodeState.NEW, "The node has joined and never reported.", _AGENT, "node", vault=True),
    _info(
        "hook-owed",
        NodeState.OK,
        "A hook has not run yet: it waits for the node's turn to restart, or for the next pass.",
        _CA_STATUS,
        "operator",
        own=True,
        vault=True,
    ),
    _info(
        "files-alone",
        NodeState.OK,
        "A copied folder lacks the agent's state, so the certificates were judged by themselves.",
        "vaultpki status",
        "node",
        own=True,
    ),
    _warning(
        "ca-expires",
        NodeState.FAILING,
        "A CA expires soon, and every certificate below it with it.",
        "vaultpki ca rotate {ca}{file}",
        "operator",
        own=True,
        vault=True,
    ),
    _critical(
        "ca-problem",
        None,
        "A CA cannot sign, or its record is not the newest.",
        _CA_STATUS,
        "operator",
        vault=True,
    ),
    _warning(
        "ca-left-over",
        None,
        "Nodes trust a CA that the server does not have, such as after `vaultpki ca recover`.",
        _CA_STATUS,
        "operator",
        own=True,
        vault=True,
    ),
    _info(
        "rotation-waits",
        None,
        "A rotation goes on by itself while `vaultpki ca continue --wait` runs.",
        _CONTINUE,
        "operator",
        vault=True,
    ),
    _warning(
        "rotation-ready",
        None,
        "The next step of a rotation may be taken, and nobody takes it.",
        _CONTINUE,
        "operator",
        vault=True,
    ),
    _warning(
        "rotation-blocked",
        None,
        "A rotation waits for a person, or has stood still for a day.",
        _CONTINUE,
        "operator",
        vault=True,
    ),
    _info(
        "move-waiting",
        None,
        "The cluster moves to another server, and the move is not at its end.",
        _MOVE_STATUS,
        "operator",
        vault=True,
    ),
    _info(
        "adoption-waits",
        None,
        "A kubeadm cluster is being taken over, and no person is waited for.",
        _ADOPT_STATUS,
        "operator",
        vault=True,
    ),
    _warning(
        "adoption-blocked",
        None,
        "The take-over of a kubeadm cluster waits for a person, or a machine has stood still for a day.",
        _ADOPT_STATUS,
        "operator",
        vault=True,
    ),
    _critical(
        "adoption-lost",
        None,
        "Machines stand in the middle of an adoption whose record is gone from Vault.",
        _ADOPT_STATUS,
        "operator",
        vault=True,
    ),
    _info(
        "joined",
        NodeState.JOINED,
        "The node joined with a bootstrap token: it has no agent, and its kubelet renews by requests.",
        "kubectl get csr",
        "operator",
        vault=True,
    ),
    _warning(
        "signer-silent",
        None,
        "No signer holds its Lease, or an approved request has waited for two minutes.",
        _SIGNER,
        "node",
        vault=True,
    ),
    _warning(
        "signer-refuses",
        None,
        "The signer has refused requests within the last hour.",
        "kubectl describe csr",
        "operator",
        vault=True,
    ),
    _warning(
        "signer-flood",
        None,
        "Requests wait because of the limits on how many are signed: somebody asks very often.",
        "kubectl get csr",
        "operator",
    ),
    _warning(
        "serving-unapproved",
        None,
        "Kubelets that joined with a token wait for the certificates of their servers.",
        "kubectl certificate approve",
        "operator",
        vault=True,
    ),
    _critical(
        "signer-stranger",
        None,
        "A request that the signer serves was answered with a certificate of another CA.",
        "kubectl get csr",
        "operator",
        vault=True,
    ),
    _warning(
        "token-open",
        None,
        "A bootstrap token is older than a day: who has it can join a machine.",
        "kubeadm token delete",
        "operator",
        vault=True,
    ),
    _warning(
        "signer-ends",
        None,
        "The certificate or the secret id of a signer ends soon, and nothing has replaced it.",
        _SIGNER,
        "node",
    ),
    _critical(
        "no-live-credential",
        None,
        "No node of the cluster can log in: all were locked, or Vault was restored from an old backup.",
        "vaultpki enroll --all{file} -o joins",
        "operator",
        vault=True,
    ),
    _warning(
        "not-read",
        None,
        "Something of the cluster could not be read, so that nobody knows whether it is well.",
        "vaultpki policy{file} viewer",
        "operator",
        vault=True,
    ),
)
"""Every kind of finding, those of nodes in the order of their states."""

KINDS: Final[Mapping[str, FindingKind]] = {kind.name: kind for kind in CATALOGUE}
"""The same by name."""
