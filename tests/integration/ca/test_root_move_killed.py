"""The move of the root outside, cut off after a write: the same command again continues, and leaves nothing over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.faults.cutting_proxy import Proxy, proxied
from helpers.faults.drawn import Drawn
from helpers.node.reporting_nodes import shown
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_signer import OutsideSigner
from helpers.vault.root_operator import RootOperator
from vaultpki.ca import commands, request_files, returned
from vaultpki.ca import waiting as ca_waiting
from vaultpki.errors import StateConflict
from vaultpki.records.rotation import State
from vaultpki.vault import Settings, Vault

CAS = ("kubernetes", "kubelet", "etcd", "front-proxy")


def standing(clusters: ClusterFactory, proxy: Proxy, signer: OutsideSigner) -> RootOperator:
    operator = RootOperator.standing(clusters)
    cluster = operator.cluster
    first = shown(cluster, "root")["root-1"].fingerprint
    (cluster.folder / "corp-root.pem").write_text(signer.chain)
    authority = f"root: external, root_file: corp-root.pem, root_sha256: [{signer.root_sha256}, {first}]"
    cluster.file.write_text(f"{cluster.file.read_text()}ca: {{{authority}}}\n")
    operator.through = Vault(Settings((proxy.address,), ca_pem=proxy.ca_pem, token=cluster.token()))
    return operator


def imported(operator: RootOperator, signer: OutsideSigner, folder: Path) -> None:
    """What `ca import` does with the answers of the signer, on a clock that only the test moves."""

    def once(vault: Vault) -> None:
        model, now = operator.cluster.model, datetime.now(UTC)
        there = ca_waiting.find(model, operator.cluster.client())
        request_files.write(model, there.waiting, folder)
        files = [
            csr.with_suffix(".crt") if csr.with_suffix(".crt").exists() else signer.sign(csr, days=1825)
            for csr in sorted(folder.glob("*.csr"))
        ]
        found = returned.judge(model, returned.read_files(files), [each.request for each in there.waiting], now, there)
        for each in found.verdict.accepted:
            waits = next(one for one in there.waiting if one.domain == each.request.domain)
            returned.install(model, vault, waits, each)
        commands.advance(model, vault, operator.now)

    operator.run(once)


def reach(operator: RootOperator, signer: OutsideSigner, folder: Path, state: State) -> None:
    operator.begin()
    while operator.record.state is not state:
        operator.step()
        if operator.record.state is State.SWITCHED:
            imported(operator, signer, folder)


def check(operator: RootOperator, when: str) -> None:
    """Nothing is left but the root in force with its own chain, and one issuer with one key for each CA."""
    vault = operator.cluster.client()
    with contextlib.suppress(StateConflict):
        commands.advance(operator.cluster.model, vault, operator.now)
    with pytest.raises(StateConflict, match="no CA of"):
        commands.advance(operator.cluster.model, vault, operator.now)
    record = operator.record
    done, root = record.state is State.DONE, record.leaf.name
    names = [each["issuer_name"] for each in issuers(operator)]
    above = [name for name in names if name.startswith("above-")]
    assert len(above) == (1 if done else 0), (when, names)
    assert sorted(set(names) - {*above}) == ([root, f"{root}-by-{record.old.name}"] if done else [root]), when
    for ca in CAS:
        found, keys, default = operator.names(ca)
        assert found == [default] and keys == [f"{ca}-1"], (when, ca)
    plan = operator.cluster.plan()
    assert (plan["changes"], plan["unmanaged"], plan["dangers"]) == ([], [], []), when


def issuers(operator: RootOperator) -> list[dict[str, str]]:
    answer = operator.cluster.server.api("LIST", f"{operator.cluster.prefix}/root/issuers")
    return list(answer.data["key_info"].values())


BACK = {
    State.PUBLISHED: range(1, 200),
    State.SWITCHED: range(12, 200, 3),
    State.RETIRED: range(30, 200, 5),
}


@pytest.fixture
def operator(clusters: ClusterFactory, tmp_path: Path) -> Iterator[tuple[RootOperator, OutsideSigner, Proxy]]:
    signer = OutsideSigner.made(tmp_path / "offline", ["Corp Policy CA"])
    with proxied(clusters.server) as proxy:
        yield standing(clusters, proxy, signer), signer, proxy


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.conformance) for way in BACK])
@pytest.mark.timeout(1800)
def test_cut_and_back(operator: tuple[RootOperator, OutsideSigner, Proxy], tmp_path: Path, way: State) -> None:
    person, signer, proxy = operator
    for number in BACK[way]:
        cut_and_back(person, signer, proxy, tmp_path / f"requests-{number}", way, number)
        if not proxy.closed:
            # This way has fewer writes.
            assert number > 20
            break


def cut_and_back(
    operator: RootOperator, signer: OutsideSigner, proxy: Proxy, folder: Path, way: State, number: int
) -> None:
    proxy.arm(number, reopens=False)
    reach(operator, signer, folder, way)
    operator.back()
    check(operator, f"{way}, cut after write {number}")


@pytest.mark.parametrize("number", [pytest.param(each, marks=pytest.mark.conformance) for each in range(4, 84, 8)])
@pytest.mark.timeout(600)
def test_cut_on_the_way_out(operator: tuple[RootOperator, OutsideSigner, Proxy], tmp_path: Path, number: int) -> None:
    person, signer, proxy = operator
    proxy.arm(number, reopens=False)
    reach(person, signer, tmp_path / "requests", State.DONE)
    assert proxy.closed or number > 60
    check(person, f"cut after write {number}")


@pytest.mark.sample
def test_cut_and_back_and_on_the_way_out(
    operator: tuple[RootOperator, OutsideSigner, Proxy], tmp_path: Path, drawn: Drawn
) -> None:
    person, signer, proxy = operator
    way = [*BACK][drawn.below(len(BACK))]
    for each, number in ((State.PUBLISHED, 1 + drawn.below(20)), (way, 12 + drawn.below(20))):
        cut_and_back(person, signer, proxy, tmp_path / f"requests-{each}-{number}", each, number)
    proxy.arm(number := 4 + drawn.below(60), reopens=False)
    reach(person, signer, tmp_path / "requests", State.DONE)
    check(person, f"cut after write {number}")
