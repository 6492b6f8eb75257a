"""What docs/install.md says: the install with pinned hashes, the example for cloud-init, and where the rest runs."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from helpers import pages
from helpers.packages import built
from helpers.pages import CHECKOUT
from vaultpki import __version__

_INSIDE = "./usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"


def cloud_init_schema() -> dict[str, Any]:
    """The JSON schema of a cloud-config; the first call on a machine downloads the package, and installs nothing."""
    home = os.environ.get("XDG_CACHE_HOME") or f"{os.environ['HOME']}/.cache"
    cache = Path(os.environ.get("VAULTPKI_CONFORMANCE_CACHE") or f"{home}/vaultpki/conformance")
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / "cloud-config.json"
    with (cache / "cloud-config.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            new = cache / "cloud-config.new"
            new.write_bytes(_downloaded())
            new.rename(file)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _downloaded() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        download = ["apt-get", "download", "-qq", "cloud-init"]
        if subprocess.run(download, cwd=folder, capture_output=True, check=False, timeout=600).returncode:
            # A machine that is new has no lists yet.
            subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True, timeout=600)
            subprocess.run(download, cwd=folder, check=True, capture_output=True, timeout=600)
        (package,) = Path(folder).glob("*.deb")
        contents = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
        return subprocess.run(
            ["tar", "--extract", "--to-stdout", _INSIDE], input=contents, check=True, capture_output=True
        ).stdout


pytestmark = [pytest.mark.conformance, pytest.mark.timeout(2 * built.BUILD_SECONDS)]

ELSEWHERE = {
    "make dist": "each of its scripts runs in this folder",
    "make dist SIGN=releases@example.com": "test_bills.py signs so",
    "apt-get install --yes ./vaultpki_*_amd64.deb": "test_debian_package.py runs it",
    "vaultpki -V": "the same",
    "apt-get remove --yes vaultpki": "the same",
    "apt-get purge --yes vaultpki": "the same",
    "ctr --namespace k8s.io images import vaultpki-*-image.tar": "test_image.py runs it, with a socket of its own",
    "vaultpki template Containerfile > Containerfile": "packages/image takes the same file",
    'docker build --tag vaultpki:local --build-arg VAULTPKI="--require-hashes --requirement /src/requirements.txt" '
    "--file Containerfile .": "packages/image runs it, on another base and without an index",
}
"""Commands of the page that do not run in this file, each with its reason."""

HERE = "A wheel with pinned hashes"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    built.wheel(tmp_path_factory, folder)
    return folder


def commands(part: str) -> list[str]:
    said = pages.blocks(pages.part("install", part))
    return [command.text for block in said for command in block.commands()]


def shell(text: str, folder: Path, *, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
    """A shell in the folder, whose python3 and pip are those of the tests."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ran = subprocess.run(
        ["bash", "-c", f"set -eu; {text}"],
        cwd=folder,
        env={**environment, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert expect is None or ran.returncode == expect, ran.stdout + ran.stderr
    return ran


def test_every_command_of_the_page_runs_somewhere() -> None:
    said = {command.text for block in pages.blocks(pages.text("install")) for command in block.commands()}
    assert said == ELSEWHERE.keys() | set(commands(HERE)) | set(commands("Check what you got"))


def test_the_pinned_install_works_and_refuses_what_is_not_pinned(dist: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()

    def here(line: str) -> str:
        return line.replace("/opt/vaultpki", f"{tmp_path}/opt").replace("/usr/local/bin", f"{tmp_path}/bin")

    *lines, offline = commands(HERE)
    for line in lines:
        shell(here(line), dist)
    assert shell(f"{tmp_path}/bin/vaultpki -V", tmp_path).stdout == f"vaultpki, version {__version__}\n"
    # The last one again, from the files alone.
    shell(f"python3 -m venv --clear {tmp_path}/opt; {here(offline)}", dist)
    assert shell(f"{tmp_path}/bin/vaultpki -V", tmp_path).stdout == f"vaultpki, version {__version__}\n"

    wheel = built.only(dist / "files", "vaultpki-*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    refused = shell(f"python3 -m venv --clear {tmp_path}/opt; {here(offline)}", dist, expect=1)
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    # Nor does a library come in that the file does not name.
    text = (dist / "requirements.txt").read_text()
    fewer = re.sub(r"^click==.*?^(?=\S)", "", text, flags=re.MULTILINE | re.DOTALL)
    assert len(fewer) < len(text)
    (dist / "fewer.txt").write_text(fewer)
    install = here(commands(HERE)[1]).replace("--requirement requirements.txt", "--requirement fewer.txt")
    refused = shell(f"python3 -m venv --clear {tmp_path}/opt; {install}", dist, expect=1)
    assert "all requirements must have their versions pinned" in refused.stderr


def test_every_library_has_a_wheel_for_arm64(tmp_path: Path) -> None:
    """Of the version and with a hash that the file names, for the Pythons of Debian 12 and 13."""
    for python in ("311", "313"):
        platforms = " ".join(f"--platform manylinux{name}_aarch64" for name in ("2014", "_2_17", "_2_28"))
        options = (
            f"--require-hashes --only-binary :all: --no-deps --python-version {python} {platforms} --dest {python}"
        )
        shell(f"python3 -m pip download {options} --requirement {CHECKOUT}/packages/requirements.txt", tmp_path)
        wheels = [each.name for each in (tmp_path / python).iterdir()]
        assert {re.sub(r".*-", "", name) for name in wheels} >= {"any.whl"} and not [w for w in wheels if "x86" in w]
        assert [name for name in wheels if name.startswith("cryptography-") and name.endswith("aarch64.whl")]


def cloud_config() -> str:
    (found,) = (block.text for block in pages.blocks(pages.text("install")) if block.text.startswith("#cloud-config\n"))
    return found


def faults(document: object) -> list[str]:
    """What cloud-init's schema finds; keys at the top that it does not know are ignored by it, and are faults here."""
    schema = cloud_init_schema()
    found = [error.message for error in jsonschema.Draft4Validator(schema).iter_errors(document)]
    known = {name for part in schema["$defs"].values() for name in part.get("properties", {})}
    return found + (
        [f"unknown: {name}" for name in document if name not in known] if isinstance(document, dict) else []
    )


def test_cloud_init_takes_the_example() -> None:
    document = yaml.safe_load(cloud_config())
    assert faults(document) == []
    assert faults({**document, "runcmd": "vaultpki"}) != []
    assert faults({**document, "write_files": [{"content": "x"}]}) != []
    assert faults({**document, "run_cmd": []}) != []


def test_the_script_of_the_example_stops_at_the_wrong_package(tmp_path: Path) -> None:
    """Another server's file has another hash: nothing is installed, and the join file is not used up."""
    (script,) = (
        each["content"] for each in yaml.safe_load(cloud_config())["write_files"] if each["content"].startswith("#!")
    )
    (tmp_path / "served.deb").write_bytes(b"another package")
    for program in ("apt-get", "vaultpki", "systemctl"):
        (tmp_path / program).write_text(f'#!/bin/sh\necho {program} "$@" >>{tmp_path}/ran\n')
        (tmp_path / program).chmod(0o755)
    address = "https://packages.example.com/vaultpki.deb"
    script = script.replace("cd /root", f"cd {tmp_path}").replace(address, f"file://{tmp_path}/served.deb")
    (tmp_path / "install").write_text(script)
    (tmp_path / "join.json").write_text("{}")
    ran = shell(f"PATH={tmp_path}:$PATH sh ./install", tmp_path, expect=None)
    assert ran.returncode != 0 and "FAILED" in ran.stdout + ran.stderr
    assert not (tmp_path / "ran").exists() and (tmp_path / "join.json").exists()
    digest = shell("sha256sum served.deb", tmp_path).stdout.split()[0]
    (tmp_path / "install").write_text(script.replace("0" * 64, digest))
    shell(f"PATH={tmp_path}:$PATH sh ./install", tmp_path)
    assert [line.split()[0] for line in (tmp_path / "ran").read_text().splitlines()] == [
        "apt-get",
        "vaultpki",
        "systemctl",
    ]
    assert not (tmp_path / "join.json").exists()
