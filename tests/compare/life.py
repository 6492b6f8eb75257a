"""Play the lives of situations.py with one checkout, as its user would: each on a server behind a proxy that records.

The product that is compared is run by its command line alone. What stands around it (components of a node, an API
server, a signer outside) comes from the tests' helpers of this checkout, for both sides alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from compare.normal import Block, Normaliser, parsed
from compare.recorded_run import COMMAND_SECONDS, ROOT_TOKEN, Request, Step, api, recording, serving, tree
from compare.situations import LIVES, Life
from compare.stands import Stands
from helpers.vault import forked_command

Transcript = dict[str, dict[str, list[Block]]]
# The times for which the product waits by design, in seconds, in whatever module a checkout defines them: gates (less
# than nothing, since what they are compared with is rounded to seconds), replaced files, logins under way. Where a side
# calls one otherwise, add that name.
WAITS = {
    "SETTLE": -5,
    "CLIENT_LOOK": 1,
    "LONGEST_LOOK_AGAIN": -5,
    "JOIN": -5,
    "OLD_FILES_GRACE": 0.1,
    "LOGIN_IN_FLIGHT": 0.1,
}
ROUNDS = 8


def shortened(package: Path) -> list[str]:
    """Change a copy of the package: what it waits for is over at once. Return the names of WAITS that it lacks."""
    found = set()
    for file in package.rglob("*.py"):
        text = before = file.read_text()
        for name, seconds in WAITS.items():
            text, count = re.subn(rf"(?m)^{name}: Final = .*$", f"{name}: Final = {seconds}", text)
            found |= {name} if count else set()
        if text != before:
            file.write_text(text)
    return sorted(WAITS.keys() - found)


@dataclass(slots=True)
class Played:
    """One life with the packages in these folders: one whose gates are `quick`, and one as it is, `real`.

    `unexpected` is what ended with another code than the list says.
    """

    life: Life
    quick: Path
    real: Path
    folder: Path
    port: int
    address: str
    requests: list[Request]
    stands: Stands
    situation: str = ""
    steps: dict[str, Step] = field(default_factory=dict)
    nodes: list[str] = field(default_factory=list)
    kept: dict[str, object] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)

    def play(self, until: str) -> None:
        """Lead the cluster from situation to situation, up to one of this name."""
        os.chdir(self.folder)
        for name, text in self.life.files.items():
            Path(name).write_text(text)
        Path("joins").mkdir()
        for situation, commands in self.life.situations.items():
            self.situation = situation
            for command in (*split(commands), *split(self.life.views, "any")):
                if self.nodes or not command.startswith(VIEW_OF_NODES):
                    self.do(command)
            if situation == until:
                return

    def do(self, command: str) -> int:
        """Do one command of the list; return how it ended."""
        words, _, code = command.partition(" => ")
        first, _, rest = words.partition(" ")
        if first.isupper():
            getattr(self, f"_{first.lower()}")(rest, *([code] if code else []))
            return 0
        node = first.removesuffix("#") if first.endswith("#") else ""
        return self.run((rest if node else words).split(), code, node=node)

    def run(
        self,
        words: Sequence[str],
        code: str = "",
        *,
        node: str = "",
        env: Mapping[str, str] | None = None,
        package: Path | None = None,
    ) -> int:
        """Run a command of the operator, or of root on a node. It must end with this code, "" for 0, "any" for any."""
        whole = [each for word in words for each in self._files(word)]
        if node and "--dir" not in words:
            whole += ["-c", f"{node}/agent.yaml"]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package or self.quick), "LC_ALL": "C.UTF-8"}
        environment["HOME"] = str(self.folder)
        if not node:
            environment |= {"VAULT_ADDR": self.address, "VAULT_TOKEN": ROOT_TOKEN, **(env or {})}
        ran = forked_command.run(whole, env=environment, umask=0o022, timeout=COMMAND_SECONDS)
        requests = sorted(self.requests, key=lambda each: each.begun)
        self.requests.clear()
        said = " ".join((*([f"{node}#"] if node else []), *words)).replace(str(self.folder), "<folder>")
        name = f"{self.life.name}/{self.situation}: {said}"
        number = next(n for n in range(1, 99) if (f"{name} ({n})" if n > 1 else name) not in self.steps)
        name = f"{name} ({number})" if number > 1 else name
        if code != "any" and ran.returncode not in {int(each) for each in (code or "0").split("|")}:
            self.unexpected.append(f"{name}: exit {ran.returncode}, not {code or 0}\n{ran.stdout}{ran.stderr}")
        looked = tree(self.folder / node) if node else tree(self.folder / written(words)) if written(words) else {}
        machine_read = "--json" in words or words[0] in {"policy", "schema"}
        self.steps[name] = Step(
            ran.returncode,
            ran.stdout.encode(),
            ran.stderr.encode(),
            requests,
            looked,
            self.stands.changed(),
            machine_read=machine_read,
            # By serials.
            shuffled=words[0] == "revoke",
        )
        return ran.returncode

    def _files(self, word: str) -> list[str]:
        """What a signer outside has sent back to a folder of requests, for IMPORTED:FOLDER."""
        folder = word.removeprefix("IMPORTED:")
        return [word] if folder == word else sorted(map(str, Path(folder).glob("*.crt")))

    # What situations.py writes in capitals

    def _pass(self, names: str = "") -> None:
        for node in names.split() or self.nodes:
            self.run(["agent", "--once"], "any", node=node)
        self.stands.passed()

    def _join(self, words: str) -> None:
        node, *options = words.split()
        self.run(["enroll", node, *options, "-o", f"joins/{node}.json"])
        Path(node).mkdir()
        where = ["--dir", f"{self.folder}/{node}/pki", *self.life.join.format(folder=self.folder / node).split()]
        join = ["agent", "-c", f"{node}/agent.yaml", "--once", "--join", f"joins/{node}.json", *where]
        self.run(join, "any", node=node)
        self.nodes.append(node)
        if self.life.local:
            file = Path(node, "agent.yaml")
            file.write_text(
                re.sub(r"(?m)^poll:.*\n", "", file.read_text()) + self.life.local.format(folder=self.folder / node)
            )

    def _onward(self, words: str, code: str = "") -> None:
        """All pass, and the command is run again, until the step is made."""
        for _ in range(ROUNDS):
            self._pass()
            if self.run(words.split(), "any" if code == "any" else "0|3") != 3:
                return
        if code != "any":
            last = next(reversed(self.steps.values())).stdout.decode()
            self.unexpected.append(f"{self.life.name}/{self.situation}: {words} still waits\n{last}")

    def _write(self, words: str) -> None:
        name, _, text = words.partition(" ")
        Path(name).write_text(text)

    def _wait(self, seconds: str) -> None:
        time.sleep(float(seconds))

    def _edit(self, words: str) -> None:
        name, _, change = words.partition(" ")
        old, _, new = change.replace("\\n", "\n").partition(" ->")
        text = Path(name).read_text()
        assert old in text, old
        Path(name).write_text(text.replace(old, new.strip()))

    def _keep(self, path: str) -> None:
        self.kept[path] = self._record(path)

    def _putback(self, path: str) -> None:
        api(self.port, "POST", self._path(path), {"data": self.kept[path]})

    def _age(self, path: str) -> None:
        """As if an hour had passed since the times in a record."""

        def earlier(found: re.Match[str]) -> str:
            return f"{datetime.fromisoformat(found[0]) - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"

        text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]{8}Z", earlier, json.dumps(self._record(path)))
        api(self.port, "POST", self._path(path), {"data": json.loads(text)})

    def _spoil(self, path: str) -> None:
        api(self.port, "POST", self._path(path), {"data": {"version": 1, "state": "nowhere"}})

    def _record(self, path: str) -> object:
        return api(self.port, "GET", self._path(path))["data"]["data"]

    def _path(self, path: str) -> str:
        return f"vaultpki/demo/config/data/{path}"

    def _as(self, words: str, code: str = "") -> None:
        token, _, rest = words.partition(" ")
        self.run(rest.split(), code, env={"VAULT_TOKEN": token})

    def _away(self, words: str, code: str = "") -> None:
        self.run(words.split(), code, env={"VAULT_ADDR": "http://127.0.0.1:9"})

    def _real(self, words: str, code: str = "") -> None:
        self.run(words.split(), code, package=self.real)

    def _stand(self, words: str) -> None:
        """What stands around the cluster does this; see stands.py."""
        what, *rest = words.split()
        getattr(self.stands, what)(*rest)

    # The end

    def normaliser(self) -> Normaliser:
        """Return a normaliser that knows all random values of this life."""
        known = {self.address.removeprefix("http://"): "<server>", str(self.folder): "<folder>"}
        made = Normaliser(known | {ROOT_TOKEN: "<root token>"})
        for step in self.steps.values():
            for content in (*(each.answer for each in step.requests), *(content for _, content in step.tree.values())):
                made.learn(parsed(content))
        return made


VIEW_OF_NODES = ("cp-1#", "w-1#", "PASS", "nodes", "ca status", "plan")


def split(commands: str, code: str = "") -> Iterator[str]:
    """Return the commands of a line of the list; what has no code gets this one."""
    for each in filter(None, (" ".join(part.split()) for part in commands.split(";"))):
        yield f"{each} => {code}" if code and " => " not in each and not each[:2].isupper() else each


def written(words: Sequence[str]) -> str:
    """Return the folder, or the file, to which an operator's command writes."""
    places = [words[at + 1] for at, word in enumerate(words) if word in {"-o", "--dir"}]
    return places[0].partition("/")[0] if places else ""


def play(binary: str, quick: Path, real: Path, folder: Path, wanted: Mapping[str, str]) -> tuple[Transcript, list[str]]:
    """Play these lives, each up to the situation of this name.

    Return what each command did, and what ended with another code than the list says.
    """
    made, unexpected = Transcript(), list[str]()
    for name, until in wanted.items():
        place, port = folder / name, 8200
        (place / "server").mkdir(parents=True)
        (place / "cluster").mkdir()
        with (
            serving(binary, port, place / "server"),
            recording(port) as (address, requests),
            contextlib.ExitStack() as stack,
        ):
            stands = Stands(place / "cluster", port, stack)
            played = Played(LIVES[name], quick, real, place / "cluster", port, address, requests, stands)
            played.play(until)
        normaliser = played.normaliser()
        made |= {step: done.sections(normaliser) for step, done in played.steps.items()}
        unexpected += played.unexpected
    return made, unexpected
