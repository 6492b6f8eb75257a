"""Reads the files of a holder: their content, and what is wrong with their place, mode and owner."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from vaultpki.values import input_file

DENIED: Final = "cannot be read as this user; run as root"

_LARGEST: Final = 256 * 1024


def read(path: Path, mode: int | None) -> tuple[bytes | None, list[str]]:
    """Read a holder's file: its content, None if it cannot be read, and what is wrong with it.

    Links are followed only within the folder, as those of the store are: a folder that somebody else made must not give
    access to other files.
    """
    try:
        real = os.path.realpath(path)
        if not real.startswith(f"{os.path.realpath(path.parent).rstrip('/')}/"):
            return None, ["is a link that leads out of its folder"]
        data, about = input_file.read(real, _LARGEST, follow=False)
    except FileNotFoundError:
        return None, ["is missing"]
    except PermissionError:
        return None, [DENIED]
    except IsADirectoryError:
        return None, ["is not a file"]
    except input_file.NotRegular:
        return None, ["is a FIFO, a socket or a device"]
    except input_file.TooLarge:
        return None, [f"is longer than {_LARGEST // 1024} KiB"]
    except OSError as error:
        return None, [f"cannot be read: {error.strerror}"]
    has = stat.S_IMODE(about.st_mode)
    return data, [] if mode is None or has == mode else [f"mode is {has:04o}, should be {mode:04o}"]


def odd_owners(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the files whose owner differs from that of most, or where none has most, from that of the first; and why.

    Files are installed as a set with one owner, which only agent.yaml of that node names.
    """
    owners: dict[Path, tuple[int, int]] = {}
    for path in paths:
        try:
            about = os.stat(path)
        except OSError:
            continue
        owners[path] = about.st_uid, about.st_gid
    if not owners:
        return {}
    ((usual, _),) = Counter(owners.values()).most_common(1)
    return {
        path: f"belongs to {uid}:{gid}, and the files beside it to {usual[0]}:{usual[1]}"
        for path, (uid, gid) in owners.items()
        if (uid, gid) != usual
    }
