"""Makes the checks of a running cluster: one that was made, and one that cannot be made from here; pure."""

from __future__ import annotations

from datetime import datetime

from vaultpki.verify.on_disk import Check, tried


def found(name: str, source: str, target: str, *, good: bool = True, refusal: str, accepted: str = "") -> Check:
    """Return a check with the outcome `refusal`, empty if it was accepted; `good` says whether it should have been."""
    return tried(name, "live", source, target, good=good, refusal=refusal, accepted=accepted)


def not_checked(name: str, source: str, target: str, why: str) -> Check:
    """Return a check that cannot be made from here, and why: it counts neither as right nor as wrong."""
    return Check(name, "live", source, target, "accept", "unchecked", None, why)


def days_left(end: datetime, now: datetime) -> str:
    """Return how long it is until `end`, in days, below two days in hours, as people write it."""
    left = end - now
    if left.days >= 2:
        return f"{left.days} days"
    hours = int(left.total_seconds() // 3600)
    return f"{hours} hour{'' if hours == 1 else 's'}"
