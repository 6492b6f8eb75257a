"""`vaultpki nodes` on a real server: the state of each node, in order, once or again and again."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from helpers.terminals import on_terminal
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.forked_command import Fork
from helpers.vault.plan_commands import AuditedCluster, Ran, environment, fails, vaultpki
from helpers.vault.servers import wait_for
from vaultpki.records import node_report
from vaultpki.records.node_report import CertificateReport, NodeReport
from vaultpki.redact import stamp

# How the table is drawn; tests/integration/agent/test_report.py has what it is made of, on both servers.
pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
"""
DAY = timedelta(days=1)
NODES = ("cp-1", "worker-1", "worker-2")


class Fleet:
    """A cluster whose nodes report what a test says."""

    def __init__(self, cluster: AuditedCluster) -> None:
        self.cluster = cluster

    @property
    def env(self) -> dict[str, str]:
        return self.cluster.environment("viewer")

    def run(self, *words: str, expect: int = 0) -> Ran:
        return vaultpki("nodes", "-f", self.cluster.file, *words, env=self.env, expect=expect)

    def json(self, *, expect: int = 0) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.run("--json", expect=expect).stdout)
        assert document["ok"] is (expect == 0)
        return document

    def reports(self, node: str, days: float = 20, **further: Any) -> None:
        now = datetime.now(UTC)
        end = now + days * DAY
        # Its own row: what a node says of others counts nowhere.
        name, ca = ("etcd-server", "etcd") if node == "cp-1" else ("kubelet", "kubelet")
        one = CertificateReport(ca, "ok", end, "1f", not_before=end - 30 * DAY, renew_after=end - 12 * DAY)
        stored = NodeReport(
            further.pop("time", now - timedelta(seconds=30)),
            "0.2.0",
            certificates={name: one},
            poll=300,
            trust="5b0c2f6f3c1d9a77",
            **further,
        )
        self.writes(node, node_report.to_json(stored))

    def writes(self, node: str, report: Mapping[str, Any]) -> None:
        path = self.cluster.report_path(node)
        assert self.cluster.server.api("POST", path, {"data": report}).status == 200

    def _secret_ids(self, node: str) -> str:
        return f"auth/{self.cluster.prefix}/listed/role/{node}/secret-id"

    def logins(self, node: str, count: int) -> None:
        """Gives a listed node so many live secret ids more."""
        for _ in range(count):
            assert self.cluster.server.api("POST", self._secret_ids(node)).status == 200

    def forget(self) -> None:
        """Takes every report and secret id away."""
        for node in NODES:
            self.cluster.server.api("DELETE", self.cluster.report_path(node, data="metadata"))
            path = self._secret_ids(node)
            for accessor in self.cluster.read_names(path):
                self.cluster.server.api("POST", f"{path}-accessor/destroy", {"secret_id_accessor": accessor})


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AuditedCluster:
    return shared_clusters.applied(SPEC)


@pytest.fixture
def fleet(cluster: AuditedCluster) -> Iterator[Fleet]:
    """Nodes that have said nothing and cannot log in."""
    fleet = Fleet(cluster)
    yield fleet
    fleet.forget()


def test_a_cluster_without_a_node(clusters: ClusterFactory) -> None:
    api = 'api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}\n'
    fleet = Fleet(clusters.applied(api + 'pools:\n- {name: a, roles: [worker], node_names: "w-*"}\n'))
    assert fleet.run().stdout.startswith("There is no node.\nWho wrote the records in ")
    assert fleet.json()["nodes"] == []


def test_from_new_to_well_to_urgent(fleet: Fleet) -> None:
    # Nobody has joined yet, which is no fault.
    document = fleet.json()
    assert [(each["node"], each["state"], each["message"]) for each in document["nodes"]] == [
        (name, "new", "not enrolled") for name in NODES
    ]
    # One that reports and has no credential has lost it.
    fleet.reports("worker-1")
    (first, *_) = fleet.json(expect=3)["nodes"]
    assert (first["node"], first["state"], first["credentials"]) == ("worker-1", "needs-join", 0)
    for name in NODES:
        fleet.logins(name, 1)
        fleet.reports(name)
    assert {each["state"] for each in fleet.json()["nodes"]} == {"ok"}
    assert fleet.run().stdout.splitlines()[4] == "3 nodes: 3 ok"

    fleet.reports("worker-2", days=-1)
    fleet.logins("worker-1", 2)
    fleet.reports("cp-1", time=datetime.now(UTC) - timedelta(hours=2), failures=("kubelet",))
    document = fleet.json(expect=3)
    assert [(each["node"], each["state"], each["reasons"]) for each in document["nodes"]] == [
        ("worker-2", "expired", ["expired"]),
        ("worker-1", "clone", ["many-credentials"]),
        ("cp-1", "silent", ["silent", "failed"]),
    ]
    ran = fleet.run(expect=3)
    assert ran.stderr == "vaultpki: something here needs attention; see above\n"
    lines = ran.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:7:2]] == ["worker-2", "worker-1", "cp-1"]
    assert [line.strip() for line in lines if line.startswith("    ")] == [
        "expired: kubelet: run `vaultpki renew kubelet` on worker-2",
        f"3 live credentials (a clone?): run `vaultpki lock worker-1 -f {fleet.cluster.file}`",
        "last report 2h ago: run `systemctl status vaultpki-agent` on cp-1",
        "failed: kubelet: run `vaultpki agent --once` on cp-1",
    ]
    assert "3 nodes: 1 expired, 1 clone, 1 silent" in lines
    assert "ago" in lines[1] and " 0%" in lines[1] and "#" not in ran.stdout and "\x1b" not in ran.stdout


def test_on_a_terminal(fleet: Fleet) -> None:
    fleet.logins("cp-1", 1)
    fleet.reports("cp-1", days=15)
    fleet.reports("worker-1", failures=("\x1b[2J\u202ekubelet",) * 5)
    for columns in (80, 100, 160):
        with on_terminal("nodes", "-f", fleet.cluster.file, env=fleet.env, columns=columns) as shown:
            assert shown.ended() == 3
        assert shown.coloured and "\x1b[2J" not in shown.shown and "\u202e" not in shown.shown
        assert all(len(line) <= columns for line in shown.lines), shown.lines
        good = next(line for line in shown.lines if line.startswith("cp-1 "))
        assert "####----" in good and "%" not in good
        assert ("control-plane+etcd" in good) is (columns == 160)
    with on_terminal("nodes", "-f", fleet.cluster.file, env={**fleet.env, "NO_COLOR": "1"}) as plain:
        assert plain.ended() == 3
    assert not plain.coloured and "####----" in plain.shown


def test_watch_on_a_terminal_draws_in_place_and_goes_on_while_the_server_is_sealed(fleet: Fleet) -> None:
    fleet.logins("cp-1", 1)
    fleet.reports("cp-1")
    words = ("nodes", "-f", fleet.cluster.file, "--watch", "--every", "1s")
    server = fleet.cluster.server
    with on_terminal(*words, env=fleet.env, rows=12) as shown:
        shown.until("2 new, 1 ok")
        fleet.reports("cp-1", days=-1)
        shown.until("1 expired")
        # It clears once, and is drawn over from then on.
        assert shown.shown.count("\x1b[2J") == 1 and shown.shown.count("\x1b[H") >= 2
        assert "every 1 s; Ctrl-C ends it" in shown.shown
        server.seal()
        try:
            shown.until("is sealed; unseal it")
        finally:
            server.unseal()
        fleet.reports("cp-1")
        shown.until("2 new, 1 ok", since=len(shown.shown))
        assert shown.ended(signal.SIGINT, 20) == 0
        assert "interrupted" not in shown.shown and "Traceback" not in shown.shown


def test_watch_keeps_to_the_height_of_the_terminal(fleet: Fleet) -> None:
    with on_terminal("nodes", "-f", fleet.cluster.file, "--watch", env=fleet.env, rows=6) as shown:
        shown.until("more lines")
        assert shown.shown.count("\r\n") <= 5
        assert shown.ended(signal.SIGTERM, 20) == 0


def test_watch_in_a_file_writes_one_table_after_the_other(fleet: Fleet, tmp_path: Path) -> None:
    out, said = tmp_path / "watched", tmp_path / "said"
    words = ["nodes", "-f", str(fleet.cluster.file), "--watch", "--every", "1s"]
    with open(os.devnull) as nothing, out.open("w") as stream, said.open("w") as errors:
        streams = [each.fileno() for each in (nothing, stream, errors)]
        process = Fork(words, environment(fleet.env), streams)
        try:
            wait_for(lambda: out.read_text().count("3 nodes: 3 new") >= 2, 60, out.read_text)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert said.read_text() == ""
    text = out.read_text()
    assert "\x1b" not in text
    tables = [table.splitlines() for table in text.split("\n\n") if table.strip()]
    times = [datetime.fromisoformat(table[0]) for table in tables]
    assert times == sorted(times) and times[1] - times[0] >= timedelta(seconds=1)
    assert all(
        stamp(when) == table[0] and table[1].startswith("NODE ") for when, table in zip(times, tables, strict=True)
    )


def test_what_cannot_be_watched_is_said_at_once(fleet: Fleet) -> None:
    away = {**fleet.env, "VAULT_TOKEN": "no-token"}
    began = time.monotonic()
    fails(vaultpki("nodes", "-f", fleet.cluster.file, "--watch", env=away, expect=1), "token")
    assert time.monotonic() - began < 60
    for words, said in (
        (["--every", "5s"], "--every is for --watch"),
        (["--watch", "--json"], "--watch is for people"),
    ):
        assert said in fleet.run(*words, expect=2).stderr
    assert "is not a duration" in fleet.run("--watch", "--every", "soon", expect=1).stderr


class Written:
    """A file of metrics, as node_exporter reads it."""

    def __init__(self, fleet: Fleet, file: Path) -> None:
        self.fleet, self.file = fleet, file

    def write(self) -> Ran:
        words = ("nodes", "-f", self.fleet.cluster.file, "--metrics", self.file)
        # Cron and hardened units have such a umask.
        return vaultpki(*words, env=self.fleet.env, umask=0o077)

    def found(self, name: str) -> dict[str, float]:
        """The values of a metric by the node, or by the only label that the sample has beside its cluster."""
        samples = {}
        for family in text_string_to_metric_families(self.file.read_text()):
            for sample in family.samples:
                labels = {key: value for key, value in sample.labels.items() if value}
                assert labels.pop("cluster") == self.fleet.cluster.name
                if sample.name == f"vaultpki_fleet_{name}":
                    samples[labels.get("node", "".join(labels.values()))] = sample.value
        return samples


def test_metrics_are_written_whole_for_another_user_to_read(clusters: ClusterFactory, tmp_path: Path) -> None:
    fleet = Fleet(clusters.applied(SPEC))
    folder = tmp_path / "read"
    folder.mkdir()
    written = Written(fleet, folder / "vaultpki.prom")
    for name in NODES:
        fleet.logins(name, 1)
        fleet.reports(name)
    fleet.reports("worker-2", days=-1, time=datetime.now(UTC) - 3 * DAY)
    began = time.time()
    # What needs attention is in the file, so a timer does not fail.
    assert written.write().stdout == ""
    assert began - 1 < written.found("written_timestamp_seconds")[""] < time.time() + 1
    assert stat.S_IMODE(written.file.stat().st_mode) == 0o644 and os.listdir(folder) == ["vaultpki.prom"]
    assert written.found("ok") == {"": 0}
    rows = {each["node"]: each for each in fleet.json(expect=3)["nodes"]}
    for metric, key in (("last_report", "reported"), ("first_expiry", "first_expiry")):
        shown = {node: datetime.fromisoformat(row[key]).timestamp() for node, row in rows.items()}
        found = written.found(f"node_{metric}_timestamp_seconds")
        assert found == {node: pytest.approx(value, abs=1) for node, value in shown.items()}
    assert 'node="worker-2",pool="",severity="critical"} 1.0' in written.file.read_text()
    assert fleet.run("--metrics", "-").stdout.splitlines()[0] == written.file.read_text().splitlines()[0]

    # One that was taken off cluster.yaml is gone from the file, and with it what it fired.
    spec = fleet.cluster.file.read_text()
    fleet.cluster.file.write_text(spec.replace("- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}\n", ""))
    fleet.cluster.apply()
    inode = written.file.stat().st_ino
    written.write()
    assert "worker-2" not in written.file.read_text() and written.found("ok") == {"": 1}
    # Another file, not the same one changed while somebody reads it.
    assert written.file.stat().st_ino != inode


def test_metrics_that_cannot_be_written_anew_stay(fleet: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / "read"
    folder.mkdir()
    written = Written(fleet, folder / "vaultpki.prom")
    written.write()
    before = written.file.read_bytes()
    words = ("nodes", "-f", fleet.cluster.file, "--metrics", written.file)
    ended = vaultpki(*words, env={**fleet.env, "VAULT_TOKEN": "has-expired"}, expect=1)
    fails(ended, "the Vault token is not valid or has expired")
    assert written.file.read_bytes() == before and os.listdir(folder) == ["vaultpki.prom"]
    other = tmp_path / "hosts"
    other.write_text("127.0.0.1 localhost\n")
    told = f"vaultpki: {str(other)!r} is not a file of metrics of vaultpki: choose another name with --metrics\n"
    assert fleet.run("--metrics", str(other), expect=1).stderr == told
    assert other.read_text() == "127.0.0.1 localhost\n"
    for further in ("--json", "--watch"):
        said = fleet.run("--metrics", "-", further, expect=2).stderr
        assert "--metrics writes the table once, as metrics; leave out --watch and --json" in said
