"""What ships: the wheel, built from the checkout and installed outside it, has all that it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from readme import CHECKOUT


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
        timeout=180,
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
def vaultpki(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed command."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=True)
    pip = folder / "bin" / "pip"
    call(pip, "--quiet", "--disable-pip-version-check", "install", f"{wheel}[embedded]", folder=folder)
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
    python = vaultpki.with_name("python")
    place = call(python, "-c", "import vaultpki; print(vaultpki.__file__)", folder=tmp_path)
    assert Path(place).is_relative_to(vaultpki.parents[1])
