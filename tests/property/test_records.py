"""What cluster.yaml allows, an agent reads back from records and the join file: else apply stops whole nodes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from vaultpki import records
from vaultpki.config import load_cluster
from vaultpki.desired import Known, desired, node_certificates
from vaultpki.errors import SpecError
from vaultpki.join import Join, dump_join, load_join

LABEL = r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
FILE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}"
COMMON_NAME = r"[A-Za-z0-9]([A-Za-z0-9 ._:-]{0,30}[A-Za-z0-9])?"
NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
PIN = "0" * 64


def some(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(pattern, fullmatch=True)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prefix=st.lists(some(LABEL), min_size=1, max_size=3).map("/".join),
    node=st.lists(some(LABEL), min_size=1, max_size=9).map(".".join),
    common_name=some(COMMON_NAME),
    kubeconfig=some(FILE),
    file=some(FILE),
)
def test_what_is_written_is_read(
    tmp_path: Path, prefix: str, node: str, common_name: str, kubeconfig: str, file: str
) -> None:
    spec = {
        "cluster": "prod",
        "prefix": prefix,
        "nodes": [
            {"name": "cp-1", "roles": ["control-plane", "etcd"], "addresses": ["10.0.0.11"]},
            {"name": node, "roles": ["etcd"], "addresses": ["10.0.0.21"]},
        ],
        "certificates": {
            "team": {
                "kind": "client",
                "common_name": common_name,
                "ca": "kubernetes",
                "roles": ["etcd"],
                "kubeconfig": f"{kubeconfig}.conf",
            }
        },
        "templates": {"own": {"file": file, "template": "own.txt", "roles": ["etcd"]}},
    }
    (tmp_path / "own.txt").write_text("x")
    path = tmp_path / "cluster.yaml"
    path.write_text(json.dumps(spec))
    try:
        cluster = load_cluster(path)
    except SpecError:
        assume(False)
    wanted = desired(cluster, Known(addresses=("https://vault.example.com:8200",), root_sha256=PIN))
    store = cluster.mount("config")
    told = records.read_cluster(wanted["config", f"{store}/cluster"], where="")
    assert [(each.name, each.file) for each in told.templates] == [("own", file)]
    for each in cluster.nodes:
        record = wanted["config", f"{store}/nodes/{each.name}"]
        roles, certificates = records.read_certificates(record, node=each.name, prefix=prefix, where="")
        assert (roles, certificates) == (each.roles, node_certificates(cluster, each))
        join = Join(
            *("prod", prefix, each.name, None, ("https://vault.example.com:8200",), None, PIN),
            *("9a0e2b1c-5d4f-4c3b-8a7e-6f5d4c3b2a10", "s.token", NOW),
        )
        joined = tmp_path / "join.json"
        joined.write_text(dump_join(join))
        joined.chmod(0o600)
        assert load_join(joined) == join


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b", "a\nb", "", "-x"])
def test_no_record_names_a_file_elsewhere(name: str) -> None:
    record = {
        "version": 1,
        "cluster": "prod",
        "endpoint": "https://10.0.0.1:6443",
        "root_sha256": PIN,
        "templates": {"own": {"file": name, "text": "x", "roles": ["etcd"]}},
    }
    with pytest.raises(SpecError):
        records.read_cluster(record, where="")
