"""Files below a PKI outside with two CAs between: `verify` passes them, finds what is wrong, and says who needs what.

Real clients make handshakes with a server that serves such a certificate: OpenSSL, Python, GnuTLS, curl, Node and Go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from helpers.corporate_certificates import Ca
from helpers.node import handmade_files, outside_files
from helpers.node.handmade_files import NOW, put
from helpers.node.outside_files import OutsideFiles
from helpers.tls_clients import CLIENTS, go_client, listening
from vaultpki import certificates
from vaultpki.certificates import chain_bundle
from vaultpki.pki.facts import Trust
from vaultpki.procedures import ON_NODES
from vaultpki.show import expiries
from vaultpki.show.verify import of_files
from vaultpki.verify import folders
from vaultpki.verify.bundles_on_disk import bundle_checks
from vaultpki.verify.client_libraries import library_checks
from vaultpki.verify.matrix import Check, to_json
from vaultpki.verify.on_disk import PairOnDisk, pair_checks

pytestmark = pytest.mark.on_node

NODE: Final = "cp-1"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> OutsideFiles:
    return outside_files.made(tmp_path_factory.mktemp("outside"))


@pytest.fixture
def spoilt(tmp_path: Path) -> OutsideFiles:
    """Good files that a test may spoil."""
    return outside_files.made(tmp_path)


def failed(checks: Sequence[Check]) -> list[Check]:
    return [check for check in checks if not check.ok]


def sound(files: OutsideFiles, node: str = NODE) -> tuple[PairOnDisk, ...]:
    """The pairs of a node."""
    rows = {row.name: row for row in certificates.rows(files.files.cluster)}
    (holder,) = (each for each in folders.find_holders(files.files.cluster, files.files.folder) if each.name == node)
    return tuple(pair_checks(holder, rows[each.name], each, NOW)[0] for each in holder.certificates)


def bundles(files: OutsideFiles) -> str:
    """What is wrong with the bundles of a node."""
    rows = {row.name: row for row in certificates.rows(files.files.cluster)}
    (holder,) = (each for each in folders.find_holders(files.files.cluster, files.files.folder) if each.name == NODE)
    return "\n".join(f"{each.target}: {each.detail}" for each in failed(tuple(bundle_checks(holder, rows, NOW))))


@pytest.mark.parametrize("pin", ["root", "upper", "lower"])
def test_good_files_pass_every_check(tmp_path: Path, pin: str) -> None:
    files = outside_files.made(tmp_path, pin=pin)
    checks = files.files.verify_node(NODE)
    assert failed(checks) == []
    said = {(each.target, each.got) for each in checks if "check it" in each.target}
    simple, strict = "Go, curl, GnuTLS, NSS, Java and Python from 3.13", "OpenSSL, Node and Python before 3.13"
    # A pin below another CA leaves the self-signed root unknown.
    whole = "accept" if pin != "lower" else "refuse"
    for ca in ("kubernetes", "etcd"):
        for bundle, kind, got in (
            (f"{ca}-ca.crt", simple, "accept"),
            (f"{ca}-ca.crt", strict, "refuse"),
            (f"{ca}-ca-chain.crt", simple, "accept"),
            (f"{ca}-ca-chain.crt", strict, whole),
        ):
            assert (f"{bundle}, as {kind} check it", got) in said
    for_any, for_whole = to_json(checks)["libraries"]
    assert {"Go", "GnuTLS", "Java", "Python from 3.13"} <= set(for_any["libraries"])
    assert {"OpenSSL", "Node", "Python before 3.13"} == set(for_whole["libraries"])
    assert for_any["refused"] == () and {"etcd-ca.crt", "etcd-ca-chain.crt"} <= set(for_any["accepted"])
    assert "etcd-ca.crt" in for_whole["refused"]
    assert ("etcd-ca-chain.crt" in for_whole["accepted"]) is (pin != "lower")
    text = of_files(checks, 1)
    assert "OpenSSL, Node, Python before 3.13: the self-signed root and every CA between" in text
    assert f"too little: {'etcd-ca.crt' if pin != 'lower' else 'etcd-ca-chain.crt'}" in text


def changed(files: OutsideFiles, change: Callable[[Trust], Trust]) -> str:
    files.put_bundles({ca: change(known) for ca, known in files.trust.items()})
    return bundles(files)


def test_what_is_wrong_with_a_chain_is_found(spoilt: OutsideFiles) -> None:
    upper, lower, root = (each.facts for each in (spoilt.upper, spoilt.lower, spoilt.root))
    assert bundles(spoilt) == ""
    other = Ca("Corp Web CA", spoilt.upper).facts
    late = spoilt.lower.again(spoilt.upper, ends=NOW - timedelta(days=1)).facts
    assert "no chain leads to a root" in changed(spoilt, lambda known: replace(known, between=(upper,)))
    assert "stands above no issuing CA" in changed(spoilt, lambda known: replace(known, between=(lower, upper, other)))
    assert "is not in date" in changed(spoilt, lambda known: replace(known, between=(late, upper)))
    assert "holds a CA above the issuing ones" in changed(
        spoilt, lambda known: replace(known, issuing=(*known.issuing, lower, upper))
    )
    assert "holds the root CA" in changed(spoilt, lambda known: replace(known, issuing=(*known.issuing, root)))
    assert changed(spoilt, lambda known: known) == ""


def test_a_server_that_serves_a_ca_between_is_named(spoilt: OutsideFiles) -> None:
    pki = spoilt.files.pki(NODE)
    leaf = (pki / "kube-apiserver.crt").read_bytes()
    put(pki / "kube-apiserver.crt", leaf + spoilt.lower.pem.encode(), 0o644)
    (pair,) = (each for each in sound(spoilt) if each.certificate.name == "kube-apiserver")
    _, checks = pair_checks(pair.holder, pair.row, pair.certificate, NOW)
    assert any("is not the certificate followed by its issuing CA" in each.detail for each in checks)


def test_nothing_of_it_is_said_below_a_root_of_ours(tmp_path: Path) -> None:
    files, unused = handmade_files.made(tmp_path), Ca("Corp Root")
    plain = OutsideFiles(files, unused, unused, unused, {})
    assert list(library_checks(sound(plain, "worker-1"), NOW)) == []
    checks = files.verify_node("worker-1")
    assert "libraries" not in to_json(checks) and "Clients below" not in of_files(checks, 1)


def test_a_ca_between_that_ends_before_ours_is_told(tmp_path: Path) -> None:
    files = outside_files.made(tmp_path)
    found = expiries.of_folder(files.files.cluster, files.files.folder, NOW, ON_NODES)
    names = [each.ca for each in found.cas]
    subjects = {each.facts.subject_text for each in (files.upper, files.lower)}
    assert names.count("root") == 1 and subjects <= set(names)
    assert not any(each.level.attention for each in found.cas if each.ca in subjects)
    soon = files.lower.again(files.upper, begins=NOW - timedelta(days=100), ends=NOW + timedelta(days=20)).facts
    files.put_bundles({ca: replace(known, between=(soon, files.upper.facts)) for ca, known in files.trust.items()})
    found = expiries.of_folder(files.files.cluster, files.files.folder, NOW, ON_NODES)
    (told,) = (each for each in found.cas if each.level.attention and each.ca in subjects)
    assert told.ca == soon.subject_text
    assert "have its owner renew it with the same key" in told.sentence and "ca rotate" not in told.sentence


# --- real clients --------------------------------------------------------------------------------------------------


def server_files(files: OutsideFiles) -> tuple[Path, Path]:
    pki = files.files.pki(NODE)
    return pki / "etcdserver.crt", pki / "etcdserver.key"


@pytest.mark.parametrize("pin", ["root", "upper"])
@pytest.mark.parametrize("client", CLIENTS)
def test_clients_accept_what_they_are_said_to_accept(client: str, pin: str, tmp_path: Path) -> None:
    _, simple, connects = CLIENTS[client]
    files = outside_files.made(tmp_path, pin=pin)
    pki = files.files.pki(NODE)
    with listening(*server_files(files)) as port:
        assert connects(port, pki / chain_bundle("etcd"))
        assert connects(port, pki / certificates.bundle("etcd")) is simple
        # The CAs of another domain accept nobody, though the same CA of the corporation signed them.
        assert not connects(port, pki / certificates.bundle("kubernetes"))
        # What the corporate root signs passes with the chain of every domain: the pages say so.
        assert connects(port, pki / chain_bundle("kubernetes"))


def test_gnutls_refuses_a_served_ca_between_with_the_issuing_ca_alone(tmp_path: Path) -> None:
    files = outside_files.made(tmp_path)
    crt, key = server_files(files)
    put(crt, crt.read_bytes() + files.lower.pem.encode() + files.upper.pem.encode(), 0o644)
    with listening(crt, key) as port:
        connects = CLIENTS["GnuTLS"][2]
        assert connects(port, files.files.pki(NODE) / chain_bundle("etcd"))
        assert not connects(port, files.files.pki(NODE) / certificates.bundle("etcd"))


@pytest.mark.conformance
def test_go_accepts_both_bundles(tmp_path: Path) -> None:
    go = go_client(tmp_path)
    files = outside_files.made(tmp_path)
    pki = files.files.pki(NODE)
    with listening(*server_files(files)) as port:
        for bundle, accepted in ((chain_bundle("etcd"), True), (certificates.bundle("etcd"), True)):
            assert go(port, pki / bundle) is accepted
        assert not go(port, pki / certificates.bundle("kubernetes"))
