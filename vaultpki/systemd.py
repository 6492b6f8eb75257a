"""systemd, which starts the agent, watches over it and is told how it does; and the recipes for where there is none."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vaultpki.errors import StoreError, ToolMissing, VaultpkiError

if TYPE_CHECKING:
    from vaultpki.model import AgentConfig

UNITS: Final = ("vaultpki-agent.service", "vaultpki-agent-once.service")
RECIPES: Final = ("Containerfile", "daemonset.yaml", "static-pod.yaml", "alerts.yaml")
"""What ships beside the units, to be printed as it is."""

UNIT_FOLDER: Final = Path("/etc/systemd/system")

_LONGEST_STATUS: Final = 500
_HOMES: Final = ("/home", "/root", "/run/user")
_TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108 - asked about, not written to


class Notifier:
    """What systemd is told while the agent runs; without systemd every call does nothing. It never raises.

    Made from sd_notify(3)'s and sd_watchdog_enabled(3)'s variables, which it takes out of the environment, so that no
    child can speak for the agent.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        named = environment.pop("NOTIFY_SOCKET", "")
        # "@" stands for the NUL that begins a name in the abstract namespace (unix(7)).
        self._address = f"\0{named[1:]}" if named.startswith("@") else named if named.startswith("/") else ""
        period = environment.pop("WATCHDOG_USEC", "")
        meant = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = meant and re.fullmatch(r"[0-9]{1,18}", period) is not None and int(period) > 0
        self._interval = int(period) / 2e6 if watched else None

    @property
    def interval(self) -> float | None:
        """How often `watchdog` is to be called, in seconds: half of what systemd waits. None where it does not."""
        return self._interval

    def ready(self, status: str) -> None:
        """The agent is ready for the first time, or again after `reloading`."""
        self._send("READY=1", f"STATUS={_one_line(status)}")

    def status(self, text: str) -> None:
        """What `systemctl status` shows."""
        self._send(f"STATUS={_one_line(text)}")

    def reloading(self) -> None:
        """The agent reads its configuration again; `ready` ends that."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The agent ends."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """The agent is alive."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # A socket for each message, as libsystemd does: systemd may have bound its own anew meanwhile.
        with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(1.0)
            sender.sendto("\n".join(lines).encode(errors="replace"), self._address)


def unit_files(
    config: AgentConfig, *, config_path: Path | None = None, executable: Path | None = None, allow_http: bool = False
) -> dict[str, str]:
    """The text of each unit for this node, by its name.

    `config_path` is the agent.yaml (default: where the configuration was read) and `executable` the program (default:
    the one that runs). VaultpkiError where a path cannot stand in a unit.
    """
    from vaultpki.assets import render, text

    file = str((config_path or Path(config.file)).absolute())
    program = str(executable or own_executable())
    folders = (config.directory, config.state)
    read = [file, program, *folders, *(path for path in (config.ca_file, config.auth.path) if path is not None)]
    # A virtual environment's program needs the environment, and that the interpreter it was made from.
    read += [os.path.realpath(program), sys.prefix, sys.base_prefix] if executable is None else []
    values = {
        "executable": _word(program),
        "config": _argument(file),
        "options": " --allow-http" if allow_http else "",
        "folders": " ".join(_argument(path) for path in folders),
        "writable": " ".join(_word(f"-{path}") for path in (*folders, *_manifest_folders(config))),
        "protect_home": "read-only" if _below(read, _HOMES) else "yes",
        "private_tmp": "no" if _below(read, _TEMPORARY) else "yes",
    }
    values["sandbox"] = render(text("templates", "sandbox.conf"), values, name="sandbox.conf")
    return {name: render(text("templates", name), values, name=name) for name in UNITS}


def install_units(
    config_path: Path,
    config: AgentConfig,
    *,
    folder: Path = UNIT_FOLDER,
    executable: Path | None = None,
    allow_http: bool = False,
) -> list[Path]:
    """Writes the units and returns those that were missing or different; nothing is touched where nothing changes.

    systemd is not told: `systemctl daemon-reload` is the caller's or the person's. StoreError where a unit cannot be
    written, or is masked.
    """
    from vaultpki.files import told, write_private

    units = unit_files(config, config_path=config_path, executable=executable, allow_http=allow_http)
    changed = []
    for name, content in units.items():
        path = folder / name
        with told(str(path)):
            if path.is_symlink():
                raise StoreError(
                    f"{path}: a symbolic link is in its place; `systemctl unmask {name}` or remove it first"
                )
            if path.is_file() and path.read_bytes() == content.encode():
                continue
        write_private(str(path), content.encode(), 0o644)
        changed.append(path)
    return changed


def recipe(name: str, config: AgentConfig | None = None) -> str:
    """The text of a unit or a recipe; without a configuration a unit has the paths that a join gives.

    VaultpkiError where there is no such name.
    """
    from vaultpki.assets import text
    from vaultpki.model import AgentConfig, Auth

    if name in UNITS:
        usual = AgentConfig(
            cluster="",
            prefix="",
            node="",
            pool=None,
            addresses=(),
            ca_file=None,
            root_sha256="",
            auth=Auth("approle"),
            directory="/etc/kubernetes/pki",
            state="/var/lib/vaultpki",
            file="/etc/vaultpki/agent.yaml",
        )
        return unit_files(config or usual)[name]
    if name in RECIPES:
        return text("templates", name)
    raise VaultpkiError(f"there is no unit or recipe {name[:100]!a}; there are: {', '.join((*UNITS, *RECIPES))}")


def own_executable() -> Path:
    """The `vaultpki` that runs, or the one beside this Python; ToolMissing where it was started in another way."""
    found = [Path(sys.argv[0]), Path(sys.executable).with_name("vaultpki"), Path(shutil.which("vaultpki") or "")]
    for each in found:
        if each.name == "vaultpki" and each.is_file() and os.access(each, os.X_OK):
            return each.absolute()
    raise ToolMissing("the program `vaultpki` is nowhere beside this Python; install the package, and start it by name")


def _manifest_folders(config: AgentConfig) -> list[str]:
    from vaultpki.static_pod import manifest

    hooks = [hook for each in config.hooks.values() for hook in each if hook.kind == "static_pod"]
    return sorted({os.path.dirname(manifest(hook.name)) for hook in hooks})


def _below(paths: list[str], folders: tuple[str, ...]) -> bool:
    return any(f"{path}/".startswith(f"{folder}/") for path in paths for folder in folders)


def _one_line(text: str) -> str:
    # A line of its own would be another message to systemd.
    return " ".join(text.split())[:_LONGEST_STATUS]


def _word(text: str) -> str:
    """A path as one word of a unit (systemd.syntax(7)): quoted, and without specifiers."""
    # ReadWritePaths= knows no escapes, so what would need one cannot be said there.
    if not text.isprintable() or re.search(r"""["'\\]""", text):
        raise VaultpkiError(
            f"{text[:200]!a}: a systemd unit cannot hold this path; choose one without quotes and backslashes"
        )
    escaped = text.replace("%", "%%")
    return f'"{escaped}"' if re.search(r"\s", text) else escaped


def _argument(text: str) -> str:
    """The same for an argument of a command, where `$` begins a variable (systemd.service(5))."""
    return _word(text).replace("$", "$$")
