"""The tables of the model of a rotation; tests/unit/rotation/test_model.py holds them against those of the code."""

from __future__ import annotations

OLD, NEW = 1, 2
BOTH = OLD | NEW
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

TRUST = {"0": OLD, "P": OLD, "U": BOTH, "S": BOTH, "B": BOTH, "T": BOTH, "R": NEW, "D": NEW, "K": BOTH, "L": BOTH}
TRUST["k"] = OLD
LEAF = {"0": OLD, "P": OLD, "U": OLD, "S": NEW, "B": OLD, "T": NEW, "R": NEW, "D": NEW, "K": OLD, "L": NEW, "k": OLD}
FORWARD = {"0": "P", "P": "U", "U": "S", "S": "R", "R": "D", "B": "S", "T": "S", "K": "S", "L": "S"}
BACK = {"P": "0", "U": "0", "S": "B", "B": "0", "R": "T", "T": "B", "K": "B", "L": "B", "k": "B"}
KEPT = "KLk"
# Steps for which no node is waited for; what everybody must trust, on disk and in memory, before others; and of whose
# leaves all must be before others. In RD nobody may trust anything else.
FREE = {"0P", "PU", "P0", "U0", "SB", "RT"}
TRUST_STEPS = {"US": BOTH, "TS": BOTH, "KS": BOTH, "LS": BOTH, "TB": OLD, "KB": OLD, "LB": OLD, "kB": OLD}
TRUST_STEPS |= {"BS": NEW, "RD": NEW}
LEAF_STEPS = {"SR": NEW, "B0": OLD}
# What a recovery is followed by also where nobody aborts.
HOME = {"T": "B", "B": "0", "K": "B", "L": "B", "k": "B"}

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
