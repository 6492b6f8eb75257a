"""What may stand where a file of ours should: put there by somebody, some tool, or a damaged disk."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

Put = Callable[[Path], object]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))


def a_socket(path: Path) -> None:
    # The name of such a socket is short; the path need not be (unix(7)).
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def folder(path: Path) -> None:
    (path / "below/further").mkdir(parents=True)
    (path / "below/file").write_text("theirs")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def text(path: Path) -> None:
    path.write_text("theirs")


def empty(path: Path) -> None:
    path.write_bytes(b"")


ALL: tuple[Put, ...] = (fifo, device, a_socket, folder, huge, link, dangling, text, empty)


def removed(path: Path) -> None:
    """Whatever it is, it goes."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
