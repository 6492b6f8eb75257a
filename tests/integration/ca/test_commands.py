"""`vaultpki ca` as a person and a program meet it: what it prints, how it exits, and how it waits."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers.node.reporting_nodes import Reporter, record_of
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster, Ran, environment, fails, vaultpki

# Terminals and processes; the rotation around them is on both servers elsewhere.
pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: etcd-2, roles: [etcd], addresses: [10.0.0.12]}
"""


NEXT = "key 2 of the CA etcd"


class Cas:
    """A cluster, nodes that report, and the command."""

    def __init__(self, cluster: AuditedCluster) -> None:
        self.cluster = cluster
        self.nodes = [Reporter(cluster, node.name, "etcd") for node in cluster.model.nodes]

    def run(self, *words: str | Path, expect: int = 0) -> Ran:
        env = self.cluster.environment("viewer" if words[0] == "status" else "applier")
        return vaultpki("ca", *words, "-f", self.cluster.file, env=env, expect=expect)

    def json(self, *words: str, expect: int = 0) -> dict[str, Any]:
        ran = self.run(*words, "--json", expect=expect)
        assert ran.stderr == ""
        document: dict[str, Any] = json.loads(ran.stdout)
        return document

    def pass_(self, **options: Any) -> None:
        """Every node passes, and did so some minutes ago."""
        for node in self.nodes:
            node.passed(datetime.now(UTC) - timedelta(minutes=3), **options)

    @property
    def state(self) -> str | None:
        record = record_of(self.cluster, "etcd")
        return None if record is None else record.state.value


@pytest.fixture
def cas(clusters: ClusterFactory) -> Cas:
    cluster = clusters.applied(SPEC)
    for node in cluster.model.nodes:
        cluster.equip(node.name)
    cas = Cas(cluster)
    cas.pass_()
    return cas


def test_a_rotation_by_hand(cas: Cas) -> None:
    file = cas.cluster.file
    said = cas.run("status").stdout.splitlines()
    assert said[0].split() == ["CA", "NAME", "KEY", "EXPIRES", "DAYS", "LEFT", "STATE", "SINCE"]
    assert [line.split()[:3] for line in said[1:6]] == [
        ["root", "root-1", "ec-p256"],
        *([ca, f"{ca}-1", "ec-p256"] for ca in ("kubernetes", "kubelet", "etcd", "front-proxy")),
    ]
    assert all(line.split()[5] == "steady" for line in said[1:6])
    assert said[-1] == f"No CA is being rotated. `vaultpki ca rotate DOMAIN -f {file}` begins."
    assert cas.json("status")["rotation"] is None
    fails(cas.run("continue", expect=1), "is being rotated", "`vaultpki ca rotate DOMAIN")
    fails(cas.run("abort", expect=1), "is being rotated, so there is nothing to lead back")

    said = cas.run("rotate", "etcd").stdout.splitlines()
    assert said[0].startswith("etcd is prepared since ")
    assert said[0].endswith(f"{NEXT} has no certificate yet; nothing has changed for nodes.")
    assert said[1] == (f"Next: `vaultpki ca continue -f {file}` has the root sign {NEXT}, and nodes learn to trust it.")
    assert said[2] == f"Back: `vaultpki ca abort -f {file}` deletes {NEXT}, and nodes trust key 1 alone."
    fails(cas.run("rotate", "kubelet", expect=1), "the CA etcd is being rotated (prepared)")

    said = cas.run("continue").stdout.splitlines()
    assert f"nodes learn to trust {NEXT} beside key 1" in said[0] and said[1] == "It waits for:"
    assert [line.split()[0] for line in said[2:4]] == ["cp-1", "etcd-2"]
    assert "has not read the latest step" in said[2] and "A member of etcd cannot be left out" in said[2]
    assert said[4].startswith("Next: once nothing is waited for, `vaultpki ca continue")

    # It waits for a restart, which a person confirms.
    cas.pass_(restarts=False)
    document = cas.json("continue", expect=3)
    assert document["moved"] is False and document["rotation"]["state"] == "published"
    waiting = {each["node"]: each["reason"] for each in document["rotation"]["waiting_for"]}
    assert "restarts etcd after cp-1" in waiting["etcd-2"] and document["rotation"]["turn"] == "cp-1"
    assert waiting["cp-1"].endswith("Wait until its agent has seen it healthy, and run `vaultpki ca continue`")
    # What its agent sees counts more than a word.
    cas.pass_(restarts=False)
    refused = cas.run("continue", "--restarted", "cp-1/etcd", expect=1).stderr
    assert "the agent of cp-1 sees that etcd runs since 20" in refused and "no word is needed" in refused
    for node in cas.nodes:
        node.unseen = True
    cas.pass_()
    waiting = {each["node"]: each["reason"] for each in cas.json("continue", expect=3)["rotation"]["waiting_for"]}
    assert "`vaultpki ca continue --restarted cp-1/etcd`" in waiting["cp-1"]
    fails(cas.run("continue", "--restarted", "cp-9/etcd", expect=1), "cp-9 takes no part")
    fails(cas.run("continue", "--restarted", "cp-1", expect=1), "write `--restarted cp-1/etcd` or `--restarted cp-1/")
    fails(cas.run("continue", "--checked", "pods", expect=1), "does not wait for pods; leave out `--checked pods`")
    fails(cas.run("continue", "--without", "cp-1", expect=1), "cp-1 is a member of etcd, which no gate leaves out")
    cas.pass_()
    cas.run("continue", "--restarted", "cp-1/etcd", expect=3)
    cas.pass_()
    # One word for one component.
    waiting = {each["node"]: each["reason"] for each in cas.json("continue", expect=3)["rotation"]["waiting_for"]}
    assert "`vaultpki ca continue --restarted cp-1/kube-apiserver`" in waiting["cp-1"]
    cas.run("continue", "--restarted", "cp-1/kube-apiserver", expect=3)
    cas.pass_()
    said = cas.run("continue", "--restarted", "etcd-2/etcd").stdout.splitlines()
    assert "servers to test that they accept the new CA" in said[0]
    assert f"{NEXT} signs; nodes trust both" in said[1] and cas.state == "switched"
    assert "within 1h" in said[1]

    # And back, to the end.
    assert cas.run("abort").stdout.startswith("etcd is returning since ")
    status = cas.json("status")
    assert status["rotation"] | {"since": "", "opens": None, "waiting_for": []} == {
        "domain": "etcd",
        "state": "returning",
        "since": "",
        "method": "new-key",
        "old": "etcd-1",
        "new": "etcd-2",
        "waiting_for": [],
        "left_out": [],
        "accepting": [],
        "opens": None,
        "turn": None,
        "next": "steady",
        "back": "steady",
    }
    assert {each["node"] for each in status["rotation"]["waiting_for"]} == {"cp-1", "etcd-2"}
    (etcd,) = (ca for ca in status["cas"] if ca["domain"] == "etcd")
    assert (etcd["name"], etcd["state"], etcd["problem"]) == ("etcd-1", "returning", None)
    assert etcd["days_left"] in (1824, 1825) and etcd["sha256"] and etcd["since"].endswith("Z")
    cas.pass_()
    said = cas.run("abort").stdout.splitlines()
    assert said[0].startswith(
        "Could not connect to 4 of 4 servers to test that they present a certificate of the old CA"
    )
    assert said[1] == "etcd is steady: key 1 of the CA etcd signs, and nodes trust it alone."
    assert said[2].endswith(f"may still accept certificates of {NEXT}, which is deleted.")
    assert cas.run("status").stdout.splitlines()[-1].startswith("No CA is being rotated.")
    the_root_is_rotated_in_steps_too(cas)
    # An emergency is announced and asked for.
    fails(cas.run("rotate", "etcd", "--emergency", expect=1), "no terminal to ask on; pass --yes")
    assert typed(cas, "kubelet\n", "rotate", "etcd", "--emergency") == (1, "steady")
    assert typed(cas, "etcd\n", "rotate", "etcd", "--emergency") == (0, "retired")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rotate", "etdc"), "there is no CA 'etdc'; write one of root, kubernetes, kubelet, etcd, front-proxy"),
        (("rotate", "etcd", "--same-key", "--emergency"), "does not help against a stolen one"),
        (("rotate", "etcd", "--spread", "31d"), "--spread is at most 30d"),
        (("rotate",), "DOMAIN is missing"),
    ],
)
def test_usage(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    assert said in vaultpki("ca", *words, "-f", tmp_path / "cluster.yaml", expect=2).stderr


def the_root_is_rotated_in_steps_too(cas: Cas) -> None:
    file = cas.cluster.file
    fails(cas.run("rotate", "root", "--same-key", expect=1), "a new root all the same")
    fails(cas.run("rotate", "root", "--emergency", "--yes", expect=1), "leave out `--emergency`")
    said = cas.run("rotate", "root").stdout.splitlines()
    assert said[0].startswith("root is prepared") and said[1] == (
        f"Next: `vaultpki ca continue -f {file}` makes key 2 of the CA root, for which key 1 vouches, and nodes learn "
        "to trust it."
    )
    fails(cas.run("rotate", "etcd", expect=1), "the CA root is being rotated (prepared)")
    assert cas.run("continue").stdout.startswith("root is published")
    document = cas.json("status")
    assert document["rotation"]["domain"] == "root" and document["cas"][0]["state"] == "published"
    waiting = {each["node"]: each["reason"] for each in document["rotation"]["waiting_for"]}
    assert "pods" in waiting and "has not read the latest step" in waiting["cp-1"]
    fails(cas.run("continue", "--kubeconfig", cas.cluster.folder / "none", expect=1), "there is no such file")
    fails(cas.run("continue", "--checked", "pods", expect=1), "not every node is ready")
    assert cas.run("abort").stdout.startswith("root is steady: ")


def typed(cas: Cas, keys: str, *words: str) -> tuple[int, str | None]:
    """What a person who types `keys` on a terminal gets: the exit code, and the state of the CA then."""
    main, other = pty.openpty()
    try:
        ran = subprocess.Popen(
            [sys.executable, "-m", "vaultpki", "ca", *words, "-f", str(cas.cluster.file)],
            env=environment(cas.cluster.environment()),
            stdin=other,
            stdout=other,
            stderr=other,
        )
        os.write(main, keys.encode())
        said, deadline = b"", time.monotonic() + 60
        while ran.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        os.set_blocking(main, False)
        while piece := os.read(main, 65536):
            said += piece
            if len(piece) < 65536:
                break
        text = said.decode()
        assert "This outage ends once every" in text and "Only a rotation of the root ends that" in text, text
        return ran.wait(10), cas.state
    finally:
        os.close(main)
        os.close(other)


def test_wait_goes_on_to_the_end_and_tells_each_change(cas: Cas) -> None:
    cas.run("rotate", "etcd", "--spread", "1m")
    states = []
    with started(cas, "continue", "--wait") as waiting:
        deadline = time.monotonic() + 150
        while waiting.poll() is None and time.monotonic() < deadline:
            if cas.state not in states:
                states.append(cas.state)
            cas.pass_()
            time.sleep(0.5)
        said, lines = waiting.communicate(timeout=10)
    assert waiting.returncode == 0, lines
    assert said == (
        "Could not connect to 4 of 4 servers to test that they refuse the old CA; the nodes' reports are used.\n"
        "etcd is done: key 2 of the CA etcd signs, and nodes trust it alone; key 1 is deleted.\n"
    )
    shown = lines.splitlines()
    assert len(shown) == len(set(shown)) >= 3 and "\x1b" not in lines
    assert any(line.startswith("etcd is published, waits for cp-1 (and 1 more): has not read") for line in shown)
    assert states[-1] in ("retired", "done")


def test_ctrl_c_ends_the_waiting_and_nothing_else(cas: Cas) -> None:
    cas.run("rotate", "etcd")
    with started(cas, "continue", "--wait") as waiting:
        deadline = time.monotonic() + 60
        while cas.state != "published" and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        waiting.send_signal(signal.SIGINT)
        said, lines = waiting.communicate(timeout=20)
    assert (said, waiting.returncode) == ("", 130)
    assert lines.splitlines()[-2:] == [
        "stopped waiting; nothing is lost: the same command goes on",
        "vaultpki: interrupted. See what comes next: `vaultpki ca status`",
    ]
    assert cas.state == "published"


@contextlib.contextmanager
def started(cas: Cas, *words: str) -> Iterator[subprocess.Popen[str]]:
    # Without openssl no listener is asked: the nodes' addresses are those of nobody's machines.
    without_openssl = {"PATH": str(cas.cluster.folder)}
    with subprocess.Popen(
        [sys.executable, "-m", "vaultpki", "ca", *words, "-f", str(cas.cluster.file)],
        env=environment(cas.cluster.environment() | without_openssl),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
