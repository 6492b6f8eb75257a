"""The tables of the model of a rotation: those of the code, by letters, and the rules that the model can leave out."""

from __future__ import annotations

from dataclasses import replace

from vaultpki.procedure.phases import CA_PHASES, NEITHER, Phase, Side, table

OLD, NEW, BOTH = Side.OLD.value, Side.NEW.value, Side.BOTH.value
NAMES = {0: "-", 1: "old", 2: "new", 3: "old+new"}

STATES = {
    "0": "steady",
    "P": "prepared",
    "U": "published",
    "S": "switched",
    "R": "retired",
    "D": "done",
    "T": "re-trusting",
    "B": "returning",
    "K": "re-trusting",
    "L": "re-trusting",
    "k": "re-trusting",
}
"""The words of the code. After a recovery certificates are kept: in K the old CA stays the default, in L the new one
does, and in k nobody has named the new one, which the server has lost."""
KEPT = "KLk"

_LETTERS = {word: letter for letter, word in STATES.items() if letter not in KEPT} | {each: each for each in KEPT}
# After a recovery nothing is sure.
_KEPT = Phase(Side.BOTH, Side.OLD, NEITHER, Side.BOTH, "switched", "returning")
_RECOVERED = {
    "K": _KEPT,
    "L": replace(_KEPT, takes=Side.NEW),
    "k": replace(_KEPT, accepts=Side.OLD, onward=""),
}
_TABLE = table({**CA_PHASES.phases, **_RECOVERED}, trust=CA_PHASES.by_trust).of(_LETTERS.__getitem__)

TRUST = {letter: phase.accepts.value for letter, phase in _TABLE.phases.items()}
LEAF = {letter: phase.takes.value for letter, phase in _TABLE.phases.items()}
FORWARD, BACK = _TABLE.onward, _TABLE.home
# Steps for which no node is waited for; what everybody must trust, on disk and in memory, before others; and of whose
# leaves all must be before others. In RD nobody may trust anything else. The end of a rollback, at rest, has a model of
# its own: `small.aborted`.
FREE = {a + b for a, b in _TABLE.free}
TRUST_STEPS = {a + b: side.value for (a, b), side in _TABLE.by_trust.items() if a != b}
LEAF_STEPS = {a + b: side.value for (a, b), side in _TABLE.by_use.items()}
# What a recovery is followed by also where nobody aborts.
HOME = {letter: BACK[letter] for letter in f"TB{KEPT}"}

RULES = {
    "counted": "gates count every live credential, not only the nodes that have reported",
    "echo": "a report counts only when its pass read the record as it stands now",
    "settle": "gates wait five minutes (and skew) after the report that satisfies them",
    "word": "bundles follow the record: an agent drops a CA only because of it, never for a CA's absence or usage",
    "leafword": "an agent installs a leaf only of the CA that the record names",
    "intent": "the record is written before the server is changed, and a rerun first makes the server match it",
    "retrust": "from retired the rollback stops until every node trusts the old CA again; only then the default moves",
    "bound": "a person's restart counts only if a report had already shown the final bundle on that node's disk",
    "memory": "the gate asks what processes hold (started after the bundle), not only what lies on disk",
    "seen": "a start counts once the process was seen to run since then, not when its hook has succeeded",
    "compared": "before leaves of the other CA are installed, listeners that answer must accept the CAs that count",
    "newstate": "confirmed restarts are forgotten at each change of state",
    "operators": "certificates that no node reports (admin) count as leaves",
    "epoch": "a node that has seen a newer record only adds trust; it re-issues and drops nothing",
    "recover": "while a counted node has seen a newer record no other command goes on; an operator recovers first",
    "back only": "a recovery leads to re-trusting or to rest, never to a later state that nodes seem to be in",
    "kept": "in a recovered re-trusting each node keeps the leaf that it holds until everybody trusts both CAs",
    "waits": "in a recovered re-trusting a node that has no leaf takes none",
    "nothing dropped": "in a recovered re-trusting an agent drops no CA that it trusts, whatever the record names",
    "steady": "a recovery leads to rest only if every counted node has reported since, and holds nothing of a newer CA",
    "again": "from returning a step forward waits until every node trusts the new CA: after a recovery not all did",
    "limit": "an agent takes a revision at most 1,000 above the one that it remembers",
    "ids": "deletions name the issuer's id, numbers are never used twice",
    "defuse": "during the rollback the new issuer loses its signing usage",
    "probe": "live handshakes at the end",
    "accepting": "a listener that was seen accepting the old CA in retired holds the step until it is seen refusing it",
    "read again": "a command reads the record again before each request: of one that was overtaken one more may arrive",
    "whole": "before each step the server must match everything the state says (default, both usages), not only its "
    "last change",
}
ALL = frozenset(RULES)
