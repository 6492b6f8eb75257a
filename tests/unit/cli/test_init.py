"""`vaultpki init`: what it writes loads, it asks only at a terminal, and it overwrites nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vaultpki.cli import init
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError, StoreError


def run(path: Path, *options: str, said: str | None = None) -> Result:
    return CliRunner().invoke(init.init_command, ["-o", str(path), *options], input=said)


def test_options_make_the_file_and_the_rest_is_the_examples(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    ran = run(path, "--layout", "kubeadm", "--cluster", "lab", "--node", "a=10.1.0.1", "--node", "b=10.1.0.2")
    assert ran.exit_code == 0, ran.output
    cluster = load_cluster(path)
    assert (cluster.name, cluster.layout.value, [node.name for node in cluster.nodes]) == ("lab", "kubeadm", ["a", "b"])
    lines = ran.output.splitlines()
    at = lines.index("What cannot be changed later:")
    assert [line.split(":")[0] for line in lines[at + 1 : at + 4]] == [
        "  layout",
        "  cluster, prefix, vault.namespace",
        "  ca.root",
    ]
    assert lines[-1] == f"  vaultpki plan -f {path}"


def test_a_terminal_is_asked_and_a_wrong_answer_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "terminal", lambda: True)
    answers = ["kubeadm", "Lab", "lab", "a=10.1.0.1:control-plane", "b=x", "b=10.1.0.2", "", "", "external", "r.pem"]
    ran = run(tmp_path / "cluster.yaml", said="".join(f"{each}\n" for each in answers))
    assert ran.exit_code == 0, ran.output
    assert "Once one has ROLES, those without are workers." in ran.output
    text = (tmp_path / "cluster.yaml").read_text()
    assert "cluster: lab " in text and "endpoint: https://10.1.0.1:6443 " in text and "root_file: r.pem " in text
    assert "into r.pem beside it" in ran.output


def test_nothing_wrong_is_written_and_nothing_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    assert isinstance(run(path, "--node", "a=10.1.0.1", "--node", "b=10.1.0.1").exception, SpecError)
    assert run(path, "--root", "vault", "--root-file", "x.pem").exit_code == 2 and not path.exists()
    path.write_text("mine")
    assert isinstance(run(path).exception, StoreError) and path.read_text() == "mine"
