"""Which server is asked for what a standby may answer, and which one is not asked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from vaultpki.errors import Unavailable
from vaultpki.vault.route import StandbyReads

NAMES = ("one", "two", "three")


class Servers:
    """What each server says, and who was asked."""

    def __init__(self, **said: bool | None) -> None:
        self.said = said
        self.asked: list[str] = []

    def asks(self, name: str) -> bool:
        self.asked.append(name)
        answer = self.said.get(name, True)
        if answer is None:
            raise Unavailable(f"{name} is away")
        return answer


def reads_of(names: Sequence[str], *, found: bool = True) -> StandbyReads[str]:
    return StandbyReads("active", names, lambda: found)


def test_each_is_asked_in_its_turn_and_the_active_node_never() -> None:
    servers, reads = Servers(), reads_of(NAMES)
    assert all(reads.agree(servers.asks) for _ in range(9))
    assert Counter(servers.asked) == dict.fromkeys(NAMES, 3)
    assert servers.asked[:3] == servers.asked[3:6] == servers.asked[6:]


def test_clients_spread_over_the_standbys() -> None:
    servers = Servers()
    for _ in range(100):
        reads_of(NAMES).agree(servers.asks)
    assert set(servers.asked) == set(NAMES)


def test_a_change_is_known_once_the_active_node_says_so() -> None:
    servers, reads = Servers(one=False, two=False, three=False, active=False), reads_of(NAMES)
    assert not reads.agree(servers.asks)
    assert len(servers.asked) == 2
    assert servers.asked[1] == "active"
    # The standbys were right.
    assert set(reads.standbys) == set(NAMES)


def test_one_that_is_behind_is_not_asked_again() -> None:
    servers, reads = Servers(one=False), reads_of(NAMES)
    assert all(reads.agree(servers.asks) for _ in range(9))
    assert Counter(servers.asked) == {"one": 1, "active": 1, "two": 4, "three": 4}


def test_one_that_fails_is_left_at_once_for_the_next_one() -> None:
    servers, reads = Servers(one=None), reads_of(NAMES)
    assert all(reads.agree(servers.asks) for _ in range(8))
    assert Counter(servers.asked) == {"one": 1, "two": 4, "three": 4}


def test_where_all_fail_the_active_node_is_asked() -> None:
    servers, reads = Servers(one=None, two=None, three=None), reads_of(NAMES)
    assert all(reads.agree(servers.asks) for _ in range(5))
    assert Counter(servers.asked) == {"one": 1, "two": 1, "three": 1, "active": 5}


def test_its_failure_is_raised() -> None:
    servers, reads = Servers(one=None, active=None), reads_of(["one"])
    reads.agree(lambda name: name == "active")
    with pytest.raises(Unavailable, match="active is away"):
        reads.agree(servers.asks)


def test_a_standby_that_hangs_on_an_old_copy_hides_a_change_once_only() -> None:
    """Whichever standby it is, and however many there are; one alone takes turns with the active node."""
    for names in (NAMES, NAMES[:2], NAMES[:1]):
        for stuck in names:
            for _ in range(10):
                servers = Servers(active=False, **dict.fromkeys(names, False) | {stuck: True})
                reads = reads_of(names)
                assert not (reads.agree(servers.asks) and reads.agree(servers.asks))


def test_without_standbys_the_active_node_is_asked() -> None:
    servers, reads = Servers(), reads_of(())
    assert reads.agree(servers.asks)
    assert servers.asked == ["active"]


def test_while_nobody_is_active_what_a_standby_says_counts() -> None:
    """The one that was active before may be cut off, with an old copy."""
    servers, reads = Servers(one=False, two=False, three=False), reads_of(NAMES, found=False)
    assert not reads.agree(servers.asks)
    assert "active" not in servers.asked


def test_where_standbys_forward_the_active_node_is_asked_and_not_looked_for() -> None:
    looked: list[str] = []

    def asks(name: str) -> bool:
        looked.append(name)
        if name != "active":
            raise Unavailable("forwards", forwards=True)
        return True

    def find() -> bool:
        looked.append("find")
        return True

    reads = StandbyReads("active", NAMES, find)
    assert all(reads.agree(asks) for _ in range(3))
    assert looked[1:] == ["active"] * 3
