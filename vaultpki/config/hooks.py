"""What agent.yaml says under `hooks`: commands as lists of words, and the two restarts that are ready-made."""

from __future__ import annotations

import re
from typing import Any, Final

from vaultpki import words
from vaultpki.config import tree
from vaultpki.config.shape import Field, Found, Kind, ListOf, MapOf, Record, Schema, Text
from vaultpki.config.tree import Node, Place
from vaultpki.errors import SpecError
from vaultpki.model import Hook
from vaultpki.words import quoted

# As templates/ name the units and the static pod.
_OURS: Final = "vaultpki-agent"
_FOR_EVER: Final = (
    "a hook that restarts the agent is ended with it, and so is owed again after each restart, for ever: leave it out"
)
_KILLERS: Final = ("kill", "pkill", "killall", "skill", "killall5")
# What runs another command: the command that counts stands somewhere behind it.
_CARRIERS: Final = frozenset(
    "env sudo nice ionice nohup setsid timeout nsenter chroot busybox sh bash dash systemd-run".split()  # noqa: SIM905
)
_HANG_UP = re.compile(r"(?:^| )(?:-(?:SIG)?HUP|(?:-s|-n|--signal)[ =]?(?:SIG)?(?:HUP|1))(?= |$)", re.IGNORECASE)
_NUMBERED: Final = {"kill": re.compile(r"^-1(?= |$)"), "systemctl": re.compile(r"$^")}
_ANYWHERE = re.compile(r"(?:^| )-1(?= |$)")


def _argument(text: str) -> str:
    if "\0" in text or len(text) > 4096:
        raise SpecError(f"{quoted(text)} is no argument: write text without NUL, at most 4096 characters")
    return text


def _unit(text: str) -> str:
    # systemd.unit(5): letters, digits and :-_.\\ with one @. A glob would restart whatever it meets.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9:_.\\@-]{0,254}", text):
        raise SpecError(f"{quoted(text)} is no systemd unit: write its name, such as kubelet or etcd.service")
    if text.startswith(_OURS):
        raise SpecError(_FOR_EVER)
    return text


def _static_pod(text: str) -> str:
    if text.rpartition("/")[2].startswith(_OURS):
        raise SpecError(_FOR_EVER)
    if text.startswith("/"):
        words.absolute_path(text)
        if not re.fullmatch(words.FILE, text.rpartition("/")[2]):
            raise SpecError(f"{quoted(text)} is no manifest: the kubelet reads no file whose name begins with a dot")
        return text
    if not re.fullmatch(words.LABEL, text):
        raise SpecError(
            f"{quoted(text)} is no static pod: write the manifest's name without .yaml, such as etcd, or its whole path"
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

    def read(self, node: Node, place: Place) -> Found:
        if isinstance(node, tree.Sequence):
            argv = _COMMAND.read(node, place).plain()
            problem = _refused(argv)
            if problem is not None:
                raise place.refuse(problem)
            return Found(Hook("command", argv=argv), place)
        if not isinstance(node, tree.Mapping):
            raise place.refuse(f"write {self.expected}")
        found = _READY_MADE.read(node, place)
        if len(found.value) != 1:
            raise place.refuse("one thing to do is an item of its own: write {systemd: UNIT} or {static_pod: NAME}")
        [(kind, name)] = found.value.items()
        return Found(Hook(kind, name=name.plain()), place)

    def schema(self) -> Schema:
        ready_made = {**_READY_MADE.schema(), "minProperties": 1, "maxProperties": 1}
        return {"anyOf": [_COMMAND.schema(), ready_made]}


HOOKS: Final = MapOf(Text(words.label, "a certificate's or bundle's name"), ListOf(_Item(), 1, 16, doubles=True))


def read_hooks(found: Found) -> dict[str, tuple[Hook, ...]]:
    """The hooks by certificate or bundle, as `HOOKS` read them."""
    return {key: each.plain() for key, each in found.value.items()}


def plain_hooks(hooks: Any) -> dict[str, list[object]]:
    """The hooks as agent.yaml says them."""
    return {
        key: [list(hook.argv) if hook.kind == "command" else {hook.kind: hook.name} for hook in each]
        for key, each in hooks.items()
    }


def _refused(argv: tuple[str, ...]) -> str | None:
    program = argv[0]
    if not program or ("/" in program and not program.startswith("/")):
        return f"{quoted(program)} is no program: write its name alone or its whole path from / on"
    if _base(program) == "systemctl" and any(word.startswith(_OURS) for word in argv):
        return _FOR_EVER
    if _hangs_up(argv):
        return (
            "SIGHUP kills etcd and makes no component of Kubernetes read its files anew: leave it out, or restart the "
            "component with {systemd: UNIT} or {static_pod: NAME}"
        )
    return None


def _hangs_up(argv: tuple[str, ...]) -> bool:
    """Whether the command sends SIGHUP by kill and its like, by itself or behind what runs another command."""
    said = list(argv)
    if _base(said[0]) in _CARRIERS:
        said = re.split(r"[\s;&|()]+", " ".join(said))
    for index, word in enumerate(said):
        rest = said[index + 1 :]
        name = _base(word)
        if name in _KILLERS or (name == "systemctl" and "kill" in rest):
            text = " ".join(rest)
            if _HANG_UP.search(text) or _NUMBERED.get(name, _ANYWHERE).search(text):
                return True
        if _base(argv[0]) not in _CARRIERS:
            break
    return False


def _base(word: str) -> str:
    return word.rpartition("/")[2]
