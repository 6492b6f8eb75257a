"""What a picture shows: every row of the table, every CA, every component once."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helpers.drawn_scenes import NODES, OWN_ROWS, listed
from helpers.example_cluster import load
from vaultpki.certificates import ISSUING_CAS, TABLE, rows
from vaultpki.graph.content import ExpirySummary, Graph, Health, graph, root_title
from vaultpki.model import Cluster

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LAYOUTS = ("document", "kubeadm")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load(tmp_path, NODES)


def where(found: Graph, name: str) -> str:
    (component,) = (each for each in found.components if each.name == name)
    return component.where


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_row_is_shown_once_and_where_the_table_has_it(tmp_path: Path, layout: str) -> None:
    cluster = load(tmp_path, f"layout: {layout}\n{NODES}")
    found = graph(cluster, NOW)
    table = {row.name: row for row in rows(cluster)}
    assert Counter(pair.name for pair in found.pairs) == Counter(table.keys())
    for arrow in found.arrows:
        row = table[arrow.pair.name]
        assert (arrow.source, arrow.target, arrow.pair.ca) == (row.source, row.target, row.ca)
        assert row.usage.client
    for component in found.components:
        assert all(table[pair.name].source == component.name for pair in component.pairs)
    drawn = {arrow.pair.name for arrow in found.arrows}
    assert drawn == {name for name, row in table.items() if row.target != "-"}


def test_service_account_keys_are_in_kube_apiserver_and_their_ca_is_a_border(tmp_path: Path) -> None:
    assert "service-account" not in {domain.ca for domain in graph(load(tmp_path, NODES), NOW).domains}
    found = graph(load(tmp_path, f"service_account_keys: true\n{NODES}"), NOW)
    assert found.domains[-1].ca == "service-account" and not found.domains[-1].components
    (component,) = (each for each in found.components if each.name == "kube-apiserver")
    (pair,) = (pair for pair in component.pairs if pair.name == "service-account")
    assert pair.ca == "service-account" and pair.name not in {arrow.pair.name for arrow in found.arrows}


def test_every_ca_is_a_border_around_the_servers_that_it_signs_for(cluster: Cluster) -> None:
    found = graph(cluster, NOW)
    assert {domain.ca: domain.components for domain in found.domains} == {
        "kubernetes": ("kube-apiserver",),
        "kubelet": ("kubelet",),
        "etcd": ("etcd",),
        # No certificate of these servers is ours; they let in clients of the CA.
        "front-proxy": ("aggregated API servers",),
    }
    assert tuple(domain.ca for domain in found.domains) == ISSUING_CAS
    for row in TABLE:
        if row.usage.server and row.target == "-":
            assert row.source in {domain.ca: domain.components for domain in found.domains}[row.ca]


@pytest.mark.parametrize(
    ("nodes", "control_plane", "worker"),
    [
        (listed(1, 0), "cp-1", "no node yet"),
        (listed(3, 6), "cp-1, cp-2, cp-3", "6 nodes"),
        (listed(3, 57), "cp-1, cp-2, cp-3", "57 nodes"),
        (listed(5, 1), "5 nodes", "w-1"),
        (
            f'{listed(1, 9)}pools:\n- {{name: auto, roles: [worker], node_names: "x-*"}}\n',
            "cp-1",
            "9 nodes and pool auto",
        ),
    ],
)
def test_like_nodes_are_drawn_once_with_their_number(
    tmp_path: Path, nodes: str, control_plane: str, worker: str
) -> None:
    found = graph(load(tmp_path, nodes), NOW)
    assert len(found.components) == len({component.name for component in found.components}) == 9
    assert {where(found, name) for name in ("kube-apiserver", "kube-scheduler", "etcd")} == {control_plane}
    assert {where(found, name) for name in ("kubelet", "kube-proxy")} == {worker}
    assert {where(found, name) for name in ("admin", "super-admin")} == {"operator"}
    many = {component.name for component in found.components if component.many}
    assert ("kubelet" in many) == (worker not in ("w-1", "no node yet"))
    assert ("etcd" in many) == (control_plane != "cp-1")


def test_of_nodes_that_join_by_token_the_kubelet_alone_is_drawn(tmp_path: Path) -> None:
    pool = '- {name: joined, roles: [worker], node_names: "j-*", join: token, networks: [10.9.0.0/16]}'
    found = graph(load(tmp_path, f"{listed(1, 1)}signer: {{}}\npools:\n{pool}\n"), NOW)
    assert (where(found, "kubelet"), where(found, "kube-proxy")) == ("w-1 and pool joined", "w-1")
    assert found.about.startswith("2 nodes, 1 pool, ")
    assert [each.name for each in found.components if each.many] == ["kubelet"]


def test_rows_of_the_users_own_are_shown(tmp_path: Path) -> None:
    found = graph(load(tmp_path, NODES + OWN_ROWS), NOW)
    arrows = {arrow.pair.name: (arrow.source, arrow.target, arrow.pair.ca) for arrow in found.arrows}
    assert arrows["prometheus"] == ("prometheus", "kube-apiserver", "kubernetes")
    assert arrows["prom-etcd"] == ("prometheus", "etcd", "etcd")
    held = {pair.name: component.name for component in found.components for pair in component.pairs}
    assert held["log"] == "log" and held["alone"] == "alone"
    assert "log" in found.domains[0].components


def test_kubeadm_has_no_pair_for_kube_proxy_and_other_names_of_files(tmp_path: Path) -> None:
    found = graph(load(tmp_path, f"layout: kubeadm\n{NODES}"), NOW)
    assert "kube-proxy" not in {component.name for component in found.components}
    files = {pair.name: pair.files for pair in found.pairs}
    assert files["kube-apiserver-etcd"] == "apiserver-etcd-client.crt .key"
    assert files["etcd-server"] == "etcd/server.crt .key"
    assert "layout kubeadm" in found.about


@pytest.mark.parametrize(
    ("expiry", "health", "said"),
    [
        (ExpirySummary(NOW + 28 * DAY, 3), Health.VALID, "until 2026-12-24 (28 days)"),
        (ExpirySummary(NOW + timedelta(hours=7)), Health.VALID, "until 2026-11-26 (7 hours)"),
        (ExpirySummary(NOW + timedelta(hours=1, minutes=59)), Health.VALID, "until 2026-11-26 (119 minutes)"),
        (ExpirySummary(NOW + timedelta(minutes=12)), Health.VALID, "until 2026-11-26 (12 minutes)"),
        (ExpirySummary(NOW + DAY, 3, due=True), Health.DUE, "overdue, until 2026-11-27"),
        (ExpirySummary(NOW + DAY, 1, due=True, revoked=1), Health.REVOKED, "revoked, until 2026-11-27"),
        (ExpirySummary(NOW + DAY, 3, revoked=2), Health.REVOKED, "2 of 3 revoked, until 2026-11-27"),
        (ExpirySummary(NOW, 3), Health.EXPIRED, "expired 2026-11-26"),
        (ExpirySummary(NOW - DAY, 2, 1), Health.EXPIRED, "1 of 3 missing, expired 2026-11-25"),
        (ExpirySummary(NOW + DAY, 2, 1, due=True), Health.MISSING, "1 of 3 missing, until 2026-11-27"),
        (ExpirySummary(None, 0, 3), Health.MISSING, "missing"),
    ],
)
def test_the_worst_certificate_of_a_row_counts(
    cluster: Cluster, expiry: ExpirySummary, health: Health, said: str
) -> None:
    found = graph(cluster, NOW, expiries={"kubelet": expiry})
    pairs = {pair.name: pair for pair in found.pairs}
    assert (pairs["kubelet"].health, pairs["kubelet"].until) == (health, said)
    assert (pairs["admin"].health, pairs["admin"].until) == (Health.UNKNOWN, "")
    assert found.known


def test_cas_show_their_end_and_their_rotation(cluster: Cluster) -> None:
    ends = {"etcd": ExpirySummary(NOW + 900 * DAY), "kubelet": ExpirySummary(NOW - DAY)}
    ends |= {"root": ExpirySummary(NOW + 300 * DAY, due=True)}
    found = graph(
        cluster, NOW, cas=ends, rotations={"etcd": "switched", "root": "published"}, source="files of 1 folder"
    )
    assert found.about == "1 node, layout document, files of 1 folder read on 2026-11-26 at 12:00 UTC"
    assert (found.root.health, found.root.rotation) == (Health.DUE, "published")
    assert root_title(found) == "root CA of prod, rotate soon, until 2027-09-22: signs the issuing CAs, nothing else"
    assert [(domain.health, domain.until, domain.rotation) for domain in found.domains] == [
        (Health.UNKNOWN, "", ""),
        (Health.EXPIRED, "expired 2026-11-25", ""),
        (Health.VALID, "until 2029-05-14", "switched"),
        (Health.UNKNOWN, "", ""),
    ]
