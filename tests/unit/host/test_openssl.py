"""What `openssl verify` says, whatever the clock of the machine does meanwhile, and however long it takes."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from vaultpki.host import openssl

NOW = datetime.now(UTC)


def as_openssl(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "openssl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(openssl, "program", lambda: str(program))


def test_a_clock_that_jumps_while_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        # libfaketime does this where its offset has changed.
        raise OSError(22, "Invalid argument")

    file = tmp_path / "leaf.crt"
    as_openssl(tmp_path, monkeypatch, f"echo '{file}: OK'; exec >&- 2>&-; exec sleep 0.05")
    # Nobody else's: a thread that another test has left would die of it, and its death fails whatever test runs then.
    monkeypatch.setattr(subprocess, "time", SimpleNamespace(**{**vars(time), "sleep": sleep}))
    assert openssl.verify([file], [], trusted=file, now=NOW) == {file: ""}


def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "leaf.crt"
    as_openssl(tmp_path, monkeypatch, f"echo '{file}: OK'; exec sleep 60")
    monkeypatch.setattr(openssl, "_SECONDS", 0.05)
    (said,) = openssl.verify([file], [], trusted=file, now=NOW).values()
    assert said == "openssl was killed, or timed out after 0.05 s"
