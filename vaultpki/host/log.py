"""Write one line for each event of the agent: for a person, for the journal or for a program.

Whatever an event holds, its line contains no token and no private key, ends with its only newline, and never stops the
agent.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

from vaultpki.redact import hide, printable

Level = Literal["info", "warning", "error"]
Format = Literal["text", "json"]
Value = str | int | float | bool

# sd-daemon(3); the numbers are those of syslog(3).
_PRIORITY: Final[Mapping[Level, int]] = {"error": 3, "warning": 4, "info": 6}

# A line of this size goes out in one write(2), and a pipe takes it whole or not at all (PIPE_BUF, pipe(7)), so that the
# output of a hook on the same pipe never lands inside it.
_LONGEST: Final = 4096
_LONGEST_FIELD: Final = 300


@dataclass(frozen=True, slots=True)
class Event:
    """One event: `name` for programs (`renewed`, `vault-away`), `text` as one sentence for people.

    `fields` are written as JSON only, so the text says what matters. Times are RFC 3339, durations seconds.
    """

    name: str
    text: str
    level: Level = "info"
    fields: Mapping[str, Value] = field(default_factory=dict)


def writer(format: Format, stream: TextIO | None) -> Callable[[Event], None]:  # noqa: A002 - the option's own name
    """Return a function that writes an event to the stream as one line, from any thread; it never raises.

    Text is the sentence, after `vaultpki: ` if it is a warning or an error, and after the priority if the stream is the
    journal. JSON has `time` (UTC, milliseconds), `level`, `event`, `message`, and the event's fields. If the stream is
    None, closed, broken or full, the line is lost.
    """
    lock = threading.Lock()
    journal = _is_journal(stream)

    def write(event: Event) -> None:
        line = _json(event, datetime.now(UTC)) if format == "json" else _text(event, journal=journal)
        # A broken pipe and a full disk are OSErrors, a closed stream is a ValueError.
        with lock, contextlib.suppress(OSError, ValueError):
            if stream is None or _is_full(stream):
                return
            try:
                stream.write(f"{line}\n")
            except UnicodeError:
                stream.write(f"{line.encode('ascii', 'backslashreplace').decode()}\n")
            stream.flush()

    return write


def _is_full(stream: TextIO) -> bool:
    """Return whether a write would block, because nobody reads the pipe."""
    with contextlib.suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return not poll.poll(0)
    return False


def _is_journal(stream: TextIO | None) -> bool:
    # Device and inode, because the output may have been redirected since (systemd.exec(5), JOURNAL_STREAM).
    named = os.environ.get("JOURNAL_STREAM")
    if named and stream is not None:
        with contextlib.suppress(OSError, ValueError):
            about = os.fstat(stream.fileno())
            return named == f"{about.st_dev}:{about.st_ino}"
    return False


def _text(event: Event, *, journal: bool) -> str:
    priority = f"<{_PRIORITY[event.level]}>" if journal else ""
    prefix = "" if event.level == "info" else "vaultpki: "
    return f"{priority}{prefix}{_clean(event.text)}".encode()[: _LONGEST - 1].decode(errors="ignore")


def _json(event: Event, now: datetime) -> str:
    message = _clean(event.text)
    line: dict[str, Value | None] = {
        "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": event.level,
        "event": _clean(event.name)[:_LONGEST_FIELD],
        "message": message,
    }
    while len(json.dumps(line)) >= _LONGEST:
        message = line["message"] = message[: len(message) // 2]
    for name, value in event.fields.items():
        key = _clean(name)[:_LONGEST_FIELD]
        longer = {**line, key: _json_value(value)}
        if key not in line and len(json.dumps(longer)) < _LONGEST:
            line = longer
    return json.dumps(line)


def _json_value(value: Value) -> Value | None:
    if isinstance(value, str):
        return _clean(value)[:_LONGEST_FIELD]
    # JSON has no infinity and no NaN (RFC 8259, section 6).
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _clean(text: str) -> str:
    # Before anything is cut: the filter does not recognise half a token.
    return printable(" ".join(hide(text).split()))
