"""The tables of the model of service-account keys: those of the code, by letters, and the rules that can be left out.

The old key of a node is the one with which it signs tokens at first, or kubeadm's `sa.key`, which all share; its new
key never leaves it.
"""

from __future__ import annotations

from vaultpki.procedure.phases import KEY_PHASES, Side

OLD, NEW, BOTH = Side.OLD.value, Side.NEW.value, Side.BOTH.value
"""The old and the new key of every node, as bits of which of them is accepted."""

STATES = {
    "0": "steady",
    "U": "published",
    "S": "switched",
    "R": "retired",
    "D": "done",
    "T": "re-trusting",
    "B": "returning",
}
"""The words of the code."""

_TABLE = KEY_PHASES.of({word: letter for letter, word in STATES.items()}.__getitem__)

ACCEPT = MAKES = {letter: phase.accepts.value for letter, phase in _TABLE.phases.items()}
SIGN = {letter: phase.takes.value for letter, phase in _TABLE.phases.items()}
FORWARD, BACK = _TABLE.onward, _TABLE.home
# Steps for which nobody is waited for; what every API server must accept, and, of RD, nothing else; with which key all
# must sign; and before which the longest life of tokens must pass since then.
FREE = {a + b for a, b in _TABLE.free}
ACCEPT_STEPS = {a + b: side.value for (a, b), side in _TABLE.by_trust.items()}
SIGN_STEPS = LIFE_STEPS = {a + b: side.value for (a, b), side in _TABLE.by_use.items()}
HOME = {a + b for a, b in BACK.items() if b == "0"}
"""The steps home: from `sa.key` they wait until nobody without it signs, and until such tokens have ended."""
DELETED = {letter for letter, phase in _TABLE.phases.items() if phase.destroys}
"""The states in which the old private keys are deleted."""

RULES = {
    "word": "a certificate leaves a node's key file only because the record says so, never because it is unreadable",
    "signword": "a node signs with its next key only from switched on, not when it is made",
    "started": "published asks what API servers were started with, not what lies on disk",
    "disk": "every gate asks for the files on disk too: the next start reads them",
    "used": "retired asks with which key API servers were started to sign, not which lies on disk",
    "echo": "a report counts only if its pass read the record as it stands",
    "counted": "a gate counts every listed control-plane node, also one that has not started yet",
    "life": "retired (and the end of returning) waits for the longest life of tokens",
    "since": "that life counts from the report that satisfies the gate, not from the record",
    "admit": "a new API server starts only when every other one was reported to be started with its certificates",
    "grant": "the record lets it start (check-and-set, so that a step decided before fails), not its own reading",
    "full": "a new API server starts only with the certificates of every listed node in its key file",
    "both": "a node that joins between published and returning makes both keys",
    "retrust": "from retired the way back waits until every API server accepts the old keys again",
    "last": "old private keys are deleted only after the record says done",
    "guest": "the way back to sa.key waits until no node without it signs, and until its tokens have ended",
    "linger": "the certificate of a removed node stays until its tokens have ended",
    "name": "the record takes out certificates by the node's name, not those listed when it was removed",
    "certified": "only certificates that chain to the pinned root, of this domain's CA, are taken from records",
    "listed": "only certificates that name a listed control-plane node are taken",
    "turns": "API servers restart for new files one at a time, by the record's turn",
    "own": "a new control-plane node makes its own key: kubeadm-certs (which carries sa.key) is not used",
}
"""The rules by their names."""
ALL = frozenset(RULES)
