"""What systemd is told, what its units say for a node, and that the recipes name what there is."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import secrets
import shlex
import socket
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.example_agent import agent_config
from helpers.pages import CHECKOUT
from vaultpki import __version__
from vaultpki.errors import StoreError, VaultpkiError
from vaultpki.host.systemd import DOCS, RECIPES, SYSTEMD_UNITS, Notifier, install_units, recipe, unit_files
from vaultpki.layout import node_folders
from vaultpki.model import AgentConfig, Auth, Hook, TakenOver
from vaultpki.places import Layout

AGENT, ONCE = SYSTEMD_UNITS
PROGRAM = Path("/usr/local/bin/vaultpki")


def config(**fields: Any) -> AgentConfig:
    places = {"directory": "/etc/kubernetes/pki", "state": "/var/lib/vaultpki", "file": "/etc/vaultpki/agent.yaml"}
    return agent_config(**{"ca_file": "/etc/vaultpki/ca.pem", **places, **fields})


def settings(text: str) -> dict[str, list[str]]:
    """The unit's settings, by name; of those that stand several times, all."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def agent(**fields: Any) -> dict[str, list[str]]:
    return settings(unit_files(config(**fields), executable=PROGRAM)[AGENT])


# What systemd is told


@contextlib.contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.settimeout(5)
        yield receiver


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_what_is_told(abstract: bool, tmp_path: Path) -> None:
    name = f"vaultpki-{secrets.token_hex(8)}" if abstract else str(tmp_path / "notify")
    with listening(f"\0{name}" if abstract else name) as receiver:
        environment = {"NOTIFY_SOCKET": f"@{name}" if abstract else name, "OTHER": "kept"}
        notifier = Notifier(environment)
        assert environment == {"OTHER": "kept"}

        def heard() -> str:
            return receiver.recv(4096).decode()

        notifier.ready("ten certificates")
        assert heard() == "READY=1\nSTATUS=ten certificates"
        notifier.status("failing: Zürich")
        assert heard() == "STATUS=failing: Zürich"
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.reloading()
        said = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", heard())
        assert said is not None and before <= int(said[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.watchdog()
        assert heard() == "WATCHDOG=1"
        notifier.stopping()
        assert heard() == "STOPPING=1"


def test_a_status_is_one_line(tmp_path: Path) -> None:
    with listening(str(tmp_path / "notify")) as receiver:
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).status("all well\nMAINPID=1\n" + "x" * 10_000 + "\udcff")
        said = receiver.recv(4096).decode()
        assert said.startswith("STATUS=all well MAINPID=1 xxx") and "\n" not in said


@pytest.mark.parametrize(
    "named", [None, "", "relative", "@", "/nowhere/notify", "/" + "x" * 200, "@" + "x" * 200, "/\udcff"]
)
def test_without_systemd_nothing_happens(named: str | None) -> None:
    notifier = Notifier({} if named is None else {"NOTIFY_SOCKET": named})
    notifier.ready("x")
    notifier.status("x")
    notifier.reloading()
    notifier.watchdog()
    notifier.stopping()
    assert notifier.interval is None


def test_a_systemd_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    with listening(str(tmp_path / "notify")):
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        began = time.monotonic()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler, contextlib.suppress(BlockingIOError):
            filler.setblocking(False)
            while True:
                filler.sendto(b"x", str(tmp_path / "notify"))
        notifier.watchdog()
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "120000000"}, 60.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "500000"}, 0.25),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_bites(environment: dict[str, str], interval: float | None) -> None:
    assert Notifier(environment).interval == interval
    assert environment == {}


def test_no_child_inherits_the_way_to_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.setenv(name, "1")
    Notifier()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


# The units


def test_the_unit_of_a_usual_node() -> None:
    found = agent()
    assert found["ExecStart"] == ["/usr/local/bin/vaultpki agent -c /etc/vaultpki/agent.yaml"]
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert found["Type"] == ["notify"] and found["Restart"] == ["always"] and found["WatchdogSec"] == ["2min"]
    assert found["ReadWritePaths"] == ["-/etc/kubernetes/pki -/var/lib/vaultpki"]
    assert found["ProtectHome"] == found["PrivateTmp"] == ["yes"]
    assert found["CapabilityBoundingSet"] == ["CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER"]
    # A hook that restarts the kubelet would wait for this unit, and this unit for the hook.
    assert "Before" not in found


def test_the_unit_for_the_boot() -> None:
    found = settings(unit_files(config(), executable=PROGRAM)[ONCE])
    assert found["ExecStart"] == ["/usr/local/bin/vaultpki agent -c /etc/vaultpki/agent.yaml --once --if-due"]
    assert found["Type"] == ["oneshot"] and "kubelet.service" in found["Before"][0].split()
    # Nothing there may keep a node from booting: it is bounded, and nothing requires it.
    assert found["TimeoutStartSec"] == ["2min"] and "Restart" not in found


def test_both_units_have_one_sandbox() -> None:
    texts = unit_files(config(), executable=PROGRAM)
    assert len({text.partition("\n# It runs as root")[2] for text in texts.values()}) == 1


def test_paths_are_what_systemd_takes_them_for() -> None:
    found = agent(directory="/srv/my files/100%/pki", state="/srv/$HOME/state")
    assert found["ReadWritePaths"] == ['"-/srv/my files/100%%/pki" -/srv/$HOME/state']
    words = shlex.split(found["ExecStartPre"][0])
    assert words[-2:] == ["/srv/my files/100%%/pki", "/srv/$$HOME/state"]
    assert words[:3] == ["+/bin/sh", "-c", 'umask 022 && exec mkdir -p -- "$$@"']


@pytest.mark.parametrize("path", ['/srv/"x"', "/srv/it's", "/srv/back\\slash", "/srv/two\nlines", "/srv/\x1b[0m"])
def test_a_path_that_no_unit_can_hold_is_refused(path: str) -> None:
    with pytest.raises(VaultpkiError, match="a systemd unit cannot hold this path") as told:
        unit_files(config(directory=path), executable=PROGRAM)
    assert str(told.value).isprintable()


def test_a_hook_for_a_static_pod_may_write_its_manifest_and_nothing_else_may() -> None:
    hooks = {
        "etcd-ca": (Hook("static_pod", name="etcd"), Hook("static_pod", name="/srv/pods/x.yaml")),
        "kubelet": (Hook("systemd", name="kubelet"), Hook("command", argv=("true",))),
    }
    paths = agent(hooks=hooks)["ReadWritePaths"][0].split()
    assert paths == ["-/etc/kubernetes/pki", "-/var/lib/vaultpki", "-/etc/kubernetes/manifests", "-/srv/pods"]


def test_every_folder_of_kubeadms_layout_may_be_written() -> None:
    found = agent(layout=Layout.KUBEADM, folders=node_folders("/etc/kubernetes/pki"))
    # kubeadm reset empties the kubelet's folder, so the one above it must be writable too.
    paths = ["-/etc/kubernetes/pki", "-/var/lib/kubelet", "-/etc/kubernetes", "-/var/lib/vaultpki"]
    assert found["ReadWritePaths"][0].split() == paths
    assert found["ExecStartPre"][0].endswith(
        " sh /etc/kubernetes/pki /var/lib/kubelet/pki /etc/kubernetes /var/lib/vaultpki"
    )


@pytest.mark.parametrize(
    ("fields", "home", "tmp"),
    [
        ({}, "yes", "yes"),
        ({"state": "/home/me/state"}, "read-only", "yes"),
        ({"taken_over": TakenOver(True, "/a/pki", "/b/pki", "/a")}, "read-only", "yes"),
        ({"ca_file": "/root/ca.pem"}, "read-only", "yes"),
        ({"auth": Auth("jwt", path="/run/user/0/jwt")}, "read-only", "yes"),
        ({"directory": "/tmp/pki"}, "yes", "no"),  # noqa: S108 - a path to be told apart, not one in use
        ({"directory": "/var/tmp/x/pki"}, "yes", "no"),  # noqa: S108 - the same
        ({"directory": "/homestead/pki", "state": "/tmpfs/x"}, "yes", "yes"),  # noqa: S108 - the same
    ],
)
def test_what_is_used_is_not_hidden(fields: dict[str, Any], home: str, tmp: str) -> None:
    found = agent(**fields)
    assert (found["ProtectHome"], found["PrivateTmp"]) == ([home], [tmp])


def test_plain_http_has_to_be_allowed_in_the_unit_too() -> None:
    text = unit_files(config(), executable=PROGRAM, allow_http=True)[AGENT]
    assert settings(text)["ExecStart"] == ["/usr/local/bin/vaultpki agent -c /etc/vaultpki/agent.yaml --allow-http"]


def test_units_are_written_once(tmp_path: Path) -> None:
    def install(**fields: Any) -> list[Path]:
        return install_units(config(**fields), folder=tmp_path, executable=PROGRAM)

    assert install() == [tmp_path / name for name in SYSTEMD_UNITS]
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    assert {path.name for path in before} == set(SYSTEMD_UNITS)
    assert all(path.stat().st_mode & 0o7777 == 0o644 for path in before)
    assert install() == []
    assert before == {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    (tmp_path / ONCE).write_text("something else")
    assert install() == [tmp_path / ONCE]
    assert install(state="/srv/state") == [tmp_path / name for name in SYSTEMD_UNITS]


def test_a_masked_unit_stays_masked(tmp_path: Path) -> None:
    (tmp_path / AGENT).symlink_to("/dev/null")
    with pytest.raises(StoreError, match=r"systemctl unmask vaultpki-agent\.service"):
        install_units(config(), folder=tmp_path, executable=PROGRAM)
    assert os.readlink(tmp_path / AGENT) == "/dev/null"


def test_a_folder_that_is_not_there_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="it does not exist"):
        install_units(config(), folder=tmp_path / "none", executable=PROGRAM)


# The recipes


def test_every_unit_and_recipe_can_be_printed() -> None:
    for name in (*SYSTEMD_UNITS, *RECIPES):
        assert recipe(name).startswith("{" if name.endswith(".json") else "# ")
    assert settings(recipe(AGENT))["ReadWritePaths"] == ["-/etc/kubernetes/pki -/var/lib/vaultpki"]
    assert "/srv/pki" in recipe(AGENT, config(directory="/srv/pki"))
    with pytest.raises(VaultpkiError, match=r"there is no unit or recipe 'x'; there are: vaultpki-agent\.service, "):
        recipe("x")


def pod(name: str) -> dict[str, Any]:
    """The pod of a recipe: its spec."""
    manifest = yaml.safe_load(recipe(name))
    spec: dict[str, Any] = manifest["spec"]["template"]["spec"] if manifest["kind"] == "DaemonSet" else manifest["spec"]
    return spec


PODS = pytest.mark.parametrize("name", ["daemonset.yaml", "static-pod.yaml"])


@PODS
def test_a_pod_mounts_folders_where_the_node_has_them(name: str) -> None:
    spec = pod(name)
    [container] = spec["containers"]
    volumes = {each["name"]: each["hostPath"] for each in spec["volumes"]}
    mounts = {each["name"]: each for each in container["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    assert all(volumes[key]["path"] == mount["mountPath"] and "subPath" not in mount for key, mount in mounts.items())
    assert all(each["type"] in ("Directory", "DirectoryOrCreate") for each in volumes.values())
    assert {"/etc/kubernetes/pki", "/var/lib/vaultpki", "/etc/vaultpki"} <= {each["path"] for each in volumes.values()}


@PODS
def test_a_pod_has_no_more_rights_than_the_unit(name: str) -> None:
    spec = pod(name)
    [container] = spec["containers"]
    context = container["securityContext"]
    unit = agent()["CapabilityBoundingSet"][0].split()
    assert context["capabilities"] == {"drop": ["ALL"], "add": [each.removeprefix("CAP_") for each in unit]}
    assert context["readOnlyRootFilesystem"] is True and context["allowPrivilegeEscalation"] is False
    assert spec["automountServiceAccountToken"] is False and not spec.get("hostIPC")
    assert container["resources"]["limits"]["memory"] == "128Mi"


@PODS
def test_a_pod_sees_the_components_of_its_node_as_the_unit_does(name: str) -> None:
    """When they were started, by their processes; whether they are healthy, on the node's loopback."""
    spec = pod(name)
    assert spec["hostPID"] is True and spec["hostNetwork"] is True
    assert not {"ProtectProc", "ProcSubset", "PrivatePIDs", "PrivateNetwork", "IPAddressDeny"} & agent().keys()
    assert {"AF_INET", "AF_INET6"} <= set(agent()["RestrictAddressFamilies"][0].split())


@PODS
def test_a_pod_is_asked_where_the_agent_listens(name: str) -> None:
    spec = pod(name)
    [container] = spec["containers"]
    assert spec["hostNetwork"] is True
    gets = [container[probe]["httpGet"] for probe in ("livenessProbe", "readinessProbe")]
    assert gets == [{"host": "127.0.0.1", "port": 9910, "path": path} for path in ("/livez", "/healthz")]
    assert container["image"] == f"vaultpki:{__version__.replace('+', '_')}"


def test_a_daemonset_finds_its_own_pods() -> None:
    manifest = yaml.safe_load(recipe("daemonset.yaml"))
    assert manifest["spec"]["selector"]["matchLabels"] == manifest["spec"]["template"]["metadata"]["labels"]


def test_the_image_is_of_this_version_and_runs_the_agent() -> None:
    text = recipe("Containerfile")
    # The source folder: there is no vaultpki on PyPI.
    assert (
        "ARG VAULTPKI=/src\n" in text
        and f"vaultpki:{__version__.replace('+', '_')} " in text
        and f"{__version__}-py3" in text
    )
    said = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in text.splitlines() if line and line[0] not in "# "}
    assert ast.literal_eval(said["ENTRYPOINT"]) + ast.literal_eval(said["CMD"]) == [
        *("env", "--block-signal=TERM", "vaultpki", "agent", "-c", "/etc/vaultpki/agent.yaml")
    ]


def test_the_operators_rules_are_those_of_prometheus() -> None:
    docs = "https://docs.example.com/"
    rule = yaml.safe_load(recipe("prometheus-rule.yaml", docs=docs))
    assert rule["kind"] == "PrometheusRule" and rule["spec"] == yaml.safe_load(recipe("alerts.yaml", docs=docs))


def test_the_textfile_unit_asks_where_the_agent_listens() -> None:
    def asked(known: AgentConfig | None) -> str:
        return settings(recipe("vaultpki-metrics.service", known))["ExecStart"][0].rpartition(" ")[2]

    assert asked(None) == asked(config()) == "http://127.0.0.1:9910/metrics"
    assert asked(config(metrics="[::1]:9000")) == "http://[::1]:9000/metrics"


def test_the_proxy_of_the_metrics_asks_the_agent_and_is_found() -> None:
    parts = list(yaml.safe_load_all(recipe("kube-rbac-proxy.yaml")))
    (daemon_set,) = [each for each in parts if each["kind"] == "DaemonSet"]
    [container] = daemon_set["spec"]["template"]["spec"]["containers"]
    assert "--upstream=http://127.0.0.1:9910/" in container["args"]
    monitor = yaml.safe_load(recipe("podmonitor.yaml"))["spec"]
    assert monitor["selector"]["matchLabels"] == daemon_set["spec"]["template"]["metadata"]["labels"]
    assert [each["port"] for each in monitor["podMetricsEndpoints"]] == [each["name"] for each in container["ports"]]
    # What the token of the reader opens is what the proxy asks the API server about.
    (asked,) = [yaml.safe_load(each["data"]["config.yaml"]) for each in parts if each["kind"] == "ConfigMap"]
    about = asked["authorization"]["resourceAttributes"]
    (role,) = [each for each in parts if each["kind"] == "Role"]
    assert role["rules"] == [
        {
            "apiGroups": [about["apiGroup"]],
            "resources": [f"{about['resource']}/{about['subresource']}"],
            "resourceNames": [about["name"]],
            "verbs": ["get"],
        }
    ]
    assert role["metadata"]["namespace"] == about["namespace"]


def test_the_labels_of_the_image_are_the_projects_own() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    found = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', recipe("Containerfile")))
    assert found == {"title": project["name"], "description": project["description"], "licenses": project["license"]}


def test_alerts_lead_to_the_pages_where_an_operator_has_them() -> None:
    for name in ("alerts.yaml", "prometheus-rule.yaml"):
        assert recipe(name, docs="https://docs.example.com/pki").replace(
            "https://docs.example.com/pki/", DOCS
        ) == recipe(name)
    for wrong in ("docs.example.com", "https://docs.example.com/'\n", "ftp://docs.example.com/"):
        with pytest.raises(VaultpkiError, match="is not the address of a web site"):
            recipe("alerts.yaml", docs=wrong)
