"""Tell systemd how the agent does; write its units, and print recipes for other ways to run it."""

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
from typing import Final

from vaultpki.assets import render, text
from vaultpki.disk.files import storage_errors, write_private
from vaultpki.errors import StateConflict, StoreError, ToolMissing, VaultpkiError
from vaultpki.host.hook_files import PATH
from vaultpki.host.static_pod import manifest
from vaultpki.model import AgentConfig, Auth
from vaultpki.places import AGENT_FILE, KUBELET, SIGNER_FILE, SIGNER_STATE

SYSTEMD_UNITS: Final = ("vaultpki-agent.service", "vaultpki-agent-once.service")
SIGNER_UNIT: Final = "vaultpki-signer.service"
SIGNER_USER: Final = "vaultpki-signer"
RECIPES: Final = (
    "Containerfile",
    "daemonset.yaml",
    "kustomization.yaml",
    "static-pod.yaml",
    "kube-rbac-proxy.yaml",
    "podmonitor.yaml",
    "prometheus-rule.yaml",
    "vaultpki-metrics.service",
    "vaultpki-metrics.timer",
    "alerts.yaml",
    "grafana-dashboard.json",
)
"""What is printed for every node alike, except for the address of the agent's metrics."""

TEMPLATES: Final = (*SYSTEMD_UNITS, SIGNER_UNIT, *RECIPES)
"""The names that `recipe` takes."""

DOCS: Final = "https://vaultpki.example.com/"
"""Where the alerts lead if nobody says where these pages are; also in pyproject.toml."""

_BOOTED: Final = Path("/run/systemd/system")

UNIT_FOLDER: Final = Path("/etc/systemd/system")

_METRICS_ADDRESS: Final = "127.0.0.1:9910"
# Where Debian's node exporter reads text files.
_TEXTFILE_FOLDER: Final = "/var/lib/prometheus/node-exporter"
_LONGEST_STATUS: Final = 500
_HOMES: Final = ("/home", "/root", "/run/user")
_TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108 - asked about, not written to


class Notifier:
    """Send the agent's state to systemd; without systemd every call does nothing. It never raises.

    The variables of sd_notify(3) and sd_watchdog_enabled(3) are removed from `environment`, so that no child can send
    in the agent's name. `interval` is how often to call `watchdog`, in seconds, half of systemd's limit; or None.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        named = environment.pop("NOTIFY_SOCKET", "")
        # "@" is the NUL that begins a name in the abstract namespace (unix(7)).
        self._address = f"\0{named[1:]}" if named.startswith("@") else named if named.startswith("/") else ""
        period = environment.pop("WATCHDOG_USEC", "")
        ours = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = ours and re.fullmatch(r"[0-9]{1,18}", period) is not None and int(period) > 0
        self.interval = int(period) / 2e6 if watched else None

    def ready(self, status: str) -> None:
        """Say that the agent is ready: for the first time, or after `reloading`."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def status(self, status: str) -> None:
        """Set what `systemctl status` shows."""
        self._send(f"STATUS={_one_line(status)}")

    def reloading(self) -> None:
        """Say that the agent reads its configuration again; `ready` ends that."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Say that the agent ends."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Say that the agent is alive."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A socket for each message, as libsystemd does: systemd may have bound its own again meanwhile.
        with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(1.0)
            sender.sendto(message.encode(errors="replace"), self._address)


def unit_files(config: AgentConfig, *, executable: Path | None = None, allow_http: bool = False) -> dict[str, str]:
    """Return the text of each unit for this node, by name; of a signer.yaml that of the signer.

    `executable` is the program to run (default: the one that runs now). VaultpkiError if a unit cannot hold a path.
    """
    file = str(Path(config.file).absolute())
    program = str(executable or own_executable())
    # The others lie in these.
    folders = (config.directory, *config.folders.values(), config.state)
    read = [file, program, *folders, *(path for path in (config.ca_file, config.auth.path) if path is not None)]
    # A program in a virtual environment needs that, and the Python that it was made from.
    read += [os.path.realpath(program), sys.prefix, sys.base_prefix] if executable is None else []
    if config.signer:
        folders = (config.state,)
    pods = [hook.name for each in config.hooks.values() for hook in each if hook.kind == "static_pod"]
    manifests = sorted({os.path.dirname(manifest(pod)) for pod in pods})
    # `kubeadm reset` empties /var/lib/kubelet, and within the sandbox only a folder above can make one in it again.
    kubelets = config.folders.get(KUBELET, "")
    writable = [os.path.dirname(path) if path == kubelets and path.count("/") > 2 else path for path in folders]
    # During a take-over the agent names copies of admin.conf in home folders.
    values = {
        "executable": _word(program),
        "config": _argument(file),
        "options": " --allow-http" if allow_http else "",
        "folders": " ".join(_argument(path) for path in folders),
        "writable": " ".join(_word(f"-{path}") for path in (*writable, *manifests)),
        "protect_home": "read-only" if config.taken_over is not None or _below(read, _HOMES) else "yes",
        "private_tmp": "no" if _below(read, _TEMPORARY) else "yes",
        "user": _owner(config.state),
    }
    if config.signer:
        return {SIGNER_UNIT: render(text("templates", SIGNER_UNIT), values, name=SIGNER_UNIT)}
    values["sandbox"] = render(text("templates", "sandbox.conf"), values, name="sandbox.conf")
    return {name: render(text("templates", name), values, name=name) for name in SYSTEMD_UNITS}


def install_units(
    config: AgentConfig, *, folder: Path = UNIT_FOLDER, executable: Path | None = None, allow_http: bool = False
) -> list[Path]:
    """Write the units that are missing or different, and return their paths; the caller reloads systemd.

    StoreError if a unit is masked or cannot be written. For `executable` see `unit_files`.
    """
    changed = []
    for name, content in unit_files(config, executable=executable, allow_http=allow_http).items():
        path = folder / name
        with storage_errors(str(path)):
            if path.is_symlink():
                raise StoreError(f"{path}: this is a symbolic link; run `systemctl unmask {name}`, or remove it, first")
            if path.is_file() and path.read_bytes() == content.encode():
                continue
        write_private(str(path), content.encode(), 0o644)
        changed.append(path)
    return changed


def start_unit(unit: str = "vaultpki-agent") -> bool:
    """Have systemd read its units again, enable and start one; return False where there is no systemd.

    StateConflict if systemctl fails.
    """
    import subprocess

    program = shutil.which("systemctl", path=PATH)
    # sd_booted(3).
    if program is None or not _BOOTED.is_dir():
        return False
    for words in (("daemon-reload",), ("enable", "--now", unit)):
        ran = subprocess.run([program, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            said = " ".join(ran.stderr.split())[:_LONGEST_STATUS]
            raise StateConflict(f"`systemctl {' '.join(words)}` failed: {said}")
    return True


def recipe(
    name: str, config: AgentConfig | None = None, *, executable: Path | None = None, docs: str | None = None
) -> str:
    """Return the text of a unit or a recipe; without a configuration a unit has the default paths.

    For `executable` see `unit_files`. `docs` is the address of the built pages, for alerts. VaultpkiError if there is
    no such name, or if `docs` is no address.
    """
    if name in (*SYSTEMD_UNITS, SIGNER_UNIT):
        signer = name == SIGNER_UNIT
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
            state=SIGNER_STATE if signer else "/var/lib/vaultpki",
            signer=signer,
            file=f"{SIGNER_STATE}/{SIGNER_FILE}" if signer else AGENT_FILE,
        )
        known = config if config is not None and config.signer == signer else usual
        return unit_files(known, executable=executable)[name]
    if name == "prometheus-rule.yaml":
        return text("templates", name) + "spec:\n" + _indented(recipe("alerts.yaml", docs=docs))
    if name == "vaultpki-metrics.service":
        address = (config.metrics if config is not None else None) or _METRICS_ADDRESS
        values = {"address": address, "folder": _TEXTFILE_FOLDER}
        return render(text("templates", name), values, name=name)
    if name in RECIPES:
        from vaultpki import __version__

        # A container's tag has no `+`; Helm too writes `_` for it.
        tag = __version__.replace("+", "_")
        shown = text("templates", name).replace("vaultpki:VERSION", f"vaultpki:{tag}").replace("VERSION", __version__)
        return shown.replace(DOCS, _address(docs))
    raise VaultpkiError(f"there is no unit or recipe {name[:100]!a}; there are: {', '.join(TEMPLATES)}")


def own_executable() -> Path:
    """Return the `vaultpki` that runs, or the one beside this Python or in PATH; ToolMissing if there is none."""
    found = [Path(sys.argv[0]), Path(sys.executable).with_name("vaultpki"), Path(shutil.which("vaultpki") or "")]
    for each in found:
        if each.name == "vaultpki" and each.is_file() and os.access(each, os.X_OK):
            return each.absolute()
    raise ToolMissing("the program `vaultpki` was not found; install the package, and run it by that name")


def _owner(folder: str) -> str:
    """Return the user to whom a folder belongs; the signer's own where there is no such folder yet."""
    import pwd

    with contextlib.suppress(OSError, KeyError):
        return pwd.getpwuid(os.stat(folder).st_uid).pw_name
    return SIGNER_USER


def _indented(document: str) -> str:
    """Return a YAML document without its first comment, as the value of a key."""
    lines = document[document.index("\ngroups:") + 1 :].splitlines(keepends=True)
    return "".join(f"  {line}" if line.strip() else line for line in lines)


def _address(docs: str | None) -> str:
    if docs is None:
        return DOCS
    if not re.fullmatch(r"https?://[\w.:\[\]-]+(/[\w.~/-]*)?", docs, re.ASCII):
        raise VaultpkiError(
            f"{docs[:200]!a}: this is not the address of a web site, as https://docs.example.com/vaultpki/"
        )
    return f"{docs.rstrip('/')}/"


def _below(paths: list[str], folders: tuple[str, ...]) -> bool:
    return any(f"{path}/".startswith(f"{folder}/") for path in paths for folder in folders)


def _one_line(status: str) -> str:
    # A second line would be another message to systemd.
    return " ".join(status.split())[:_LONGEST_STATUS]


def _word(path: str) -> str:
    """Return a path as one word of a unit (systemd.syntax(7))."""
    # ReadWritePaths= knows no escapes.
    if not path.isprintable() or re.search(r"""["'\\]""", path):
        raise VaultpkiError(
            f"{path[:200]!a}: a systemd unit cannot hold this path; choose one without quotes and backslashes"
        )
    escaped = path.replace("%", "%%")
    return f'"{escaped}"' if re.search(r"\s", path) else escaped


def _argument(path: str) -> str:
    """Return a path as an argument of a command, where `$` begins a variable (systemd.service(5))."""
    return _word(path).replace("$", "$$")
