"""How urgent the end of a CA is: the days of the design, less of them in a short life, and enough for its leaves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from helpers.corporate_certificates import Ca, Corporate, name
from vaultpki.pki.ca_life import CaLife, Level, below, expiry, lives_above, of_root, to_json

DAY = 86400
END = datetime(2031, 11, 25, 12, tzinfo=UTC)


def life(days: float, ttl: int = 7 * DAY, *, ca: str = "etcd") -> CaLife:
    return CaLife(ca, ca == "root", END - timedelta(days=days), END, ttl)


def level(one: CaLife, days: float) -> Level:
    """The level so many days before the end."""
    return one.level(END - timedelta(days=days))


@pytest.mark.parametrize(
    ("ca", "years", "days"), [("root", 10, (730, 365, 182)), ("kubelet", 5, (180, 60, 30)), ("etcd", 1, (180, 60, 30))]
)
def test_the_days_before_an_end(ca: str, years: int, days: tuple[int, int, int]) -> None:
    one = life(years * 365, ca=ca)
    before = Level.NONE
    for at, begins in zip(days, (Level.NOTICE, Level.WARNING, Level.CRITICAL), strict=True):
        assert level(one, at + 0.001) is before
        assert level(one, at) is begins
        before = begins
    assert level(one, 0.001) is Level.CRITICAL and level(one, 0) is Level.EXPIRED and level(one, -400) is Level.EXPIRED


def test_leaves_that_live_long_bring_it_forward() -> None:
    """Before its end minus one and a half times the longest TTL somebody must be warned, whatever the days say."""
    one = life(1825, 90 * DAY)
    assert [level(one, days) for days in (181, 180, 136, 135, 91, 90)] == [
        Level.NONE,
        Level.NOTICE,
        Level.NOTICE,
        Level.WARNING,
        Level.WARNING,
        Level.CRITICAL,
    ]
    for days in (0.1, 30, 365, 3000):
        for ttl in (60, 3600, 30 * DAY, 365 * DAY):
            assert level(life(days, ttl), 1.5 * ttl / DAY).attention


def test_a_short_life_does_not_begin_with_a_warning() -> None:
    one = life(90, 7 * DAY)
    assert [level(one, days) for days in (90, 46, 45, 30, 15, 0)] == [
        Level.NONE,
        Level.NONE,
        Level.NOTICE,
        Level.WARNING,
        Level.CRITICAL,
        Level.EXPIRED,
    ]
    assert level(life(10 / 1440, 60), 10 / 1440) is Level.NONE


def test_only_what_needs_a_person_asks_for_attention() -> None:
    assert [each.value for each in Level if each.attention] == ["warning", "critical", "expired"]


def test_the_sentence_says_what_happens_and_the_command() -> None:
    one = life(1825, 30 * DAY)
    assert expiry(one, END - timedelta(days=50)).sentence == (
        "etcd CA: it expires on 2031-11-25 12:00Z, in 50 days; from 2031-10-26 on new certificates end with it; run "
        "`vaultpki ca rotate etcd`"
    )
    assert "in 47 hours; new certificates end with it already; run" in expiry(one, END - timedelta(hours=47)).sentence
    assert expiry(one, END).sentence == (
        "etcd CA: it expired on 2031-11-25 12:00Z, and no certificate of it is valid; run `vaultpki ca rotate etcd`"
    )
    assert expiry(one, END - timedelta(days=50), rotating=True).sentence.endswith(
        "on new certificates end with it; continue its rotation with `vaultpki ca continue`"
    )
    root = life(3650, 30 * DAY, ca="root")
    assert expiry(root, END).sentence == (
        "root CA: it expired on 2031-11-25 12:00Z; the cluster needs a new root, and every node a new join file"
    )
    assert expiry(root, END - timedelta(seconds=70)).sentence == (
        "root CA: it expires on 2031-11-25 12:00Z, in 70 seconds, and everything below it then; run "
        "`vaultpki ca rotate root`"
    )


def test_the_form_for_programs() -> None:
    found = to_json(expiry(life(1825), END - timedelta(days=200)))
    assert found == {
        "ca": "etcd",
        "not_after": "2031-11-25T12:00:00Z",
        "level": "none",
        "message": found["message"],
    }


def test_a_ca_outside_counts_if_it_ends_before_ours_and_is_called_by_its_subject() -> None:
    corp = Corporate()
    issuing = corp.issuing.again(corp.lower, ends=corp.lower.facts.not_after - timedelta(days=30)).facts
    early = corp.lower.again(corp.upper, ends=issuing.not_after - timedelta(days=1)).facts
    # A CA that is cut where its chain ends begins an hour before that.
    with_it = corp.lower.again(corp.upper, ends=issuing.not_after + timedelta(hours=1)).facts
    assert [life.outside for life in lives_above((with_it,), (issuing,), 3600)] == [with_it.subject_text]
    assert lives_above((corp.lower.facts, corp.upper.facts), (issuing,), 3600) == ()
    (life,) = lives_above((early, corp.upper.facts), (issuing,), 3600)
    assert life.ca == life.outside == early.subject_text and life.not_after == early.not_after
    # Another certificate for the same key takes its place, and a key of its own does not.
    assert lives_above((early, corp.lower.facts, corp.upper.facts), (issuing,), 3600) == ()
    other = Ca("Corp Platform CA", corp.upper).facts
    assert len(lives_above((early, other), (issuing,), 3600)) == 1
    end = expiry(life, early.not_after - timedelta(days=10))
    assert end.level is Level.CRITICAL
    assert end.sentence.startswith(f"{early.subject_text}, which stands above the CAs of this cluster, expires on ")
    assert "have its owner renew it with the same key" in end.sentence and "ca rotate" not in end.sentence
    assert "expired on" in expiry(life, early.not_after).sentence


def test_a_ca_that_ends_with_one_above_it_is_not_to_be_rotated_before_that_was_renewed() -> None:
    corp = Corporate()
    issuing = corp.issuing.facts
    own = CaLife("etcd", False, issuing.not_before, issuing.not_after, 3600)
    late, with_it = (
        lives_above((corp.lower.again(corp.upper, ends=issuing.not_after + after).facts,), (issuing,), 3600)
        for after in (timedelta(days=30), timedelta(hours=1))
    )
    assert below((own,), late) == (own,)
    (held,) = below((own,), with_it)
    sentence = expiry(held, issuing.not_after - timedelta(days=10)).sentence
    assert f"{with_it[0].outside} above it ends then too, so have that renewed first; then run `vaultpki" in sentence


def test_an_anchor_outside_is_no_root_that_a_command_rotates() -> None:
    corp = Corporate()
    life = of_root(corp.root.facts, 3600, root_name="prod root CA")
    assert (life.ca, life.root, life.outside) == ("root", True, corp.root.facts.subject_text)
    sentence = expiry(life, life.not_after - timedelta(days=100)).sentence
    assert "to which the nodes are pinned" in sentence and "ca rotate" not in sentence
    mine = Ca("", subject=name("prod root CA")).facts
    assert of_root(mine, 3600, root_name="prod root CA").outside == ""
