"""How a node learns which version of Kubernetes a running component has, and when it says that it does not know."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml

from vaultpki.host import boot_time, component_version, printed
from vaultpki.host.boot_time import Moment
from vaultpki.host.processes import Process


class Machine:
    """A made-up machine: its programs, its static pods, and the control groups of its processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc, self.manifests, self.bin = folder / "proc", folder / "manifests", folder / "bin"
        for each in (self.proc, self.manifests, self.bin):
            each.mkdir()
        self.cgroup("0::/system.slice/kubelet.service\n")

    def cgroup(self, text: str) -> None:
        (self.proc / "7").mkdir(exist_ok=True)
        (self.proc / "7/cgroup").write_text(text)

    def program(self, name: str = "kubelet", output: str = "Kubernetes v1.35.4", code: int = 0) -> str:
        new = self.bin / f"{name}.new"
        new.write_text(
            f"#!/bin/sh\necho ran >> '{self.folder}/log'\n[ \"$*\" = --version ] && echo '{output}'\nexit {code}\n"
        )
        new.chmod(0o755)
        return str(new.replace(self.bin / name))

    def manifest(self, image: object, component: str = "kube-scheduler", command: object = None) -> None:
        container = {"name": component, "image": image, "command": command or [component, "--leader-elect=true"]}
        sidecar = {"name": "other", "image": "other:v1.2.3", "command": ["other"]}
        text = yaml.safe_dump({"kind": "Pod", "spec": {"containers": [sidecar, container]}})
        (self.manifests / f"{component}.yaml").write_text(text)

    def said(self, program: str, component: str = "kubelet", started: Moment | None = None) -> str:
        # A start is known to a hundredth of a second.
        time.sleep(0.02)
        process = Process(component, 7, started or boot_time.now(), ("--flag",), program=program)
        return component_version.of_process(process, str(self.proc), str(self.manifests))

    @property
    def runs(self) -> int:
        log = self.folder / "log"
        return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("version", ["v1.34.4", "v1.35.4", "v1.36.3", "v1.37.2", "v1.34.3-eks-1a2b3c4"])
def test_a_program_says_its_version(machine: Machine, version: str) -> None:
    assert machine.said(machine.program(output=f"Kubernetes {version}")) == version


def test_a_program_that_was_replaced_since_says_nothing(machine: Machine) -> None:
    """As after the package was upgraded, and before the kubelet was restarted."""
    program, started = machine.program(), boot_time.now()
    time.sleep(0.1)
    machine.program(output="Kubernetes v1.36.3")
    assert machine.said(program, started=started) == "" and machine.runs == 0
    assert machine.said(program) == "v1.36.3"


def test_a_process_of_another_boot_says_nothing(machine: Machine) -> None:
    assert machine.said(machine.program(), started=Moment("another", 1e6)) == "" and machine.runs == 0


def test_a_program_that_others_may_change_is_not_run(machine: Machine) -> None:
    program = machine.program()
    os.chmod(program, 0o777)
    assert machine.said(program) == "" and machine.runs == 0


def test_a_pods_program_is_not_the_file_of_this_name_here(machine: Machine) -> None:
    program = machine.program("kube-proxy")
    machine.cgroup("0::/kubepods.slice/kubepods-besteffort.slice/cri-containerd-4f.scope\n")
    assert machine.said(program, "kube-proxy") == "" and machine.runs == 0
    (machine.proc / "7/cgroup").unlink()
    assert machine.said(program, "kube-proxy") == "" and machine.runs == 0


@pytest.mark.parametrize("program", ["kubelet", "./kubelet", "", "/nowhere/kubelet", "/bin/\0"])
def test_what_is_not_there_is_not_run(machine: Machine, program: str) -> None:
    assert machine.said(program) == ""


@pytest.mark.parametrize(("output", "code"), [("Kubernetes v1.35.4", 1), ("Python 3.13.5", 0), ("", 0)])
def test_what_says_no_version_has_none(machine: Machine, output: str, code: int) -> None:
    assert machine.said(machine.program(output=output, code=code)) == "" and machine.runs == 1


def test_a_program_that_hangs_is_killed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Path(machine.program())
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setattr(printed, "_SECONDS", 0.2)
    assert machine.said(str(program)) == ""


def test_a_static_pod_has_the_version_of_its_image(machine: Machine) -> None:
    machine.manifest("registry.k8s.io/kube-scheduler:v1.35.4")
    # The name alone, as in a container; a program of this name here is another one.
    assert machine.said("kube-scheduler", "kube-scheduler") == "v1.35.4"
    assert machine.said(machine.program("kube-scheduler"), "kube-scheduler") == "v1.35.4" and machine.runs == 0


def test_a_static_pod_whose_manifest_is_newer_is_not_known(machine: Machine) -> None:
    """Until the kubelet has started the new pod."""
    started = boot_time.now()
    time.sleep(0.1)
    machine.manifest("registry.k8s.io/kube-scheduler:v1.36.3")
    assert machine.said("kube-scheduler", "kube-scheduler", started=started) == ""


@pytest.mark.parametrize(
    ("image", "command"),
    [
        (f"registry.k8s.io/kube-scheduler@sha256:{'0' * 64}", None),
        (7, None),
        ("registry.k8s.io/kube-scheduler:v1.36.3", ["another"]),
        ("registry.k8s.io/kube-scheduler:v1.36.3", "kube-scheduler --leader-elect"),
        ("registry.k8s.io/kube-scheduler:v1.36.3", [7]),
    ],
)
def test_a_manifest_that_names_no_version_says_nothing(machine: Machine, image: object, command: object) -> None:
    machine.manifest(image, command=command)
    assert machine.said("kube-scheduler", "kube-scheduler") == ""


@pytest.mark.parametrize(
    "text", ["", "[", "- a\n", "spec: {containers: {}}\n", "spec: {containers: [7]}\n", "spec: 7\n"]
)
def test_what_is_no_manifest_says_nothing(machine: Machine, text: str) -> None:
    (machine.manifests / "kube-scheduler.yaml").write_text(text)
    assert machine.said("kube-scheduler", "kube-scheduler") == ""
