"""The Debian package on a clean Debian: installed without a network, a node's only vaultpki, removed, purged."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.packages import built, clean_root
from helpers.packages.clean_root import CleanRoot
from helpers.vault.servers import Server

pytestmark = [pytest.mark.conformance, pytest.mark.on_node, pytest.mark.timeout(2 * built.BUILD_SECONDS)]

# Stands in for systemd, which no chroot can run: it writes down what the maintainer scripts ask of it.
_RECORDER = '#!/bin/sh\necho "$@" >>/root/systemctl\n'
_IDENTITY = ("etc/vaultpki", "var/lib/vaultpki", "etc/kubernetes")


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the package, and the wheel that it was made of."""
    return built.wheel_and_deb(tmp_path_factory)


@pytest.fixture
def machine(made: Path, tmp_path: Path, request: pytest.FixtureRequest) -> CleanRoot:
    """A clean Debian with Python alone; the package lies in /root."""
    root = clean_root.extract(tmp_path, getattr(request, "param", "bookworm"))
    shutil.copy(built.only(made, "*.deb"), root.path("/root/vaultpki.deb"))
    return root


def test_lintian_finds_no_error(made: Path) -> None:
    command = ["lintian", "--allow-root", "--fail-on", "error", str(built.only(made, "*.deb"))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_same_source_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    for script in ("wheel", "deb"):
        built.make(script, tmp_path)

    def hashes(folder: Path) -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}

    assert hashes(tmp_path) == hashes(made)


@pytest.mark.parametrize("machine", clean_root.RELEASES, indirect=True)
def test_a_node_lives_on_it_and_keeps_its_identity(
    machine: CleanRoot, made: Path, server: Server, cluster_name: str
) -> None:
    before = machine.files()
    machine.run("apt-get", "install", "--yes", "/root/vaultpki.deb")
    # Nothing was made but what the package lists: no compiled file, no link.
    listed = {line[1:] for line in machine.shell("dpkg --listfiles vaultpki").splitlines()}
    assert machine.files() - before <= listed
    assert machine.shell("vaultpki --version") == f"vaultpki, version {built.version(made)}\n"
    installed = machine.files()

    # An operator's work, and a node's.
    env = clean_root.as_operator(machine, server, cluster_name)
    assert machine.run(
        *("vaultpki", "plan", "-f", "/root/cluster.yaml", "--detailed-exitcode"), env=env, network=True, expect=4
    ).stdout.startswith(f"Server: {server.address}, namespace root\n")
    machine.shell("vaultpki apply --yes", env=env, network=True)
    machine.shell("vaultpki enroll worker-1 -o join.json", env=env, network=True)
    machine.shell("vaultpki doctor join.json", network=True)
    machine.shell("vaultpki join join.json", network=True)
    machine.shell("vaultpki doctor", network=True)
    status = json.loads(machine.shell("vaultpki status --json", network=True))
    assert status["ok"] and {each["state"] for each in status["certificates"]} == {"ok"}
    machine.shell("vaultpki verify --dir /etc/kubernetes/pki")

    # What ran has written nothing beside the node's own files; a removal takes all but these.
    own = {path for path in machine.files() if path.startswith(_IDENTITY)}
    assert machine.files() == installed | own
    machine.run("apt-get", "remove", "--yes", "vaultpki")
    assert machine.files() == before | own
    machine.run("apt-get", "install", "--yes", "/root/vaultpki.deb")
    assert machine.shell("vaultpki agent --once", network=True).startswith("nothing to do until ")
    said = machine.run("apt-get", "purge", "--yes", "vaultpki").stdout
    assert "this node's identity stays in /etc/vaultpki /var/lib/vaultpki" in said
    assert machine.files() == before | own
    assert "vaultpki" not in machine.shell("dpkg --list")


def test_units_and_completions(machine: CleanRoot) -> None:
    machine.run("dpkg", "--install", "/root/vaultpki.deb")
    for unit in ("vaultpki-agent.service", "vaultpki-agent-once.service"):
        shown = machine.shell(f"cat /usr/lib/systemd/system/{unit}")
        assert shown == machine.shell(f"vaultpki template {unit}")
        assert "ExecStart=/usr/bin/vaultpki agent -c /etc/vaultpki/agent.yaml" in shown
    check = ["systemd-analyze", f"--root={machine.folder}", "verify", "vaultpki-agent.service"]
    ran = subprocess.run(check, capture_output=True, text=True, check=False, timeout=60)
    # Of what this small Debian lacks: systemd itself, and procps, which the package recommends.
    others = [line for line in ran.stderr.splitlines() if "sysinit.target" not in line and "/bin/kill" not in line]
    assert others == []
    completed = machine.shell(
        "source /usr/share/bash-completion/completions/vaultpki; COMP_WORDS=(vaultpki unen) COMP_CWORD=1; "
        '_vaultpki_completion vaultpki; echo "${COMPREPLY[@]}"'
    )
    assert completed == "unenroll\n"
    for shell, path in (
        ("zsh", "/usr/share/zsh/vendor-completions/_vaultpki"),
        ("fish", "/usr/share/fish/vendor_completions.d/vaultpki.fish"),
    ):
        assert machine.path(path).read_text() == machine.shell(f"vaultpki completion {shell}")


def test_what_is_asked_of_systemd(machine: CleanRoot) -> None:
    """Nothing is started or enabled; an agent that runs is restarted by an upgrade and stopped by a removal."""
    machine.path("/run/systemd/system").mkdir(parents=True)
    machine.path("/usr/bin/systemctl").write_text(_RECORDER)
    machine.path("/usr/bin/systemctl").chmod(0o755)
    asked = machine.path("/root/systemctl")

    def after(*command: str) -> list[str]:
        asked.write_text("")
        machine.run("dpkg", *command)
        return asked.read_text().splitlines()

    assert after("--install", "/root/vaultpki.deb") == ["daemon-reload"]
    assert "--no-block try-restart vaultpki-agent.service" in after("--install", "/root/vaultpki.deb")
    wants = machine.path("/etc/systemd/system/multi-user.target.wants/vaultpki-agent.service")
    wants.parent.mkdir(parents=True, exist_ok=True)
    wants.symlink_to("/usr/lib/systemd/system/vaultpki-agent.service")
    assert after("--remove", "vaultpki") == [
        "stop vaultpki-agent.service vaultpki-agent-once.service",
        "daemon-reload",
    ]
    assert wants.is_symlink()
    assert after("--purge", "vaultpki") == ["daemon-reload"]
    assert not wants.is_symlink()
