"""What `make dist` says of its packages: bills of materials by their schema, and hashes that a user's key signs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers import pages
from helpers.packages import bills, built, clean_root
from helpers.pages import CHECKOUT

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(2 * built.BUILD_SECONDS)]


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the wheel and the Debian package."""
    return built.wheel_and_deb(tmp_path_factory)


def pinned() -> dict[str, str]:
    """The libraries of requirements.txt that this machine takes."""
    lines = (CHECKOUT / "packages/requirements.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", lines, re.MULTILINE))


def test_the_wheel_lists_what_it_needs(made: Path) -> None:
    bill = bills.read(built.only(made, "*.whl"))
    assert bill["metadata"]["component"]["purl"] == f"pkg:pypi/vaultpki@{built.version(made).replace('+', '%2B')}"
    assert bills.components(bill, "pkg:pypi/") == pinned()
    # What the program imports is what it needs directly.
    direct = next(each for each in bill["dependencies"] if each["ref"] == bill["metadata"]["component"]["bom-ref"])
    assert {"pkg:pypi/hvac", "pkg:pypi/click"} <= {each.partition("@")[0] for each in direct["dependsOn"]}
    assert "pkg:pypi/idna" not in {each.partition("@")[0] for each in direct["dependsOn"]}


def test_the_debian_package_lists_what_it_carries(made: Path) -> None:
    package = built.only(made, "*.deb")
    bill = bills.read(package)
    listed = bills.components(bill, "pkg:pypi/")
    assert listed == pinned() | {"vaultpki": built.version(made)}
    contents = subprocess.run(["dpkg-deb", "--contents", package], stdout=subprocess.PIPE, text=True, check=True).stdout
    carried = set(re.findall(r"/site-packages/([^/]+)-[^/-]+\.dist-info/$", contents, re.MULTILINE))
    assert {name.lower().replace("_", "-") for name in carried} == listed.keys()
    # A compiled library has a wheel, with a hash, for each Python.
    wheels = {each["name"]: each["externalReferences"] for each in bill["components"]}
    assert {len(wheels["cffi"]), len(wheels["click"])} == {2, 1}


@pytest.mark.parametrize("release", clean_root.RELEASES)
def test_a_clean_debian_verifies_what_a_key_has_signed(release: str, made: Path, tmp_path: Path) -> None:
    """By the commands of the page, with what each release has from the start; another file, or key, is noticed."""
    dist, home = tmp_path / "dist", tmp_path / "gnupg"
    shutil.copytree(made, dist)
    home.mkdir(mode=0o700)
    env = {**os.environ, "GNUPGHOME": str(home)}
    for who in ("releases@example.com", "other@example.com"):
        words = ["gpg", "--quiet", "--batch", "--passphrase", "", "--quick-generate-key", who, "ed25519", "sign", "1d"]
        subprocess.run(words, env=env, check=True, capture_output=True)
    try:
        subprocess.run([CHECKOUT / "packages/sums", dist, "releases@example.com"], env=env, check=True)
        other = subprocess.run(
            ["gpg", "--export", "other@example.com"], env=env, check=True, capture_output=True
        ).stdout
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], env=env, check=True)

    machine = clean_root.extract(tmp_path, release)
    shutil.copytree(dist, machine.path("/root/dist"))
    said = pages.blocks(pages.part("install", "Check what you got"))
    *verify, compare = [command.text for block in said for command in block.commands()]
    line = verify[list(clean_root.RELEASES).index(release)]
    machine.shell(f"cd dist; {line}; {compare}")

    folder = machine.path("/root/dist")
    package = built.only(folder, "*.deb")
    package.write_bytes(package.read_bytes() + b"\0")
    assert "FAILED" in machine.run("bash", "-c", f"cd /root/dist; {compare}", expect=1).stdout
    sums = (folder / "SHA256SUMS").read_text()
    (folder / "SHA256SUMS").write_text(sums.replace("0", "1", 1))
    assert machine.run("bash", "-c", f"cd /root/dist; {line}", expect=None).returncode != 0
    (folder / "SHA256SUMS").write_text(sums)
    machine.shell(f"cd dist; {line}")
    (folder / "signing-key.pgp").write_bytes(other)
    assert machine.run("bash", "-c", f"cd /root/dist; {line}", expect=None).returncode != 0


def test_without_a_key_nothing_of_an_older_signature_stays(tmp_path: Path) -> None:
    for name in ("requirements.txt", "vaultpki.deb", "SHA256SUMS.asc", "signing-key.pgp"):
        (tmp_path / name).touch()
    subprocess.run([CHECKOUT / "packages/sums", tmp_path], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"requirements.txt", "vaultpki.deb", "SHA256SUMS"}
