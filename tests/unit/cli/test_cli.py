"""The command line as a person meets it before any command runs: names, versions, suggestions, tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.vault.applied_cluster import vaultpki
from vaultpki import __version__
from vaultpki.cli import _COMMANDS
from vaultpki.cli.demo import table_lines


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version(option: str) -> None:
    assert vaultpki(option).stdout == f"vaultpki, version {__version__}\n"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("plna", "there is no command 'plna'; did you mean plan?"),
        ("Apply", "there is no command 'Apply'; did you mean apply?"),
        ("unenrol", "there is no command 'unenrol'; did you mean unenroll?"),
        ("xyzzy", "there is no command 'xyzzy'; `vaultpki --help` lists them"),
        ("\x1b[31m", "there is no command '\\x1b[31m'; `vaultpki --help` lists them"),
        ("", "there is no command ''; `vaultpki --help` lists them"),
    ],
)
def test_a_command_that_does_not_exist(word: str, said: str) -> None:
    for further in ((), ("--help",), ("-f", "cluster.yaml")):
        ran = vaultpki(word, *further, expect=2)
        assert (ran.stdout, ran.stderr) == ("", f"vaultpki: {said}\n")


def test_an_option_that_does_not_exist() -> None:
    ran = vaultpki("plan", "--fiel", "x", expect=2)
    assert "--file" in ran.stderr and "Traceback" not in ran.stderr
    assert vaultpki("--fiel", expect=2).stderr.startswith("vaultpki: there is no option '--fiel'; ")


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH on which `vaultpki` is this one, as an installed console script is."""
    script = tmp_path / "vaultpki"
    script.write_text(f"#!{sys.executable}\nfrom vaultpki.cli import main\nmain()\n")
    script.chmod(0o755)
    return f"{tmp_path}:/usr/bin:/bin"


def completed(path: str, *words: str) -> list[str]:
    """What Bash offers behind the words, the last of which is begun, once it has read the script."""
    line = " ".join(f"'{word}'" for word in words)
    program = (
        "set -euo pipefail\nsource <(vaultpki completion bash)\ncomplete -p vaultpki >/dev/null\n"
        f"COMP_WORDS=({line}) COMP_CWORD={len(words) - 1}\n"
        '_vaultpki_completion vaultpki\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    ran = subprocess.run(
        ["bash", "--norc", "-c", program],
        env={"PATH": path, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    return ran.stdout.split()


def test_bash_completes_commands_options_and_words(path: str) -> None:
    assert completed(path, "vaultpki", "pl") == ["plan"]
    assert completed(path, "vaultpki", "") == list(_COMMANDS)
    assert completed(path, "vaultpki", "plan", "--det") == ["--detailed-exitcode"]
    assert completed(path, "vaultpki", "policy", "op") == ["operator"]
    assert completed(path, "vaultpki", "completion", "f") == ["fish"]
    assert completed(path, "vaultpki", "show", "etcd-") == ["etcd-server", "etcd-peer", "etcd-healthcheck-client"]


@pytest.mark.parametrize(
    ("shell", "words", "offered"),
    [
        ("zsh", "vaultpki pl", "plain\nplan\n"),
        ("fish", "vaultpki pl", "plain,plan\t"),
        ("bash", "vaultpki pl", "plain,plan"),
    ],
)
def test_each_shell_has_its_script_and_is_answered(shell: str, words: str, offered: str, path: str) -> None:
    script = vaultpki("completion", shell).stdout
    assert f"_VAULTPKI_COMPLETE={shell}_complete" in script and "%(" not in script
    ran = vaultpki(
        env={
            "_VAULTPKI_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": "pl" if shell == "fish" else "1",
        }
    )
    assert ran.stdout.startswith(offered) and ran.stderr == "", ran


def test_a_shell_that_is_not_known() -> None:
    assert "'bash', 'zsh', 'fish'" in vaultpki("completion", "csh", expect=2).stderr


LONG = "n" * 200


@pytest.mark.parametrize("node", ["cp-1", "worker-with-a-long-name.example.com", LONG])
def test_a_table_fits_whatever_nodes_are_called(node: str) -> None:
    entries = [
        (("From", "To", "Subject"), ("", "Until (UTC)", "Certificate")),
        (
            ("kubelet", "kube-apiserver", f"CN=system:node:{node},O=system:nodes"),
            ("", "2026-12-24 17:28", f"nodes/{node}/pki/kubelet-client.crt"),
        ),
    ]
    lines = table_lines(entries)
    assert len(lines) == 4 and max(map(len, lines)) <= 100
    # The ends tell who it is and which file.
    assert "CN=system:node:" in lines[2] and lines[2].endswith("O=system:nodes")
    assert lines[3].endswith("/pki/kubelet-client.crt") and " nodes/" in lines[3]
    assert ("..." in lines[2]) == (node == LONG)
    # Both lines of an entry share their columns.
    assert len({line.index(word) for line, word in zip(lines, ("To", "Until", "kube-api", "2026"), strict=True)}) == 1


def test_a_table_of_long_words_everywhere_fits() -> None:
    lines = table_lines([(("a" * 300,) * 3, ("b" * 300,) * 3), (("c" * 300,) * 3, ("d",) * 3)])
    assert max(map(len, lines)) <= 100 and all("..." in line for line in lines[:3])
