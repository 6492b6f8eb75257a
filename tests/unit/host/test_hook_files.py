"""Which files of a hook's command another user must not be able to change."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vaultpki.errors import StoreError
from vaultpki.host import hook_files
from vaultpki.host.hook_files import PATH
from vaultpki.model import Hook

STRANGER = 1234
Script = Callable[..., str]


@pytest.fixture
def ours(tmp_path: Path) -> Script:
    """Make a file of this user with this first line; return its path."""

    def make(first_line: str = "#!/bin/sh", name: str = "ours") -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{first_line}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def theirs(ours: Script) -> str:
    """A program of another user."""
    path = ours(name="theirs")
    os.chown(path, STRANGER, STRANGER)
    return path


def refused(argv: list[str], **options: object) -> str:
    """What is said of this command; empty if it may run."""
    try:
        hook_files.refuse(argv, path=PATH, **options)  # type: ignore[arg-type]
    except StoreError as error:
        return str(error)
    return ""


COMMANDS = [
    *(
        ["{}"],
        ["sh", "{}"],
        ["/bin/sh", "-e", "{}"],
        ["bash", "--", "{}"],
        ["sh", "-c", "{}"],
        ["sh", "-c", "exec {} x"],
    ),
    *(["sh", "-c", "true;{}&&x"], ["sh", "-c", '. "{}"'], ["sh", "-c", "cat<{}"], ["bash", "--rcfile={}", "-c", "x"]),
    *(
        ["env", "{}"],
        ["env", "A=1", "{}"],
        ["env", "LD_PRELOAD={}", "true"],
        ["env", "BASH_ENV={}", "bash", "-c", "true"],
    ),
    *(["nice", "-n", "5", "{}"], ["timeout", "5s", "{}"], ["nsenter", "-t", "1", "-m", "--", "{}"], ["setsid", "{}"]),
    *(["python3", "{}"], ["python3", "-I", "{}"], ["perl", "-w", "{}"], ["true", "{}"], ["true", "--file={}"]),
    *(["true", "-f{}"], ["true", "file={}"], ["true", "a,{},b"], ["true", "/proc/self/root{}"], ["true", "a:{}:b"]),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_file_of_another_user_is_refused_wherever_the_command_names_it(command: list[str], theirs: str) -> None:
    said = refused([word.replace("{}", theirs) for word in command])
    assert f"the file belongs to the user {STRANGER}, who could change its content" in said and "theirs: " in said


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_same_command_with_a_file_of_ours_may_run(command: list[str], ours: Script) -> None:
    assert refused([word.replace("{}", ours()) for word in command]) == ""


def test_a_relative_path_means_one_below_the_root_whence_ever_the_agent_was_started(
    theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(theirs).parent)
    assert refused(["sh", theirs[1:]]) != "" and refused(["sh", "theirs"]) == ""


@pytest.mark.parametrize(
    "line",
    [
        *("#!{}", "#! {}", "#!\t{} -x", "#!/bin/sh {}", "#!/usr/bin/env {}", "#!/usr/bin/env -S A=1 {} -u"),
        *("#!/usr/bin/env --split-string={}", "#!{}\r"),
    ],
)
@pytest.mark.parametrize("command", [["{}"], ["env", "{}"], ["sh", "-c", "{}"]], ids=" ".join)
def test_the_interpreter_of_a_script_is_looked_at(line: str, command: list[str], ours: Script, theirs: str) -> None:
    script = ours(line.replace("{}", theirs))
    if line.endswith("\r"):
        os.rename(theirs, f"{theirs}\r")
    assert str(STRANGER) in refused([word.replace("{}", script) for word in command])


def test_the_interpreter_of_an_interpreter_is_looked_at_as_far_as_the_kernel_goes(ours: Script, theirs: str) -> None:
    last = theirs
    for number in range(4):
        last = ours(f"#!{last}", f"script-{number}")
    assert str(STRANGER) in refused([last])
    for number in range(9):
        last = ours(f"#!{last if number else '/bin/sh'}", f"long-{number}")
    assert "its interpreter is a script of a script" in refused([last])
    # One that names itself is looked at once.
    assert refused([ours(f"#!{Path(theirs).parent}/circle", "circle")]) == ""


def test_programs_that_env_and_others_find_by_their_name(
    tmp_path: Path, ours: Script, theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    os.rename(theirs, tmp_path / "bin/reload")
    path = f"{tmp_path}/bin:{PATH}"
    for command in (
        ["reload"],
        ["env", "A=1", "reload"],
        ["sh", "-c", "true && reload"],
        [ours("#!/usr/bin/env reload")],
    ):
        with pytest.raises(StoreError, match=str(STRANGER)):
            hook_files.refuse(command, path=path)
    # A word is no program where nothing runs it.
    hook_files.refuse(["true", "reload"], path=path)


@pytest.mark.parametrize("spoil", ["folder", "link", "mode"])
def test_a_file_that_another_user_can_replace_is_refused(spoil: str, tmp_path: Path, ours: Script) -> None:
    script = Path(ours(name="folder/ours"))
    if spoil == "folder":
        os.chown(script.parent, STRANGER, STRANGER)
    elif spoil == "link":
        (tmp_path / "tmp").mkdir()
        (tmp_path / "tmp").chmod(0o1777)
        (tmp_path / "tmp/link").symlink_to(script)
        os.chown(tmp_path / "tmp/link", STRANGER, STRANGER, follow_symlinks=False)
        script = tmp_path / "tmp/link"
    else:
        script.chmod(0o757)
    assert refused(["sh", str(script)]).partition(": ")[0] in (str(script), str(script.parent))


def test_what_a_command_names_and_is_no_file_counts_for_nothing(tmp_path: Path, ours: Script) -> None:
    os.chown(tmp_path, STRANGER, STRANGER)
    for words in (
        [str(tmp_path)],
        [f"{tmp_path}/made-by-the-command"],
        ["-x", "", "\n", "a" * 5000, "https://example.com/etc/passwd", "/dev/null", "é"],
    ):
        assert refused(["true", *words]) == "", words


@pytest.mark.parametrize(
    "command", [["sh", "{}"], ["env", "A=1", "{}"], ["timeout", "5", "{}"], ["python3.11", "-I", "{}"]]
)
def test_a_script_that_is_missing_is_refused_since_another_could_make_it_meanwhile(
    command: list[str], tmp_path: Path
) -> None:
    words = [word.replace("{}", f"{tmp_path}/none") for word in command]
    assert refused(words) == f"{tmp_path}/none: there is no such file; correct the hook in agent.yaml, or the script"


def test_neither_a_missing_interpreter_nor_one_that_cannot_be_executed_is_left_to_its_owner(
    ours: Script, theirs: str
) -> None:
    script = ours(f"#!{theirs}")
    os.chmod(theirs, 0o644)
    assert str(STRANGER) in refused([script])
    os.unlink(theirs)
    assert refused([script]).startswith(f"{theirs}: there is no such file")


def test_what_such_programs_make_may_be_missing(tmp_path: Path) -> None:
    for words in (["timeout", "5", "touch", f"{tmp_path}/new"], ["sh", "-c", f"date > {tmp_path}/new"]):
        assert refused(words) == ""


def test_certificates_of_this_node_may_have_another_owner(theirs: str, ours: Script) -> None:
    folder = str(Path(theirs).parent)
    assert refused(["cp", theirs, "/srv"], own=[folder]) == ""
    assert refused([theirs], own=[folder]) != "" and refused(["cp", theirs, "/srv"], own=[f"{folder}/the"]) != ""
    assert refused(["cp", f"{folder}/x/../../{Path(folder).name}/theirs"], own=[f"{folder}/x"]) != ""


def test_a_hook_that_may_not_run_is_named_with_its_place(theirs: str) -> None:
    place = "/etc/vaultpki/agent.yaml:17: hooks.etcd-ca[0]"
    said = hook_files.why_refused(Hook("command", ("sh", theirs), place=place), path=PATH)
    assert said is not None and said.startswith(f"{place}: {theirs}: the file belongs to the user {STRANGER}")
    for hook in (Hook("command", ("true",)), Hook("systemd", name="kubelet"), Hook("static_pod", name="etcd")):
        assert hook_files.why_refused(hook, path=PATH) is None
