"""Reads `hooks` of agent.yaml: commands as lists of words, and restarts of a systemd unit or a static pod."""

from __future__ import annotations

import re
from typing import Any, Final

from vaultpki.config import kinds
from vaultpki.config.fields import Field, FieldValue, Kind, ListOf, MapOf, Record, Schema, Text
from vaultpki.errors import SpecError
from vaultpki.model import Hook
from vaultpki.values import names, yaml_tree
from vaultpki.values.names import quoted
from vaultpki.values.yaml_tree import Node, Place

# The name of the units and of the static pod in templates/.
_OURS: Final = "vaultpki-agent"
_FOR_EVER: Final = (
    "a hook that restarts the agent is killed with it and would run again after each restart, for ever: leave it out"
)
_KILLERS: Final = ("kill", "pkill", "killall", "skill", "killall5")
CARRIERS: Final = frozenset(
    "env sudo nice ionice nohup setsid timeout nsenter chroot busybox sh bash dash systemd-run".split()  # noqa: SIM905
)
"""Programs that run another command, which is somewhere in their arguments."""

_HANG_UP = re.compile(r"(?:^| )(?:-(?:SIG)?HUP|(?:-s|-n|--signal)[ =]?(?:SIG)?(?:HUP|1))(?= |$)", re.IGNORECASE)
_NUMBERED: Final = {"kill": re.compile(r"^-1(?= |$)"), "systemctl": re.compile(r"$^")}
_ANYWHERE = re.compile(r"(?:^| )-1(?= |$)")


def _argument(text: str) -> str:
    if "\0" in text or len(text) > 4096:
        raise SpecError(f"{quoted(text)} is not a valid argument: write text without NUL, at most 4096 characters")
    return text


def _unit(text: str) -> str:
    # systemd.unit(5): letters, digits and :-_.\\ with one @. A glob would restart whatever it meets.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9:_.\\@-]{0,254}", text):
        raise SpecError(f"{quoted(text)} is not a systemd unit: write its name, such as kubelet or etcd.service")
    if text.startswith(_OURS):
        raise SpecError(_FOR_EVER)
    return text


def _static_pod(text: str) -> str:
    if text.rpartition("/")[2].startswith(_OURS):
        raise SpecError(_FOR_EVER)
    if text.startswith("/"):
        names.absolute_path(text)
        if not re.fullmatch(names.FILE_PATTERN, text.rpartition("/")[2]):
            raise SpecError(f"{quoted(text)} is not a manifest: the kubelet ignores files whose name begins with a dot")
        return text
    if not re.fullmatch(names.LABEL_PATTERN, text):
        raise SpecError(
            f"{quoted(text)} is not a static pod: write a name without .yaml, such as etcd, or a manifest's whole path"
        )
    return text


_COMMAND = ListOf(Text(_argument, "text"), 1, 64, doubles=True, expected="a command as a list of words")
_READY_MADE = Record(
    {
        "systemd": Field(Text(_unit, "a unit's name"), "The systemd unit to restart"),
        "static_pod": Field(
            Text(_static_pod, "a manifest's name or path"),
            "The static pod to restart: a name in /etc/kubernetes/manifests, or a manifest's path",
        ),
    }
)


class _Item(Kind):
    expected = "a command as a list of words, {systemd: UNIT} or {static_pod: NAME}"

    def read(self, node: Node, place: Place) -> FieldValue:
        if isinstance(node, yaml_tree.Sequence):
            argv = _COMMAND.read(node, place).plain()
            problem = _refused(argv)
            if problem is not None:
                raise place.refuse(problem)
            return FieldValue(Hook("command", argv=argv, place=str(place)), place)
        if not isinstance(node, yaml_tree.Mapping):
            raise place.refuse(f"write {self.expected}")
        found = _READY_MADE.read(node, place)
        if len(found.value) != 1:
            raise place.refuse("write each restart as an item of its own: {systemd: UNIT} or {static_pod: NAME}")
        [(kind, name)] = found.value.items()
        return FieldValue(Hook(kind, name=name.plain(), place=str(place)), place)

    def schema(self) -> Schema:
        ready_made = {**_READY_MADE.schema(), "minProperties": 1, "maxProperties": 1}
        return {"anyOf": [_COMMAND.schema(), ready_made]}


HOOKS: Final = MapOf(kinds.LABEL, ListOf(_Item(), 1, 16, doubles=True))


def read_hooks(found: FieldValue) -> dict[str, tuple[Hook, ...]]:
    """Return the hooks by certificate or bundle, from a value that `HOOKS` read."""
    return {key: each.plain() for key, each in found.value.items()}


def plain_hooks(hooks: Any) -> dict[str, list[object]]:
    """Return the hooks as agent.yaml contains them."""
    return {
        key: [list(hook.argv) if hook.kind == "command" else {hook.kind: hook.name} for hook in each]
        for key, each in hooks.items()
    }


def _refused(argv: tuple[str, ...]) -> str | None:
    program = argv[0]
    if not program or ("/" in program and not program.startswith("/")):
        return f"{quoted(program)} is not a program: write only its name, or its whole path from / on"
    if _base(program) == "systemctl" and any(word.startswith(_OURS) for word in argv):
        return _FOR_EVER
    if _hangs_up(argv):
        return (
            "SIGHUP kills etcd, and no component of Kubernetes reloads its files on it: leave it out, or restart the "
            "component with {systemd: UNIT} or {static_pod: NAME}"
        )
    return None


def _hangs_up(argv: tuple[str, ...]) -> bool:
    """Return whether the command sends SIGHUP with kill or a similar program, directly or through another program."""
    said = list(argv)
    if _base(said[0]) in CARRIERS:
        said = re.split(r"[\s;&|()]+", " ".join(said))
    for index, word in enumerate(said):
        rest = said[index + 1 :]
        name = _base(word)
        if name in _KILLERS or (name == "systemctl" and "kill" in rest):
            text = " ".join(rest)
            if _HANG_UP.search(text) or _NUMBERED.get(name, _ANYWHERE).search(text):
                return True
        if _base(argv[0]) not in CARRIERS:
            break
    return False


def _base(word: str) -> str:
    return word.rpartition("/")[2]
