"""`plan` below a PKI outside: which issuers belong on the mounts, and which ends above are told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from helpers.corporate_certificates import NOW, Ca, Corporate, name
from helpers.example_cluster import WITH_POOL, load
from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.model import Cluster
from vaultpki.pki.facts import Facts
from vaultpki.provision import ca_ends, dangers
from vaultpki.provision.ca_facts import read_ca
from vaultpki.provision.read_back import CaMount

CORP = Corporate()
ANCHOR, UPPER, LOWER = CORP.root.facts, CORP.upper.facts, CORP.lower.facts
CAS = {ca: Ca("", CORP.lower, subject=name(f"prod {ca} CA", O="Corp"), path_length=0).facts for ca in ISSUING_CAS}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load(tmp_path, WITH_POOL)


def pinned(cluster: Cluster, pin: Facts) -> Cluster:
    return replace(cluster, authority=replace(cluster.authority, root_sha256=pin.fingerprint))


def mounts(cluster: Cluster, *root: Facts, etcd: tuple[Facts, ...] = ()) -> dict[str, CaMount]:
    def mount(*shown: Facts) -> CaMount:
        named = {f"issuer-{number}": facts.pem for number, facts in enumerate(shown)}
        return CaMount(pem=shown[0].pem if shown and shown[0] in CAS.values() else "", certificates=named, count=1)

    found = {cluster.mount(ca): mount(facts, *(etcd if ca == "etcd" else ())) for ca, facts in CAS.items()}
    return found | {cluster.mount(ROOT): mount(*root)}


@pytest.mark.parametrize("pin", [ANCHOR, UPPER])
def test_the_cas_of_the_chain_belong_on_the_mounts_and_no_other(cluster: Cluster, pin: Facts) -> None:
    mine, other = pinned(cluster, pin), Ca("Corp Web CA", CORP.upper).facts
    good = mounts(mine, ANCHOR, UPPER, LOWER, etcd=(LOWER, UPPER))
    assert list(dangers.issuers(mine, good)) == []
    (danger,) = dangers.issuers(mine, mounts(mine, ANCHOR, UPPER, LOWER, other))
    assert danger.name.endswith("/issuer-3") and "is not the cluster's root CA" in danger.reason
    (danger,) = dangers.issuers(mine, mounts(mine, ANCHOR, UPPER, LOWER, etcd=(other,)))
    assert "foreign and dangerous" in danger.reason
    # Without the anchor in cluster.yaml nothing says whose they are.
    assert len(list(dangers.issuers(cluster, good))) > len(CAS)


def test_a_ca_above_that_ends_early_is_told_and_never_one_of_ours(cluster: Cluster) -> None:
    pems = {ROOT: ANCHOR.pem, **{ca: facts.pem for ca, facts in CAS.items()}}
    late = {"ends": max(facts.not_after for facts in CAS.values()) + timedelta(days=30)}
    upper, lower = CORP.upper.again(CORP.root, **late), CORP.lower.again(CORP.upper, **late)
    assert ca_ends.lives_above(cluster, pems, [ANCHOR.pem, upper.pem, lower.pem]) == ()
    soon = CORP.upper.again(CORP.root, ends=NOW + timedelta(days=20)).facts
    (life,) = ca_ends.lives_above(cluster, pems, [ANCHOR.pem, soon.pem, lower.pem])
    assert life.ca == UPPER.subject_text
    found = {ca: facts for ca, pem in pems.items() if (facts := read_ca(ca, pem)) is not None}
    ends = ca_ends.of(cluster, found, NOW, above=(life,))
    assert [end.ca for end in ends] == [ROOT, *ISSUING_CAS, UPPER.subject_text]
    assert ends[-1].level.attention and "ca rotate" not in ends[-1].sentence + ends[0].sentence
    own = Ca("", subject=name("prod root CA"))
    issuing = Ca("", own, subject=name("prod etcd CA"), path_length=0, ends=NOW + timedelta(days=9000)).facts
    assert ca_ends.lives_above(cluster, {ROOT: own.pem, "etcd": issuing.pem}, [own.pem]) == ()
