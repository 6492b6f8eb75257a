"""`vaultpki demo --rotate`: who is let in at each state of a real rotation, as its page shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers import pages
from helpers.page_runner import alike, found_in_order
from helpers.vault.applied_cluster import Ran, vaultpki
from vaultpki.demo.rotation import Attempt
from vaultpki.pki import x509

NODES = ("cp-1", "cp-2", "cp-3")
IN, OUT = ("let in",) * 3, ("refused",) * 3
COPY, OUTSIDER = "copy of the old certificate of cp-1", "outsider: a certificate of the CA kubernetes"
# State, the CAs of the three nodes' own certificates, and who lets the copy of an old one in.
EXPECTED = (
    ("before", (1, 1, 1), IN),
    ("prepared", (1, 1, 1), IN),
    ("published", (1, 1, 1), IN),
    ("switched", (2, 2, 1), IN),
    ("switched", (2, 2, 2), IN),
    ("retired", (2, 2, 2), ("refused", "let in", "let in")),
    ("retired", (2, 2, 2), OUT),
    ("done", (2, 2, 2), OUT),
)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Path]:
    folder = tmp_path_factory.mktemp("demo") / "here"
    return vaultpki("demo", "--rotate", "--dir", folder, timeout=300), folder


def test_who_is_let_in_at_each_state(shown: tuple[Ran, Path]) -> None:
    ran, _ = shown
    found = []
    for part in ran.stdout.split("\n\n")[1:-1]:
        title, sentence, head, *lines = part.splitlines()
        assert sentence.startswith("  ")
        assert re.split(r" {2,}", head.strip()) == ["client", *(f"etcd of {node}" for node in NODES)]
        table = [re.split(r" {2,}", line.strip()) for line in lines if "The next step" not in line]
        cells = {client: tuple(verdicts) for client, *verdicts in table}
        found.append((title.split()[0], cells))
    assert [state for state, _ in found] == [state for state, _, _ in EXPECTED]
    for (_, cells), (state, signers, copy) in zip(found, EXPECTED, strict=True):
        names = {1: "demo etcd CA", 2: "demo etcd CA 2"}
        own = {
            f"kube-apiserver of {node}, signed by {names[number]}": IN
            for node, number in zip(NODES, signers, strict=True)
        }
        assert cells == {**own, COPY: copy, OUTSIDER: OUT}, state
    assert "120 handshakes: 89 let in and 31 refused, 0 wrong" in ran.stdout and ran.stderr == ""
    assert max(map(len, ran.stdout.splitlines()[:-2])) <= 100


def test_what_it_leaves(shown: tuple[Ran, Path]) -> None:
    _, folder = shown
    assert not (folder / "server").exists()
    for node in NODES:
        pki = folder / "nodes" / node / "pki"
        (ca,) = x509.read_certificates((pki / "etcd-ca.crt").read_bytes())
        assert ca.subject_text == "CN=demo etcd CA 2"
        for stem in ("etcdserver", "etcd-peer", "etcd-healthcheck-client", "kube-apiserver-etcd"):
            assert x509.signed_by(x509.read_certificates((pki / f"{stem}.crt").read_bytes())[0], ca)


def test_the_page_shows_what_it_prints(shown: tuple[Ran, Path]) -> None:
    ran, folder = shown
    commands = (each for block in pages.blocks(pages.text("quickstart")) for each in block.commands())
    (command,) = (each for each in commands if each.text == "vaultpki demo --rotate")
    printed = ran.stdout.replace(str(folder), "/home/you/vaultpki-demo")
    assert found_in_order(alike("\n".join(command.shown), folder), alike(printed, folder)) is None


def test_a_client_that_gives_up_was_not_refused() -> None:
    assert Attempt(let_in=True, expected=True).ok
    assert not Attempt(let_in=True, expected=False).ok
    assert not Attempt(let_in=False, expected=True, why="the server refuses: expired").ok
    assert Attempt(let_in=False, expected=False, why="the server refuses: unable to get local issuer certificate").ok
    assert not Attempt(let_in=False, expected=False, why="the client refuses: expired").ok
