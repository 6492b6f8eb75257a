"""`ca.also_trust` of cluster.yaml, and `also_trust` of agent.yaml and of join files."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers import example_cluster
from helpers.ca_certificates import ca, root
from helpers.example_agent import agent_config
from helpers.foreign_ca import ForeignCa
from vaultpki.config.agent import dump_agent, load_agent
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError
from vaultpki.model import Cluster
from vaultpki.pki import foreign_cas
from vaultpki.records import join_file, published
from vaultpki.records.foreign_cas import MOST_CAS
from vaultpki.records.join_file import Join

OLD, OTHER = ForeignCa(), ForeignCa("other")
LONG = tuple(f"{number:064}" for number in range(80))
KEY = "-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\n"
NODES = "nodes:\n- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.1]}\n"


def load(folder: Path, value: str, files: dict[str, str]) -> Cluster:
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "cluster.yaml").write_text(f"cluster: prod\n{NODES}ca:\n  also_trust:\n{value}")
    cluster = load_cluster(folder / "cluster.yaml")
    foreign_cas.read(cluster)
    return cluster


def test_certificates_alone_are_taken_from_files(tmp_path: Path) -> None:
    wide = OTHER.pem.replace("\n", "\r\n")
    files = {"a.crt": f"Issuer: someone\n{OLD.pem}\n# note\n{wide}", "b.crt": OTHER.pem}
    cluster = load(tmp_path, "    etcd: [b.crt]\n    kubernetes: [a.crt]\n", files)
    found = cluster.authority.also_trust
    # In the order of the table, and in one form.
    assert [(each.ca, each.source) for each in found] == [
        ("kubernetes", "a.crt"),
        ("kubernetes", "a.crt"),
        ("etcd", "b.crt"),
    ]
    assert [each.pem for each in found] == [OLD.pem, OTHER.pem, OTHER.pem]
    assert [each.sha256 for each in found] == [OLD.sha256, OTHER.sha256, OTHER.sha256]


@pytest.mark.parametrize(
    ("value", "text", "where", "why"),
    [
        ("    etcd: [a.crt]\n", KEY, "6: ca.also_trust.etcd[0]", "contains a private key"),
        ("    etcd: [a.crt]\n", OLD.pem + KEY, "6: ca.also_trust.etcd[0]", "contains a private key"),
        ("    etcd: [a.crt]\n", "", "6: ca.also_trust.etcd[0]", "contains no whole PEM certificate"),
        ("    etcd: [a.crt]\n", OLD.pem[:-20], "6: ca.also_trust.etcd[0]", "contains no whole PEM certificate"),
        ("    etcd:\n    - a.crt\n    - none.crt\n", OLD.pem, "8: ca.also_trust.etcd[1]", "none.crt"),
        ("    etcd: [a.crt]\n", OLD.pem * 2, "6: ca.also_trust.etcd[0]", "is twice in it: keep one of them"),
        ("    etcd:\n    - a.crt\n    - ./a.crt\n", OLD.pem, "8: ca.also_trust.etcd[1]", "also in a.crt, line 7"),
        ("    etcd: [a.crt, a.crt]\n", OLD.pem, "6: ca.also_trust.etcd[1]", "in the list twice"),
        ("    etcd: []\n", OLD.pem, "6: ca.also_trust.etcd", "at least 1 item"),
        ("    etcd: a.crt\n", OLD.pem, "6: ca.also_trust.etcd", "a list is expected"),
        ("    root: [a.crt]\n", OLD.pem, "6: ca.also_trust.root", "is not an issuing CA: write one of kubernetes"),
        ("    etcd: [a.crt]\n", "x" * 300_000, "6: ca.also_trust.etcd[0]", "larger than 256 KiB"),
        (
            "    etcd: [a.crt]\n",
            "".join(ForeignCa(f"{number}").pem for number in range(MOST_CAS + 1)),
            "6: ca.also_trust.etcd[0]",
            "with this file etcd has more than 8 foreign CAs",
        ),
        (
            "    etcd: [a.crt]\n",
            ForeignCa("a", organization=LONG).pem + ForeignCa("b", organization=LONG).pem,
            "6: ca.also_trust.etcd[0]",
            "larger than 16 KiB",
        ),
        ("    etcd: [a.crt]\n", ForeignCa(is_ca=False).pem, "6: ca.also_trust.etcd[0]", "and it is not a CA"),
        ("    etcd: [a.crt]\n", ForeignCa(usage=("crl_sign",)).pem, "6: ca.also_trust.etcd[0]", "its key usage"),
    ],
)
def test_everything_else_is_refused_with_its_place(tmp_path: Path, value: str, text: str, where: str, why: str) -> None:
    with pytest.raises(SpecError) as refused:
        load(tmp_path, value, {"a.crt": text})
    assert f"cluster.yaml:{where}: " in str(refused.value) and why in str(refused.value)
    assert "PRIVATE KEY" not in str(refused.value)


def test_one_of_our_own_and_an_expired_one_are_refused(tmp_path: Path) -> None:
    own = ca("prod etcd CA", key="etcd", signer="prod root CA")
    ended = ForeignCa("ended", years=1)
    value = "    etcd: [a.crt]\n    kubelet: [b.crt]\n"
    cluster = load(tmp_path, value, {"a.crt": ended.pem, "b.crt": own.pem})
    with pytest.raises(SpecError, match=r"cluster.yaml:7: ca.also_trust.kubelet\[0\]: b.crt: .*of this cluster"):
        foreign_cas.refuse_own(cluster, [root("prod"), own])
    foreign_cas.refuse_own(cluster, [root("prod")])
    later = datetime(2028, 1, 1, tzinfo=UTC)
    with pytest.raises(SpecError, match=r"cluster.yaml:6: ca.also_trust.etcd\[0\]: a.crt: CN=ended expired on 2027"):
        foreign_cas.refuse_expired(cluster, {}, later)
    # One that nodes have may end there: every command goes on.
    foreign_cas.refuse_expired(cluster, {"etcd": [ended.pem]}, later)
    foreign_cas.refuse_expired(cluster, {}, datetime(2027, 1, 1, tzinfo=UTC))
    # One that they have does not let another one in.
    beside = ForeignCa("ended too", years=1)
    both = load(tmp_path, "    etcd: [a.crt]\n", {"a.crt": ended.pem + beside.pem})
    for one, other in ((ended, "ended too"), (beside, "ended")):
        with pytest.raises(SpecError, match=f"CN={other} expired"):
            foreign_cas.refuse_expired(both, {"etcd": [one.pem]}, later)


def test_the_record_offers_them_and_reads_them_back(tmp_path: Path) -> None:
    cluster = load(tmp_path, "    etcd: [a.crt]\n", {"a.crt": OLD.pem + OTHER.pem})
    record = published.cluster_record(cluster, (), None, "4f" * 32)
    turned = load(tmp_path, "    etcd: [a.crt]\n", {"a.crt": OTHER.pem + OLD.pem})
    assert published.cluster_record(turned, (), None, "4f" * 32) == record
    read = published.read_cluster(json.loads(json.dumps(record)), where="here")
    assert {ca: set(pems) for ca, pems in read.also_trust.items()} == {"etcd": {OLD.pem, OTHER.pem}}
    # Of a domain that only a later release knows nothing is taken, and nothing is wrong.
    later = {**record, "also_trust": {**record["also_trust"], "service-account": [OLD.pem]}}
    assert published.read_cluster(later, where="here") == read


@pytest.mark.parametrize(
    "value", [[], "x", 7, {"etcd": "x"}, {"etcd": [7]}, {"etcd": ["x"] * 9}, {"etcd": ["x" * 20000]}]
)
def test_a_record_that_no_vaultpki_writes_is_refused(tmp_path: Path, value: object) -> None:
    record = published.cluster_record(example_cluster.load(tmp_path, example_cluster.BASE), (), None, "4f" * 32)
    with pytest.raises(SpecError, match="also_trust"):
        published.read_cluster({**record, "also_trust": value}, where="here")


def test_a_cluster_without_any_has_the_records_of_before(tmp_path: Path) -> None:
    """Byte for byte, as those of 0.1.0: no key is added."""
    record = published.cluster_record(
        example_cluster.load(tmp_path, example_cluster.BASE), ("https://v",), "CA", "4f" * 32
    )
    assert list(record) == ["version", "cluster", "endpoint", "root_sha256", "vault", "templates"]
    assert list(json.loads(join_file.dump_join(JOIN))) == [
        *("version", "cluster", "prefix", "namespace", "node", "pool", "addresses", "ca_pem", "root_sha256"),
        *("role_id", "wrap_token", "expires"),
    ]
    assert "also_trust" not in dump_agent(agent_config())


JOIN = Join(
    cluster="prod",
    prefix="vaultpki/prod",
    node="w-1",
    pool=None,
    addresses=("https://v",),
    ca_pem=None,
    root_sha256="4f" * 32,
    role_id="9a0e",
    wrap_token="hvs.x",
    expires=datetime(2026, 6, 1, tzinfo=UTC),
)


def test_a_join_file_brings_pins(tmp_path: Path) -> None:
    join = replace(JOIN, also_trust={"etcd": (OLD.sha256, OTHER.sha256)})
    assert join_file.parse(join_file.dump_join(join).encode(), "join.json") == join


@pytest.mark.parametrize(
    "value", [[], 7, {"root": ["4f" * 32]}, {"etcd": []}, {"etcd": ["x"]}, {"etcd": ["4f" * 32] * 2}]
)
def test_a_join_file_with_other_pins_is_refused(value: object) -> None:
    text = json.dumps({**json.loads(join_file.dump_join(JOIN)), "also_trust": value})
    with pytest.raises(SpecError, match="also_trust"):
        join_file.parse(text.encode(), "join.json")


def test_agent_yaml_keeps_them(tmp_path: Path) -> None:
    config = agent_config(also_trust={"kubernetes": (OLD.sha256,), "etcd": (OLD.sha256, OTHER.sha256)})
    (tmp_path / "agent.yaml").write_text(dump_agent(config))
    assert load_agent(tmp_path / "agent.yaml").also_trust == config.also_trust
    by_hand = dump_agent(agent_config()) + f"also_trust:\n  etcd:\n  - '{':'.join(['4F'] * 32)}'\n"
    (tmp_path / "agent.yaml").write_text(by_hand)
    assert load_agent(tmp_path / "agent.yaml").also_trust == {"etcd": ("4f" * 32,)}
    for wrong, why in (("{root: []}", "is not an issuing CA"), ("{etcd: [x]}", "is not a SHA-256"), ("[]", "names")):
        (tmp_path / "agent.yaml").write_text(f"{dump_agent(agent_config())}also_trust: {wrong}\n")
        with pytest.raises(SpecError, match=why):
            load_agent(tmp_path / "agent.yaml")
