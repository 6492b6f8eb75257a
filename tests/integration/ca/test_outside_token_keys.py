"""Service-account keys below a root from outside: their CA is requested and imported as all others are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.node.agents_with_keys import SPEC as KEYS
from helpers.node.agents_with_keys import AgentsWithKeys
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.outside_signer import SPEC, OutsideSigner
from vaultpki.records.service_account import KeyState

TWO = ("Corp Policy CA", "Corp Kubernetes CA")
OUTSIDE = "".join(line for line in SPEC.splitlines(keepends=True) if line.startswith("ca:")) + KEYS


@pytest.mark.parametrize(
    "between",
    [
        pytest.param((), id="by the root itself", marks=pytest.mark.conformance),
        pytest.param(TWO, id="with two intermediates"),
    ],
)
def test_new_keys_are_certified_below_a_root_from_outside(
    clusters: ClusterFactory, tmp_path: Path, between: tuple[str, ...]
) -> None:
    signer = OutsideSigner.made(tmp_path / "offline", between)
    cluster = clusters.written(OUTSIDE, {"corp-root.pem": signer.chain})
    cluster.apply(expect=3)
    env, folder = cluster.environment(), cluster.folder / "requests"
    vaultpki("ca", "csr", "-f", cluster.file, "-o", folder, env=env)
    csrs = sorted(folder.glob("*.csr"))
    assert f"{cluster.name}-service-account-1.csr" in [csr.name for csr in csrs]
    answers = [signer.sign(csr, csr.with_suffix(".ext").read_text()) for csr in csrs]
    words = ("ca", "import", "-f", cluster.file, "--dry-run", "--csr", folder, "--json")
    document = json.loads(vaultpki(*words, *answers, env={"VAULT_ADDR": "https://127.0.0.1:1"}).stdout)
    assert "service-account" in [each["domain"] for each in document["accepted"]]
    vaultpki("ca", "import", "-f", cluster.file, *answers, env=env)
    since = cluster.server.audit_position()
    cluster.apply()
    assert cluster.server.writes(since) == []
    with AgentsWithKeys.joined(cluster, "cp-1", "cp-2") as made:
        made.begin()
        made.passes()
        made.reach(KeyState.SWITCHED)
        assert {*made.planes["cp-1"].union()} == {"sa:cp-1:1", "sa:cp-1:2", "sa:cp-2:1", "sa:cp-2:2"}
        vaultpki("ca", "jwks", "-f", cluster.file, "-o", tmp_path / "jwks.json", env=env)
        assert len(json.loads((tmp_path / "jwks.json").read_text())["keys"]) == 4
