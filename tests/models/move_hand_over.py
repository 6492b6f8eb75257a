"""The model of who can send a node where: somebody writes the records of A and of B, and has a server C of its own.

It can replay all that was ever on A. Z is a server to which an earlier, aborted move led. What a writer of records can
do in rotations today, ending trust in O too early, it can do here: an outage, which brings in nothing foreign.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from models.explore import LIMIT, Found, explore
from models.move_tables import FORWARD

NODES = ("that was there", "that joined late", "that was away")
"""A node that read the aborted move and its abort, one that joined after it, and one that was away from before the
abort until the hand-over had ended."""

_NUMBERS = {"real": 2, "old": 1, "forged": 9, "late": 9}
_LEADS = {"real": "B", "old": "Z", "forged": "C", "late": "C"}


class Walk(NamedTuple):
    phase: str
    hand: str  # what lies on A: "", real, forged (of C), old (of Z, an aborted move), late (of C, with the stolen R1)
    wrap: str  # whose credential lies beside it: "", own, other
    aged: bool  # the old hand-over has ended
    goes: str  # where the node logs in beside A
    number: int
    floor: int  # the lowest number that its join file lets in
    as_: str  # as whom it logs in there
    leaf: str  # "A" or "B": whose leaf it has; "-": one of nobody that the pin vouches for
    left: bool  # it has left A
    shown: bool  # a thief's root R3 is shown and named by a record
    pins: frozenset[str]


def hand_over(rules: frozenset[str], who: str, *, stolen: bool, limit: int = LIMIT) -> Found:
    """Explore what one of `NODES` follows; `stolen`: once it has left A, whoever writes there has R1's key too."""
    number, floor, aged = {NODES[0]: (2, 0, False), NODES[1]: (0, 2, False), NODES[2]: (1, 0, True)}[who]
    first = Walk("P", "", "", aged, "", number, floor, "", "A", False, False, frozenset({"R1"}))

    def goes(w: Walk) -> bool:
        if not w.hand or (w.left and not stolen) or _LEADS[w.hand] == w.goes:
            return False
        refused = {
            "signed": w.hand == "forged",
            "number": _NUMBERS[w.hand] < w.number,
            "floor": _NUMBERS[w.hand] < w.floor,
            "short": w.hand == "old" and w.aged,
            "closed": w.left,
        }
        return not any(refused[rule] for rule in refused.keys() & rules)

    def successors(w: Walk) -> Iterator[tuple[str, Walk]]:
        # Retired is not looked at by itself: the operator leads on to done from there.
        step = {"P": FORWARD["P"], "U": FORWARD["U"], "S": FORWARD["R"]}.get(w.phase)
        if step and (step != "D" or (w.goes == "B" and w.leaf == "B")):
            begun = w._replace(hand="real", wrap="own") if step == "U" else w
            yield f"the operator leads on to {step}", begun._replace(phase=step)
        if not w.aged:
            yield "the hand-over of the aborted move ends", w._replace(aged=True)
        yield from _writers(w, stolen=stolen)
        if goes(w):
            as_ = "" if "own" in rules and w.wrap == "other" else w.wrap
            number, to = max(w.number, _NUMBERS[w.hand]), _LEADS[w.hand]
            yield f"the node goes to {to}", w._replace(goes=to, number=number, as_=as_)
        if w.goes == "B" and w.as_ == "own" and w.phase in "SD" and w.leaf != "B":
            yield "B signs the node's leaf", w._replace(leaf="B")
        if w.goes in ("C", "Z") and w.leaf != "-" and "vouch" not in rules:
            yield "a leaf of the thief's", w._replace(leaf="-")
        # Whoever writes records on B can say so before the operator does.
        if w.goes and not w.left and (w.leaf == "B" or "proof" not in rules):
            forged = "" if w.phase == "D" else ", which the operator did not write"
            yield f"the node reads done on {w.goes}{forged}", w._replace(left=True)
        if w.shown and "vouch" not in rules and "R3" not in w.pins:
            yield "the node trusts the thief's root", w._replace(pins=w.pins | {"R3"})
        if w.left and w.goes == "B" and w.phase == "D" and "R2" not in w.pins:
            yield "the root is rotated at B: R1's cross certificate vouches for R2", w._replace(pins=w.pins | {"R2"})

    return explore(first, successors, _wrong, limit=limit)


def _writers(w: Walk, *, stolen: bool) -> Iterator[tuple[str, Walk]]:
    for what in ("forged", "old", "late"):
        if w.hand != what and (what != "late" or (stolen and w.left)):
            yield f"who writes records on A puts the {what} hand-over there", w._replace(hand=what, wrap="own")
    if w.wrap == "own":
        yield "who writes records on A puts another node's credential there", w._replace(wrap="other")
    if not w.shown:
        yield "a thief's root is put on the root mount, and a record names it", w._replace(shown=True)


def _wrong(w: Walk) -> str | None:
    if w.goes in ("C", "Z"):
        return f"J1: the node logs in at {w.goes} and asks it for certificates"
    if w.as_ == "other":
        return "J2: the node acts as another node"
    if w.left and w.leaf != "B":
        return "J3: the node has left A, and B has given it nothing"
    if "R3" in w.pins:
        return "J4: the node trusts a root for which no pinned root vouches"
    return None
