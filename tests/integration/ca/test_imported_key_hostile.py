"""`ca import --key` where something is wrong: with the key, its file, its passphrase, the server, or in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from helpers.faults.cutting_proxy import proxied
from helpers.faults.hostile_server import Guest
from helpers.faults.kill_points import command, died
from helpers.faults.trusted_proxy import relaying
from helpers.former_ca import PASSPHRASE, FormerCa, openssl
from helpers.terminals import on_terminal
from helpers.vault.applied_cluster import AppliedCluster, environment, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from integration.ca.test_imported_key import bring, importer, listed, mount, there, whole


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> FormerCa:
    return FormerCa.made(tmp_path_factory.mktemp("former"))


@pytest.fixture(scope="module")
def forms(former: FormerCa) -> Mapping[str, Path]:
    return former.forms()


@pytest.fixture(scope="module")
def shared(shared_clusters: ClusterFactory) -> AppliedCluster:
    """A cluster in which nothing may be imported."""
    return shared_clusters.applied()


@pytest.fixture
def cluster(clusters: ClusterFactory) -> AppliedCluster:
    return clusters.applied()


def given(
    cluster: AppliedCluster, *words: str | Path, stdin: bytes = b"", fds: tuple[int, ...] = ()
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


@pytest.mark.parametrize("form", ["pkcs8", "pkcs1", "pkcs1-der", "pkcs8-der"])
def test_each_form_is_imported(cluster: AppliedCluster, former: FormerCa, forms: Mapping[str, Path], form: str) -> None:
    bring(cluster, "--key", forms[form], former.crt)
    whole(cluster, former)


@pytest.mark.parametrize("form", ["encrypted", "encrypted-der", "encrypted-pkcs1"])
def test_an_encrypted_key(
    cluster: AppliedCluster, former: FormerCa, forms: Mapping[str, Path], form: str, tmp_path: Path
) -> None:
    words = ("--key", forms[form], former.crt)
    assert b"there is no terminal to ask" in given(cluster, *words, stdin=PASSPHRASE.encode()).stderr
    wrong = secret(tmp_path / "wrong", "not this\n")
    assert (
        "does not decrypt: the passphrase is wrong"
        in bring(cluster, *words, "--passphrase-file", wrong, expect=1).stderr
    )
    assert b"there is no passphrase" in given(cluster, *words, "--passphrase-file", "-", stdin=b"\n").stderr
    assert not there(cluster)
    ran = given(cluster, *words, "--passphrase-file", "-", stdin=f"{PASSPHRASE}\n".encode())
    assert ran.returncode == 0, ran.stderr
    whole(cluster, former)


def test_a_passphrase_from_a_descriptor(cluster: AppliedCluster, former: FormerCa, forms: Mapping[str, Path]) -> None:
    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE.encode())
    os.close(writing)
    words = ("--key", forms["encrypted"], "--passphrase-file", f"/dev/fd/{reading}", former.crt)
    ran = given(cluster, *words, fds=(reading,))
    os.close(reading)
    assert ran.returncode == 0, ran.stderr
    whole(cluster, former)


def test_a_key_from_standard_input_lies_on_no_disk_here(cluster: AppliedCluster, former: FormerCa) -> None:
    ran = given(cluster, "--key", "-", former.crt, stdin=former.key.read_bytes())
    assert ran.returncode == 0, ran.stderr
    whole(cluster, former)
    both = given(cluster, "--key", "-", "--passphrase-file", "-", former.crt)
    assert both.returncode == 2 and b"cannot both be standard input" in both.stderr


@pytest.mark.on_node
def test_a_passphrase_on_a_terminal_is_not_shown(
    cluster: AppliedCluster, former: FormerCa, forms: Mapping[str, Path]
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


# Keys and files that are refused before anything is sent


def weak(kind: str) -> Callable[[Path], tuple[Path, Path]]:
    def make(folder: Path) -> tuple[Path, Path]:
        made = FormerCa.made(folder, kind=kind)
        return made.key, made.crt

    return make


def of_another_ca(folder: Path) -> tuple[Path, Path]:
    return FormerCa.made(folder / "a").key, FormerCa.made(folder / "b").crt


def no_ca(folder: Path) -> tuple[Path, Path]:
    made = FormerCa.made(folder)
    openssl(
        "req",
        "-x509",
        "-key",
        made.key,
        "-subj",
        "/CN=kubernetes",
        "-addext",
        "basicConstraints=CA:FALSE",
        "-out",
        made.crt,
    )
    return made.key, made.crt


def no_signing(folder: Path) -> tuple[Path, Path]:
    made = FormerCa.made(folder, usage="keyUsage=critical,digitalSignature")
    return made.key, made.crt


def readable_by_others(folder: Path) -> tuple[Path, Path]:
    made = FormerCa.made(folder)
    made.key.chmod(0o640)
    return made.key, made.crt


def pipe(folder: Path) -> tuple[Path, Path]:
    made = FormerCa.made(folder)
    made.key.unlink()
    os.mkfifo(made.key, 0o600)
    return made.key, made.crt


def device(folder: Path) -> tuple[Path, Path]:
    return Path("/dev/zero"), FormerCa.made(folder).crt


def certificate_as_key(folder: Path) -> tuple[Path, Path]:
    made = FormerCa.made(folder)
    made.crt.chmod(0o600)
    return made.crt, made.crt


def key_as_certificate(folder: Path) -> tuple[Path, Path]:
    made = FormerCa.made(folder)
    return made.key, made.key


def two_keys(folder: Path) -> tuple[Path, Path]:
    made, other = FormerCa.made(folder / "a"), FormerCa.made(folder / "b")
    return secret(folder / "both.key", made.key.read_text() + other.key.read_text()), made.crt


def damaged(folder: Path) -> tuple[Path, Path]:
    made = FormerCa.made(folder)
    lines = made.key.read_text().splitlines()
    return secret(made.key, "\n".join([*lines[:3], *lines[5:]]) + "\n"), made.crt


def huge(folder: Path) -> tuple[Path, Path]:
    made = FormerCa.made(folder)
    return secret(made.key, made.key.read_text() + "#" * 70_000), made.crt


def unknown_name(folder: Path) -> tuple[Path, Path]:
    made = FormerCa.made(folder, common_name="Example Corp CA")
    return made.key, made.crt


REFUSED = {
    "rsa-1024": (weak("rsa:1024"), "an RSA key of 1024 bits, which is too weak"),
    "p-224": (weak("ec:P-224"), "a key on the curve secp224r1"),
    "secp256k1": (weak("ec:secp256k1"), "a key on the curve secp256k1"),
    "brainpool": (weak("ec:brainpoolP256r1"), "a key on the curve brainpoolP256r1"),
    "ed448": (weak("ed448"), "a key of a kind that no server imports"),
    "rsa-pss": (weak("rsa-pss"), "for RSASSA-PSS alone"),
    "another-ca": (of_another_ca, "the key is not that of CN=kubernetes"),
    "no-ca": (no_ca, "it is not a CA"),
    "no-signing": (no_signing, "its key usage does not allow it to sign certificates"),
    "others-can-read": (readable_by_others, "others can read it (mode 0640)"),
    "pipe": (pipe, "it is a FIFO, a socket or a device"),
    "device": (device, "it is a FIFO, a socket or a device"),
    "certificate-as-key": (certificate_as_key, "holds no private key, but a certificate"),
    "key-as-certificate": (key_as_certificate, "contains a private key"),
    "two-keys": (two_keys, "holds 2 private keys"),
    "damaged": (damaged, "is damaged"),
    "huge": (huge, "it is larger than 64 KiB"),
    "unknown-name": (unknown_name, "say which by --domain"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_never_sent(shared: AppliedCluster, case: str, tmp_path: Path) -> None:
    make, words = REFUSED[case]
    key, crt = make(tmp_path)
    since = shared.server.audit_position()
    begun = time.monotonic()
    ran = bring(shared, "--key", key, crt, expect=1)
    assert words in ran.stderr, ran.stderr
    assert "PRIVATE" not in ran.stderr and "Traceback" not in ran.stderr
    assert time.monotonic() - begun < 30
    assert shared.server.writes(since) == []


def test_a_domain_is_named_where_the_name_says_nothing(cluster: AppliedCluster, tmp_path: Path) -> None:
    made = FormerCa.made(tmp_path, common_name="Example Corp CA", kind="ec:P-521")
    ran = bring(cluster, "--key", made.key, "--domain", "etcd", made.crt)
    assert "no node trusts it: name its file below ca.also_trust.etcd" in ran.stdout
    whole(cluster, made, "etcd")
    other = FormerCa.made(tmp_path / "other", common_name="etcd-ca", kind="ed25519")
    assert "has another CA already" in bring(cluster, "--key", other.key, other.crt, expect=1).stderr
    whole(cluster, made, "etcd")


def test_a_bundle_is_no_trouble_and_the_name_of_our_own_ca_is(cluster: AppliedCluster, tmp_path: Path) -> None:
    made, other = FormerCa.made(tmp_path / "a"), FormerCa.made(tmp_path / "b", common_name="front-proxy-ca")
    bundle = tmp_path / "bundle.crt"
    bundle.write_text(other.crt.read_text() + made.crt.read_text())
    assert (
        "not sent, since the key is not theirs: CN=front-proxy-ca" in bring(cluster, "--key", made.key, bundle).stdout
    )
    whole(cluster, made)
    own = FormerCa.made(tmp_path / "own", common_name=f"{cluster.name} etcd CA")
    words = ("--domain", "etcd", "--key", own.key, own.crt)
    assert "is the name of a CA of this cluster" in bring(cluster, *words, expect=1).stderr


def test_plain_http_to_another_machine_is_refused_whatever_the_options_say(
    shared: AppliedCluster, former: FormerCa
) -> None:
    env = {**importer(shared), "VAULT_ADDR": "http://192.0.2.1:8200"}
    words = ("ca", "import", "-f", shared.file, "--allow-http", "--key", former.key, former.crt)
    assert "is sent over TLS only" in vaultpki(*words, env=env, expect=1).stderr


# A server that refuses, lies or is cut off


def nothing_left(cluster: AppliedCluster) -> None:
    assert not there(cluster)


def test_what_a_server_keeps_of_a_refused_import_is_removed(
    cluster: AppliedCluster, former: FormerCa, tmp_path: Path
) -> None:
    def refuse(guest: Guest, path: str, status: int, body: bytes) -> None:
        # The server has imported all of it, and the answer says that it refused, as Vault keeps a key.
        if path.endswith("/issuers/import/bundle"):
            status, body = 400, json.dumps({"errors": [f"no: {former.key.read_text()}"]}).encode()
        guest.answer(status, body)

    with relaying(cluster.server, tmp_path, say=refuse) as relay:
        env = {**importer(cluster), **relay.environment}
        ran = vaultpki("ca", "import", "-f", cluster.file, "--key", former.key, former.crt, env=env, expect=1)
    assert "nothing of it was kept on the server" in ran.stderr
    assert former.key.read_text().splitlines()[1] not in ran.stderr
    nothing_left(cluster)
    bring(cluster, "--key", former.key, former.crt)
    whole(cluster, former)


def test_a_pair_that_arrives_as_another_is_removed(cluster: AppliedCluster, former: FormerCa, tmp_path: Path) -> None:
    def lie(guest: Guest, path: str, status: int, body: bytes) -> None:
        if path.endswith("/issuers/import/bundle"):
            document = json.loads(body)
            document["data"]["mapping"] = dict.fromkeys(document["data"]["mapping"], "")
            body = json.dumps(document).encode()
        guest.answer(status, body)

    with relaying(cluster.server, tmp_path, say=lie) as relay:
        env = {**importer(cluster), **relay.environment}
        ran = vaultpki("ca", "import", "-f", cluster.file, "--key", former.key, former.crt, env=env, expect=1)
    assert "made something else than the CA that was sent" in ran.stderr
    nothing_left(cluster)


def test_a_key_that_may_be_on_the_server_is_told(cluster: AppliedCluster, former: FormerCa) -> None:
    with proxied(cluster.server) as proxy:
        proxy.arm_at("/issuers/import/bundle")
        ca_file = secret(cluster.folder / "proxy.pem", proxy.ca_pem)
        env = {**importer(cluster), "VAULT_ADDR": proxy.address, "VAULT_CACERT": str(ca_file)}
        ran = vaultpki("ca", "import", "-f", cluster.file, "--key", former.key, former.crt, env=env, expect=1)
    assert f"the key may be on {mount(cluster)}" in ran.stderr
    assert len(listed(cluster, "keys")) == 1
    bring(cluster, "--key", former.key, former.crt)
    whole(cluster, former)


def test_what_a_stranger_left_on_the_mount_goes_and_another_mount_stays(
    cluster: AppliedCluster, former: FormerCa, tmp_path: Path
) -> None:
    api, other = cluster.server.api, FormerCa.made(tmp_path)
    bring(cluster, "--key", former.key, former.crt)
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


def kills(*words: object) -> Iterator[int]:
    """Kill the command before its first request, after it, after the second one and so on, until it is through."""
    at = 0
    while died(command(*words), at, methods=METHODS):
        yield at
        # Events are right before and right after each request.
        at += 2 if at else 1


# Some thirty kills, each with two commands.
@pytest.mark.timeout(900)
def test_killed_between_any_two_requests_an_import_is_finished_by_the_same_command(
    cluster: AppliedCluster, former: FormerCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in importer(cluster).items():
        monkeypatch.setenv(name, value)
    at = 0
    for at in kills("ca", "import", "-f", cluster.file, "--key", former.key, former.crt):  # noqa: B007 -- the last one
        usages = [cluster.read(f"{mount(cluster)}/issuer/{id_}") for id_ in listed(cluster, "issuers")]
        assert all(each["usage"] == "read-only" or not each["issuer_name"] for each in usages)
        bring(cluster, "--key", former.key, former.crt)
        whole(cluster, former)
        cluster.server.api("DELETE", f"sys/mounts/{mount(cluster)}")
    assert at > 15
    whole(cluster, former)


@pytest.mark.timeout(900)
def test_killed_between_any_two_requests_a_removal_is_finished_by_the_same_command(
    cluster: AppliedCluster, former: FormerCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in importer(cluster).items():
        monkeypatch.setenv(name, value)
    bring(cluster, "--key", former.key, former.crt)
    at = 0
    for at in kills("ca", "import", "-f", cluster.file, "--yes", "--remove", "kubernetes"):  # noqa: B007 -- as above
        bring(cluster, "--yes", "--remove", "kubernetes")
        nothing_left(cluster)
        bring(cluster, "--key", former.key, former.crt)
    assert at > 10
    nothing_left(cluster)
