"""The units before systemd's own judges, the agent inside what they allow, and what it tells systemd and Prometheus."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from helpers.node.unit_judges import exposure, judged, refused
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, environment, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import free_ports, wait_for
from vaultpki.config.agent import load_agent
from vaultpki.host.systemd import SYSTEMD_UNITS, install_units, recipe, unit_files

pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {names: [api.example.com], endpoint: "https://api.example.com:6443"}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}
- {name: worker-3, roles: [worker], addresses: [10.0.0.23]}
- {name: worker-4, roles: [worker], addresses: [10.0.0.24]}
"""

# What `systemd-analyze security` finds at most; 10 is a service without any protection. What is left is what the agent
# is for: root's files with any owner, and Vault over the network.
EXPOSURE = 2.5

# mkdir is what the unit's ExecStartPre does. The sandbox's file systems and capabilities, without systemd.
SANDBOX = """\
set -e
folder=$1 trace=$2; shift 2
mkdir -p "$folder/pki"
for each in "$folder/pki" "$folder/state" "$trace"; do mount --bind "$each" "$each"; done
for each in / "$(findmnt --noheadings --output TARGET --target "$folder")"; do mount -o remount,bind,ro "$each"; done
if touch "$folder/agent.yaml" 2>/dev/null; then echo "the sandbox is open" >&2; exit 99; fi
exec setpriv --no-new-privs --inh-caps -all --bounding-set -all,+chown,+dac_override,+fowner \\
    strace -f -o "$trace/trace" "$@"
"""


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC)


@pytest.fixture
def node(cluster: AppliedCluster) -> NodeFolder:
    """A node that has nothing yet, another one for each test."""
    name = next(each.name for each in cluster.model.nodes if not (cluster.folder / "nodes" / each.name).exists())
    return cluster.equip(name, further=f"metrics: 127.0.0.1:{free_ports(1)[0]}\n")


def test_systemd_takes_the_units_and_finds_little_to_say(node: NodeFolder, tmp_path: Path) -> None:
    folder = tmp_path / "system"
    folder.mkdir()
    paths = install_units(load_agent(node.config), folder=folder)
    assert [path.name for path in paths] == list(SYSTEMD_UNITS)
    said = judged("verify", "--man=no", *paths)
    assert not [line for line in said.splitlines() if "vaultpki" in line], said
    # As on a node: nothing of it below /home, /root or /tmp.
    usual = replace(load_agent(node.config), directory="/etc/kubernetes/pki", state="/var/lib/vaultpki", ca_file=None)
    usual, program = replace(usual, file="/etc/vaultpki/agent.yaml"), Path("/usr/local/bin/vaultpki")
    for name, text in unit_files(usual, executable=program).items():
        (folder / name).write_text(text)
        assert exposure(folder / name) <= EXPOSURE


def test_systemd_takes_the_units_of_the_textfile_collector(tmp_path: Path) -> None:
    names = ("vaultpki-metrics.service", "vaultpki-metrics.timer")
    for name in names:
        (tmp_path / name).write_text(recipe(name))
    assert judged("verify", "--man=no", *(tmp_path / name for name in names)) == ""
    said = judged("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE * 10:.0f}", tmp_path / names[0])
    assert "OK" in said


def test_a_first_and_a_later_pass_need_no_more_than_the_unit_allows(node: NodeFolder, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.mkdir()
    node.configure("metrics: ", "hooks: {kubelet: [['true']]}\nmetrics: ")
    agent = [sys.executable, "-m", "vaultpki", "agent", "-c", str(node.config), "--once"]
    calls: list[str] = []
    for expected in ("issued kubelet\n", "nothing to do until "):
        ran = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", SANDBOX, "sh", node.folder, trace, *agent],
            env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ran.returncode == 0 and expected in ran.stdout, ran.stdout + ran.stderr
        calls += (trace / "trace").read_text().splitlines()
    assert (node.pki / "kubelet.crt").exists()

    assert refused(calls) == []
    assert all(any(f" {name}(" in call for call in calls) for name in ("renameat", "fchmod", "prctl"))


@contextlib.contextmanager
def resident(
    node: NodeFolder, further: dict[str, str], *options: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The agent as it stays, and the file with what it says."""
    log = node.folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "vaultpki", "agent", "-c", str(node.config), *options],
            env=environment(further),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()


def test_systemd_is_told_of_start_life_reload_and_end(node: NodeFolder, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(20)
        heard: list[str] = []

        def until(line: str) -> None:
            while line not in heard:
                heard.extend(receiver.recv(4096).decode().splitlines())

        further = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        with resident(node, further) as (process, log):
            until("READY=1")
            assert (node.pki / "kubelet.crt").exists() and (node.pki / "kube-proxy.conf").exists()
            heard.clear()
            until("WATCHDOG=1")
            process.send_signal(signal.SIGHUP)
            until("RELOADING=1")
            heard.clear()
            until("READY=1")
            # Children speak for nobody: the variables are gone before anything else is started.
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            until("STOPPING=1")
            assert process.wait(5) == 0, log.read_text()


def fetched(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def its(labels: Mapping[str, str], node: str) -> list[str]:
    """The labels of a sample beside those of the node, which every sample has."""
    assert labels["node"] == node and labels["cluster"]
    return [value for name, value in labels.items() if name not in ("cluster", "node")]


def test_a_resident_agent_shows_what_it_holds(node: NodeFolder) -> None:
    address = load_agent(node.config).metrics
    with resident(node, {}, "--log-format", "json") as (process, log):
        wait_for(lambda: fetched(f"http://{address}/healthz") == (200, "ok\n"), 20, log.read_text, pause=0.1)
        status, text = fetched(f"http://{address}/metrics")
        assert status == 200
        found = {
            (sample.name.removeprefix("vaultpki_"), *its(sample.labels, node.name)): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        shown = json.loads(vaultpki("status", "-c", node.config, "--json").stdout)
        names = {each["name"] for each in shown["certificates"]}
        assert names == {"kubelet", "kubelet-client", "kube-proxy"}
        for name in names:
            assert found["certificate_state", name, "ok"] == 1 and found["renewals_total", name] == 1
            life = found["certificate_ttl_granted_seconds", name]
            assert 0.99 * found["certificate_ttl_asked_seconds", name] < life
            due, end = (found[f"certificate_{which}_timestamp_seconds", name] for which in ("renew_after", "not_after"))
            assert end - life < due < end
        assert found["agent_state", "ok"] == found["vault_reachable",] == 1 and found["signs_total",] == len(names)
        assert found["outage_left_seconds",] > 0
        process.send_signal(signal.SIGTERM)
        process.wait(5)
    assert fetched(f"http://{address}/livez") == (0, "")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(line["level"] == "info" and line["message"] for line in lines), lines
    secret = (node.state / "secret-id").read_text()
    assert secret and secret not in log.read_text() and secret not in text
