"""Somebody changes the files of service-account keys on a node: every view says so, and so does the agent."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from helpers.foreign_ca import ForeignCa
from helpers.node.passes import command_here, passed_well, said
from helpers.node.resident_agent import figure, get, metrics_of
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.handmade_keys import HandmadeKeys
from vaultpki.daemon import metrics
from vaultpki.host import processes
from vaultpki.model import KeyType
from vaultpki.pki import keys

# What a node's own files say, whatever server there is.
pytestmark = pytest.mark.on_node


@pytest.fixture
def node(with_keys: AppliedCluster, planes: tuple[NodeFolder, NodeFolder]) -> NodeFolder:
    passed_well(*planes)
    HandmadeKeys.of(with_keys, "cp-1", "cp-2")
    passed_well(*planes)
    return planes[0]


def key() -> bytes:
    return keys.key_pem(keys.generate_key(KeyType.EC_P256))


def add_certificate(union: Path) -> None:
    union.write_bytes(union.read_bytes() + ForeignCa("stranger").facts.pem.encode())


def add_public_key(union: Path) -> None:
    """kube-apiserver takes bare public keys too."""
    public = keys.generate_key(KeyType.EC_P256).public_key()
    union.write_bytes(union.read_bytes() + public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def replace_link(file: Path) -> None:
    """Another file takes the place of the link, as `mv` leaves it."""
    aside = file.with_name("aside")
    aside.write_bytes(key())
    aside.chmod(0o600)
    os.replace(aside, file)


FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a stranger's certificate": ("sa.pub", add_certificate, "can forge the token of any ServiceAccount"),
    "a stranger's key": ("sa.pub", add_public_key, "can forge the token of any ServiceAccount"),
    "emptied": ("sa.pub", lambda file: file.write_bytes(b""), "it is empty"),
    "no union": ("sa.pub", lambda file: file.resolve().unlink(), "it is missing"),
    "replaced": ("sa.key", lambda file: file.write_bytes(key()), "it is no service-account key of this node"),
    "replaced link": ("sa.key", replace_link, "another file is in its place"),
    "missing": ("sa.key", lambda file: file.unlink(), "it is missing"),
    "readable": ("sa.key", lambda file: file.chmod(0o644), "others can read service-account key 1"),
}


@pytest.fixture
def port(node: NodeFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of the metrics of an agent that makes no pass while it is asked."""
    monkeypatch.setattr(metrics, "PAUSE", 0.0)
    # A component of another test is none of this node's.
    monkeypatch.setattr(processes, "running", dict)
    with metrics_of(node, passed_well(node)) as port:
        yield port


def views(node: NodeFolder, port: int, *, well: bool) -> Iterator[str]:
    """What each view says of the node; all end with the same code."""
    code = 0 if well else 3
    yield vaultpki("status", "-c", node.config, expect=code).stdout
    yield command_here("doctor", "-c", node.config, expect=code).stdout
    rows = json.loads(vaultpki("status", "--dir", node.folder, "--json", expect=code).stdout)["nodes"]
    yield rows[0]["message"] or ""
    status, text = get(port, "healthz")
    assert status == (200 if well else 503), text
    assert figure(port, "finding", finding="token-keys") == (not well)
    yield text


@pytest.mark.parametrize("fault", FAULTS)
def test_every_view_says_what_somebody_did_and_the_agent_mends_it(
    fault: str, planes: tuple[NodeFolder, NodeFolder], node: NodeFolder, port: int
) -> None:
    file, damage, words = FAULTS[fault]
    whole = [(node.pki / name).read_bytes() for name in ("sa.key", "sa.pub")]
    for each in planes:
        vaultpki("show", "sa.pub", "-c", each.config)
        vaultpki("status", "--dir", each.pki)
    assert all(words not in text for text in views(node, port, well=True))
    damage(node.pki / file)
    # With code 3 where it holds a certificate that can be shown.
    for name in {"sa.pub": (file, node.pki / file)}.get(file, (node.pki / file,)):
        show = vaultpki("show", name, "-c", node.config, expect={1, 3})
        assert words in show.stdout + show.stderr
    for text in views(node, port, well=False):
        assert f"{node.pki}/{file}: " in text and words in text, text
    found = json.loads(vaultpki("status", "-c", node.config, "--json", expect=3).stdout)["summary"]["findings"]
    assert [(one["name"], one["severity"], one["command"]) for one in found] == [
        ("token-keys", "critical", "vaultpki agent --once")
    ]
    # A folder by itself, without the agent's configuration and state.
    alone = json.loads(vaultpki("status", "--dir", node.pki, "--json", expect=3).stdout)["summary"]["findings"]
    assert [one["name"] for one in alone] == ["token-keys"]
    outcome = passed_well(node)
    assert outcome.mended == ("sa.key",)
    (alarm,) = said(outcome, "tampered")
    assert words in alarm and alarm.endswith("find out who has changed it"), alarm
    assert [(node.pki / name).read_bytes() for name in ("sa.key", "sa.pub")] == whole
    assert all(words not in text for text in views(node, port, well=True))
    assert passed_well(node).mended == ()
