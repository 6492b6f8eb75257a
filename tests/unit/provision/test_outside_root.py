"""`plan` below a PKI outside: which issuers belong on the mounts, and which ends above are told."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.corporate_certificates import NOW, Ca, Corporate, name
from helpers.example_cluster import WITH_POOL, load
from vaultpki.certificates import ISSUING_CAS, ROOT
from vaultpki.identity.applied import AppliedRecord
from vaultpki.model import Cluster, OutsideRoot
from vaultpki.pki.facts import Facts
from vaultpki.provision import ca_ends, dangers, foreign_cas, observe
from vaultpki.provision.ca_facts import read_ca
from vaultpki.provision.dangers import CasAbove
from vaultpki.provision.desired import CHAIN, desired
from vaultpki.provision.read_back import CaMount, ServerObjects
from vaultpki.records import above
from vaultpki.records.server_facts import Fields, Key, ServerFacts

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


def below(cluster: Cluster, *others: Facts) -> Cluster:
    """The cluster below the Corp Root, with these CAs between in `ca.root_file`."""
    outside = OutsideRoot(ANCHOR.pem, tuple(facts.pem for facts in others))
    return replace(pinned(cluster, ANCHOR), authority=replace(pinned(cluster, ANCHOR).authority, outside=outside))


def on_root_mount(cluster: Cluster, *shown: Facts) -> dict[str, CaMount]:
    return {cluster.mount(ROOT): CaMount(certificates={above.name(facts.pem): facts.pem for facts in shown})}


def objects_of(cluster: Cluster, cas: dict[str, CaMount]) -> ServerObjects:
    return ServerObjects({}, {}, AppliedRecord(), cas, {}, (), {}, ())


def test_below_a_root_of_ours_no_ca_above_is_deleted(cluster: Cluster) -> None:
    """Whoever put one there did it for another reason."""
    assert dangers.cas_above(cluster, on_root_mount(cluster, UPPER), NOW) == CasAbove()


def test_a_renewed_ca_above_stays_and_a_person_is_told(cluster: Cluster) -> None:
    """cluster.yaml still names the certificate of before: nothing that chains to the new one may break."""
    renewed = CORP.upper.again(CORP.root, ends=UPPER.not_after + timedelta(days=300)).facts
    mine = below(cluster, UPPER, LOWER)
    found = dangers.cas_above(mine, on_root_mount(mine, UPPER, LOWER, renewed), NOW)
    assert (found.staying, found.leaving) == ((above.name(renewed.pem),), {})
    (danger,) = found.dangers
    assert renewed.fingerprint in danger.reason and "was renewed until" in danger.reason


def test_only_what_is_in_date_is_put_on_the_roots_mount(cluster: Cluster) -> None:
    mine = below(cluster, UPPER, LOWER)
    left_out = frozenset({above.name(UPPER.pem)})
    wanted = desired(mine, ServerFacts(left_out=left_out))["issuer", mine.mount(ROOT)]
    assert wanted[CHAIN] == [above.name(LOWER.pem)]
    # And what is there is seen, so that no apply puts it there again.
    objects: dict[Key, Fields] = {("issuer", mine.mount(ROOT)): {}}
    found = objects_of(mine, on_root_mount(mine, UPPER, LOWER))
    observe._add_outside(mine, found, ServerFacts(left_out=left_out), objects)
    assert objects["issuer", mine.mount(ROOT)][CHAIN] == wanted[CHAIN]


def test_a_key_that_waits_for_its_signer_is_not_made_again(cluster: Cluster) -> None:
    """A person has carried its request away, and what comes back fits that key alone."""
    mine = below(cluster, UPPER)
    objects: dict[Key, Fields] = {}
    cas = {mine.mount("etcd"): CaMount(keys=frozenset({"etcd-1"}))}
    observe._add_outside(mine, objects_of(mine, cas), ServerFacts(waiting=frozenset({"etcd", "kubelet"})), objects)
    assert objects == {("key", mine.mount("etcd")): {"key_name": "etcd-1"}}


def test_an_issuing_ca_with_its_owners_attributes_is_no_foreign_ca(cluster: Cluster) -> None:
    """Below a PKI outside it is one of the cluster's own, and `ca.also_trust` must not name its key."""
    mine = below(cluster, UPPER, LOWER)
    seen = SimpleNamespace(found=objects_of(mine, mounts(mine, ANCHOR)))
    own = set(foreign_cas._own(mine, seen))  # type: ignore[arg-type]
    assert own == {ANCHOR, UPPER, LOWER, *CAS.values()}
    assert not own.intersection(foreign_cas._own(cluster, seen))  # type: ignore[arg-type]
