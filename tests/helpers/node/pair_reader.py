"""A reader that opens a pair again and again, as fast as it can, and judges what it sees.

`pair_reader.py bundle|folder DIR OPENS PAIRS` reads DIR/pair.pem, or pair.key and pair.crt through one descriptor of
the folder that DIR/.vaultpki/pair leads to. It reads OPENS times, and longer where it has not met PAIRS different pairs
by then: a slow disk makes few. It prints how many readings were whole, torn or missing, and how many different pairs it
met, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable


def content(tag: int) -> dict[str, bytes]:
    """A pair whose halves both tell their number, all through."""
    key, crt = b"%08d key\n" % tag * 64, b"%08d crt\n" % tag * 64
    return {"pair.crt": crt, "pair.key": key, "pair.pem": key + crt}


def bundle(folder: str) -> bytes:
    fd = os.open(f"{folder}/pair.pem", os.O_RDONLY)
    data = os.read(fd, 4096)
    os.close(fd)
    return data


def through_folder(folder: str) -> bytes:
    fd = os.open(f"{folder}/.vaultpki/pair", os.O_RDONLY | os.O_DIRECTORY)
    try:
        key = os.open("pair.key", os.O_RDONLY, dir_fd=fd)
        data = os.read(key, 4096)
        os.close(key)
        crt = os.open("pair.crt", os.O_RDONLY, dir_fd=fd)
        data += os.read(crt, 4096)
        os.close(crt)
    finally:
        os.close(fd)
    return data


def watch(reading: Callable[[str], bytes], folder: str, opens: int, enough: int) -> dict[str, int]:
    whole = torn = missing = pairs = 0
    last = b""
    while whole + torn + missing < opens or pairs < enough:
        try:
            data = reading(folder)
        except FileNotFoundError:
            missing += 1
            continue
        if data != last:
            if not data[:8].isdigit() or data != content(int(data[:8]))["pair.pem"]:
                torn += 1
                continue
            last = data
            pairs += 1
        whole += 1
    return {"whole": whole, "torn": torn, "missing": missing, "pairs": pairs}


if __name__ == "__main__":
    way = {"bundle": bundle, "folder": through_folder}[sys.argv[1]]
    print(json.dumps(watch(way, sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
