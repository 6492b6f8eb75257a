"""What shells offer from cluster.yaml, and what is read from the environment."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from vaultpki.assets import starter
from vaultpki.cli import usage, verify
from vaultpki.cli import vaultpki as program
from vaultpki.host import systemd


def offered(*words: str, begun: str = "") -> list[str]:
    """What a shell offers behind the words, where the last one begins so."""
    completer = ShellComplete(program, {}, "vaultpki", "_VAULTPKI_COMPLETE")
    return [item.value for item in completer.get_completions(list(words), begun)]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster.yaml beside the working directory, in which there is none; no server is named."""
    monkeypatch.chdir(tmp_path)
    for name in ("VAULT_ADDR", "VAULTPKI_FILE", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "clusters" / "prod.yaml"
    path.parent.mkdir()
    path.write_text(starter())
    return path


CAS = ["root", "kubernetes", "kubelet", "etcd", "front-proxy"]


def test_names_come_from_the_cluster_that_the_line_names(file: Path) -> None:
    behind = ("-f", str(file))
    nodes = offered("lock", *behind)
    assert "cp-1" in nodes
    for words in (("unlock",), ("unenroll",), ("revoke",), ("enroll",), ("kubeadm", "config")):
        assert offered(*words, *behind) == nodes, words
    assert offered("lock", *behind, begun="cp-") == [name for name in nodes if name.startswith("cp-")]
    assert offered("ca", "continue", *behind, "--without") == nodes
    assert [name for name in offered("ca", "rotate", *behind) if not name.startswith("service")] == CAS
    assert offered("ca", "rotate", *behind, begun="et") == ["etcd"]
    assert offered("issue", *behind) == ["admin", "super-admin"]


def test_without_a_spec_that_can_be_read_nothing_is_offered(file: Path) -> None:
    assert offered("lock") == offered("ca", "rotate") == []
    file.write_text("a: [")
    assert offered("lock", "-f", str(file)) == []


def test_templates_are_offered() -> None:
    assert offered("template") == [*systemd.TEMPLATES]


def test_the_spec_is_named_by_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULTPKI_FILE", str(file))
    assert "cp-1" in offered("lock")
    assert CliRunner().invoke(program, ["policy", "viewer"]).exit_code == 0
    ran = CliRunner().invoke(program, ["policy", "viewer", "-f", "other.yaml"])
    assert "other.yaml" in str(ran.exception)
    for words in (["plan"], ["show"]):
        assert "VAULTPKI_FILE" in CliRunner().invoke(program, [*words, "--help"]).output


ADOPT = ["adopt", "status"]
LIVE = ["verify", "--live"]


@pytest.mark.parametrize("words", [ADOPT, LIVE, ["adopt", "inventory"]])
def test_the_kubeconfig_is_named_by_the_environment(
    words: list[str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULTPKI_FILE", str(file))
    missing = CliRunner().invoke(program, words, standalone_mode=False).exception
    assert isinstance(missing, click.UsageError) and "--kubeconfig" in usage.sentence(missing)
    monkeypatch.setenv("KUBECONFIG", "gone.conf")
    assert "gone.conf" in str(CliRunner().invoke(program, words, standalone_mode=False).exception)
    monkeypatch.setenv("KUBECONFIG", "one:two")
    several = CliRunner().invoke(program, words, standalone_mode=False).exception
    assert isinstance(several, click.UsageError)
    assert usage.sentence(several) == "vaultpki: KUBECONFIG names several files; pass one of them by --kubeconfig FILE"
    with_option = CliRunner().invoke(program, [*words, "--kubeconfig", "a:b"], standalone_mode=False).exception
    assert not isinstance(with_option, click.UsageError) and "a:b" in str(with_option)
    assert "KUBECONFIG" in CliRunner().invoke(program, [*words, "--help"]).output


def test_files_are_verified_without_the_kubeconfig_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "one:two")
    ran = CliRunner().invoke(verify.verify_command, ["-f", "gone.yaml", "--dir", str(tmp_path)])
    assert "gone.yaml" in str(ran.exception)


def test_a_command_that_is_printed_reads_the_same_file_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("VAULTPKI_FILE", "prod.yaml")
    with program.make_context("vaultpki", ["plan"], resilient_parsing=True) as context:
        plan = program.get_command(context, "plan")
    assert plan is not None
    assert plan.make_context("plan", ["-f", "cluster.yaml"]).params["file"].is_absolute()
    assert plan.make_context("plan", []).params["file"] == Path("prod.yaml")
