"""The tables of the models of a move: those of the code, by letters, and the rules that each model can leave out.

O is the issuing CA whose key is on the old server A, and N the one whose key is on the new server B.
"""

from __future__ import annotations

from vaultpki.procedure.phases import CA_PHASES, NEITHER, Phase, Side, table

OLD, NEW, BOTH = Side.OLD.value, Side.NEW.value, Side.BOTH.value
NAMES = {0: "-", 1: "O", 2: "N", 3: "O+N"}

STATES = {
    "P": "prepared",
    "U": "published",
    "S": "switched",
    "R": "retired",
    "D": "done",
    "T": "re-trusting",
    "B": "returning",
    "K": "re-trusting",
}
"""The words of the code. P is rest too, since nodes see the same in both. In K, after a recovery and after a lost
server was found, each node keeps the leaf that it holds."""

_LETTERS = {word: letter for letter, word in STATES.items() if letter != "K"} | {"steady": "P", "K": "K"}
# After a recovery nothing is sure, and nobody takes anything.
_KEPT = Phase(Side.BOTH, NEITHER, NEITHER, Side.BOTH, "switched", "returning")
_TABLE = table({**CA_PHASES.phases, "K": _KEPT}, trust=CA_PHASES.by_trust).of(_LETTERS.__getitem__)

TRUST = {letter: phase.accepts.value for letter, phase in _TABLE.phases.items()}
LEAF = {letter: phase.takes.value for letter, phase in _TABLE.phases.items()}
FORWARD = {a: b for a, b in _TABLE.onward.items() if a != b}
BACK = {a: b for a, b in _TABLE.home.items() if a != b}
# Steps for which no node is waited for; what everybody must trust before others, and of RD nothing else; and of whose
# leaves all must be before others.
FREE = {a + b for a, b in _TABLE.free if a != b}
TRUST_STEPS = {a + b: side.value for (a, b), side in _TABLE.by_trust.items() if a != b}
LEAF_STEPS = {a + b: side.value for (a, b), side in _TABLE.by_use.items()}
ALONE = {a + b for a, b in FORWARD.items() if _TABLE.phases[b].destroys}
"""The steps before which everybody must trust what is named alone."""

RULES = {
    "known": "published waits until every node has its own credential at B and has read the record there",
    "counted": "gates count every live credential of either server, not only nodes that have reported",
    "echo": "a report counts only if its pass read the newest revision of the record",
    "memory": "a node that has seen a higher revision than it reads adds trust only; it drops and re-issues nothing",
    "leafword": "a node installs a leaf of N only once the record says so, though B could sign one since prepared",
    "seat": "a revision is written on A first, by check-and-set, and then copied to B; if A is lost, on B alone",
    "level": "a command first copies the higher record to the server that is behind, and needs both servers",
    "witness": "a server is not called lost while a node's newest report says that it reached that server",
    "carry": "B's record begins above the revisions that nodes remember of A",
    "retrust": "from retired the way back stops until every node trusts O again",
    "stay": "A is emptied only once both records say done and each live credential of A has one at B",
    "recover": "a server that nodes know to be behind, with no other to copy from, is led to re-trusting",
    "passed": "after a restore nobody runs a command before every agent has passed once there",
    "kept": "in that re-trusting each node keeps the leaf that it holds until everybody trusts both",
    "parked": "an agent keeps its credential at A until A is emptied: B may be set back to before it had one there",
    "jump": "after a server was called lost the next revision is above whatever that server may hold",
    "met": "a server that was called lost and is found leads to re-trusting: both records may have been followed",
    "told": "that a server is lost is first written on the other one alone, as a revision without a step",
    "asked": "a command leaves a server out only if a person says so to it and that server does not answer; while a "
    "server that a record calls lost answers, nothing goes on but that it is found",
    "heeded": "a step without a lost server counts only nodes that have reported that they ignore it",
    "tried": "a node ignores a server that is called lost only after passes of its own have failed to reach it",
    "three": "they must be three in a row: a writer of records waits for a short absence",
}
"""The rules of two servers and one record, by their names."""
ALL = frozenset(RULES)
IDLE = {
    "witness": "a courtesy: that a mistake does no harm follows from `told`",
    "asked": "a courtesy too: `heeded` keeps closed what a forged record would open",
    "carry": "`level` does it for this record; it counts for those of rotations, of which nodes remember revisions",
}
"""The rules without which nothing was found to break, and why they stand."""

HAND_OVER_RULES = {
    "signed": "a node takes another server's address, namespace, prefix and TLS CA only from a hand-over certificate "
    "that its pinned root signed",
    "number": "hand-overs are numbered, an abort ends its number for each node that reads it, and none below the "
    "highest taken counts",
    "floor": "a join file names the lowest number that counts",
    "short": "a hand-over certificate lives for days, and `move continue` makes the next one",
    "closed": "once a node has read done on B, no hand-over of the old root counts",
    "own": "the credential is taken only if its wrapping token was made at this node's own path and the login comes "
    "back as this node",
    "vouch": "a new root counts only by a cross certificate of the pinned root; what a server shows or a record names "
    "is not enough",
    "proof": "done counts only if B has signed a leaf of this node below a CA that the pin vouches for",
}
"""The rules of who can send a node where."""

LOSS_RULES = {
    "pinned": "the join file of B brings the SHA-256 of the old CAs: bundles hold O and N",
    "kept": "a node that joins at B keeps its pairs of O; it takes leaves of N only once the record says so",
    "listed": "the gate counts every node of cluster.yaml and every Node object, not only those that joined at B",
    "in place": "the join takes over the directory of the old root without touching the pairs in it",
    "quiet": "by hand: agents that know only A are stopped before somebody writes N into their bundles",
    "in time": "everybody has joined before the first leaf of O ends",
    "retry": "a node that is missing may be left out by name; it joins later and takes a leaf of N at once",
}
"""The rules of a loss for which nothing was prepared."""
IDLE_LOSS = {"retry": "a convenience: without it the gate waits for a node that nobody misses"}
