"""The rotation of the root, with pins, cross-signature, pods and outside kubeconfigs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from models.explore import Found, explore
from vaultpki.procedure.phases import CA_PHASES

# The root. Certificates: R1 (old root), R2 (new root), X (the new root's key signed by the old root), I1 and I2 (the
# issuing CA's one key, signed by the old and by the new root), J2 (a later issuing CA, signed by the new root).

SIGNER = {"R1": "R1", "R2": "R2", "X": "R1", "I1": "R1", "I2": "R2", "J2": "R2"}
KEY = {"R1": "r1", "R2": "r2", "X": "r2", "I1": "i", "I2": "i", "J2": "j"}
ISSUER_KEY = {"R1": "r1", "R2": "r2"}


def verifies(leaf: str, sent: frozenset[str], store: frozenset[str], partial: bool) -> bool:
    """Return whether a leaf of the key `leaf` verifies.

    With `partial` any certificate of the store is an anchor (Go); else a root.
    """
    reached, todo = {leaf}, [leaf]
    while todo:
        key = todo.pop()
        for c in sent | store:
            if KEY[c] == key:
                if c in store and (partial or c in ("R1", "R2")):
                    return True
                up = ISSUER_KEY[SIGNER[c]]
                if up not in reached:
                    reached.add(up)
                    todo.append(up)
    return False


class RootNode(NamedTuple):
    pins: frozenset[str]
    strict: frozenset[str]  # X-ca.crt
    chain: frozenset[str]  # X-ca-chain.crt
    leaf: str
    sent: frozenset[str]  # what stands behind the leaf
    report: tuple[frozenset[str], frozenset[str], frozenset[str]]
    fresh: bool


class RootWorld(NamedTuple):
    phase: str  # of ROOT_STATES
    there: frozenset[str]
    default: str
    nodes: tuple[RootNode, ...]
    manager: frozenset[str]  # the controller manager's memory of the chain bundle
    copy: frozenset[str]  # kube-root-ca.crt
    pods: frozenset[frozenset[str]]  # what pods hold from their start
    outside: frozenset[str]  # an outside kubeconfig that holds roots only
    stale: bool  # a machine image with the old pin that may still join


ROOT_RULES = {
    "parked": "a node keeps its old pin aside, without trusting it, until done",
    "again": "from retired the rollback waits until everybody trusts the old root again",
    "keep-cross": "the cross certificate stays on the mount after the old root has gone",
    "sent": "retired waits until every served chain ends in the re-signed issuing CA (by certificate, not by key)",
    "pods": "published waits until kube-root-ca.crt has the new root and no pod of before runs",
    "outside": "outside kubeconfigs hold the new root (a person's word) before retired; before switched without "
    "send-cross",
    "send-cross": "while switched, servers send the cross certificate too",
    "manager": "published waits for the controller manager's restart",
    "pins": "published waits until every node's report shows both pins",
}
ROOT_STATES = {
    "0": "steady, prepared",
    "U": "published, returning",
    "S": "switched",
    "T": "re-trusting",
    "R": "retired",
    "D": "done",
    "N": "a later issuing CA is in force",
}
"""The states of the model: in U there is the cross certificate, in S and T the re-signed issuing CA is the default."""

_LETTERS = {word: letter for letter, words in ROOT_STATES.items() for word in words.split(", ")}
ROOT_FORWARD, ROOT_BACK = (
    {_LETTERS[a]: _LETTERS[b] for a, b in way.items() if _LETTERS[a] != _LETTERS[b]}
    for way in (CA_PHASES.onward, CA_PHASES.home)
)
ROOT_WAITS = {
    "US": ("pins", "manager", "pods"),
    "TS": ("pins", "manager", "pods", "again"),
    "TU": ("again",),
    "SR": ("outside", "sent"),
    "RD": (),
}
"""What steps wait for by which rules, beside a fresh report of every node; from retired that nobody holds the old root.

`again` has outside kubeconfigs too. Steps that are not named wait for nobody.
"""
f = frozenset


def root_model(rules: frozenset[str], *, away: bool, later: bool, carried: bool = False, listed: bool = False) -> Found:
    """Explore the rotation of the root.

    With `carried` people bring the re-signed issuing CA while the root has switched. With `listed` there is no cross
    certificate: the owners of all nodes have named the new root before it is published.
    """
    rules = rules - {"send-cross", "keep-cross"} if listed else rules
    cross = frozenset[str]() if listed else frozenset({"X"})
    first_node = RootNode(
        f({"R1"}), f({"I1"}), f({"I1", "R1"}), "i", f({"I1"}), (f({"R1"}), f({"I1", "R1"}), f({"I1"})), True
    )
    first = RootWorld(
        "0",
        f({"R1", "I1"}),
        "I1",
        (first_node, first_node),
        f({"I1", "R1"}),
        f({"I1", "R1"}),
        f({f({"I1", "R1"})}),
        f({"R1"}),
        True,
    )
    ours = 1 if away else 2

    def record(w: RootWorld, to: str, **more: Any) -> RootWorld:
        return w._replace(phase=to, nodes=tuple(n._replace(fresh=False) for n in w.nodes), **more)

    def gate(w: RootWorld, to: str) -> bool:
        known, step = w.nodes[:ours], w.phase + to
        asks = rules.intersection(ROOT_WAITS.get(step, ()))
        if step not in ROOT_WAITS or (w.phase == "T" and "again" not in rules):
            return True
        if not all(n.fresh for n in known):
            return False
        if "pins" in asks and not all({"R1", "R2"} <= n.report[0] and "R2" in n.report[1] for n in known):
            return False
        if "manager" in asks and "R2" not in w.manager:
            return False
        if "pods" in asks and ("R2" not in w.copy or not all("R2" in p for p in w.pods)):
            return False
        early = "outside" in rules and "send-cross" not in rules and step in ("US", "TS")
        if ("outside" in asks or early) and "R2" not in w.outside:
            return False
        if "again" in asks and not ("R1" in w.outside and all("R1" in n.report[0] & n.report[1] for n in known)):
            return False
        if step == "SR" and w.default != "I2":
            # The signer outside has not signed the issuing CA yet (`ca.issuing.waits_for_signer`).
            return False
        if "sent" in asks and not all("I2" in n.report[2] for n in known):
            return False
        left = frozenset[str]().union(*(n.report[0] | n.report[1] for n in known), w.manager, w.copy)
        return step != "RD" or "R1" not in left

    def changes(w: RootWorld, to: str) -> tuple[frozenset[str], str]:
        """Return the certificates that there are in a state, and the default."""
        gone = {"R1", "I1"} | (set() if "keep-cross" in rules else {"X"})
        return {
            "U": ((w.there | {"R2"} | cross) - {"I2"}, "I1"),
            "S": (w.there, w.default) if carried else (w.there | {"I2"}, "I2"),
            "0": (w.there - {"R2", "X"}, "I1"),
            "D": (w.there - gone, "I2"),
        }.get(to, (w.there, w.default))

    def successors(w: RootWorld) -> Iterator[tuple[str, RootWorld]]:
        for word, table in (("continue", ROOT_FORWARD), ("abort", ROOT_BACK)):
            to = table.get(w.phase)
            if to and gate(w, to):
                there, default = changes(w, to)
                yield f"{word}: {ROOT_STATES[to]}", record(w, to, there=there, default=default)
        if carried and w.phase == "S" and w.default == "I1":
            yield "the re-signed issuing CA is imported", w._replace(there=w.there | {"I2"}, default="I2")
        if w.phase == "D" and later:
            yield (
                "a later rotation puts an issuing CA under the new root in force",
                record(w, "N", there=w.there | {"J2"}, default="J2"),
            )
        for i, n in enumerate(w.nodes):
            pins = set(n.pins) - ({"R2"} if w.phase == "0" and "R1" in n.pins else set())
            if w.phase in "UST" and "R1" in pins and {"R2", *cross} <= w.there:
                pins.add("R2")
            if w.phase in "RDN":
                if "R1" in pins and {"R2", *cross} <= w.there:
                    pins.add("R2")
                if "R2" in pins:
                    pins.discard("R1")
            if "parked" in rules and w.phase in "0UST" and "R1" in w.there:
                pins.add("R1")  # its own earlier pin, kept aside until done
            roots = {r for r in pins if r in w.there or r in n.chain}
            issuing = {c for c in w.there if c in ("I1", "I2", "J2") and (SIGNER[c] in pins)}
            if not issuing:
                continue  # a stranger: nothing changes
            if "I2" in issuing and w.phase in "RDN":
                issuing.discard("I1")
            sent = {w.default} if w.default in issuing else set(n.sent)
            if "send-cross" in rules and w.phase in "ST" and w.default == "I2":
                sent |= {"X"} | ({"I1"} & issuing)
            leaf = KEY[w.default] if w.default in issuing else n.leaf
            for each in {f(sent), n.sent}:
                new = n._replace(pins=f(pins), strict=f(issuing), chain=f(issuing | roots), leaf=leaf, sent=each)
                if leaf != n.leaf and each == n.sent:
                    continue
                new = new._replace(report=(new.pins, new.chain, new.sent), fresh=True)
                if new != n:
                    yield (
                        f"node {i + 1} passes, sends {sorted(each)}",
                        w._replace(nodes=(*w.nodes[:i], new, *w.nodes[i + 1 :])),
                    )
        if w.manager != w.nodes[0].chain:
            yield "the controller manager restarts", w._replace(manager=w.nodes[0].chain)
        if w.copy != w.manager:
            yield "kube-root-ca.crt is published", w._replace(copy=w.manager)
        if w.copy not in w.pods:
            yield "a pod starts", w._replace(pods=w.pods | {w.copy})
        for p in w.pods:
            if p != w.copy:
                yield "pods of before are restarted", w._replace(pods=w.pods - {p} | {w.copy})
        if w.phase in "RDN" and w.outside == {"R1", "R2"}:
            yield "the outside kubeconfig drops the old root", w._replace(outside=f({"R2"}))
        if w.phase in "UST" and "R1" not in w.outside:
            yield "the outside kubeconfig gets both roots back", w._replace(outside=f({"R1", "R2"}))
        if w.phase in "UST" and "R2" not in w.outside:
            yield "the outside kubeconfig gets both roots", w._replace(outside=f({"R1", "R2"}))

    def bad(w: RootWorld) -> str | None:
        for i, n in enumerate(w.nodes[:ours]):
            for p in w.pods:
                if not verifies(n.leaf, n.sent, p, False):
                    return f"a pod that holds {sorted(p)} refuses node {i + 1}, which sends {sorted(n.sent)}"
            if not verifies(n.leaf, n.sent, w.outside, False):
                held = sorted(w.outside)
                return f"an outside client that holds {held} refuses node {i + 1}, which sends {sorted(n.sent)}"
            for m in w.nodes[:ours]:
                if w.phase != "N" and not verifies(n.leaf, n.sent, m.strict, True):
                    return f"a node with {sorted(m.strict)} refuses {sorted(n.sent)}"
        return None

    def good(w: RootWorld) -> bool:
        return all("R2" in n.pins and "R1" not in n.pins and w.default in n.strict for n in w.nodes) and w.phase in "DN"

    def home(w: RootWorld) -> bool:
        return w.phase == "0" and all(n.pins == {"R1"} and n.chain == {"R1", "I1"} for n in w.nodes)

    return explore(first, successors, bad, good, (home, lambda w: w.phase not in "DN"))


def holders() -> Found:
    """Show that a process which holds the root (a pod) takes a leaf of a deleted issuing CA.

    Its thief sends that CA's certificate too.
    """
    taken = verifies("i", f({"I1"}), f({"R1"}), False)
    return Found(
        1,
        "I2: who holds the root still trusts the old issuing CA until its certificate ends" if taken else None,
        [],
        None,
        True,
    )
