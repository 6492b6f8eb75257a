"""Small disks of memory in a mount namespace of their own: they fill up, turn read-only, and go with their process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Disk:
    """A tmpfs on `folder`, which only processes of this namespace see; `keeper` is the one that holds it."""

    folder: Path
    keeper: int

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """A process in the namespace."""
        return subprocess.run(
            ["nsenter", f"--mount=/proc/{self.keeper}/ns/mnt", "--wd=/", *command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )

    def seen(self, path: Path) -> Path:
        """The same file for a process outside."""
        return Path(f"/proc/{self.keeper}/root{path}")

    def fill(self, *, leaving: int) -> None:
        """Takes all free space but so many blocks of 4 KiB."""
        self.empty()
        ballast = self.seen(self.folder / "ballast")
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * BLOCK)
            except OSError:
                file.truncate(max(file.tell() // BLOCK - leaving, 0) * BLOCK)

    def empty(self) -> None:
        """Gives the space back."""
        self.seen(self.folder / "ballast").unlink(missing_ok=True)

    def remount(self, how: str) -> None:
        done = self.run(["mount", "-o", f"remount,{how}", str(self.folder)], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        assert done.returncode == 0, done.stderr


@contextmanager
def private_disk(folder: Path, options: str) -> Iterator[Disk]:
    """A disk on `folder`, over what is there; `options` are those of mount(8) for a tmpfs. Needs root."""
    folder.mkdir(exist_ok=True)
    # Says that it has mounted, and then waits for the end of its input.
    script = 'mount -t tmpfs -o "$1" tmpfs "$2" && echo mounted && exec cat'
    keeper = subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", options, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with keeper:
        assert keeper.stdin is not None and keeper.stdout is not None
        assert keeper.stdout.readline() == "mounted\n", "no disk could be mounted: these tests run as root"
        yield Disk(folder, keeper.pid)
        keeper.stdin.close()
