"""The root's SHA-256 in the text of cluster.yaml: one line, and every other byte stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vaultpki import assets
from vaultpki.cli import pin
from vaultpki.config.pinned import with_pin
from vaultpki.errors import SpecError

ROOT = "4f" * 32


@pytest.mark.parametrize(
    "text",
    [
        assets.starter(),
        "cluster: p # mine\n",
        "cluster: p",
        "cluster: p\r\nca:\r\n  key: ec-p256 # x\r\n",
        "{cluster: p}\n",
        "cluster: p\nca: {}\n",
        "cluster: p\nca: {key: ec-p256} # x\nlayout: kubeadm\n",
    ],
)
@pytest.mark.parametrize("root", [ROOT, "1" * 64, "1" * 61 + "e99"])
def test_one_line_is_added(text: str, root: str) -> None:
    made = with_pin(text.encode(), root, "cluster.yaml").decode()
    before = yaml.safe_load(text)
    assert yaml.safe_load(made) == {**before, "ca": {**before.get("ca", {}), "root_sha256": root}}
    assert made.count("\n") <= text.count("\n") + 1 + (not text.endswith("\n"))
    for line in text.splitlines():
        assert line in made or line.startswith(("ca: {", "{"))
    assert with_pin(made.encode(), root, "cluster.yaml") == made.encode()


@pytest.mark.parametrize("text", [f"ca: {{root_sha256: {'ab' * 32}}}", "ca:\n", "cluster: p\n...\n"])
def test_what_cannot_be_pinned_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        with_pin(text.encode(), ROOT, "cluster.yaml")


def test_the_file_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("cluster: p\n")
    (tmp_path / "real.yaml").chmod(0o640)
    (tmp_path / "cluster.yaml").symlink_to("real.yaml")
    assert pin.write(str(tmp_path / "cluster.yaml"), ROOT) and not pin.write(str(tmp_path / "cluster.yaml"), ROOT)
    assert (tmp_path / "cluster.yaml").is_symlink() and ROOT in (tmp_path / "real.yaml").read_text()
    assert (tmp_path / "real.yaml").stat().st_mode & 0o777 == 0o640
