"""Changes that an adoption under way does not bear."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.foreign_ca import ForeignCa
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError, StateConflict
from vaultpki.model import Cluster
from vaultpki.provision.refused_changes import adopted_domains, refuse_missing_cas
from vaultpki.records.adoption import OLD_CAS, AdoptionRecord, AdoptionState

NOW = datetime(2027, 1, 1, tzinfo=UTC)
OLD = {ca: ForeignCa(f"old {ca} CA") for ca in OLD_CAS}


def cluster(folder: Path, *domains: str, roles: str = "control-plane, etcd, worker") -> Cluster:
    for ca in domains:
        (folder / f"{ca}.crt").write_text(OLD[ca].pem)
    trusted = ", ".join(f"{ca}: [{ca}.crt]" for ca in domains)
    file = folder / "cluster.yaml"
    file.write_text(
        "cluster: prod\nvault: {addresses: ['https://vault.example.com:8200']}\nlayout: kubeadm\n"
        "api_server: {endpoint: 'https://api.example.com:6443', names: [api.example.com]}\n"
        f"nodes:\n- {{name: cp-1, roles: [{roles}], addresses: [198.51.100.11]}}\n"
        f"ca: {{also_trust: {{{trusted}}}}}\n"
    )
    return load_cluster(file)


def record(*domains: str) -> AdoptionRecord:
    old = {ca: (OLD[ca].facts.fingerprint,) for ca in domains}
    return AdoptionRecord(AdoptionState.PUBLISHED, 9, 7, NOW, old)


def test_a_record_must_name_the_old_cas_of_every_domain_of_the_cluster(tmp_path: Path) -> None:
    whole = cluster(tmp_path, *OLD_CAS)
    refuse_missing_cas(whole, record(*OLD_CAS))
    for lacks in ("etcd", "front-proxy"):
        less = record(*(ca for ca in OLD_CAS if ca != lacks))
        with pytest.raises(StateConflict, match=rf"\(published\) names no old CA of {lacks}, which the cluster has"):
            refuse_missing_cas(whole, less)
        # cluster.yaml may leave it out too, and the cluster has it still.
        with pytest.raises(StateConflict, match=f"names no old CA of {lacks}, which the cluster has"):
            refuse_missing_cas(cluster(tmp_path, *less.old), less)
        refuse_missing_cas(whole, replace(less, state=AdoptionState.DONE))


def test_an_etcd_that_keeps_its_own_ca_is_no_part_of_it(tmp_path: Path) -> None:
    own = cluster(tmp_path, "kubernetes", "front-proxy", roles="control-plane, worker")
    assert adopted_domains(own) == ("kubernetes", "front-proxy")
    refuse_missing_cas(own, record("kubernetes", "front-proxy"))
    with pytest.raises(StateConflict, match=r"`ca.also_trust.etcd` of .* is new, take it out until the adoption is"):
        refuse_missing_cas(
            cluster(tmp_path, *OLD_CAS, roles="control-plane, worker"), record("kubernetes", "front-proxy")
        )


def test_cluster_yaml_must_have_the_old_cas_of_the_record(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the old CA of etcd with the SHA-256"):
        refuse_missing_cas(cluster(tmp_path, "kubernetes", "front-proxy"), record(*OLD_CAS))
