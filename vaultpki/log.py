"""What the agent tells while it runs: one line for each event, for a person, for the journal or for a program.

The last thing that looks at a line before it leaves: whatever an event carries, a line holds no token and no private
key, ends at one newline, and never keeps the agent from its work.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Final, Literal, TextIO

from vaultpki.plain import hide, printable
from vaultpki.values import dataclass

Level = Literal["info", "warning", "error"]
Format = Literal["text", "json"]
Value = str | int | float | bool

# sd-daemon(3); the numbers are those of syslog(3).
_PRIORITY: Final[Mapping[Level, int]] = {"error": 3, "warning": 4, "info": 6}

# A line of this size goes out in one write(2), and a pipe takes it whole or not at all (PIPE_BUF, pipe(7)), so that
# what a hook says on the same pipe never lands inside it.
_LONGEST: Final = 4096
_LONGEST_FIELD: Final = 300


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: `name` for programs (`renewed`, `vault-away`), `text` as one sentence for people.

    `fields` go into JSON lines only, so the text says what matters. Times among them are RFC 3339, durations seconds.
    """

    name: str
    text: str
    level: Level = "info"
    fields: Mapping[str, Value] = field(default_factory=dict)


def writer(format: Format, stream: TextIO | None) -> Callable[[Event], None]:  # noqa: A002 - the option's own name
    """What writes each event to the stream, from any thread, as one line; it never raises.

    Text is the sentence, with `vaultpki: ` before a warning or an error; where the stream is the journal, the priority
    stands before it. JSON has `time` (UTC, milliseconds), `level`, `event`, `message`, and then the event's fields. A
    stream that is None, closed, broken or full loses the line.
    """
    lock = threading.Lock()
    journal = _is_journal(stream)

    def write(event: Event) -> None:
        line = _json(event, time.time()) if format == "json" else _text(event, journal=journal)
        # BrokenPipeError and a full disk are OSErrors, a closed stream a ValueError.
        with lock, contextlib.suppress(OSError, ValueError):
            if stream is not None:
                _put(stream, f"{line}\n")

    return write


def _put(stream: TextIO, line: str) -> None:
    if _full(stream):
        return
    try:
        stream.write(line)
    except UnicodeError:
        stream.write(line.encode("ascii", "backslashreplace").decode("ascii"))
    stream.flush()


def _full(stream: TextIO) -> bool:
    """Whether nobody reads at the other end: a write would wait for ever, and the agent's work with it."""
    with contextlib.suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return not poll.poll(0)
    return False


def _is_journal(stream: TextIO | None) -> bool:
    # Device and inode, since a service may have sent its output elsewhere by now (systemd.exec(5), JOURNAL_STREAM).
    named = os.environ.get("JOURNAL_STREAM")
    if not named or stream is None:
        return False
    with contextlib.suppress(OSError, ValueError):
        about = os.fstat(stream.fileno())
        return named == f"{about.st_dev}:{about.st_ino}"
    return False


def _text(event: Event, *, journal: bool) -> str:
    priority = f"<{_PRIORITY[event.level]}>" if journal else ""
    said = "" if event.level == "info" else "vaultpki: "
    line = f"{priority}{said}{_clean(event.text)}"
    return line.encode()[: _LONGEST - 1].decode(errors="ignore")


def _json(event: Event, now: float) -> str:
    message = _clean(event.text)
    line: dict[str, Value | None] = {
        "time": rfc3339(now),
        "level": event.level,
        "event": _clean(event.name)[:_LONGEST_FIELD],
        "message": message,
    }
    while len(whole := json.dumps(line)) >= _LONGEST:
        message = message[: len(message) // 2]
        line["message"] = message
    for name, value in event.fields.items():
        key = _clean(name)[:_LONGEST_FIELD]
        if key in line:
            continue
        longer = json.dumps({**line, key: _plain(value)})
        if len(longer) < _LONGEST:
            line[key], whole = _plain(value), longer
    return whole


def _plain(value: Value) -> Value | None:
    if isinstance(value, str):
        return _clean(value)[:_LONGEST_FIELD]
    # RFC 8259 section 6 knows neither infinity nor NaN.
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _clean(text: str) -> str:
    # Before anything is cut: half a token is no token to the filter.
    return printable(" ".join(hide(text).split()))


def rfc3339(seconds: float) -> str:
    """The time, in seconds since 1970, as RFC 3339 in UTC with milliseconds."""
    milliseconds = int(seconds * 1000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{whole}.{milliseconds % 1000:03d}Z"
