"""Decides whether a command with `--wait` may still go on: one way, with the rotation that it began with; pure.

Each step asks this of the very record that it has read and writes by check-and-set: no decision of another operator
comes between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vaultpki.places import file_option
from vaultpki.records.rotation import CA_TABLE, Method, RotationRecord, State


@dataclass(frozen=True, slots=True)
class Course:
    """The rotation that a command goes on with, and the way: `back` as `ca abort` leads, else as `ca continue` does.

    `last` is its record as the command read or wrote it last.
    """

    last: RotationRecord
    back: bool

    def seen(self, record: RotationRecord) -> Course:
        """Return the same course after a look that found this record."""
        return replace(self, last=record) if record.domain == self.last.domain else self


def why_stopped(course: Course, record: RotationRecord | None, file: str) -> str:
    """Return why the command must not go on, in one sentence that says what another operator did; "" if it may.

    `record` is that of the same CA, as it is now, and `file` the path of cluster.yaml.
    """
    last, look = course.last, f"look at `vaultpki ca status{file_option(file)}`"
    if record is None or record.revision < last.revision:
        shows = "no record" if record is None else "an older record than this command has read"
        return (
            f"the server shows {shows} of {last.domain}'s rotation: it was restored from a snapshot, or somebody "
            f"deleted it; this command has stopped, {look}"
        )
    if record.kept is not None and last.kept is None:
        return (
            f"another operator has put the rotation of {last.domain} right by `vaultpki ca recover`, and this command "
            "has stopped. Agree on the way from there, and let one of you go on"
        )
    if _another(last, record) or _made_an_emergency(course, record):
        kind = "an emergency rotation" if record.method is Method.EMERGENCY else "another rotation"
        what = f"has begun {kind} of {last.domain} to {_new(record)}, and the one to {_new(last)} is over"
    elif _leads_there(course, record.state) and not _trusted_again(course, record):
        return ""
    elif course.back:
        what = f"goes on with the rotation of {last.domain} by `vaultpki ca continue`, which this command led back"
    elif record.state is State.STEADY:
        what = f"has taken the rotation of {last.domain} back by `vaultpki ca abort`"
        again = f"vaultpki ca rotate {last.domain}{file_option(file)}"
        return f"another operator {what}, and it is over; `{again}` begins again"
    else:
        what = f"has turned the rotation of {last.domain} back by `vaultpki ca abort`"
    if record.state.resting:
        return f"another operator {what}; this command has stopped, {look}"
    return (
        f"another operator {what}; this command has stopped, and takes no step against that: agree on the way, and let "
        "one of you go on"
    )


def _leads_there(course: Course, state: State) -> bool:
    """Return whether the command's own way leads to a state; `ca continue` ends a rollback too."""
    last = course.last.state
    return state in CA_TABLE.ahead(last, back=course.back or (last, state) == (State.RETURNING, State.STEADY))


def _another(last: RotationRecord, record: RotationRecord) -> bool:
    """Return whether a record is of another rotation: numbers are not used twice, those of one key may be."""
    if record.new is None or last.new is None:
        return record.new != last.new
    known = last.new.sha256, record.new.sha256
    begun_again = record.state is State.PREPARED and record.since != last.since
    return (
        (record.new.name, record.old.sha256) != (last.new.name, last.old.sha256)
        or (all(known) and known[0] != known[1])
        or begun_again
    )


def _made_an_emergency(course: Course, record: RotationRecord) -> bool:
    return record.method is Method.EMERGENCY and course.last.method is not Method.EMERGENCY


def _trusted_again(course: Course, record: RotationRecord) -> bool:
    """Return whether an abort has ended an emergency meanwhile, even if it goes forward again."""
    return not course.back and course.last.method is Method.EMERGENCY and record.method is not Method.EMERGENCY


def _new(record: RotationRecord) -> str:
    return record.new.title if record.new is not None else "no other CA"
