"""Enrolling by an applier and by an enroller, and what people see of the nodes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from helpers.faults.kill_points import NEVER, command, died
from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.terminals import on_terminal
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import wait_for
from vaultpki import __version__
from vaultpki.identity import ending, enrol
from vaultpki.vault.transport import CONNECTIONS


def test_a_listed_node_is_enrolled_by_the_applier(cluster: AppliedCluster, applier: Enroller, tmp_path: Path) -> None:
    enrolled_nodes.vacate(cluster, "worker-1")
    before = cluster.read(f"auth/{cluster.prefix}/listed/role/worker-1")
    mark = cluster.server.audit_position()
    first = applier.join_file("worker-1", tmp_path / "1.json")
    assert [path for _, path in cluster.server.writes(mark)] == [
        f"auth/{cluster.prefix}/listed/role/worker-1/secret-id"
    ]
    enrolled_nodes.join(NodeFolder("worker-1", tmp_path / "node-1"), first)
    second = applier.join_file("worker-1", tmp_path / "2.json", replace=True)
    assert cluster.read(f"auth/{cluster.prefix}/listed/role/worker-1") == before
    said = [json.loads(file.read_text()) for file in (first, second)]
    assert said[0]["wrap_token"] != said[1]["wrap_token"] and said[0]["role_id"] != said[1]["role_id"]
    for value in said:
        assert (value["version"], value["cluster"], value["node"], value["pool"]) == (1, cluster.name, "worker-1", None)
        assert value["prefix"] == cluster.prefix and value["addresses"] == [cluster.server.address]
        assert value["root_sha256"] == cluster.root_sha256 and value["ca_pem"] == cluster.server.ca_file.read_text()
    enrolled_nodes.join(NodeFolder("worker-1", tmp_path / "node-2"), second)
    assert len(enrolled_nodes.accessors(cluster, "worker-1", "listed")) == 1


@pytest.mark.on_node
def test_what_apply_has_not_done_yet_is_told(clusters: ClusterFactory, tmp_path: Path) -> None:
    cluster = clusters.written(enrolled_nodes.SPEC)
    applier = Enroller(cluster, cluster.token())
    said = applier.enroll("worker-1", expect=1).stderr
    assert (
        said == f"vaultpki: cluster {cluster.name} is not in this Vault; run `vaultpki apply -f {cluster.file}` first\n"
    )
    cluster.apply()
    cluster.write(enrolled_nodes.SPEC.replace("10.0.0.21", "10.0.0.99") + "# later\n")
    said = applier.enroll("worker-1", "-o", tmp_path / "join.json").stderr
    assert said == (
        f"Vault's records of worker-1 differ from {cluster.file}; run `vaultpki apply -f {cluster.file}` "
        "to update them\n"
    )
    cluster.write(enrolled_nodes.SPEC.replace("worker-1, roles: [worker]", "worker-1, roles: [worker, etcd]"))
    enrolled_nodes.vacate(cluster, "worker-1")
    assert "records of worker-1 differ" in applier.enroll("--all", "-o", tmp_path / "joins").stderr
    cluster.write(enrolled_nodes.SPEC.replace("name: worker-1", "name: worker-2"))
    said = applier.enroll("worker-2", "-o", tmp_path / "2.json", expect=1).stderr.splitlines()[-1]
    assert said == f"vaultpki: worker-2 has no AppRole yet; run `vaultpki apply -f {cluster.file}` first"


def test_a_pooled_node_is_enrolled_by_an_enroller(cluster: AppliedCluster, enroller: Enroller, tmp_path: Path) -> None:
    first = enroller.join_file("w-1", tmp_path / "1.json", pool="autoscaled")
    role = cluster.read(f"auth/{cluster.prefix}/pooled/role/w-1")
    assert role["token_policies"] == [f"{cluster.prefix}/pool/autoscaled"] and role["token_no_default_policy"] is True
    assert role["token_type"] == "batch" and role["bind_secret_id"] is True
    node = NodeFolder("w-1", tmp_path / "node")
    enrolled_nodes.join(node, first)
    assert sorted(path.suffix for path in node.pki.glob("kubelet.*")) == [".conf", ".crt", ".key", ".pem"]
    # An AppRole that is there, with no credential, is enrolled by the enroller as it is.
    enrolled_nodes.vacate(cluster, "w-1")
    mark = cluster.server.audit_position()
    second = enroller.join_file("w-1", tmp_path / "2.json", pool="autoscaled")
    assert [path for _, path in cluster.server.writes(mark)] == [f"auth/{cluster.prefix}/pooled/role/w-1/secret-id"]
    assert cluster.read(f"auth/{cluster.prefix}/pooled/role/w-1") == role
    enrolled_nodes.join(NodeFolder("w-1", tmp_path / "again"), second)


@pytest.mark.on_node
def test_a_locked_node_is_enrolled_only_by_who_agrees(
    cluster: AppliedCluster, enroller: Enroller, tmp_path: Path
) -> None:
    pool = ("--pool", "autoscaled", "-o")
    for name in ("w-locked-1", "w-locked-2"):
        enroller.enroll(name, *pool, tmp_path / f"{name}.json")
        enrol.lock(cluster.model, cluster.client("locker"), name, wait=0)
    mark = cluster.server.audit_position()
    first = tmp_path / "first.json"
    words = ("enroll", "-f", cluster.file, "w-locked-1", *pool, first)
    for typed, code in (("n", 1), ("y", 0)):
        assert not first.exists() and cluster.server.writes(mark) == []
        with on_terminal(*words, env=enroller.environment) as shown:
            shown.until("[y/N]:")
            shown.typed(typed)
            assert shown.ended() == code
        assert shown.lines[0].startswith("w-locked-1 was locked at 20") and shown.lines[0].endswith(" by token")
    assert "wrote" in shown.lines[-2]
    # Of many nodes those that are locked are left out.
    joins, many = tmp_path / "joins", "w-locked-2\nw-locked-3\n"
    ran = enroller.enroll("-", *pool, joins, names=many, expect=3)
    assert "w-locked-2 was locked at 20" in ran.stderr
    assert ran.stderr.endswith(" by token, and got no join file; pass --yes to end the lock\n")
    assert [file.name for file in joins.iterdir()] == ["w-locked-3.json"]
    enroller.enroll("-", *pool, joins, "--yes", names=many)
    assert (joins / "w-locked-2.json").exists()
    assert not {"w-locked-1", "w-locked-2"}.intersection(ending.locked_names(cluster.model, cluster.client()))


REFUSED: tuple[tuple[int, list[str], str], ...] = (
    (1, ["x-1", "--pool", "autoscaled"], "'x-1' cannot be a node of pool autoscaled, whose names are w-*"),
    (1, ["w-", "--pool", "autoscaled"], "'w-' cannot be a node of pool autoscaled, whose names are w-*"),
    (1, ["W-1", "--pool", "autoscaled"], "'W-1' cannot be a node of pool autoscaled, whose names are w-*"),
    (1, ["w-1/../x", "--pool", "autoscaled"], "'w-1/../x' cannot be a node of pool autoscaled, whose names are w-*"),
    (1, ["w-1", "--pool", "batch"], "'w-1' cannot be a node of pool batch, whose names are batch-*"),
    (1, ["w-1", "--pool", "none"], "has no pool 'none'; it has: autoscaled, batch"),
    (1, ["w-1"], "; pass --pool autoscaled"),
    (1, ["worker-1", "--pool", "autoscaled"], "'worker-1' cannot be a node of pool autoscaled"),
    (1, ["stranger"], "; add it to `nodes` in "),
    (1, ["w-" + "x" * 60, "--pool", "autoscaled"], "is too long: a common name has at most 64 characters"),
    (2, [], "name one node, or -, or pass --all"),
    (2, ["worker-1", "--all"], "name one node, or -, or pass --all"),
    (2, ["--all"], "several nodes need -o FOLDER"),
    (2, ["--all", "--pool", "autoscaled", "-o", "."], "--all is for listed nodes"),
    (2, ["worker-1", "--wrap-ttl", "25h"], "--wrap-ttl is at most 24h"),
)


@pytest.mark.on_node
def test_names_that_cannot_be_enrolled_and_wrong_usage(cluster: AppliedCluster, enroller: Enroller) -> None:
    mark = cluster.server.audit_position()
    for code, arguments, said in REFUSED:
        ran = enroller.enroll(*arguments, expect=code)
        assert said in ran.stderr and (code == 2 or ran.stderr.count("\n") == 1), ran.stderr
    assert cluster.server.writes(mark) == []


def test_the_longest_name_that_fits_is_a_node(enroller: Enroller, tmp_path: Path) -> None:
    name = "w-" + "x" * (64 - len("system:node:w-"))
    enrolled_nodes.join(
        NodeFolder(name, tmp_path / "node"), enroller.join_file(name, tmp_path / "join.json", pool="autoscaled")
    )
    enroller.enroll(f"{name}x", "--pool", "autoscaled", "-o", tmp_path / "no.json", expect=1)


@pytest.mark.on_node
@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_join_files_are_the_owners_alone(
    cluster: AppliedCluster, applier: Enroller, tmp_path: Path, umask: int
) -> None:
    for node in ("cp-1", "worker-1"):
        enrolled_nodes.vacate(cluster, node)
    applier.enroll("worker-1", "-o", tmp_path / "join.json", umask=umask)
    assert enrolled_nodes.mode(tmp_path / "join.json") == 0o600
    # One that others may read is replaced, not written into.
    (tmp_path / "join.json").chmod(0o666)
    enrolled_nodes.vacate(cluster, "worker-1")
    with (tmp_path / "join.json").open() as reader:
        applier.enroll("worker-1", "-o", tmp_path / "join.json", umask=umask)
        assert reader.read() != (tmp_path / "join.json").read_text()
    assert enrolled_nodes.mode(tmp_path / "join.json") == 0o600
    enrolled_nodes.vacate(cluster, "worker-1")
    applier.enroll("--all", "-o", tmp_path / "joins", umask=umask)
    assert enrolled_nodes.mode(tmp_path / "joins") == 0o700
    assert {path.name: enrolled_nodes.mode(path) for path in (tmp_path / "joins").iterdir()} == {
        "cp-1.json": 0o600,
        "worker-1.json": 0o600,
    }


@pytest.mark.on_node
def test_a_node_that_has_used_its_join_file_is_left_alone(
    cluster: AppliedCluster, applier: Enroller, tmp_path: Path
) -> None:
    for node in ("cp-1", "worker-1"):
        enrolled_nodes.vacate(cluster, node)
    applier.enroll("--all", "-o", tmp_path)
    node_folder = NodeFolder("worker-1", tmp_path / "node")
    enrolled_nodes.join(node_folder, tmp_path / "worker-1.json")
    files = [(tmp_path / f"{node}.json").read_bytes() for node in ("cp-1", "worker-1")]
    ran = applier.enroll("--all", "-o", tmp_path, expect=3)
    assert ran.stdout == f"wrote 0 join files to {tmp_path}, 1 from an earlier run are still good\n"
    assert ran.stderr == (
        "vaultpki: worker-1 may have a live credential and no join file here that can be kept, and got none. Pass "
        "--replace to end their credentials and to enrol them again. Use no old join file of theirs\n"
    )
    assert files == [(tmp_path / f"{node}.json").read_bytes() for node in ("cp-1", "worker-1")]
    node_folder.age()
    node_folder.run()
    ran = applier.enroll("--all", "--replace", "-o", tmp_path)
    assert ran.stdout == f"wrote 2 join files to {tmp_path}\n"
    for node in ("cp-1", "worker-1"):
        assert len(enrolled_nodes.accessors(cluster, node, "listed")) == 1
        enrolled_nodes.join(NodeFolder(node, tmp_path / f"{node}-anew"), tmp_path / f"{node}.json")


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param(120, id="sample", marks=pytest.mark.on_node),
        pytest.param(1000, id="thousand", marks=pytest.mark.exhaustive),
    ],
)
def test_many_nodes_cut_twice(applier: Enroller, enroller: Enroller, tmp_path: Path, nodes: int) -> None:
    names = "".join(f"w-{nodes}-{number}\n" for number in range(nodes))
    (tmp_path / "names").write_text(names)
    joins = tmp_path / "joins"

    def begin() -> subprocess.Popen[str]:
        with (tmp_path / "names").open() as stream:
            return subprocess.Popen(
                [*enroller.command, "-", "--pool", "autoscaled", "-o", str(joins)],
                env=enroller.environment,
                stdin=stream,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )

    def written() -> set[Path]:
        return {path for path in joins.glob("w-*.json") if path.stat().st_size} if joins.exists() else set()

    kept: dict[Path, tuple[int, bytes]] = {}
    begun = time.monotonic()
    for least, number, code in ((0.15 * nodes, signal.SIGKILL, -9), (0.4 * nodes, signal.SIGINT, 130)):
        running = begin()
        wait_for(lambda least=least: len(written()) > least, 60, lambda: "too few are written")  # type: ignore[misc]
        running.send_signal(number)
        _, said = running.communicate(timeout=30)
        assert running.returncode == code and len(written()) < nodes, said
        assert said.strip().partition(".")[0] == ("" if code < 0 else "vaultpki: interrupted")
        assert code < 0 or "Run the same command again" in said
        assert all(kept[path] == (path.stat().st_ino, path.read_bytes()) for path in kept)
        kept = {path: (path.stat().st_ino, path.read_bytes()) for path in written()}
    finishing = begin()
    told, said = finishing.communicate(timeout=120)
    took = time.monotonic() - begun
    # A run that was killed between a secret id and its file leaves one that this enroller cannot end.
    left = {f"w-{nodes}-{number}" for number in range(nodes)} - {path.stem for path in written()}
    assert len(left) <= 2 * CONNECTIONS and finishing.returncode == (3 if left else 0), said
    assert (said == "") == (not left) and all(name in said for name in left if len(left) <= 5), said
    match = re.fullmatch(r"wrote (\d+) join files to .*, (\d+) from an earlier run are still good\n", told)
    assert match is not None and int(match[1]) + int(match[2]) == nodes - len(left), told
    assert int(match[2]) == len(kept), told
    assert all(kept[path] == (path.stat().st_ino, path.read_bytes()) for path in kept)
    if left:
        names = "\n".join(left)
        assert (
            "may not end the credentials of"
            in enroller.enroll(*("-", "--pool", "autoscaled", "--replace", "-o", joins), names=names, expect=1).stderr
        )
        applier.enroll("-", "--pool", "autoscaled", "--replace", "-o", joins, names=names)
    assert {path.name for path in joins.iterdir()} == {f"w-{nodes}-{number}.json" for number in range(nodes)}
    assert len({json.loads(path.read_text())["wrap_token"] for path in joins.iterdir()}) == nodes
    print(f"{nodes} nodes enrolled, cut twice: {took:.1f} s")
    for node in (f"w-{nodes}-0", f"w-{nodes}-{nodes - 1}"):
        enrolled_nodes.join(NodeFolder(node, tmp_path / node), joins / f"{node}.json")


def _whole(terminal: int) -> str:
    """All that was written to a terminal whose other end is closed; one read may return a part of it."""
    data = b""
    # EIO stands for the end (pty(7)).
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 65536):
            data += piece
    os.close(terminal)
    return data.decode()


@pytest.mark.on_node
def test_a_progress_bar_on_a_terminal_only(cluster: AppliedCluster, applier: Enroller, tmp_path: Path) -> None:
    for node in ("cp-1", "worker-1"):
        enrolled_nodes.vacate(cluster, node)
    command_line = [*applier.command, "--all", "-o", str(tmp_path / "joins")]
    ours, theirs = pty.openpty()
    ran = subprocess.run(command_line, env=applier.environment, stderr=theirs, stdout=subprocess.PIPE, check=True)
    os.close(theirs)
    shown = _whole(ours)
    assert "Enrolling" in shown and "100%" in shown and b"wrote 2 join files" in ran.stdout
    assert applier.enroll("--all", "-o", tmp_path / "joins").stderr == ""


@pytest.mark.on_node
def test_a_single_enrolment_cut_anywhere_goes_on(
    cluster: AppliedCluster, applier: Enroller, enroller: Enroller, tmp_path: Path
) -> None:
    """The enroller's again; the applier's, where a secret id was made that nobody has."""
    at, lost = 0, []
    with enrolled_nodes.variables(cluster.server.environment(enroller.token)):
        while True:
            file, node = tmp_path / f"{at}.json", f"w-cut-{at}"
            work = command("enroll", "-f", cluster.file, node, "--pool", "autoscaled", "-o", file)
            cut = died(work, at, files=r"\.json$", methods=("POST",))
            if not cut:
                break
            if not file.exists() and enrolled_nodes.accessors(cluster, node, "pooled"):
                lost.append(at)
                said = enroller.enroll(node, "--pool", "autoscaled", "-o", file, expect=1).stderr
                assert said.startswith(f"vaultpki: {node} has 1 live credential"), said
                applier.join_file(node, file, pool="autoscaled", replace=True)
            elif not file.exists():
                assert not died(work, NEVER)
            with enrolled_nodes.variables({}):
                assert not died(command(*enrolled_nodes.joining(NodeFolder(node, tmp_path / node), file)), NEVER)
            assert len(enrolled_nodes.accessors(cluster, node, "pooled")) == 1
            at += 1
    # The AppRole's making, the secret id, and the file: before and after each.
    assert at == 2 * 3 and lost == [3, 4]


@pytest.mark.on_node
def test_nodes_shows_listed_and_pooled_with_their_reports(
    cluster: AppliedCluster, applier: Enroller, enroller: Enroller, tmp_path: Path
) -> None:
    enrolled_nodes.vacate(cluster, "cp-1")
    enrolled_nodes.join(NodeFolder("cp-1", tmp_path / "cp-1"), applier.join_file("cp-1", tmp_path / "1.json"))
    enrolled_nodes.join(
        NodeFolder("batch-1", tmp_path / "batch-1"), enroller.join_file("batch-1", tmp_path / "2.json", pool="batch")
    )
    enroller.join_file("batch-2", tmp_path / "3.json", pool="batch")
    for _ in range(3):
        assert cluster.server.api("POST", f"auth/{cluster.prefix}/pooled/role/batch-2/secret-id").status == 200
    ran = applier.run("nodes", "-f", cluster.file, expect=3)
    assert ran.stderr == "vaultpki: something here needs attention; see above\n"
    lines = ran.stdout.splitlines()
    assert re.fullmatch(r"NODE +POOL +ROLES +STATE +EXPIRES +LIFE +REPORTED +AGENT +CAS +HOOKS +LOGINS", lines[0]), (
        lines[0]
    )
    # What needs attention is first, and why is below it.
    assert re.fullmatch(r"batch-2 +batch +worker +clone +- +- +never +- +- +0 +4", lines[1]), lines[1]
    assert lines[2] == f"    4 live credentials (a clone?): run `vaultpki lock batch-2 -f {cluster.file}`"
    good = rf"in 29d +99% +\d+s ago +{re.escape(__version__)} +[0-9a-f]{{8}} +0 +1"
    first = next(line for line in lines if line.startswith("cp-1 "))
    assert re.fullmatch(rf"cp-1 +listed +control-plane\+etcd +ok +{good}", first), first
    second = next(line for line in lines if line.startswith("batch-1 "))
    assert re.fullmatch(rf"batch-1 +batch +worker +ok +{good}", second), second
    document = json.loads(applier.run("nodes", "-f", cluster.file, "--json", expect=3).stdout)
    assert document["ok"] is False and document["nodes"][0]["node"] == "batch-2"
    told = {entry["node"]: entry for entry in document["nodes"]}
    found = told["batch-2"].pop("findings")
    assert [each["name"] for each in found] == told["batch-2"]["reasons"]
    assert found[0]["command"] == f"vaultpki lock batch-2 -f {cluster.file}"
    assert told["batch-2"] == {
        "node": "batch-2",
        "pool": "batch",
        "roles": ["worker"],
        "state": "clone",
        "reasons": ["many-credentials", "never-reported"],
        "message": "4 live credentials (a clone?); never reported",
        "first_expiry": None,
        "life_left": None,
        "reported": None,
        "agent_version": None,
        "kubernetes": {},
        "ca_generation": None,
        "hooks_owed": [],
        "credentials": 4,
        "report": None,
    }
    held = told["batch-1"]["report"]["certificates"].values()
    assert told["batch-1"]["first_expiry"] == min(each["not_after"] for each in held)
    assert told["batch-1"]["ca_generation"] == told["batch-1"]["report"]["trust"]
    assert told["batch-1"]["report"]["certificates"]["kubelet"]["state"] == "ok"
    assert told["cp-1"]["pool"] is None and told["cp-1"]["roles"] == ["control-plane", "etcd"]


HOSTILE: dict[str, object] = {
    "escapes": {"time": "\x1b]0;owned\x07\x1b[2J\u202e\r\n\n", "certificates": {"\x1b[31mred": {"state": "\x1b[5m"}}},
    "types": {"time": {"a": [1]}, "certificates": ["ok"], "version": "x", "failures": 7},
    "inner": {"time": 10**300, "certificates": {"kubelet": "ok", "x": None, "y": ["z"], "z": {"state": {"q": 1}}}},
    "deep": {"time": None, "a": [[[[[[[[[["x"]]]]]]]]]]},
    "many": {"time": "x" * 10000, "certificates": {f"c{number}": {"state": "ok"} for number in range(300)}},
    "empty": {},
    # As much as a server stores of one value; with what it says around that, more than is read of any answer.
    "huge": {"time": "now", "more": "y" * ((1 << 20) - 300)},
}


def test_a_hostile_report_does_no_harm(
    cluster: AppliedCluster, applier: Enroller, enroller: Enroller, tmp_path: Path
) -> None:
    for what, report in HOSTILE.items():
        node = f"batch-{what}"
        value = json.loads(enroller.join_file(node, tmp_path / f"{node}.json", pool="batch").read_text())
        minted = cluster.server.api("POST", f"auth/{cluster.prefix}/pooled/role/{node}/secret-id").data["secret_id"]
        own = enrolled_nodes.login(cluster, "pooled", value["role_id"], minted)
        assert own is not None
        said = cluster.server.api("POST", cluster.report_path(node), {"data": report}, token=own)
        assert said.status == 200, said
    shown = applier.run("nodes", "-f", cluster.file, expect=3).stdout
    assert all(c.isprintable() or c == "\n" for c in shown)
    for what in HOSTILE:
        lines = [line for line in shown.splitlines() if line.startswith(f"batch-{what} ")]
        assert len(lines) == 1 and len(lines[0]) < 170, lines
    ran = applier.run("nodes", "-f", cluster.file, "--json", expect=3)
    told = {entry["node"]: entry["report"] for entry in json.loads(ran.stdout)["nodes"]}
    assert all(c.isprintable() or c == "\n" for c in ran.stdout)
    for what in HOSTILE:
        text = json.dumps(told[f"batch-{what}"], allow_nan=False)
        assert len(text) < 10000 and "\\u" not in text, text
    assert told["batch-huge"] == {"time": "a report too large to read"}
    assert told["batch-inner"]["certificates"]["kubelet"] == "ok"
