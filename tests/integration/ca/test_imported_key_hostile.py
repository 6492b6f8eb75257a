"""`ca import --key` where something is wrong: with the key, its file, its passphrase, the server, or in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from helpers.faults.cutting_proxy import proxied
from helpers.faults.drawn import Drawn
from helpers.faults.hostile_server import Guest
from helpers.faults.kill_points import NEVER, Events, command, died
from helpers.faults.trusted_proxy import relaying
from helpers.former_ca import PASSPHRASE, FormerCa, openssl
from helpers.terminals import on_terminal
from helpers.vault.applied_cluster import environment, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster
from integration.ca.test_imported_key import bring, importer, listed, mount, there, whole


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> FormerCa:
    return FormerCa.made(tmp_path_factory.mktemp("former"))


@pytest.fixture(scope="module")
def forms(former: FormerCa) -> Mapping[str, Path]:
    return former.forms()


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AuditedCluster:
    return clusters.applied()


def given(
    cluster: AuditedCluster, *words: str | Path, stdin: bytes = b"", fds: tuple[int, ...] = ()
) -> subprocess.CompletedProcess[bytes]:
    """The command as a process of its own, with something on its standard input; it has no terminal."""
    return subprocess.run(
        [sys.executable, "-m", "vaultpki", "ca", "import", "-f", str(cluster.file), *map(str, words)],
        env=environment(importer(cluster)),
        input=stdin,
        capture_output=True,
        check=False,
        timeout=120,
        pass_fds=fds,
        start_new_session=True,
    )


def secret(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


# Forms of a key


def imported_and_removed(cluster: AuditedCluster, former: FormerCa) -> None:
    whole(cluster, former)
    assert cluster.server.api("DELETE", f"sys/mounts/{mount(cluster)}").status == 204


@pytest.mark.on_node
def test_each_way_to_give_a_key(cluster: AuditedCluster, former: FormerCa, forms: Mapping[str, Path]) -> None:
    """As files, on standard input, where it lies on no disk here, and with a passphrase from wherever."""
    bring(cluster, "--key", forms["pkcs1-der"], former.crt)
    imported_and_removed(cluster, former)
    ran = given(cluster, "--key", "-", former.crt, stdin=former.key.read_bytes())
    assert ran.returncode == 0, ran.stderr
    imported_and_removed(cluster, former)
    both = given(cluster, "--key", "-", "--passphrase-file", "-", former.crt)
    assert both.returncode == 2 and b"cannot both be standard input" in both.stderr

    words = ("--key", forms["encrypted-der"], former.crt)
    assert b"there is no terminal to ask" in given(cluster, *words, stdin=PASSPHRASE.encode()).stderr
    wrong, right = secret(cluster.folder / "wrong", "not this\n"), secret(cluster.folder / "right", f"{PASSPHRASE}\n")
    ran_wrong = bring(cluster, *words, "--passphrase-file", wrong, expect=1)
    assert "does not decrypt: the passphrase is wrong" in ran_wrong.stderr
    assert b"there is no passphrase" in given(cluster, *words, "--passphrase-file", "-", stdin=b"\n").stderr
    assert not there(cluster)
    ran = given(cluster, *words, "--passphrase-file", "-", stdin=f"{PASSPHRASE}\n".encode())
    assert ran.returncode == 0, ran.stderr
    imported_and_removed(cluster, former)
    for form in ("encrypted", "encrypted-pkcs1"):
        bring(cluster, "--key", forms[form], "--passphrase-file", right, former.crt)
        imported_and_removed(cluster, former)
    # By a descriptor.
    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE.encode())
    os.close(writing)
    ran = given(cluster, *words, "--passphrase-file", f"/dev/fd/{reading}", fds=(reading,))
    os.close(reading)
    assert ran.returncode == 0, ran.stderr
    imported_and_removed(cluster, former)
    a_passphrase_on_a_terminal_is_not_shown(cluster, former, forms)


def a_passphrase_on_a_terminal_is_not_shown(
    cluster: AuditedCluster, former: FormerCa, forms: Mapping[str, Path]
) -> None:
    words = ("ca", "import", "-f", cluster.file, "--key", forms["encrypted"], former.crt)
    # A terminal of its own: getpass opens /dev/tty.
    with on_terminal(*words, env=importer(cluster), columns=200) as shown:
        shown.until("Passphrase of")
        os.write(shown.leader, b"not this one\n")
        # What is typed before the second question is thrown away.
        shown.until("try again.\r\nPassphrase of")
        os.write(shown.leader, f"{PASSPHRASE}\n".encode())
        assert shown.ended() == 0, shown.shown
    assert PASSPHRASE not in shown.shown and "not this one" not in shown.shown
    whole(cluster, former)


# Keys and files that are refused before anything is sent; tests/unit/outside/test_imported_key.py has what is no key


Made = tuple[Path, Path]


def weak(kind: str) -> Callable[[FormerCa, Path], Made]:
    def make(_: FormerCa, folder: Path) -> Made:
        made = FormerCa.made(folder, kind=kind)
        return made.key, made.crt

    return make


def no_ca(former: FormerCa, folder: Path) -> Made:
    words = ("req", "-x509", "-key", former.key, "-subj", "/CN=kubernetes", "-addext", "basicConstraints=CA:FALSE")
    openssl(*words, "-out", folder / "no-ca.crt")
    return former.key, folder / "no-ca.crt"


def no_signing(_: FormerCa, folder: Path) -> Made:
    made = FormerCa.made(folder, kind="ec:P-256", usage="keyUsage=critical,digitalSignature")
    return made.key, made.crt


def readable_by_others(former: FormerCa, folder: Path) -> Made:
    key = secret(folder / "ca.key", former.key.read_text())
    key.chmod(0o640)
    return key, former.crt


def pipe(former: FormerCa, folder: Path) -> Made:
    os.mkfifo(folder / "pipe", 0o600)
    return folder / "pipe", former.crt


def unknown_name(_: FormerCa, folder: Path) -> Made:
    made = FormerCa.made(folder, common_name="Example Corp CA", kind="ec:P-256")
    return made.key, made.crt


REFUSED: dict[str, Callable[[FormerCa, Path], Made]] = {
    "an RSA key of 1024 bits, which is too weak": weak("rsa:1024"),
    "a key on the curve secp224r1": weak("ec:P-224"),
    "a key on the curve secp256k1": weak("ec:secp256k1"),
    "a key on the curve brainpoolP256r1": weak("ec:brainpoolP256r1"),
    "a key of a kind that no server imports": weak("ed448"),
    "for RSASSA-PSS alone": weak("rsa-pss"),
    "the key is not that of CN=kubernetes": lambda former, folder: (weak("ec:P-256")(former, folder)[0], former.crt),
    "it is not a CA": no_ca,
    "its key usage does not allow it to sign certificates": no_signing,
    "others can read it (mode 0640)": readable_by_others,
    "it is a FIFO, a socket or a device": pipe,
    "it is a FIFO, a socket or a device: ": lambda former, _: (Path("/dev/zero"), former.crt),
    "holds no private key, but a certificate": lambda former, folder: (
        secret(folder / "ca.key", former.crt.read_text()),
        former.crt,
    ),
    "say which by --domain": unknown_name,
}


@pytest.mark.on_node
def test_what_is_refused_is_never_sent(cluster: AuditedCluster, former: FormerCa, tmp_path: Path) -> None:
    since = cluster.server.audit_position()
    for number, (words, make) in enumerate(REFUSED.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        key, crt = make(former, folder)
        ran = bring(cluster, "--key", key, crt, expect=1)
        assert words.removesuffix(": ") in ran.stderr, ran.stderr
        assert "PRIVATE" not in ran.stderr and "Traceback" not in ran.stderr
    # Plain HTTP to another machine, whatever the options say.
    env = {**importer(cluster), "VAULT_ADDR": "http://192.0.2.1:8200"}
    words_ = ("ca", "import", "-f", cluster.file, "--allow-http", "--key", former.key, former.crt)
    assert "is sent over TLS only" in vaultpki(*words_, env=env, expect=1).stderr
    assert cluster.server.writes(since) == []
    a_bundle_is_no_trouble_and_names_are(cluster, former, tmp_path)


def a_bundle_is_no_trouble_and_names_are(cluster: AuditedCluster, former: FormerCa, folder: Path) -> None:
    """A domain is named where the name says nothing, and no other CA has the name of one of ours."""
    corp = FormerCa.made(folder / "corp", common_name="Example Corp CA", kind="ec:P-521")
    ran = bring(cluster, "--key", corp.key, "--domain", "etcd", corp.crt)
    assert "no node trusts it: name its file below ca.also_trust.etcd" in ran.stdout
    whole(cluster, corp, "etcd")
    other = FormerCa.made(folder / "other", common_name="etcd-ca", kind="ed25519")
    assert "has another CA already" in bring(cluster, "--key", other.key, other.crt, expect=1).stderr
    whole(cluster, corp, "etcd")
    bundle = folder / "bundle.crt"
    bundle.write_text(other.crt.read_text() + former.crt.read_text())
    said = bring(cluster, "--key", former.key, bundle).stdout
    assert "not sent, since the key is not theirs: CN=etcd-ca" in said
    whole(cluster, former)
    own = FormerCa.made(folder / "own", common_name=f"{cluster.name} etcd CA", kind="ec:P-256")
    words = ("--domain", "front-proxy", "--key", own.key, own.crt)
    assert "is the name of a CA of this cluster" in bring(cluster, *words, expect=1).stderr


# A server that refuses, lies or is cut off


def nothing_left(cluster: AuditedCluster) -> None:
    assert not there(cluster)


def test_what_a_server_keeps_of_a_refused_import_is_removed(
    cluster: AuditedCluster, former: FormerCa, tmp_path: Path
) -> None:
    def refuse(guest: Guest, path: str, status: int, body: bytes) -> None:
        # The server has imported all of it, and the answer says that it refused, as Vault keeps a key.
        if path.endswith("/issuers/import/bundle"):
            status, body = 400, json.dumps({"errors": [f"no: {former.key.read_text()}"]}).encode()
        guest.answer(status, body)

    def lie(guest: Guest, path: str, status: int, body: bytes) -> None:
        if path.endswith("/issuers/import/bundle"):
            document = json.loads(body)
            document["data"]["mapping"] = dict.fromkeys(document["data"]["mapping"], "")
            body = json.dumps(document).encode()
        guest.answer(status, body)

    for say, said in (
        (refuse, "nothing of it was kept on the server"),
        (lie, "made something else than the CA that was sent"),
    ):
        with relaying(cluster.server, tmp_path, say=say) as relay:
            env = {**importer(cluster), **relay.environment}
            ran = vaultpki("ca", "import", "-f", cluster.file, "--key", former.key, former.crt, env=env, expect=1)
        assert said in ran.stderr and former.key.read_text().splitlines()[1] not in ran.stderr
        nothing_left(cluster)
    # A key that may be on the server is told.
    with proxied(cluster.server) as proxy:
        proxy.arm_at("/issuers/import/bundle")
        ca_file = secret(cluster.folder / "proxy.pem", proxy.ca_pem)
        env = {**importer(cluster), "VAULT_ADDR": proxy.address, "VAULT_CACERT": str(ca_file)}
        ran = vaultpki("ca", "import", "-f", cluster.file, "--key", former.key, former.crt, env=env, expect=1)
    assert f"the key may be on {mount(cluster)}" in ran.stderr
    assert len(listed(cluster, "keys")) == 1
    bring(cluster, "--key", former.key, former.crt)
    whole(cluster, former)
    what_a_stranger_left_on_the_mount_goes_and_another_mount_stays(cluster, former, tmp_path)


def what_a_stranger_left_on_the_mount_goes_and_another_mount_stays(
    cluster: AuditedCluster, former: FormerCa, tmp_path: Path
) -> None:
    api, other = cluster.server.api, FormerCa.made(tmp_path)
    api(
        "POST", f"{mount(cluster)}/issuers/import/bundle", {"pem_bundle": other.crt.read_text() + other.key.read_text()}
    )
    assert len(listed(cluster, "issuers")) == 2
    bring(cluster, "--key", former.key, former.crt)
    whole(cluster, former)
    # Another's mount at this path is left alone, by every command.
    api("POST", f"sys/mounts/{mount(cluster, 'etcd')}", {"type": "pki"})
    etcd = FormerCa.made(tmp_path / "etcd", common_name="etcd-ca")
    for words in (("--key", etcd.key, etcd.crt), ("--yes", "--remove", "etcd")):
        assert "was not made by vaultpki" in bring(cluster, *words, expect=1).stderr
    cluster.apply()
    assert there(cluster, "etcd")


METHODS = ("GET", "LIST", "POST", "PATCH", "DELETE")


@pytest.mark.on_node
@pytest.mark.parametrize(
    "size", [pytest.param(4, id="some"), pytest.param(10**6, id="each", marks=pytest.mark.exhaustive)]
)
@pytest.mark.timeout(900)
def test_killed_between_any_two_requests_an_import_and_a_removal_are_finished_by_the_same_command(
    cluster: AuditedCluster, former: FormerCa, monkeypatch: pytest.MonkeyPatch, drawn: Drawn, size: int
) -> None:
    for name, value in importer(cluster).items():
        monkeypatch.setenv(name, value)
    imports, removes = ("--key", former.key, former.crt), ("--yes", "--remove", "kubernetes")

    def run(words: Sequence[str | Path], at: int) -> int:
        """How many events the command had; it is killed at number `at`."""
        events = Events()
        dead = died(command("ca", "import", "-f", cluster.file, *words), at, methods=METHODS, events=events)
        assert dead is (at != NEVER)
        return events.past

    count = run(imports, NEVER), run(removes, NEVER)
    assert count[0] > 15 and count[1] > 10
    for at in drawn.some(range(count[0]), size):
        run(imports, at)
        usages = [cluster.read(f"{mount(cluster)}/issuer/{id_}") for id_ in listed(cluster, "issuers")]
        assert all(each["usage"] == "read-only" or not each["issuer_name"] for each in usages)
        bring(cluster, *imports)
        whole(cluster, former)
        cluster.server.api("DELETE", f"sys/mounts/{mount(cluster)}")
    for at in drawn.some(range(count[1]), size):
        bring(cluster, *imports)
        run(removes, at)
        bring(cluster, *removes)
        nothing_left(cluster)
