"""Finds the flags that systemd gives a kubelet, by file, and those that a take-over cannot stand beside; pure.

A flag beats the kubelet's configuration file, wherever it is written (cmd/kubelet/app/server.go).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

# The first folder that has a drop-in of a name wins (systemd.unit(5)).
_UNITS: Final = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_UNIT: Final = "kubelet.service"
# What kubeadm's drop-in reads on Debian and on Fedora, where no unit was found.
_USUAL: Final = ("/etc/default/kubelet", "/etc/sysconfig/kubelet")
_READ_BY_UNIT: Final = re.compile(r"(?m)^[ \t]*EnvironmentFile[ \t]*=[ \t]*-?(/\S+)")
_COMMENT: Final = re.compile(r"(?m)^[ \t]*[#;].*$")
_FLAG: Final = re.compile(r"""(?<![\w-])--([a-z][a-z0-9-]*)(?:(=)|[ \t]+(?=[^-\s$"']))?["']?([^\s"']*)""")

# strconv.ParseBool
_OFF: Final = frozenset({"false", "f", "0"})
_SWITCHES: Final = {"rotate-certificates": "client", "rotate-server-certificates": "serving"}


@dataclass(frozen=True, slots=True)
class KubeletFlag:
    """One flag of a kubelet: the file that has it, its name without dashes, and its value."""

    file: str
    name: str
    value: str


def flag_files(names: Callable[[str], list[str]], text: Callable[[str], str | None], root: str = "") -> dict[str, str]:
    """Return the text of each file below `root` by which systemd gives the kubelet flags, by path.

    `names` lists a folder, and `text` reads a file, None if there is none. kubeadm-flags.env is not among them.
    """
    units: dict[str, str] = {}
    drop_ins: dict[str, str] = {}
    for folder in (f"{root}{each}" for each in _UNITS):
        unit = text(f"{folder}/{_UNIT}") if not units else None
        units |= {f"{folder}/{_UNIT}": unit} if unit else {}
        for name in names(f"{folder}/{_UNIT}.d"):
            if name.endswith(".conf"):
                drop_ins.setdefault(name, f"{folder}/{_UNIT}.d/{name}")
    units |= {path: text(path) or "" for _, path in sorted(drop_ins.items())}
    named = [path for held in units.values() for path in _READ_BY_UNIT.findall(held)] or list(_USUAL)
    environments = {f"{root}{path}": text(f"{root}{path}") for path in named if not path.endswith("/kubeadm-flags.env")}
    return units | {path: held for path, held in environments.items() if held}


def flags_in(files: Mapping[str, str]) -> Iterator[KubeletFlag]:
    """Yield the flags in these files."""
    for path, text in files.items():
        for name, joined, value in _FLAG.findall(_COMMENT.sub("", text)):
            # A switch has its value behind "=" alone.
            yield KubeletFlag(path, name, value if joined or name not in _SWITCHES else "true")


def beating(flags: Iterable[KubeletFlag], places: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence about each flag that beats what a take-over sets; `places` are its files by flag."""
    for flag in flags:
        switch, best = _SWITCHES.get(flag.name), places.get(flag.name)
        if switch is not None and flag.value.lower() not in _OFF:
            yield (
                f"{flag.file}: --{flag.name} has it ask for {switch} certificates by CSRs, whatever its configuration "
                "says. Take that flag out, and restart the kubelet"
            )
        elif best is not None and posixpath.normpath(flag.value or ".") != best:
            yield (
                f"{flag.file}: --{flag.name} names {flag.value or 'nothing'}, and a take-over changes {best} alone. "
                "Take that flag out or have it name that, and restart the kubelet"
            )
