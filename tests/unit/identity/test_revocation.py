"""Which certificates on the mounts are a node's: by their names, or by reports, which may be false."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helpers.example_cluster import load
from vaultpki.certificates import ISSUING_CAS, node_rows, resolve, row_named
from vaultpki.identity.revocation import StoredCertificate, choose, not_kept, sentences, serials, surplus, to_json
from vaultpki.model import Cluster, Subject
from vaultpki.pki.facts import EKU, Facts
from vaultpki.records.node_report import CertificateReport, NodeReport

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
END = NOW + timedelta(days=20)
SPEC = """\
cluster: prod
api_server: {names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane, etcd], addresses: [10.0.0.12]}
- {name: w-1, roles: [worker], addresses: [10.0.0.21]}
pools:
- {name: spot, roles: [worker], node_names: "s-*"}
"""
SHARED = (
    *("kube-scheduler", "kube-controller-manager", "kube-apiserver-etcd", "kube-apiserver-kubelet"),
    *("front-proxy-client", "etcd-healthcheck-client"),
)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return load(tmp_path, SPEC)


def stored(cluster: Cluster, name: str, node: str, serial: int, *, revoked: bool = False) -> StoredCertificate:
    """A certificate of the row for a listed node."""
    row = row_named(cluster, name)
    want = resolve(row, cluster, next(each for each in cluster.nodes if each.name == node))
    return StoredCertificate(row.ca, facts(want.subject, serial, EKU[row.usage]), revoked)


def facts(subject: Subject, serial: int, usages: frozenset[str], not_after: datetime = END) -> Facts:
    return Facts(
        subject=subject,
        further_names=(),
        subject_text="",
        issuer_text="",
        serial=serial,
        not_before=NOW,
        not_after=not_after,
        usages=usages,
        key_usage=frozenset(),
        critical=frozenset(),
        is_ca=False,
        path_length=None,
        public_key=b"",
        key=None,
        signature="sha256",
        subject_key_id=None,
        authority_key_id=None,
        fingerprint="",
        der=b"",
    )


def everything(cluster: Cluster) -> tuple[list[StoredCertificate], dict[str, dict[str, int]]]:
    """One certificate of each row of each listed node, and the truth about them in reports."""
    found, reported = [], {}
    for number, node in enumerate(cluster.nodes, 1):
        reported[node.name] = {row.name: number * 1000 + at for at, row in enumerate(node_rows(cluster, node))}
        found += [stored(cluster, name, node.name, serial) for name, serial in reported[node.name].items()]
    return found, reported


def chosen(
    cluster: Cluster, node: str, found: list[StoredCertificate], reported: dict[str, dict[str, int]]
) -> set[str]:
    return {target.name for target in choose(cluster, node, found, reported).targets}


@pytest.mark.parametrize("node", ["cp-1", "cp-2", "w-1"])
def test_a_node_that_tells_the_truth_loses_all_that_it_holds_and_nobody_else_anything(
    cluster: Cluster, node: str
) -> None:
    found, reported = everything(cluster)
    result = choose(cluster, node, found, reported)
    assert {target.certificate.facts.serial for target in result.targets} == set(reported[node].values())
    assert {target.name for target in result.targets} == set(reported[node])
    # What the other control plane holds by the same names is left alone, and said.
    other = {"cp-1": "cp-2", "cp-2": "cp-1"}.get(node)
    left = {(one.count, one.claimants, one.unclaimed) for one in result.unattributed}
    assert left == ({(1, (other,), 0)} if other else set())
    assert result.in_doubt is (other is not None)
    assert len({target.certificate.ca for target in result.targets}) == (2 if node == "w-1" else 3)


def test_an_earlier_certificate_with_the_nodes_own_name_is_its(cluster: Cluster) -> None:
    older = [stored(cluster, name, "cp-1", 7) for name in ("kube-apiserver", "etcd-server")]
    older += [stored(cluster, name, "w-1", 8) for name in ("kubelet", "kubelet-client")]
    assert chosen(cluster, "cp-1", older, {}) == {"kube-apiserver", "etcd-server or etcd-peer"}
    assert chosen(cluster, "w-1", older, {}) == {"kubelet", "kubelet-client"}
    assert chosen(cluster, "cp-2", older, {}) == chosen(cluster, "s-1", older, {}) == set()


def test_an_earlier_certificate_with_a_shared_name_is_left_alone_and_told(cluster: Cluster) -> None:
    older = [stored(cluster, "kube-scheduler", "cp-1", serial) for serial in (7, 8)]
    current = {"cp-1": {"kube-scheduler": 9}, "cp-2": {"kube-scheduler": 10}}
    found = [*older, *(stored(cluster, "kube-scheduler", node, one["kube-scheduler"]) for node, one in current.items())]
    result = choose(cluster, "cp-1", found, current)
    assert [target.certificate.facts.serial for target in result.targets] == [9]
    (left,) = result.unattributed
    assert (left.ca, left.name, left.count, left.not_after) == ("kubernetes", "kube-scheduler", 3, END)
    assert (left.claimants, left.unclaimed) == (("cp-2",), 2)
    assert left.reason == "cp-2 reports 1, and nobody the other 2"


def test_the_only_holder_of_a_shared_name_held_the_earlier_ones_too(tmp_path: Path) -> None:
    cluster = load(tmp_path, SPEC.replace("- {name: cp-2, roles: [control-plane, etcd], addresses: [10.0.0.12]}\n", ""))
    older = [stored(cluster, "kube-scheduler", "cp-1", 7)]
    assert chosen(cluster, "cp-1", older, {}) == {"kube-scheduler"}
    # Nobody else may hold one, whatever is said.
    assert chosen(cluster, "cp-1", older, {"w-1": {"kube-proxy": 8}}) == {"kube-scheduler"}
    # Workers share kube-proxy with every node of the pool.
    assert chosen(cluster, "w-1", [stored(cluster, "kube-proxy", "w-1", 7)], {}) == set()


def test_a_node_that_lies_ends_no_certificate_that_it_may_not_hold(cluster: Cluster) -> None:
    found, reported = everything(cluster)
    others = reported["cp-2"] | {"admin": 5}
    admin = row_named(cluster, "admin")
    subject = resolve(admin, cluster, None).subject
    found.append(StoredCertificate("kubernetes", facts(subject, 5, EKU[admin.usage]), revoked=False))
    honest = set(reported["cp-1"].values())
    # It names the serials of the admin and of a worker as its own, under any name.
    for lie in (
        dict.fromkeys(reported["cp-1"], 5),
        {"kubelet-client": reported["w-1"]["kubelet-client"], "kube-proxy": reported["w-1"]["kube-proxy"]},
    ):
        result = choose(cluster, "cp-1", found, {**reported, "cp-1": lie})
        assert {target.certificate.facts.serial for target in result.targets} <= honest, lie
    # Of the other control plane it ends what both say to hold, and that is told: which of them lies is not known.
    result = choose(cluster, "cp-1", found, {**reported, "cp-1": others})
    twice = {target.name for target in result.targets if target.claimants == ("cp-2",)}
    assert twice == set(SHARED) and result.in_doubt
    assert any("Run `vaultpki renew` there" in line for line in sentences("cp-1", result))
    assert {(one.name, one.claimants) for one in result.unattributed} == {(name, ()) for name in SHARED}


def test_a_lie_of_another_node_protects_no_certificate_with_the_nodes_own_name(cluster: Cluster) -> None:
    found, reported = everything(cluster)
    result = choose(cluster, "cp-1", found, {**reported, "cp-2": reported["cp-1"]})
    assert {target.certificate.facts.serial for target in result.targets} == set(reported["cp-1"].values())
    assert {target.name for target in result.targets if target.claimants} == set(SHARED)
    # Its silence protects none either: cp-2's own are nobody's now.
    assert {(one.name, one.unclaimed) for one in result.unattributed} == {(name, 1) for name in SHARED}


def test_a_silent_stolen_node_keeps_nothing_unsaid(cluster: Cluster) -> None:
    found, reported = everything(cluster)
    for told in ({"cp-2": reported["cp-2"]}, {}):
        result = choose(cluster, "cp-1", found, told)
        named = {serial for name, serial in reported["cp-1"].items() if name not in SHARED}
        assert {target.certificate.facts.serial for target in result.targets} == named
        assert {(one.name, one.count) for one in result.unattributed} == {(name, 2) for name in SHARED}
        assert result.in_doubt and all("--emergency" in line for line in sentences("cp-1", result) if "left" in line)
    revoked = [replace(one, revoked=True) for one in found]
    assert choose(cluster, "cp-1", revoked, {}).unattributed == ()


def test_one_liar_of_three_control_planes_hides_nothing(tmp_path: Path) -> None:
    third = "- {name: cp-3, roles: [control-plane, etcd], addresses: [10.0.0.13]}\n"
    cluster = load(tmp_path, SPEC.replace("- {name: w-1", f"{third}- {{name: w-1"))
    found, reported = everything(cluster)
    # cp-3 claims all that cp-1 or cp-2 holds, and cp-1 is to be revoked.
    for victim, claimants, unclaimed in (("cp-1", ("cp-2",), 1), ("cp-2", ("cp-2", "cp-3"), 1)):
        result = choose(cluster, "cp-1", found, {**reported, "cp-3": reported[victim]})
        assert {target.certificate.facts.serial for target in result.targets} == set(reported["cp-1"].values())
        left = {(one.name, one.count, one.claimants, one.unclaimed) for one in result.unattributed}
        assert left == {(name, 2, claimants, unclaimed) for name in SHARED}


@pytest.mark.parametrize(
    ("liar", "row"),
    [("s-1", "kubelet-client"), ("w-1", "kube-proxy"), ("w-1", "kube-scheduler"), ("s-1", "no-such-row")],
)
def test_a_claim_counts_only_for_a_certificate_of_the_ca_and_subject_of_its_row(
    tmp_path: Path, liar: str, row: str
) -> None:
    """A thief of cp-1 reports nothing, and a worker claims its serial number: `revoke cp-1` ends the certificate."""
    cluster = load(tmp_path, SPEC.replace("- {name: cp-2, roles: [control-plane, etcd], addresses: [10.0.0.12]}\n", ""))
    stolen = stored(cluster, "kube-scheduler", "cp-1", 7)
    result = choose(cluster, "cp-1", [stolen], {"cp-1": {}, liar: {row: 7}})
    assert [(target.name, target.claimants) for target in result.targets] == [("kube-scheduler", ())]
    assert result.unattributed == ()


def test_what_a_node_has_left_of_former_days_is_its_unless_another_one_says_so(cluster: Cluster) -> None:
    """w-1 was a control plane: its record names no such certificate any more, and the pairs are still there."""
    found, reported = everything(cluster)
    found.append(stored(cluster, "kube-scheduler", "cp-1", 77))
    left = CertificateReport("kubernetes", "surplus", END, "4d")
    mine = surplus(NodeReport(NOW, surplus={"kube-scheduler.crt": left}))
    targets = choose(cluster, "w-1", found, reported, mine).targets
    assert {target.name for target in targets if target.certificate.facts.serial == 77} == {"kube-scheduler"}
    # A serial number of another CA is no word on this one, and one that cp-1 holds is left to people.
    for ca, serial in (("etcd", 77), ("kubernetes", reported["cp-1"]["kube-scheduler"])):
        told = choose(cluster, "w-1", found, reported, {(ca, serial)})
        assert {target.certificate.facts.serial for target in told.targets} <= set(reported["w-1"].values())
    # What w-1 says of itself hides nothing of cp-1's.
    assert chosen(cluster, "cp-1", found, reported) == set(reported["cp-1"])
    gone = not_kept(cluster, "w-1", found[:-1], NodeReport(NOW, surplus={"kube-scheduler.crt": left}), NOW)
    assert [(one.name, one.serial) for one in gone] == [("kube-scheduler.crt", "4d")]


@pytest.mark.parametrize("name", ["kubernetes-admin", "kube-apiserver-etcd-client", "api"])
def test_a_node_named_as_everybodys_name_takes_nobody_along(tmp_path: Path, name: str) -> None:
    cluster = load(tmp_path, SPEC.replace("w-1,", f"{name},"))
    found, reported = everything(cluster)
    admin = row_named(cluster, "admin")
    subject = resolve(admin, cluster, None).subject
    found.append(StoredCertificate("kubernetes", facts(subject, 5, EKU[admin.usage]), revoked=False))
    result = choose(cluster, name, found, reported)
    assert {target.certificate.facts.serial for target in result.targets} == set(reported[name].values())
    # No node can be called so, but somebody may type it.
    for typed in ("kubernetes", "localhost", "api.example.com", "kube-scheduler"):
        assert chosen(cluster, typed, found, reported) == set(), typed


def test_a_node_of_a_pool_and_one_that_is_gone(cluster: Cluster) -> None:
    kubelet = row_named(cluster, "kubelet")
    subject = Subject("system:node:s-7", ("system:nodes",), ("s-7",), ())
    found = [StoredCertificate("kubelet", facts(subject, 3, EKU[kubelet.usage]), revoked=False)]
    found += [stored(cluster, "kube-proxy", "w-1", 4), stored(cluster, "kube-scheduler", "cp-1", 6)]
    assert chosen(cluster, "s-7", found, {"s-7": {"kube-proxy": 4}}) == {"kubelet", "kube-proxy"}
    # A pooled node holds no certificate of a control plane, whatever it reports.
    assert chosen(cluster, "s-7", found, {"s-7": {"kube-scheduler": 6}}) == {"kubelet"}
    gone = Subject("cp-9", (), ("cp-9", "localhost"), ())
    peer = row_named(cluster, "etcd-peer")
    found = [StoredCertificate("etcd", facts(gone, 8, EKU[peer.usage]), revoked=False)]
    assert chosen(cluster, "cp-9", found, {}) == {"etcd-server or etcd-peer"}


def test_serials_as_vault_writes_them(cluster: Cluster) -> None:
    for serial, text in ((0x0679, "06:79"), (0xA1, "a1"), (0xF00, "0f:00")):
        assert stored(cluster, "kubelet", "w-1", serial).serial == text
    report = NodeReport(NOW, certificates={"kubelet": CertificateReport("kubelet", "ok", serial="f00")})
    empty = NodeReport(NOW, certificates={"kubelet": CertificateReport("kubelet", "ok")})
    assert serials({"w-1": report, "w-2": None, "w-3": empty}) == {"w-1": {"kubelet": 0xF00}, "w-3": {}}


def test_what_it_does_not_do_is_told(cluster: Cluster) -> None:
    found, reported = everything(cluster)
    told = sentences("cp-1", choose(cluster, "cp-1", found, reported))
    assert told[0].startswith("kube-apiserver, kubelets and aggregated API servers read no CRL: they accept")
    assert "certificates of kubernetes and front-proxy until 2026-12-16T12:00:00Z" in told[0]
    assert "etcd refuses them only if it runs with --client-crl-file" in told[1]
    assert all("left alone" in line for line in told[2:-2])
    assert "`vaultpki lock cp-1`" in told[-2] and "--emergency" in told[-1]
    worker = sentences("w-1", choose(cluster, "w-1", found, reported), ended=True)
    assert len(worker) == 2 and not any("etcd" in line or "lock" in line for line in worker)


def test_the_form_for_programs(cluster: Cluster) -> None:
    found, reported = everything(cluster)
    document = to_json("w-1", choose(cluster, "w-1", found, reported))
    assert document.keys() == {"node", "revoked", "left_alone", "not_stored", "notes"} and document["node"] == "w-1"
    assert {one["name"] for one in document["revoked"]} == {"kubelet", "kubelet-client", "kube-proxy"}
    one = next(one for one in document["revoked"] if one["name"] == "kubelet")
    serial = reported["w-1"]["kubelet"]
    assert one == {
        "ca": "kubelet",
        "name": "kubelet",
        "serial": f"{serial:04x}"[:2] + ":" + f"{serial:04x}"[2:],
        "not_after": "2026-12-16T12:00:00Z",
    }
    assert {one["ca"] for one in document["revoked"]} <= set(ISSUING_CAS)


def test_what_vault_keeps_no_copy_of_is_said_by_the_nodes_report_and_by_cluster_yaml(tmp_path: Path) -> None:
    cluster = load(tmp_path, SPEC + "certificates: {kubelet-client: {no_store: true}, kube-proxy: {no_store: true}}\n")
    found = [stored(cluster, "kubelet", "w-1", 7)]
    reported = {"kubelet": ("kubelet", 7), "kubelet-client": ("kubernetes", 8)}
    report = NodeReport(
        NOW,
        "test",
        certificates={name: CertificateReport(ca, "ok", END, f"{n:x}") for name, (ca, n) in reported.items()},
    )
    missing = not_kept(cluster, "w-1", found, report, NOW)
    assert [(one.name, one.serial, one.not_after) for one in missing] == [
        ("kube-proxy", "", None),
        ("kubelet-client", "08", END),
    ]
    chosen = replace(choose(cluster, "w-1", found, serials({"w-1": report})), not_kept=missing)
    assert chosen.out_of_reach and not chosen.in_doubt
    said = [line for line in sentences("w-1", chosen) if "no copy" in line]
    assert said[0].startswith("not revoked: kubelet-client, which w-1 reports: Vault keeps no copy of it (no_store)")
    assert said[1].startswith("Vault keeps no copy of certificates of kube-proxy (no_store)")
    assert [one["serial"] for one in to_json("w-1", chosen)["not_stored"]] == [None, "08"]
    # One that was revoked by its file is on the mount, and one that has expired needs nothing.
    found.append(replace(stored(cluster, "kubelet-client", "w-1", 8), revoked=True))
    assert not any(one.serial for one in not_kept(cluster, "w-1", found, report, NOW))
    assert not any(one.serial for one in not_kept(cluster, "w-1", [], report, END))
    # Without the key nothing is said.
    assert not_kept(load(tmp_path, SPEC), "w-1", found, report, NOW) == ()
