"""`enroll --with-spec`: cluster.yaml and its files, under the same names, and never a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from vaultpki.cli import spec_copy
from vaultpki.errors import SpecError, StoreError

SPEC = 'cluster: c\nvault: {ca_file: tls/ca.crt}\ntemplates: {audit: {template: a.tmpl, file: "/x"}}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    own = tmp_path / "own"
    (own / "tls").mkdir(parents=True)
    (own / "tls" / "ca.crt").write_text("a certificate\n")
    (own / "a.tmpl").write_text("text\n")
    (own / "cluster.yaml").write_text(SPEC)
    return own / "cluster.yaml"


def test_each_file_keeps_its_name_and_a_different_one_is_not_overwritten(file: Path, tmp_path: Path) -> None:
    there = tmp_path / "joins"
    for _ in range(2):
        made = spec_copy.write_spec(file, there)
        assert [str(path.relative_to(there)) for path in made] == ["cluster.yaml", "tls/ca.crt", "a.tmpl"]
    for path in made:
        assert path.read_bytes() == (file.parent / path.relative_to(there)).read_bytes()
        assert path.stat().st_mode & 0o777 == 0o644
    (there / "a.tmpl").write_text("other\n")
    with pytest.raises(StoreError, match=r"a\.tmpl is there already and differs"):
        spec_copy.write_spec(file, there)
    spec_copy.write_spec(file, file.parent)


def test_no_secret_and_nothing_from_elsewhere_is_copied(file: Path, tmp_path: Path) -> None:
    there = tmp_path / "joins"
    (file.parent / "a.tmpl").write_text("hvs." + "A" * 90 + "\n")
    with pytest.raises(SpecError, match="contains a token or a private key"):
        spec_copy.write_spec(file, there)
    file.write_text(SPEC.replace("a.tmpl", "../a.tmpl"))
    with pytest.raises(SpecError, match="is not below the folder"):
        spec_copy.write_spec(file, there)
    assert not there.exists()
