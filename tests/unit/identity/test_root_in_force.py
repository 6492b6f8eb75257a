"""Which root counts for a command: the one that the server has, until a rotation has replaced it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.corporate_certificates import NOW, Ca, Corporate, name
from helpers.example_cluster import WITH_POOL, load
from vaultpki.errors import ForeignObject, SpecError
from vaultpki.identity import anchor, outside_signer
from vaultpki.identity.root_in_force import in_force
from vaultpki.model import Cluster, OutsideRoot
from vaultpki.vault import Answer, Settings, Vault

CORP = Corporate()
ANCHOR, UPPER, LOWER = CORP.root.facts, CORP.upper.facts, CORP.lower.facts
CHAIN = OutsideRoot(ANCHOR.pem, (UPPER.pem, LOWER.pem))
VAULT = Vault(Settings(("https://127.0.0.1:1",)))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load(tmp_path, WITH_POOL)


def below(cluster: Cluster, outside: OutsideRoot, *pins: str) -> Cluster:
    first = pins[0] if pins else None
    changed = replace(cluster.authority, outside=outside, root_sha256=first, other_roots=pins[1:])
    return replace(cluster, authority=changed)


def test_a_root_from_outside_counts_until_the_rotation_to_one_of_ours(cluster: Cluster) -> None:
    """No apply in between may take the mount of that root for one that signs."""
    found = in_force(cluster, ANCHOR, [UPPER.pem, LOWER.pem]).authority
    assert (found.outside, found.root_sha256) == (CHAIN, ANCHOR.fingerprint)


def test_a_root_of_ours_counts_until_the_rotation_to_one_from_outside(cluster: Cluster) -> None:
    own = Ca("", subject=name("prod root CA")).facts
    found = in_force(below(cluster, CHAIN, ANCHOR.fingerprint, own.fingerprint), own, []).authority
    assert (found.outside, found.root_sha256, found.other_roots) == (None, own.fingerprint, (ANCHOR.fingerprint,))


def test_a_chain_from_outside_begins_with_its_anchor(cluster: Cluster) -> None:
    assert outside_signer.chain_of(cluster, CHAIN) == (ANCHOR, UPPER, LOWER)


def test_a_join_file_gets_the_anchor_that_cluster_yaml_names(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes trust what chains to it, and the mount of the root shows other CAs beside it."""
    shown = {facts.fingerprint[:8]: facts for facts in (LOWER, UPPER, ANCHOR)}
    monkeypatch.setattr(anchor, "_certificates", lambda cluster, vault, ids: shown)
    listed = Answer(200, {})
    assert anchor._root_sha256(below(cluster, CHAIN, ANCHOR.fingerprint), VAULT, listed, NOW) == ANCHOR.fingerprint
    with pytest.raises(ForeignObject, match="does not show the root CA"):
        anchor._root_sha256(below(cluster, CHAIN, "4f" * 32), VAULT, listed, NOW)


@pytest.mark.parametrize(("path_length", "why"), [(0, "path length"), (None, "")])
def test_a_signer_that_may_not_have_our_cas_below_it_is_refused(
    cluster: Cluster, path_length: int | None, why: str
) -> None:
    """Before anything is signed: no client would accept what is below it."""
    signer = CORP.lower.again(CORP.upper, path_length=path_length).facts
    refusals = outside_signer._refusals(cluster, "etcd", signer, [UPPER, signer], ANCHOR, NOW)
    assert len(refusals) == bool(why)
    assert all(why in each.sentence for each in refusals)


@pytest.mark.parametrize(
    ("pins", "why"),
    [
        (("4f" * 32,), "no certificate of that SHA-256"),
        ((), "0 certificates that signed themselves"),
    ],
)
def test_a_signer_whose_chain_has_not_the_pinned_root_is_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, pins: tuple[str, ...], why: str
) -> None:
    monkeypatch.setattr(outside_signer, "_shown", lambda cluster, vault, outside: (LOWER, UPPER))
    signer = OutsideRoot(mount="corp", issuer="default")
    with pytest.raises(SpecError, match=why):
        outside_signer.complete(below(cluster, signer, *pins), VAULT)
