"""No apply takes a pool away from nodes that take part in an adoption under way."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.foreign_ca import ForeignCa
from helpers.node.vouched_nodes import CLOUD, EDGE, LISTED, NODES, Vouched
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.jwt_issuer import Issuer
from helpers.vault.servers import Server
from vaultpki.records import adoption
from vaultpki.records.adoption import OLD_CAS, AdoptionRecord, AdoptionState

OLD = {ca: ForeignCa(f"old {ca} CA") for ca in OLD_CAS}
TRUSTED = f"ca: {{also_trust: {{{', '.join(f'{ca}: [{ca}.crt]' for ca in OLD)}}}}}\n"


@pytest.mark.on_node
def test_a_pool_stays_while_its_nodes_are_at_work(server: Server, tmp_path: Path, cluster_name: str) -> None:
    own = Vouched(server, tmp_path, cluster_name, Issuer())
    nodes = NODES.replace("etcd]", "etcd, worker]")
    own.write(f"layout: kubeadm\n{nodes}pools:\n{LISTED}{CLOUD}{EDGE}{TRUSTED}")
    for ca, each in OLD.items():
        (own.folder / f"{ca}.crt").write_text(each.pem)
    own.apply()
    whole = own.file.read_text()
    environment = own.environment()
    vaultpki("enroll", "-f", own.file, "--pool", "autoscaled", "-o", tmp_path / "join.json", "w-1", env=environment)
    image = own.image("c-1")
    image.configure("directory:", f"layout: kubeadm\nfolders: {{kubelet: {image.folder}/kubelet}}\ndirectory:")
    image.run()
    # Somebody's own, which was never a node of a pool.
    other = f"auth/{own.prefix}/pooled/role/other"
    assert server.api("POST", other, {"token_policies": "default"}).status == 204
    assert server.api("POST", f"{other}/secret-id", {}).status == 200

    def record(state: AdoptionState) -> None:
        old = {ca: (each.facts.fingerprint,) for ca, each in OLD.items()}
        value = adoption.to_json(AdoptionRecord(state, 7, 7, datetime(2026, 11, 29, tzinfo=UTC), old))
        assert server.api("POST", f"{own.prefix}/config/data/{adoption.RECORD}", {"data": value}).status == 200

    def planned(*less: str, expect: int = 0) -> str:
        text = whole
        for each in less:
            assert each in text
            text = text.replace(each, "")
        own.file.write_text(text)
        said = " ".join(vaultpki("plan", "-f", own.file, env=environment, expect=expect).stderr.split())
        if expect:
            applied = vaultpki("apply", "-f", own.file, "--yes", env=environment, expect=1).stderr
            assert " ".join(applied.split()) == said
        own.file.write_text(whole)
        return said

    record(AdoptionState.PREPARED)
    planned(LISTED, CLOUD)
    record(AdoptionState.PUBLISHED)
    # No node was ever in it.
    planned(EDGE)
    lost = f"pools: {own.name} is being taken over (published), and"
    assert f"{lost} w-1 would lose the agent half-way. Put it back" in planned(LISTED, expect=1)
    assert f"{lost} c-1 would lose the agent half-way. Put it back" in planned(CLOUD, expect=1)
    assert f"{lost} w-1, c-1 would lose the agent" in planned(LISTED, CLOUD, expect=1)
    for name in ("w-1", "c-1"):
        vaultpki("lock", name, "-f", own.file, env=environment)
    planned(LISTED, CLOUD)
