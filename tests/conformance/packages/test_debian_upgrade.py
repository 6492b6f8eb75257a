"""The Debian package through upgrades, a downgrade, and Debian 12 to 13 under a running agent; for arm64 too."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.node import earlier_release
from helpers.packages import built, clean_root
from helpers.packages.clean_root import CleanRoot
from helpers.vault import servers
from helpers.vault.servers import Server

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(2 * built.BUILD_SECONDS)]

_INSTALL = ("install", "--yes", "--reinstall", "--allow-downgrades")

# Starts the agent again whenever it ends, as its unit says.
_SUPERVISOR = """\
#!/bin/sh
while :; do
  vaultpki agent >>/root/agent.log 2>&1 &
  echo $! >/root/agent.pid
  wait
  sleep 1
done
"""
# Restarts that agent, and writes down what is asked and what `vaultpki` says at that time.
_SYSTEMCTL = """\
#!/bin/sh
case "$*" in
  *vaultpki-agent*) echo "$* / $(readlink /usr/bin/python3) / $(vaultpki -V 2>&1)" >>/root/systemctl ;;
esac
case "$*" in
  *"try-restart vaultpki-agent.service"*) kill "$(cat /root/agent.pid)" ;;
esac
"""
# Nothing that anybody reads, and no fsync: a third of the time.
_APT = """\
Acquire::Languages "none";
Acquire::Retries "3";
APT::Install-Recommends "false";
DPkg::Options { "--force-unsafe-io"; "--force-confnew"; "--path-exclude=/usr/share/doc/*"; };
"""
# What a running agent remembers of its last pass.
_REMEMBERED = {"agent.json", "spec.json", "resident.json", "lock"}
# `agent --once` has the agent that stays ask Vault, says so, and waits for it. While that one is only being started it
# makes the pass itself, in other words.
_AGENT_WORKS = """\
until vaultpki agent --once | grep -F "the agent asked Vault"; do sleep 1; done
readlink "/proc/$(cat agent.pid)/exe"
! grep -F "(deleted)" "/proc/$(cat agent.pid)/maps"
"""


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the package of this checkout."""
    return built.wheel_and_deb(tmp_path_factory)


@pytest.fixture
def openbao(tmp_path: Path) -> Iterator[Server]:
    """A server; which one makes no difference to a package."""
    with servers.running("bao", tmp_path / "server") as one:
        yield one


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The package of the release before, made by its own scripts."""
    source = tmp_path / "earlier"
    earlier_release.extract(earlier_release.releases()[earlier_release.neighbour()], source)
    for script in ("wheel", "deb"):
        built.make(script, source / "dist", checkout=source)
    return built.only(source / "dist", "*.deb")


def newer(deb: Path, folder: Path) -> Path:
    """The same package with a later version."""
    content = folder / "newer"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, content], check=True)
    control = content / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^Version: .*$", "Version: 99.0", control.read_text()))
    made = folder / "newer.deb"
    subprocess.run(["dpkg-deb", "-Zgzip", "-z1", "--build", content, made], check=True, stdout=subprocess.DEVNULL)
    return made


def join(machine: CleanRoot, server: Server, cluster: str) -> None:
    """A worker joins a cluster of its own, by what is installed on it."""
    env = clean_root.as_operator(machine, server, cluster)
    machine.shell("vaultpki apply --yes", env=env, network=True)
    machine.shell("vaultpki enroll worker-1 -o join.json", env=env, network=True)
    machine.shell("vaultpki agent --join join.json --once", network=True)


def identity(machine: CleanRoot) -> dict[str, str]:
    """The SHA-256 of the node's configuration, credentials and certificates by their paths."""
    found = {}
    for folder in ("etc/vaultpki", "etc/kubernetes/pki", "var/lib/vaultpki"):
        for path in sorted(machine.path(folder).rglob("*")):
            if path.is_file() and path.name not in _REMEMBERED:
                found[str(path.relative_to(machine.folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def expiries(machine: CleanRoot) -> dict[str, str]:
    """When each certificate expires by `vaultpki status`, which finds nothing wrong."""
    status = json.loads(machine.shell("vaultpki status --json", network=True))
    assert status["ok"], status
    return {each["name"]: each["not_after"] for each in status["certificates"]}


def test_a_node_keeps_its_agent_through_upgrades_a_downgrade_and_debian_13(
    made: Path, earlier: Path, openbao: Server, cluster_name: str, tmp_path: Path
) -> None:
    machine = clean_root.extract(tmp_path)
    deb = built.only(made, "*.deb")
    for name, package in {"earlier": earlier, "own": deb, "newer": newer(deb, tmp_path)}.items():
        shutil.copy(package, machine.path(f"/root/{name}.deb"))
    before = machine.files()
    machine.run("dpkg", "--install", "/root/earlier.deb")
    join(machine, openbao, cluster_name)
    own, ends = identity(machine), expiries(machine)
    assert own

    def still_works(shown: str) -> None:
        assert machine.shell("vaultpki -V") == f"vaultpki, version {shown}\n"
        assert expiries(machine) == ends and identity(machine) == own

    # Each leaves nothing of the other: what is there is what the package lists.
    own_version, before_it = built.version(made), earlier_release.neighbour()
    for name, shown in {"own": own_version, "earlier": before_it, "newer": own_version}.items():
        said = machine.run("apt-get", *_INSTALL, f"/root/{name}.deb").stdout
        assert "WARNING" not in said
        listed = {line[1:] for line in machine.shell("dpkg --listfiles vaultpki").splitlines()}
        mine = {each for each in machine.files() - before if "vaultpki" in each and not each.startswith("etc/")}
        assert {each for each in mine if not each.startswith("var/lib/vaultpki")} <= listed
        still_works(shown)
    machine.run("apt-get", *_INSTALL, "/root/own.deb")

    # Debian 13, under an agent that runs. The rest of Debian 12's Python goes last.
    machine.path("/run/systemd/system").mkdir(parents=True)
    for path, program in {"/usr/bin/systemctl": _SYSTEMCTL, "/root/supervisor": _SUPERVISOR}.items():
        machine.path(path).write_text(program)
        machine.path(path).chmod(0o755)
    machine.path("/etc/apt/apt.conf.d/99test").write_text(_APT)
    shutil.copy("/etc/resolv.conf", machine.path("/etc/resolv.conf"))
    sources = machine.path("/etc/apt/sources.list")
    sources.write_text(sources.read_text().replace("bookworm", "trixie"))
    said = machine.shell(
        f"./supervisor & {_AGENT_WORKS}"
        "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update; apt-get -qq dist-upgrade\n"
        f"echo dist-upgraded; {_AGENT_WORKS} apt-get -qq autoremove; echo removed; {_AGENT_WORKS}",
        env={name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")},
        network=True,
        timeout=600,
    )
    first, second, third = re.split(r"^(?:dist-upgraded|removed)$", said, flags=re.MULTILINE)
    assert "\n/usr/bin/python3.11\n" in first
    assert "\n/usr/bin/python3.13\n" in second and "\n/usr/bin/python3.13\n" in third
    assert "vaultpki: WARNING" not in said
    asked = machine.path("/root/systemctl").read_text().splitlines()
    restart = f"--no-block try-restart vaultpki-agent.service / python3.13 / vaultpki, version {built.version(made)}"
    assert asked == [restart, restart]
    assert not machine.path("/usr/lib/python3.11").joinpath("os.py").exists()
    still_works(built.version(made))

    # Last, apt removes it for the sake of another package.
    machine.path("/usr/bin/logger").write_text('#!/bin/sh\necho "$*" >>/root/journal\n')
    said = machine.run("apt-get", "remove", "--yes", "python3").stdout
    name, end = min(ends.items(), key=lambda each: (each[1], each[0]))
    assert "vaultpki: WARNING: the agent is stopped and removed" in said
    assert f"the first one, {name} expires at {end}" in said
    assert "--priority daemon.warning WARNING: the agent is stopped" in machine.path("/root/journal").read_text()
    assert identity(machine) == own


def test_the_package_for_arm64_is_the_same_but_for_compiled_modules(made: Path, tmp_path: Path) -> None:
    for file in ("requirements.txt", built.only(made, "*.whl").name):
        shutil.copy(made / file, tmp_path)
    built.make("deb", tmp_path, "arm64")
    package = built.only(tmp_path, "vaultpki_*_arm64.deb")
    subprocess.run(["dpkg-deb", "--raw-extract", package, tmp_path / "arm64"], check=True)
    subprocess.run(["dpkg-deb", "--raw-extract", built.only(made, "*.deb"), tmp_path / "own"], check=True)

    def content(name: str) -> set[str]:
        """Every path, without the name of the machine."""
        folder = tmp_path / name
        paths = (str(path.relative_to(folder)) for path in folder.rglob("*"))
        return {re.sub("aarch64|x86_64", "MACHINE", path) for path in paths}

    assert content("arm64") == content("own")
    modules = list((tmp_path / "arm64").rglob("*.so"))
    assert len(modules) > 5
    # e_machine in elf(5), EM_AARCH64.
    assert {int.from_bytes(module.read_bytes()[18:20], "little") for module in modules} == {183}
    control = (tmp_path / "arm64" / "DEBIAN" / "control").read_text()
    assert "\nArchitecture: arm64\n" in control
