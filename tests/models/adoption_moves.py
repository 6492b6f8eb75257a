"""What happens in the model of an adoption: gates, the operator, and what machines do by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from models.adoption import Node, Settings, World, five_minutes, halves, onward, passed, quiet, restarted, signing, year
from models.adoption_tables import BACK, BOTH, ENDED, FREE, LAST, LEAF, LEAF_STEPS, NAMES, NEW, OLD, TRUST, TRUST_STEPS


def steps_of(phase: str, s: Settings) -> tuple[str, ...]:
    return (*(phase + table[phase] for table in (onward(s), BACK) if phase in table), "off")


def report(w: World, n: Node, role: str, s: Settings) -> Any:
    """Return what the agent can know: for followers the files, for others what they were started with."""
    follows = n.free or ("paths" not in s.rules and s.reads == "late")
    mem, show = n.disk if follows else n.mem, n.leaf if follows and not n.rot else n.show
    raw = (n.disk, mem, n.leaf, show, n.rot, n.sig, n.key)
    if "echo" not in s.rules:
        return raw
    return tuple(step for step in steps_of(w.phase, s) if ok(step, raw, role, s)) or None


def ok(step: str, raw: Any, role: str, s: Settings) -> bool:
    """Return whether what a report says is what a step waits for."""
    disk, mem, leaf, show, rot, sig, key = raw
    if "memory" not in s.rules:
        mem = disk
    if "shown" not in s.rules:
        show = leaf
    if step == "off":
        return not sig
    kube = s.reads == "late"
    if step in ("US", "TS", "TB"):
        return bool(disk == mem == TRUST_STEPS[step])
    if step in ("SC", "SR", "CR"):
        stopped = step == "SC" or "signer-off" not in s.rules or not sig
        return leaf == show == LEAF_STEPS[step] and stopped and ("aside" not in s.rules or key != "p")
    if step == "BP":
        runs = (sig or role not in "mk" or not kube) and (rot or role not in "wj" or not kube)
        return leaf == show == LEAF_STEPS[step] and runs
    if step == "RD":
        return bool(disk == mem == TRUST_STEPS[step] == leaf == show)
    return True


def listed(w: World, to: str, s: Settings) -> frozenset[int] | None:
    """Make the first requests of a gate: return which nodes count, None if it is closed already."""
    step = w.phase + to
    if step in FREE or (step in ("TB", "TS") and "retrust" not in s.rules):
        return frozenset()
    if "info" in s.rules and w.info != TRUST[w.phase]:
        return None
    joiner = "k" in s.roles and "secret" in s.rules
    joining = any(n.up in "ic" and role == "k" for n, role in zip(w.nodes, s.roles, strict=True))
    if joiner and step in LAST and (w.secret or joining):
        return None
    counted = set()
    for i, n in enumerate(w.nodes):
        role = s.roles[i]
        if "stale" in s.rules and n.up in "ic" and n.disk != TRUST[w.phase]:
            return None
        node, member = role != "e", role in "mek" and s.reads == "start"
        if n.up == "+" and (n.agent or (node and "nodes" in s.rules) or (member and "members" in s.rules)):
            counted.add(i)
        if n.up == "c" and step in LAST and "csrs" in s.rules:
            counted.add(i)
    if not all(w.nodes[i].agent for i in counted):
        return None
    if step in LAST and {"order", "signer-off"} <= s.rules and s.reads == "late":
        for i in counted:
            if s.roles[i] in "mk" and not reported(w, i, "off", s):
                return None
    if "pods-last" not in s.rules and not pods_ready(w, step, s):
        return None
    return frozenset(counted)


def reported(w: World, i: int, step: str, s: Settings) -> bool:
    n = w.nodes[i]
    if not n.said or (s.reads == "late" and "settle" in s.rules and n.fresh < 2):
        return False
    return step in n.said if "echo" in s.rules else ok(step, n.said, s.roles[i], s)


def pods_ready(w: World, step: str, s: Settings) -> bool:
    if not s.pods or "pods" not in s.rules or step not in ("US", "TS", "TB"):
        return True
    return w.copy == BOTH and w.pods == {BOTH}


def decided(w: World, to: str, counted: frozenset[int], s: Settings) -> bool:
    """Make the later requests of a gate, for reports, then pods, then a person's word; return whether it is open."""
    step = w.phase + to
    lost = s.loses and not any(n.key in ("p", "a") for n in w.nodes)
    if step in ("SB", "CB", "TB") and "able" in s.rules and lost:
        return False
    if step in FREE or (step in ("TB", "TS") and "retrust" not in s.rules):
        return True
    if not all(reported(w, i, step, s) for i in counted):
        return False
    if "pods-last" in s.rules and not pods_ready(w, step, s):
        return False
    if w.outside and "outside" in s.rules:
        trust, leaf = w.outside
        if step in ("US", "TS", "TB") and trust != BOTH:
            return False
        if (step in LAST and leaf != NEW) or (step == "BP" and leaf != OLD):
            return False
    return True


def operate(w: World, s: Settings) -> Iterator[tuple[str, World]]:
    """Yield what the operator's commands may do next, each request by itself."""
    if w.op is None:
        if w.info != TRUST[w.phase]:
            yield "operator: cluster-info follows the record", w._replace(info=TRUST[w.phase])
        if "k" in s.roles and w.secret != (w.phase in "PUB" or "secret" not in s.rules):
            yield "operator: kubeadm-certs follows the record", w._replace(secret=not w.secret)
        for word, table in (("continue", onward(s)), ("abort", BACK if s.back else {})):
            to = table.get(w.phase)
            counted = listed(w, to, s) if to else None
            if counted is not None:
                yield f"operator: {word} lists who counts for {w.phase}->{to}", w._replace(op=(to, "reports", counted))
        return
    yield "operator: killed", w._replace(op=None)
    if w.op[1] == "reports":
        if decided(w, w.op[0], w.op[2], s):
            yield "operator: reports satisfy the gate", w._replace(op=(w.op[0], "write"))
        return
    to = w.op[0]
    nodes = tuple(n._replace(fresh=0, said=None) if "echo" in s.rules else n for n in w.nodes)
    after = w._replace(phase=to, nodes=nodes, op=None)
    choices: list[tuple[Node, ...]] = [()]
    for n in after.nodes:  # a pass may have read just before
        held = (n, n._replace(view=w.phase)) if s.late and n.up == "+" and n.agent and not n.view else (n,)
        choices = [(*c, x) for c in choices for x in held]
    for c in choices:
        yield f"operator: the record says {to}", after._replace(nodes=c)


WORDS = {"m": "control plane", "w": "worker", "e": "etcd member", "j": "new worker", "k": "new control plane"}
AWAY = Node("-", False, 0, 0, 0, 0, False, False, False, "", 0, None, 0, "")


def machines(w: World, s: Settings) -> Iterator[tuple[str, World]]:
    """Yield what may happen on machines, in pods, outside and with the time."""
    for i, n in enumerate(w.nodes):
        role = s.roles[i]

        def with_(node: Node, i: int = i) -> World:
            return w._replace(nodes=(*w.nodes[:i], node, *w.nodes[i + 1 :]))

        who = f"{WORDS[role]} {i + 1}"
        for label, node in _outside_the_cluster(w, s, role, n) if n.up != "+" else _in_the_cluster(w, s, role, n):
            yield f"{who}: {label}", with_(node)
        if n.up == "+" and s.pods and role in "mk" and w.copy != n.mem and (n.sig or n.key != "p"):
            yield f"{who}: its controller manager leads, kube-root-ca.crt has {NAMES[n.mem]}", w._replace(copy=n.mem)
    yield from _together(w, s)


def _outside_the_cluster(w: World, s: Settings, role: str, n: Node) -> Iterator[tuple[str, Node]]:
    """Yield what a machine may do that joins, or has not."""
    if n.up == "-":
        if role == "j" or w.secret:
            yield f"kubeadm join reads cluster-info ({NAMES[w.info]})", n._replace(up="i", disk=w.info)
        if role == "j" and LEAF[w.phase] == NEW:
            trust = TRUST[w.phase]
            yield (
                "joins with an agent, leaf N",
                Node("+", True, trust, NEW, trust, NEW, True, False, False, "", 0, None, 0, ""),
            )
        return
    yield "its join is given up", AWAY
    if n.up == "i" and (role == "k" or signing(w)):
        yield "gets a leaf of O", n._replace(up="c", leaf=OLD)
    servers = [m for k, m in enumerate(w.nodes) if s.roles[k] in "mk" and m.up == "+"]
    if n.up == "c" and all(m.leaf & n.disk and m.mem & OLD for m in servers):
        key = "p" if role == "k" else ""
        yield "registers", n._replace(up="+", mem=n.disk, show=OLD, rot=role == "j", sig=role == "k", key=key)


def _in_the_cluster(w: World, s: Settings, role: str, n: Node) -> Iterator[tuple[str, Node]]:
    """Yield what may happen on a machine of the cluster."""
    home = n.leaf == n.show == n.mem == n.disk == OLD
    if n.agent and s.unenrol and ("unenrol" not in s.rules or (w.phase == "P" and home)):
        yield "its agent is taken away", n._replace(agent=False, said=None, fresh=0, view="")
    if not n.agent:
        yield "enrols", n._replace(agent=True)
    else:
        yield from _passes(w, s, role, n)
    has_key = any(m.key in ("p", "a") for m in w.nodes)
    if role == "e" and n.kept == ENDED and "bring" in s.rules and has_key:
        yield "a person brings a new pair of O", n._replace(kept=OLD)
    if s.loses and n.key == "a" and w.phase in "SCRT" and w.op is None:
        yield "O's key is lost", n._replace(key="-")
    node = restarted(n, role, s)
    if node != n:
        yield f"restarts, now trusts {NAMES[node.mem]}, shows {NAMES[node.show]}", node
    if s.upgrade and n.key == "p":
        yield "kubeadm upgrade makes new leaves of O", n._replace(leaf=OLD, mem=n.disk, show=OLD)


def _passes(w: World, s: Settings, role: str, n: Node) -> Iterator[tuple[str, Node]]:
    """Yield how a pass of the agent may end: killed half-way, its report lost, or with its report."""
    v = n.view or w.phase
    node = passed(w, n, role, v, s)
    what = f"{'had read ' + v + ', ' if n.view else ''}trusts {NAMES[node.disk]}, leaf {NAMES[node.leaf]} on disk"
    if node != n:
        yield f"{what}, report lost", node
        for half in halves(n, node):
            yield f"{what}, killed half-way", half
    said, fresh = report(w, node, role, s), int(v == w.phase)
    if "echo" in s.rules and not fresh:
        said = None
    fresh = (n.fresh if n.said == said and n.fresh else 1) if said else 0
    yield f"{what}, reports", node._replace(said=said, fresh=fresh)


def _together(w: World, s: Settings) -> Iterator[tuple[str, World]]:
    """Yield what happens in pods and outside, and that time passes."""
    if s.reads == "late":
        nodes = tuple(five_minutes(n) if n.up == "+" else n for n in w.nodes)
        if nodes != w.nodes:
            yield "five minutes pass", w._replace(nodes=nodes)
    if s.pods:
        if w.copy not in w.pods:
            yield "a pod starts", w._replace(pods=w.pods | {w.copy})
        if w.pods - {w.copy}:
            yield "older pods are restarted", w._replace(pods=frozenset({w.copy}))
    if w.outside:
        wanted = (TRUST[w.phase], LEAF[w.phase])
        if w.outside != wanted and w.phase != "R":
            what = f"{NAMES[wanted[0]]} and a pair of {NAMES[wanted[1]]}"
            yield f"the kubeconfig outside gets {what}", w._replace(outside=wanted)
    if s.expiry and w.op is None and quiet(w, s):
        nodes = tuple(year(w, n, role) if n.up == "+" else n for n, role in zip(w.nodes, s.roles, strict=True))
        if nodes != w.nodes:
            yield "a year passes", w._replace(nodes=nodes)
