"""The settings in which the models are explored, and the rules without which each of them breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from models.explore import Found, Try
from models.root_rotation import ROOT_RULES, holders, root_model
from models.rotation import Settings
from models.rotation_space import run, walk
from models.rotation_tables import ALL
from models.small import aborted, quorum, same_key

SETTINGS = {
    "etcd, hooks": Settings(),
    "etcd, a person restarts": Settings(hooks=False),
    "etcd, a node joins": Settings(nodes=1, joins=True),
    "kubernetes": Settings(reads="late"),
    "kubernetes, admin": Settings(reads="late", nodes=1, admin=True),
    "kubernetes, a node joins": Settings(reads="late", nodes=1, joins=True),
    "etcd, two operators": Settings(nodes=1, operators=2),
    "etcd, two operators, two nodes": Settings(nodes=2, operators=2),
    "etcd, two operators, admin": Settings(nodes=1, operators=2, admin=True, turns=False),
    "etcd, a late apply": Settings(apply=True),
    "etcd, a liar": Settings(nodes=3, liars=1, back=False),
    "etcd, one excused": Settings(nodes=3, excused=True, back=False),
    "etcd, another file": Settings(reach=True, other=True, nodes=1),
    "etcd, another file, a listener away": Settings(reach=True, other=True, away=True, nodes=1),
    "etcd, set back": Settings(restore=True),
    "etcd, set back, forward only": Settings(restore=True, back=False),
    "etcd, set back to published": Settings(restore=True, begin="U"),
    "etcd, set back to switched": Settings(restore=True, begin="S"),
    "etcd, set back to retired": Settings(restore=True, begin="R"),
    "etcd, set back to returning": Settings(restore=True, begin="B"),
    "etcd, set back to published, stale reports": Settings(restore=True, begin="U", stale=True),
    "etcd, set back, stale reports, a liar": Settings(
        nodes=2, liars=1, claims=True, restore=True, stale=True, back=False
    ),
    "kubernetes, set back to published": Settings(reads="late", restore=True, begin="U"),
    "etcd, a liar is ahead": Settings(nodes=2, liars=1, claims=True),
    "etcd, a liar is ahead, two honest": Settings(nodes=3, liars=1, claims=True, begin="U"),
    "etcd, most nodes lie": Settings(nodes=3, liars=2, claims=True, begin="U"),
    "etcd, set back to published, a liar": Settings(nodes=2, liars=1, claims=True, restore=True, begin="U"),
    "etcd, set back to retired, a liar": Settings(nodes=2, liars=1, claims=True, restore=True, begin="R"),
    "etcd, set back to published, a liar, two honest": Settings(nodes=3, liars=1, claims=True, restore=True, begin="U"),
    "etcd, a liar is ahead, a node joins": Settings(nodes=2, liars=1, claims=True, joins=True, begin="R"),
    "kubernetes, a liar is ahead": Settings(nodes=2, liars=1, claims=True, reads="late"),
    "etcd, a forged record": Settings(forged=True),
    "etcd, a forged record in published": Settings(forged=True, begin="U"),
    "etcd, one node, a forged record": Settings(forged=True, nodes=1),
}

NEEDED = (
    ("counted", "etcd, a node joins"),
    ("counted", "kubernetes, a node joins"),
    ("echo", "etcd, hooks"),
    ("echo", "kubernetes"),
    ("settle", "kubernetes"),
    ("word", "etcd, hooks"),
    ("word", "kubernetes"),
    ("leafword", "etcd, hooks"),
    ("leafword", "etcd, two operators"),
    ("leafword", "etcd, set back, forward only"),
    ("intent", "etcd, hooks"),
    ("retrust", "etcd, hooks"),
    ("bound", "etcd, a person restarts"),
    ("newstate", "etcd, a person restarts"),
    ("memory", "etcd, hooks"),
    ("seen", "etcd, hooks"),
    ("compared", "etcd, another file"),
    ("probe", "etcd, another file"),
    ("accepting", "etcd, another file, a listener away"),
    ("operators", "kubernetes, admin"),
    ("leafword", "etcd, a late apply"),
    ("whole", "etcd, a late apply"),
    ("epoch", "etcd, set back, forward only"),
    ("recover", "etcd, set back, forward only"),
    ("back only", "etcd, set back to retired"),
    ("kept", "etcd, set back to published"),
    ("kept", "etcd, a liar is ahead"),
    ("kept", "etcd, most nodes lie"),
    ("again", "etcd, set back to published"),
    ("again", "etcd, a liar is ahead"),
    ("waits", "etcd, a liar is ahead, a node joins"),
    ("nothing dropped", "etcd, set back, stale reports, a liar"),
    ("steady", "etcd, set back, stale reports, a liar"),
    ("limit", "etcd, one node, a forged record"),
    ("ids", "etcd, two operators"),
    ("defuse", "etcd, two operators, admin"),
    ("read again", "etcd, two operators, admin"),
    ("whole", "etcd, two operators"),
)
"""Rules, each with a setting in which something breaks without it."""


def _rotation(s: Settings) -> Callable[[int], Found]:
    return lambda limit: run(s, live=True, limit=limit)


def tries() -> Iterator[Try]:
    """Yield every exploration; each is given a limit of states."""
    for name, s in SETTINGS.items():
        yield Try(f"{name}: all rules", True, _rotation(s))
    for rule, name in NEEDED:
        yield Try(f"{name}: without {rule}", False, _rotation(SETTINGS[name]._replace(rules=ALL - {rule})))
    first = SETTINGS["etcd, hooks"]._replace(rules=frozenset({"memory", "probe"}))
    yield Try("etcd, hooks: as first written", False, _rotation(first))
    yield Try("quorum: by turns", True, lambda limit: quorum(turns=True))
    yield Try("quorum: by turns, one lies", True, lambda limit: quorum(turns=True, liar=True))
    yield Try("quorum: each agent on its own", False, lambda limit: quorum(turns=False))
    yield Try("quorum: by turns, a hook's success counts", False, lambda limit: quorum(turns=True, seen="hook"))
    yield Try("quorum: by turns, health alone counts", False, lambda limit: quorum(turns=True, seen="health"))
    yield Try("quorum: by turns, the start alone counts", False, lambda limit: quorum(turns=True, seen="start"))
    yield Try(
        "quorum: by turns, one lies, without a look", False, lambda limit: quorum(turns=True, liar=True, look=False)
    )
    yield Try("quorum: by turns, one is down", True, lambda limit: quorum(turns=True, down=True))
    others = "quorum: by turns, one is down that had no turn"
    yield Try(others, False, lambda limit: quorum(turns=True, down=True, all_=False))
    yield Try("quorum: by turns, one member excused", False, lambda limit: quorum(turns=True, excused=1))
    yield Try("abort: all rules", True, lambda limit: aborted(waits=True))
    yield Try("abort: over at once", False, lambda limit: aborted(waits=False))
    yield Try("holders of the root, after an issuing CA's rotation", False, lambda limit: holders())
    big = Settings(nodes=3, joins=True, operators=2)
    walks = {
        "three nodes, one joins, two operators, etcd": big,
        "three nodes, one joins, two operators, kubernetes": big._replace(reads="late", admin=True),
        "three nodes, two operators, a person restarts, set back": Settings(
            nodes=3, operators=2, hooks=False, restore=True
        ),
        "five nodes of which two lie, one joins, two operators, set back": Settings(
            nodes=5, liars=2, claims=True, joins=True, operators=2, restore=True
        ),
        "four nodes of which three lie, kubernetes, set back": Settings(
            nodes=4, liars=3, claims=True, reads="late", restore=True
        ),
    }
    for title, s in walks.items():
        yield Try(f"walks: {title}", True, lambda limit, s=s: walk(s, 200, 150))  # type: ignore[misc]
    yield from _roots()
    yield Try("same key: all rules", True, lambda limit: same_key(wait_restart=True, wait_sent=True, in_time=True))
    for title, given in (
        ("without restarts", {"wait_restart": False, "wait_sent": True, "in_time": True}),
        ("without looking at what is sent", {"wait_restart": True, "wait_sent": False, "in_time": True}),
        ("not done in time", {"wait_restart": True, "wait_sent": True, "in_time": False}),
    ):
        yield Try(f"same key: {title}", False, lambda limit, given=given: same_key(**given))  # type: ignore[misc]


ROOT_NEEDED = (
    (("parked",), False),
    (("again",), False),
    (("keep-cross",), True),
    (("sent",), False),
    (("pods",), True),
    (("manager",), True),
    (("outside",), False),
    (("outside", "send-cross"), False),
)
"""Rules of the root's rotation without which something breaks, some only where a later issuing CA is put in force.

`pins` is needed nowhere: in the model every pass that reads the record learns them, and a report answers the record.
"""


def _root(rules: frozenset[str], *, later: bool) -> Callable[[int], Found]:
    return lambda limit: root_model(rules, away=later, later=later)


def _roots() -> Iterator[Try]:
    every = frozenset(ROOT_RULES)
    yield Try("root: all rules", True, lambda limit: root_model(every, away=False, later=True))
    yield Try("root: all rules, one node away", True, lambda limit: root_model(every, away=True, later=True))
    yield Try("root outside: all rules", True, lambda limit: root_model(every, away=False, later=True, carried=True))
    yield Try(
        "root outside, by owners: all rules",
        True,
        lambda limit: root_model(every, away=False, later=True, carried=True, listed=True),
    )
    yield Try(
        "root outside, by owners: without outside",
        False,
        lambda limit: root_model(every - {"outside"}, away=False, later=False, carried=True, listed=True),
    )
    for rules, later in ROOT_NEEDED:
        title = f"root: without {' and '.join(rules)}{', with a later issuing CA' if later else ''}"
        yield Try(title, False, _root(every - set(rules), later=later))
