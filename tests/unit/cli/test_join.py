"""`join`, `template`, and the options of `agent` that came before them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vaultpki.cli import join, vaultpki
from vaultpki.host import systemd


def ran(*words: str | Path) -> Result:
    return CliRunner().invoke(vaultpki, [*map(str, words)], standalone_mode=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("join",), "name the join file that `vaultpki enroll` wrote for this node"),
        (("join", "--unit", "--dir", "x"), "--dir goes with a join file"),
        (("join", "--unit", "--hooks", "static-pods"), "--hooks goes with a join file"),
        (("join", "--unit", "--adopt"), "--adopt goes with a join file"),
        (("template", "--docs", "https://docs.example.com/"), "--docs goes with the name of a template"),
        (("agent", "--hooks", "static-pods"), "--hooks goes with `vaultpki join FILE`"),
        (("agent", "--dir", "x"), "--dir goes with `vaultpki join FILE`"),
        (("agent", "--kubeconfig-dir", "x"), "--kubeconfig-dir goes with `vaultpki join FILE`"),
        (("agent", "--kubelet-dir", "x"), "--kubelet-dir goes with `vaultpki join FILE`"),
        (("agent", "--docs", "https://docs.example.com/"), "--docs goes with --print-unit"),
    ],
)
def test_options_that_need_another(words: tuple[str, ...], said: str) -> None:
    done = ran(*words)
    assert done.exit_code == 2 and said in done.stderr


def test_templates_are_listed_and_each_is_printed() -> None:
    names = ran("template").stdout.splitlines()
    assert names == [*systemd.SYSTEMD_UNITS, systemd.SIGNER_UNIT, *systemd.RECIPES]
    for name in systemd.RECIPES:
        assert ran("template", name).stdout == systemd.recipe(name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("--print-unit", "alerts.yaml"), "vaultpki template alerts.yaml"),
        (("--join", "nowhere.json", "--once"), "vaultpki join nowhere.json"),
        (("--install-unit",), "vaultpki join --unit"),
    ],
)
def test_an_old_option_names_the_new_command_once(old: tuple[str, ...], new: str, tmp_path: Path) -> None:
    done = ran("agent", "-c", tmp_path / "agent.yaml", *old)
    assert done.stderr.count(f"use `{new}`") == 1


def test_old_options_are_not_shown() -> None:
    said = ran("agent", "--help").stdout
    assert not [each for each in ("--join", "--dir", "--hooks", "--install-unit", "--print-unit") if each in said]


@pytest.mark.parametrize("there", [False, True])
def test_the_service_is_started_where_there_is_systemd(
    there: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(systemd, "start_unit", lambda unit: there)
    join._start_unit()
    assert ("systemctl enable --now vaultpki-agent" in capsys.readouterr().out) is not there
