"""`agent --once` killed at the system calls by which it changes its node, against the real server.

The calls are taken from a recorded trace of the same program. Each trial works on a copy of the node of its own; what a
reader finds after the kill is whole, and one more run sets everything right and leaves nothing behind.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from applied import Seat, Site, environment
from servers import Server

from vaultpki import agent, x509
from vaultpki.certificates import pair_files
from vaultpki.config import load_agent

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
"""
STEMS = ("kubelet", "kubelet-client", "kube-proxy")
RENEWED = ("kubelet", "kube-proxy")
CHANGING = (
    "openat,creat,write,writev,pwrite64,ftruncate,truncate,fallocate,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,"
    "fsync,fdatasync,sync,mkdir,mkdirat,symlink,symlinkat,link,linkat,rename,renameat,renameat2,unlink,unlinkat,rmdir"
)
# Kills in an ordinary run: evenly spread, and each kind of call at its first and last; `conformance` takes all.
SAMPLE = 24
Point = tuple[str, int]
Files = dict[str, bytes]


@pytest.fixture
def site(server: Server, tmp_path: Path, cluster_name: str) -> Site:
    made = Site(server, tmp_path / "site", cluster_name)
    made.write(SPEC)
    made.apply()
    return made


def trials(site: Site, base: Seat, place: Path) -> Trials:
    (place / "trials").mkdir()
    return Trials(base, place / "trials", place / "cache")


@dataclass(frozen=True)
class Trials:
    """A node in a state to start from, and how copies of it are made and run."""

    base: Seat
    place: Path
    cache: Path

    def copy(self, name: str) -> Seat:
        """The base on another path, which agent.yaml and kubeconfigs name."""
        seat = Seat(self.base.name, self.place / name)
        shutil.copytree(self.base.folder, seat.folder, symlinks=True)
        seat.configure(str(self.base.folder), str(seat.folder))
        return seat

    def run(self, seat: Seat, *strace: str) -> subprocess.CompletedProcess[str]:
        # Not --seccomp-bpf: strace 6.1 then traces, and injects nothing. The calls are counted, so start-up must
        # always make the same: a cache of its own, filled before.
        return subprocess.run(
            [
                "strace",
                "-f",
                "-y",
                *strace,
                sys.executable,
                "-m",
                "vaultpki",
                "agent",
                "-c",
                str(seat.config),
                "--once",
            ],
            env=environment({"PYTHONPYCACHEPREFIX": str(self.cache), "PYTHONHASHSEED": "0"}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )

    def points(self) -> list[Point]:
        """Every call of the main thread that changes something below the node's folder, as strace counts them."""
        self.run(self.copy("warm-up"))
        seat, log = self.copy("recorded"), self.place / "log"
        done = self.run(seat, "-o", str(log), "-e", f"trace={CHANGING}")
        assert done.returncode == 0, done.stderr
        lines = log.read_text().splitlines()
        main = lines[0].split()[0]
        counted: Counter[str] = Counter()
        points = []
        for line in lines:
            match = re.match(rf"{main}\s+(\w+)\((.*)", line)
            if match is None:
                continue
            counted[match[1]] += 1
            if str(seat.folder) in match[2] and (match[1] != "openat" or "O_CREAT" in line):
                points.append((match[1], counted[match[1]]))
        return points


def sample(points: list[Point], size: int) -> list[Point]:
    ends = {name: [point for point in points if point[0] == name] for name, _ in points}
    chosen = {kind for found in ends.values() for kind in (found[0], found[-1])}
    chosen |= {points[index * len(points) // size] for index in range(size)}
    return [point for point in points if point in chosen]


def pairs(seat: Seat) -> dict[str, Files]:
    return {
        stem: {name: (seat.pki / name).read_bytes() for name in pair_files(stem) if (seat.pki / name).exists()}
        for stem in STEMS
    }


def others(seat: Seat, *folders: Path) -> Files:
    """Bundles and kubeconfigs, the node's folder in them, or that of `folders`, aside."""
    if not seat.pki.exists():
        return {}
    mine = {name for stem in STEMS for name in pair_files(stem)}
    return {
        path.name: re.sub(b"|".join(str(each).encode() for each in (seat.folder, *folders)), b"HERE", path.read_bytes())
        for path in seat.pki.iterdir()
        if path.is_symlink() and path.exists() and path.name not in mine
    }


def whole(stem: str, found: Files) -> bool:
    crt, key, pem = (found.get(name, b"") for name in pair_files(stem))
    leaf, *issuing = x509.read_certificates(crt)
    return x509.matches(key, leaf) and pem == key + crt and len(issuing) == 1


def clean(seat: Seat) -> None:
    """Nothing lies on the node but what is live, with its modes."""
    hidden = seat.pki / ".vaultpki"
    units = {"bundles", *STEMS}
    live = {os.readlink(hidden / unit) for unit in units}
    assert {path.name for path in hidden.iterdir()} == {"lock", *units, *live}
    names = {path.name for path in seat.pki.iterdir()} - {".vaultpki"}
    assert names == {path.name for unit in live for path in (hidden / unit).iterdir()}
    for name in names:
        mode = 0o644 if name.endswith(".crt") else 0o600
        assert (seat.pki / name).stat().st_mode & 0o7777 == mode, name
    left = {path.name for path in seat.state.iterdir()}
    assert left <= {"secret-id", "secret-id.json", "spec.json"}, left
    assert {path.stat().st_mode & 0o7777 for path in seat.state.iterdir()} == {0o600}


def killed_everywhere(trials: Trials, points: list[Point], due: tuple[str, ...]) -> None:
    """Each kill finds every pair of `due` old (or not there at all) or new, and every other as it was."""
    before, recorded = pairs(trials.base), others(trials.base)
    good = others(Seat(trials.base.name, trials.place / "recorded"))

    def one(number: int) -> None:
        call, count = points[number]
        what = f"SIGKILL at {call} {count}"
        seat = trials.copy(f"case-{number}")
        inject = f"inject={call}:signal=SIGKILL:when={count}"
        done = trials.run(seat, "-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
        assert done.returncode in (-9, 137), f"{what}: not killed: {done.stdout}{done.stderr}"
        for stem, found in pairs(seat).items():
            old = found == before[stem]
            assert old or (stem in due and whole(stem, found)), f"{what}: {stem} is torn or short: {sorted(found)}"
        assert others(seat, trials.base.folder) in (recorded, good), f"{what}: {sorted(others(seat))}"
        again = agent.run(load_agent(seat.config))
        assert not again.failures, f"{what}, then run again: {again.failures}"
        for stem, found in pairs(seat).items():
            assert whole(stem, found) and (found != before[stem]) is (stem in due), f"{what}, then run again: {stem}"
        assert others(seat) == good, what
        clean(seat)
        shutil.rmtree(seat.folder)

    # More than there are processors: a run that replaced something waits some seconds for watchers.
    with ThreadPoolExecutor(max_workers=16) as pool:
        for _ in pool.map(one, range(len(points))):
            pass


def first_issue(site: Site, tmp_path: Path) -> Trials:
    return trials(site, site.equip("worker-1"), tmp_path)


def renewal(site: Site, tmp_path: Path) -> Trials:
    """A node whose good pairs are due because cluster.yaml has changed."""
    seat = site.equip("worker-1")
    seat.run()
    site.write(SPEC + "certificates:\n  kubelet: {extra_names: [kubelet.example.com]}\n  kube-proxy: {key: ec-p384}\n")
    site.apply()
    seat.age(100_000)
    return trials(site, seat, tmp_path)


@pytest.mark.parametrize(
    ("begin", "due", "size"),
    [
        pytest.param(begin, due, size, id=f"{begin.__name__}-{words}", marks=marks)
        for begin, due in ((first_issue, STEMS), (renewal, RENEWED))
        for words, size, marks in (("sample", SAMPLE, ()), ("every-call", 10**6, pytest.mark.conformance))
    ],
)
def test_killed(
    begin: Callable[[Site, Path], Trials], due: tuple[str, ...], size: int, site: Site, tmp_path: Path
) -> None:
    made = begin(site, tmp_path)
    points = made.points()
    assert {"write", "fsync", "openat"} <= {name for name, _ in points}
    assert len(points) > 60, points
    killed_everywhere(made, sample(points, min(size, len(points))), due)
