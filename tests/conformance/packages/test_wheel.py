"""What ships: the wheel has all that it needs, and the quick start's installation works, outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers import pages
from helpers.pages import CHECKOUT

pytestmark = pytest.mark.conformance


def call(*words: str | Path, folder: Path) -> str:
    """What the command prints; nothing of the checkout or of this environment is in its reach."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VAULT_", "BAO_", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    call(*pip, "wheel", "--no-deps", "--wheel-dir", folder, CHECKOUT, folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def vaultpki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed command, by the quick start's lines, all but Debian's own packages and in other folders."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "bin").mkdir()
    said = pages.blocks(pages.part("quickstart", "Install"))
    lines = [command.text for block in said for command in block.commands()]
    assert lines.pop(0) == "apt-get install --yes python3-venv openssl"
    for line in lines:
        here = line.replace("/opt/vaultpki", f"{folder}/opt").replace("/usr/local/bin", f"{folder}/bin")
        assert here != line
        call("bash", "-c", f"set -eu; PATH={Path(sys.executable).parent}:$PATH; {here}", folder=CHECKOUT)
    return folder / "bin" / "vaultpki"


def test_the_wheel_holds_the_package_and_its_assets(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for kind in ("policies", "templates"):
        assets = {f"vaultpki/{kind}/{path.name}" for path in (CHECKOUT / kind).iterdir()}
        assert assets
        assert assets <= names
    modules = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "vaultpki").rglob("*.py")}
    assert modules | {"vaultpki/py.typed"} <= names
    assert all(name.split("/")[0].startswith("vaultpki") for name in names)


def test_the_commands_that_need_no_server(vaultpki: Path, tmp_path: Path) -> None:
    assert "vaultpki demo" in call(vaultpki, "--help", folder=tmp_path)
    call(vaultpki, "init", folder=tmp_path)
    assert (tmp_path / "cluster.yaml").read_text().startswith("# cluster.yaml")
    assert json.loads(call(vaultpki, "schema", folder=tmp_path))["title"] == "vaultpki cluster.yaml"
    for who in ("applier", "enroller", "operator"):
        assert json.loads(call(vaultpki, "policy", who, folder=tmp_path))["path"]


def test_the_demo_runs_outside_the_checkout(vaultpki: Path, tmp_path: Path) -> None:
    said = call(vaultpki, "demo", "--dir", tmp_path / "demo", folder=tmp_path)
    assert ", 0 wrong (" in said
    assert (tmp_path / "demo/nodes/cp-1/pki/scheduler.conf").is_file()
    assert (tmp_path / "demo/operator/manifests/cluster-admins.yaml").is_file()


def test_it_is_the_installed_package_that_ran(vaultpki: Path, tmp_path: Path) -> None:
    python = vaultpki.resolve().with_name("python")
    place = call(python, "-c", "import vaultpki; print(vaultpki.__file__)", folder=tmp_path)
    assert Path(place).is_relative_to(vaultpki.resolve().parents[1])


def test_the_unit_runs_the_program_by_its_link(vaultpki: Path, tmp_path: Path) -> None:
    unit = call(vaultpki, "template", "vaultpki-agent.service", folder=tmp_path)
    assert f"\nExecStart={vaultpki} agent -c /etc/vaultpki/agent.yaml\n" in unit


def test_the_installed_program_completes_its_commands(vaultpki: Path, tmp_path: Path) -> None:
    program = (
        f"set -eu; PATH={vaultpki.parent}:$PATH; source <(vaultpki completion bash); COMP_WORDS=(vaultpki unen) "
        'COMP_CWORD=1; _vaultpki_completion vaultpki; echo "${COMPREPLY[@]}"'
    )
    assert call("bash", "--norc", "-c", program, folder=tmp_path) == "unenroll\n"
