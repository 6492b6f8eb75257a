"""When to renew, over all lives, jitters and consumers."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers import sample_certificates
from vaultpki.agent.pairs import PairStatus, held_back, known, premature
from vaultpki.certificates import LEAF_BACKDATE, SKEW
from vaultpki.errors import SigningPaused
from vaultpki.issue.signing import Signed
from vaultpki.model import Certificate, KeyType, Subject, Usage, Window
from vaultpki.node.backoff import MOST_A_DAY, daily_limit
from vaultpki.node.state import AgentState, with_spent
from vaultpki.pki.facts import EKU, Facts, Pair
from vaultpki.pki.renewal import Assessment, PairState, Reason, Recorded, Signers, assess, jitter, renew_at, signed_at

BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
MOMENTS = st.timedeltas(timedelta(), timedelta(days=36525)).map(lambda since: BEGIN + since)
LIVES = st.integers(1, 10 * 365 * 24 * 3600).map(lambda seconds: timedelta(seconds=seconds))
SHARES = st.floats(0, 1)
RELOADS = st.integers(0, 24 * 3600)
TICK = timedelta(milliseconds=1)


@given(MOMENTS, LIVES, SHARES, RELOADS)
def test_between_half_and_two_thirds_of_the_life(signed: datetime, life: timedelta, share: float, reload: int) -> None:
    spent = renew_at(signed, signed + life, share, reload) - signed
    assert life / 2 - TICK <= spent <= life * 2 / 3 + TICK


@given(MOMENTS, LIVES, SHARES, RELOADS)
def test_the_consumer_has_its_time(signed: datetime, life: timedelta, share: float, reload: int) -> None:
    needed = timedelta(seconds=reload + SKEW)
    left = life - (renew_at(signed, signed + life, share, reload) - signed)
    assert left >= min(needed, life / 2) - TICK


@given(MOMENTS, LIVES, SHARES, SHARES, RELOADS)
def test_more_jitter_is_never_earlier(signed: datetime, life: timedelta, a: float, b: float, reload: int) -> None:
    low, high = sorted((a, b))
    assert renew_at(signed, signed + life, low, reload) <= renew_at(signed, signed + life, high, reload)


@given(MOMENTS, LIVES, st.integers(0, 86400))
def test_the_signing_lies_within_the_dates(begin: datetime, life: timedelta, backdate: int) -> None:
    assert begin <= signed_at(begin, begin + life) <= begin + life


@given(st.text(max_size=30), st.text(max_size=30), st.integers(0, 2**160))
def test_jitter_is_a_share(node: str, name: str, serial: int) -> None:
    assert 0 <= jitter(node, name, serial) < 1


SECONDS = st.integers(1, 10 * 365 * 86400)
NAMES = st.sampled_from(["w-1", "w-2", "w-1.example.com", "W-1"])
SUBJECTS = st.builds(
    Subject,
    common_name=NAMES,
    organization=st.lists(NAMES, max_size=2).map(tuple),
    dns=st.lists(NAMES, max_size=3).map(tuple),
    ips=st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]), max_size=2).map(tuple),
)
OIDS = ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2")
FILES = ("crt", "key", "pem")


@st.composite
def cases(draw: st.DrawFn) -> tuple[Pair, Certificate, dict[str, Any]]:
    """A pair as it may lie there, what is wanted, and what else is known; mostly near to each other."""
    subject, key, usage = draw(SUBJECTS), draw(st.sampled_from(KeyType)), draw(st.sampled_from(Usage))
    ttl = draw(SECONDS)
    want = Certificate(
        "kubelet", usage, subject, "kubelet", "m/kubelet", "kubelet", ttl, key, "kubelet", None, draw(RELOADS)
    )
    missing = draw(st.sets(st.sampled_from(FILES)) | st.just(set()))
    unreadable = draw(st.sets(st.sampled_from(sorted({*FILES} - missing or {"key"}))) | st.just(set())) - missing
    leaf = None
    if not {"crt"} & (missing | unreadable):
        begin = draw(MOMENTS).replace(microsecond=0)
        leaf = Facts(
            subject=draw(
                st.just(subject)
                | SUBJECTS
                | st.permutations(subject.dns).map(lambda dns: dataclasses.replace(subject, dns=tuple(dns)))
            ),
            further_names=draw(st.just(()) | st.just(("emailAddress=a@b",))),
            subject_text="",
            issuer_text="",
            serial=draw(st.integers(1, 2**159)),
            not_before=begin,
            not_after=begin + timedelta(seconds=draw(st.integers(-5, 600) | SECONDS | st.just(ttl + 300))),
            usages=draw(st.just(EKU[usage]) | st.frozensets(st.sampled_from((*OIDS, "1.2.3")))),
            key_usage=frozenset(),
            critical=frozenset(),
            is_ca=False,
            path_length=None,
            public_key=b"",
            key=draw(st.just(key) | st.sampled_from([None, *KeyType])),
            signature="sha256",
            subject_key_id=None,
            authority_key_id=None,
            fingerprint="",
            der=b"",
        )
    pair = Pair(
        tuple(name for name in FILES if name in missing),
        tuple(name for name in FILES if name in unreadable),
        leaf,
        draw(st.booleans()),
        draw(st.none() | st.booleans()),
    )
    known: dict[str, Any] = {
        "jitter": draw(SHARES),
        "asked": draw(st.none() | st.just(ttl) | SECONDS),
        "also": draw(st.sets(st.sampled_from([Reason.FORCED, Reason.WRONG_MODE, Reason.WRONG_OWNER]))),
    }
    if leaf is not None:
        since = st.floats(-900, 900).map(lambda seconds: leaf.not_before + timedelta(seconds=seconds))
        known["signed"] = draw(st.none() | since | MOMENTS)
    return pair, want, known


@st.composite
def moments_of(draw: st.DrawFn, pair: Pair) -> datetime:
    """A moment at which something may change for the pair, or any other."""
    if pair.leaf is None:
        return draw(MOMENTS)
    begin, end = pair.leaf.not_before, pair.leaf.not_after
    within_life = st.floats(-0.1, 1.2).map(lambda share: begin + (end - begin) * share)
    edges = [begin - timedelta(seconds=301), begin - timedelta(seconds=300), begin - TICK, begin, end - TICK, end]
    return draw(within_life | st.sampled_from(edges) | MOMENTS)


def expected(pair: Pair, want: Certificate, now: datetime, known: dict[str, Any]) -> set[str]:
    """The reasons, said once more: from Unix times and bags of names, with nothing of the checks'."""
    found = {name for name, fact in (("missing", pair.missing), ("unreadable", pair.unreadable)) if fact}
    if not found and not pair.matches:
        found.add("key-mismatch")
    found |= {reason.value for reason in known["also"]}
    if pair.leaf is None:
        return found
    one, two = (
        Counter([("cn", s.common_name), *(("o", o) for o in s.organization), *(("dns", d) for d in s.dns)])
        + Counter(("ip", ip) for ip in s.ips)
        for s in (pair.leaf.subject, want.subject)
    )
    if one != two or pair.leaf.further_names != ():
        found.add("names-changed")
    server, client = (oid in pair.leaf.usages for oid in OIDS)
    further = frozenset() if want.usage.tls else EKU[Usage.SIGNING]
    if (server, client) != (want.usage.server, want.usage.client) or pair.leaf.usages - {*OIDS} != further:
        found.add("usage-changed")
    if want.key != pair.leaf.key:
        found.add("key-type-changed")
    if pair.issuer_live is not None and not pair.issuer_live:
        found.add("issuer-changed")
    begin, end, clock = (when.timestamp() for when in (pair.leaf.not_before, pair.leaf.not_after, now))
    granted = end - begin - 300
    if known["asked"] != want.ttl and (known["asked"] is not None or max(granted, 0) > want.ttl + 300):
        found.add("ttl-changed")
    if clock < begin - 300:
        found.add("not-yet-valid")
    if clock >= end:
        return found | {"expired"}
    signed = known["signed"].timestamp() if known.get("signed") else -1.0
    if not begin - 300 <= signed < end:
        signed = min(begin + 300, end)
    life = end - signed if granted <= 0 else min(granted, end - signed)
    share = 1 / 2 + known["jitter"] / 6
    due = max(signed + life / 2, min(signed + life * share, signed + life - want.reload - 300))
    assume(abs(due - clock) > 0.001)
    return found | ({"due"} if due < clock else set())


def judged(
    pair: Pair, want: Certificate, now: datetime, known: Mapping[str, Any], windows: Sequence[Window] = ()
) -> Assessment:
    recorded = Recorded(known.get("signed"), known.get("asked"))
    return assess(pair, want, now, known["jitter"], recorded=recorded, windows=windows, also=known.get("also", ()))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.data())
def test_exactly_the_reasons_there_are_in_the_order_of_the_checks(data: st.DataObject) -> None:
    pair, want, known = data.draw(cases())
    now = data.draw(moments_of(pair))
    verdict = judged(pair, want, now, known)
    reasons = verdict.reasons
    assert {reason.value for reason in reasons} == expected(pair, want, now, known)
    assert list(reasons) == [reason for reason in Reason if reason in reasons]
    assert (verdict.renew_after is None) == (pair.leaf is None)
    files_only = {Reason.WRONG_MODE, Reason.WRONG_OWNER}
    assert verdict.sign == bool({*reasons} - files_only)
    assert verdict.mend == (bool(reasons) and {*reasons} <= files_only)
    assert (verdict.state is PairState.OK) == (not reasons)
    assert (verdict.state is PairState.MISSING) == (Reason.MISSING in reasons)
    if verdict.state is PairState.DUE:
        assert not {*reasons} & {*files_only, Reason.EXPIRED, Reason.KEY_MISMATCH, Reason.UNREADABLE}
    if verdict.state is PairState.EXPIRED:
        assert Reason.EXPIRED in reasons and not {*reasons} & files_only


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_time_takes_back_no_reason_but_two(data: st.DataObject) -> None:
    pair, want, known = data.draw(cases())
    first, second = sorted((data.draw(moments_of(pair)), data.draw(moments_of(pair))))
    before, after = (judged(pair, want, now, known) for now in (first, second))
    gone = {*before.reasons} - {*after.reasons}
    assert gone <= {Reason.DUE, Reason.NOT_YET_VALID}
    assert Reason.DUE not in gone or Reason.EXPIRED in after.reasons
    assert before.renew_after == after.renew_after


WINDOWS = st.lists(
    st.tuples(
        st.frozensets(st.integers(0, 6), min_size=1), st.integers(0, 1439), st.integers(1, 1439), st.just("")
    ).map(lambda parts: Window(*parts)),
    max_size=3,
)


@settings(max_examples=100, deadline=None)
@given(st.data(), WINDOWS)
def test_windows_only_ever_put_off_and_give_way(data: st.DataObject, windows: list[Window]) -> None:
    pair, want, known = data.draw(cases())
    now = data.draw(moments_of(pair))
    plain, waiting = judged(pair, want, now, known), judged(pair, want, now, known, windows)
    assert {*plain.reasons} - {Reason.DUE} == {*waiting.reasons} - {Reason.DUE}
    assert {*waiting.reasons} <= {*plain.reasons}
    if pair.leaf is None:
        return
    assert plain.renew_after is not None and waiting.renew_after is not None
    assert plain.renew_after <= waiting.renew_after <= max(plain.renew_after, pair.leaf.not_after)
    if plain.reasons != waiting.reasons:
        # What waits does so for a window that is still to end, with the consumer's time left over after it.
        assert now < waiting.renew_after
        left = pair.leaf.not_after - waiting.renew_after
        assert left >= timedelta(seconds=want.reload + SKEW) - TICK


FACTS = dataclasses.replace(sample_certificates.LEAF, serial=0, not_before=BEGIN, not_after=BEGIN)
DAY = 86400.0


class Node:
    """A node that stays, with one certificate, and a Vault that grants what it likes; only the clock is made up."""

    def __init__(self, asked: int, poll: int, offset: float, share: float) -> None:
        self.want = Certificate(
            "kubelet", Usage.SERVER, FACTS.subject, "kubelet", "m", "kubelet", asked, KeyType.EC_P256, "kubelet"
        )
        self.poll, self.share = poll, share
        # By how many seconds Vault's clock is ahead of this machine's.
        self.offset = timedelta(seconds=offset)
        self.memory = AgentState()
        self.now = BEGIN + timedelta(days=9000)
        self.leaf: Facts | None = None
        self.granted: list[int] = []
        self.good: list[tuple[float, int]] = []
        self.counted: list[float] = []

    def item(self) -> PairStatus:
        there = self.leaf is not None
        pair = Pair(() if there else FILES, (), self.leaf, there, there or None)
        known = self.memory.certificates.get("kubelet")
        verdict = assess(
            pair,
            self.want,
            self.now,
            self.share,
            recorded=Recorded(datetime.fromtimestamp(known.signed, UTC), known.asked) if known else Recorded(),
        )
        return PairStatus(self.want, {}, verdict, self.leaf)

    def turn(self, granted: int, *, crash: bool) -> None:
        """Waits for what is due or held back, and has it signed once."""
        item = self.item()
        if not item.verdict.sign:
            assert item.verdict.renew_after is not None
            self.now = max(self.now, item.verdict.renew_after) + timedelta(seconds=0.5)
            item = self.item()
            assert item.verdict.sign
        clock = self.now.timestamp()
        held = held_back(item, self.memory, clock, self.poll)
        if held is not None:
            assert isinstance(held, SigningPaused)
            assert held.at <= clock + max(self.poll, 2 * DAY / MOST_A_DAY)
            self.now = datetime.fromtimestamp(held.at + 0.5, UTC)
            return
        early = premature(item, self.memory, clock)
        self.memory = with_spent(self.memory, {"kubelet": clock})
        at = (self.now + self.offset).replace(microsecond=0)
        leaf = dataclasses.replace(
            FACTS,
            serial=len(self.granted) + 1,
            not_before=at - timedelta(seconds=LEAF_BACKDATE),
            not_after=at + timedelta(seconds=granted),
        )
        self.granted.append(granted)
        # What check_signed refuses: over already, or longer than asked.
        if crash or not self.now < leaf.not_after <= self.now + timedelta(seconds=self.want.ttl + SKEW):
            self.counted.append(clock)
            return
        new = known(Signed(self.want, leaf, {}), self.now)
        if early:
            self.counted.append(clock)
        else:
            self.memory = with_spent(self.memory, {"kubelet": None})
            self.good.append((clock, new.granted))
        self.memory = dataclasses.replace(self.memory, certificates={"kubelet": new})
        self.leaf = leaf


GRANTS = st.integers(1, 100) | st.integers(1, 86400) | st.integers(1, 10 * 365 * 86400)
ASKED = st.integers(30, 900) | st.integers(30, 10 * 365 * 86400)


@settings(max_examples=30, deadline=None)
@given(ASKED, st.integers(10, 3600), st.floats(-SKEW, SKEW), SHARES, st.lists(st.tuples(GRANTS, st.booleans())))
def test_no_grant_makes_a_loop_of_signings(
    asked: int, poll: int, offset: float, share: float, answers: list[tuple[int, bool]]
) -> None:
    node = Node(asked, poll, offset, share)
    for granted, crash in itertools.islice(itertools.cycle([*answers, (1, False)]), 250):
        node.turn(min(granted, asked), crash=crash)
    # A signing is one of the few that may come to nothing in a day, or comes well after the last good one.
    for moment in node.counted:
        assert sum(moment - DAY < other <= moment for other in node.counted) <= daily_limit(asked)
    for (before, life), (after, _) in itertools.pairwise(node.good):
        assert after - before >= 0.4 * max(life, 30)


@settings(max_examples=60, deadline=None)
@given(ASKED, st.floats(0, SKEW), SHARES, st.lists(st.integers(30, 10 * 365 * 86400), min_size=1, max_size=40))
def test_while_vault_answers_nothing_ever_expires_and_each_life_sees_one_renewal(
    asked: int, offset: float, share: float, grants: list[int]
) -> None:
    node = Node(asked, 300, offset, share)
    node.turn(min(grants[0], asked), crash=False)
    for granted in grants:
        old = node.leaf
        assert old is not None
        # Also by the clock of everybody else, which is Vault's.
        begun, count = node.now, len(node.granted)
        node.turn(min(granted, asked), crash=False)
        assert len(node.granted) == len(node.good) == count + 1
        assert node.now + node.offset < old.not_after
        assert node.now - begun >= timedelta(seconds=node.granted[-2] / 2 - 1)


@given(st.integers(30, 90 * 86400), st.floats(0.01, 20), SHARES, st.integers(0, 3600), st.floats(0, 1))
def test_leaves_live_until_their_cas_end_with_few_signatures(
    ttl: int, lives: float, share: float, reload: int, pause: float
) -> None:
    """A server cuts what would outlive its CA, and nobody replaces that."""
    now = BEGIN
    end = BEGIN + timedelta(seconds=max(int(ttl * lives), 1))
    usage, key = Usage.SERVER, KeyType.EC_P256
    want = Certificate(
        "kubelet", usage, FACTS.subject, "kubelet", "m/kubelet", "kubelet", ttl, key, "kubelet", None, reload
    )
    signatures = 0
    while True:
        leaf = dataclasses.replace(
            FACTS,
            usages=EKU[usage],
            key=key,
            not_before=now - timedelta(seconds=LEAF_BACKDATE),
            not_after=min(now + timedelta(seconds=ttl), end),
        )
        signatures += 1
        verdict = assess(
            Pair((), (), leaf, True, True), want, now, share, recorded=Recorded(now, ttl), signers=Signers(ends=end)
        )
        assert verdict.reasons == () and verdict.renew_after is not None
        if verdict.renew_after >= leaf.not_after:
            break
        # A pass comes somewhat later than the renewal is due, in time for the end.
        now = verdict.renew_after + (leaf.not_after - verdict.renew_after) * pause * 0.9
    assert leaf.not_after == end and verdict.final
    assert signatures <= 2 * lives + 2
