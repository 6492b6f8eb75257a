"""Explores the models and prints what was found: `python -m models [LIMIT] [WORD...]`, in the folder `tests`.

WORD selects explorations by a part of their title. Ends with 1 where something breaks that must hold, or holds without
a rule that is called needed.
"""

from __future__ import annotations

import sys
import time

from models import adoption_settings, move_settings, service_account_settings, turns
from models.explore import LIMIT, Found
from models.settings import tries

SETTINGS = (adoption_settings, service_account_settings, move_settings)


def main() -> int:
    limits = [int(each) for each in sys.argv[1:] if each.isdigit()]
    words = [each for each in sys.argv[1:] if not each.isdigit()]
    limit = limits[-1] if limits else LIMIT
    code = 0
    # Those of three machines, or of servers that fail in several ways, take minutes: made only if a word asks for them.
    further = tuple(one for each in SETTINGS for one in each.large()) if words else ()
    usual = (one for each in SETTINGS for one in each.tries())
    for one in (*tries(), *usual, *turns.tries(), *further):
        if words and not any(word in one.title for word in words):
            continue
        began = time.monotonic()
        found = one.run(limit)
        wrong = found.holds != one.holds
        code = 1 if wrong else code
        sys.stdout.write(
            f"{'UNEXPECTED ' if wrong else ''}{told(one.title, found)} ({time.monotonic() - began:.1f} s)\n"
        )
        sys.stdout.writelines(f"      {line}\n" for line in found.trace)
        sys.stdout.flush()
    return code


def told(title: str, found: Found) -> str:
    """Return what was found in one line."""
    if found.problem:
        return f"{title}: broken in {len(found.trace)} steps ({found.states} states): {found.problem}"
    if found.stuck:
        return f"{title}: stuck ({found.states} states): {found.stuck}"
    return f"{title}: holds ({found.states} states{'' if found.complete else ', cut at the limit'})"


if __name__ == "__main__":
    raise SystemExit(main())
