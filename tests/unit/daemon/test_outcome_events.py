"""What the log of an agent that stays says of what is wrong: at once, once a day, and at each expiry; never more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from vaultpki.daemon.outcome_events import FailureLog
from vaultpki.host.hooks import Owed
from vaultpki.host.log import Event

START = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
AWAY = "Vault at https://vault.example.com:8200 cannot be reached"
ENDS = {"kubelet": START + 1.5 * DAY, "kube-proxy": START + 2.5 * DAY, "kubelet-client": START + 40 * DAY}


class Log:
    """The log of an agent that makes a pass every five minutes, and when in its life each line came."""

    def __init__(self) -> None:
        self.lines: list[tuple[timedelta, Event]] = []
        self.clock = START
        self.failures = FailureLog(lambda event: self.lines.append((timedelta(seconds=self.clock - START), event)))

    def passes(
        self, until: float, failures: dict[str, str], owed: dict[str, Owed] | None = None, *, cut: bool = False
    ) -> list[tuple[timedelta, Event]]:
        """Makes passes until this many seconds after the start, and returns what they said; `cut` ones see no file."""
        before = len(self.lines)
        while self.clock < START + until:
            if not cut:
                self.failures.holds(ENDS, owed or {})
            self.failures.now(failures, self.clock)
            self.clock += 5 * MINUTE
        return self.lines[before:]


def names(lines: list[tuple[timedelta, Event]]) -> list[str]:
    return [event.name for _, event in lines]


def test_what_stays_wrong_is_said_once_a_day_and_at_each_expiry() -> None:
    log = Log()
    assert names(log.passes(HOUR, {"vault": AWAY})) == ["failed", "deadline"]
    said = log.passes(4 * DAY, {"vault": AWAY})
    # A day after each line, and when the first two certificates have expired.
    assert [(when / timedelta(days=1), event.name) for when, event in said] == [
        (each, "still-wrong") for each in (1, 1.5, 2.5, 3.5)
    ]
    another = "the next certificate here ends at"
    assert [event.text for _, event in said] == [
        f"still wrong after 24h; vault: {AWAY}; the first certificate here ends at 2027-01-02T12:00:00Z",
        f"still wrong after 36h; expired: kubelet; vault: {AWAY}; {another} 2027-01-03T12:00:00Z",
        f"still wrong after 2d; expired: kube-proxy, kubelet; vault: {AWAY}; {another} 2027-02-10T00:00:00Z",
        f"still wrong after 3d; expired: kube-proxy, kubelet; vault: {AWAY}; {another} 2027-02-10T00:00:00Z",
    ]
    assert {event.level for _, event in said} == {"error"}
    assert said[-1][1].fields == {"what": "vault", "expired": "kube-proxy,kubelet", "since": "2027-01-01T00:00:00Z"}


def test_nothing_is_said_again_of_an_agent_that_is_well() -> None:
    log = Log()
    assert log.passes(DAY, {}) == []
    assert names(log.passes(DAY + HOUR, {"vault": AWAY})) == ["failed", "deadline"]
    assert names(log.passes(1.4 * DAY, {})) == ["recovered"]
    # A day is counted from the next time that something is wrong.
    log.failures.holds({}, {})
    assert names(log.passes(1.45 * DAY, {"vault": AWAY})) == ["failed", "deadline"]


def test_a_pass_that_is_cut_short_still_tells_an_expiry() -> None:
    log = Log()
    log.passes(HOUR, {})
    assert names(log.passes(1.6 * DAY, {"agent": "the disk is full"}, cut=True))[2:] == ["still-wrong", "still-wrong"]
    assert "expired: kubelet; the disk is full" in log.lines[-1][1].text


def test_one_line_has_all_that_is_wrong() -> None:
    log = Log()
    standing = Event("config", "hooks: kubelt is not a certificate or bundle of this node", "warning")
    turn = Event("turn", "waits for its turn", "info")
    log.failures.events((standing, turn))
    assert [event for _, event in log.lines] == [standing, turn]
    failures = {f"c-{number}": f"c-{number}: Vault refuses it" for number in range(5)}
    owed = {"kubelet": Owed(START, 3), "etcd-ca": Owed(START, 0)}
    (again,) = log.passes(1.1 * DAY, failures, owed)[6:]
    assert again[1].text == (
        "still wrong after 24h; c-0: Vault refuses it; c-1: Vault refuses it; c-2: Vault refuses it; 3 more, which "
        "`vaultpki status` shows; hooks that fail: kubelet; the first certificate here ends at 2027-01-02T12:00:00Z"
    )
    assert len(str(again[1].text)) < 1000 and "\n" not in again[1].text


def test_a_clock_that_is_set_back_neither_silences_it_nor_repeats_it() -> None:
    log = Log()
    log.passes(HOUR, {"vault": AWAY})
    log.clock = START - 30 * DAY
    assert names(log.passes(-29.5 * DAY, {"vault": AWAY})) == ["still-wrong"]


def test_the_next_expiry_is_what_the_agent_wakes_for() -> None:
    log = Log()
    log.failures.holds(ENDS, {})
    assert log.failures.next_end(START) == ENDS["kubelet"]
    assert log.failures.next_end(ENDS["kubelet"]) == ENDS["kube-proxy"]
    assert log.failures.next_end(START + 50 * DAY) is None
