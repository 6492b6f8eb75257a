"""The signer of certificate requests on a control plane: it is enrolled by itself, and ends with its node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.vault.applied_cluster import AppliedCluster, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from vaultpki.errors import StateConflict
from vaultpki.identity import ending, enrol
from vaultpki.provision import destroy
from vaultpki.records.join_file import Join, load_join
from vaultpki.records.server_facts import ServerFacts

NODES = """\
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane, worker], addresses: [10.0.0.12]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
"""
POOLS = """\
pools:
- {name: joined, roles: [worker], node_names: "w-*", join: token, networks: [10.0.0.0/16]}
"""
SPEC = f"{NODES}{POOLS}signer: {{people: {{names: ['*@example.com'], groups: [[]]}}}}\n"


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(SPEC)


@dataclass(frozen=True)
class Held:
    """What was in a join file, and a token of it."""

    cluster: AppliedCluster
    kind: str
    join: Join
    secret_id: str
    token: str

    @property
    def works(self) -> tuple[bool, bool]:
        """Whether the secret id lets in, and whether the token that it gave before still works."""
        again = enrolled_nodes.login(self.cluster, self.kind, self.join.role_id, self.secret_id)
        return again is not None, enrolled_nodes.works(self.cluster, self.token)


def held(cluster: AppliedCluster, join: Join) -> Held:
    kind = "signer" if join.signer else "listed"
    secret_id = cluster.server.api("POST", "sys/wrapping/unwrap", token=join.wrap_token).data["secret_id"]
    token = enrolled_nodes.login(cluster, kind, join.role_id, secret_id)
    assert token is not None
    made = Held(cluster, kind, join, secret_id, token)
    assert made.works == (True, True)
    return made


def enrolled(cluster: AppliedCluster, node: str, *, signer: bool = True, replace: bool = True) -> Held:
    model, vault = cluster.model, cluster.client()
    who = enrol.signer_on(model, node) if signer else enrol.holder(model, node, None)
    place = enrol.place(model, vault)
    return held(cluster, enrol.enroll(model, vault, node, who, place, wrap_ttl=300, replace=replace, wait=0))


def test_a_signer_has_a_join_file_and_a_credential_of_its_own(
    cluster: AppliedCluster, applier: Enroller, tmp_path: Path
) -> None:
    node = enrolled(cluster, "cp-1", signer=False)
    applier.enroll("--signer", "cp-1", "-o", tmp_path / "signer-join.json")
    first = held(cluster, load_join(tmp_path / "signer-join.json"))
    assert first.join.role_id != node.join.role_id
    second = applier.enroll("--signer", "cp-1", "-o", tmp_path / "other.json", expect=1)
    assert "the signer on cp-1 has 1 live credential (its own" in second.stderr and "--replace" in second.stderr
    again = enrolled(cluster, "cp-1")
    assert first.works == (False, False)
    assert again.works == node.works == (True, True)
    # No view takes it for a node, and a rotation is not stopped by a stranger.
    shown = applier.run("nodes", "-f", cluster.file, "--json").stdout
    assert shown.count('"cp-1"') == 1 and "signer" not in shown


@pytest.mark.parametrize("how", ["lock", "replace"])
def test_it_ends_with_its_node(cluster: AppliedCluster, how: str) -> None:
    node, signer, other = enrolled(cluster, "cp-1", signer=False), enrolled(cluster, "cp-1"), enrolled(cluster, "cp-2")
    if how == "lock":
        assert enrol.lock(cluster.model, cluster.client("locker"), "cp-1", wait=0) == {"approle"}
    else:
        enrolled(cluster, "cp-1", signer=False)
    assert node.works == signer.works == (False, False)
    assert other.works == (True, True)
    assert "signer" not in str(cluster.server.api("LIST", f"{cluster.prefix}/config/metadata/leaving").body)
    enrolled_nodes.vacate(cluster, "cp-1")


def test_a_signer_on_a_locked_node_waits(cluster: AppliedCluster, applier: Enroller, tmp_path: Path) -> None:
    enrol.lock(cluster.model, cluster.client("locker"), "cp-2", wait=0)
    ran = applier.enroll("--signer", "cp-2", "-o", tmp_path / "join.json", "--replace", expect=1)
    assert "cp-2 is locked" in ran.stderr and not (tmp_path / "join.json").exists()
    enrolled_nodes.vacate(cluster, "cp-2")
    applier.enroll("--signer", "cp-2", "-o", tmp_path / "join.json", "--replace")


def test_an_end_that_was_interrupted_goes_on(cluster: AppliedCluster) -> None:
    signer = enrolled(cluster, "cp-1")
    ending.write_note(cluster.model, cluster.client(), "signer:cp-1", {signer.join.role_id})
    path = f"auth/{cluster.prefix}/signer/role/cp-1"
    assert cluster.server.api("DELETE", path).status == 204
    cluster.applied_here()
    with pytest.raises(StateConflict, match="interrupted"):
        enrolled(cluster, "cp-1", replace=False)
    enrolled(cluster, "cp-1")
    assert signer.works == (False, False)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["worker-1"], 1, "is no control plane"),
        (["w-1"], 1, "join by `kubeadm join`"),
        (["cp-1", "--pool", "joined"], 2, "leave out --pool"),
        (["--all"], 2, "leave out --pool"),
        (["-"], 2, "leave out --pool"),
    ],
)
def test_who_is_none(
    cluster: AppliedCluster, applier: Enroller, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    ran = applier.enroll("--signer", *arguments, "-o", tmp_path / "join.json", expect=code)
    assert words in ran.stderr and not (tmp_path / "join.json").exists()


def test_an_enroller_may_not(cluster: AppliedCluster, enroller: Enroller, tmp_path: Path) -> None:
    ran = enroller.enroll("--signer", "cp-1", "-o", tmp_path / "join.json", expect=1)
    assert not (tmp_path / "join.json").exists(), ran.stderr


def test_it_rolls_its_own_secret_id(cluster: AppliedCluster) -> None:
    signer = enrolled(cluster, "cp-1")
    minted = enrolled_nodes.minted(cluster, "signer", "cp-1", signer.token)
    token = str(enrolled_nodes.login(cluster, "signer", signer.join.role_id, minted))
    path = f"auth/{cluster.prefix}/signer/role/cp-1/secret-id/destroy"
    assert cluster.server.api("POST", path, {"secret_id": signer.secret_id}, token=token).status == 204
    assert signer.works == (False, True)
    other = f"auth/{cluster.prefix}/signer/role/cp-2/secret-id"
    assert "wrap_info" not in str(cluster.server.api("POST", other, token=token).body)


def test_a_node_that_is_no_control_plane_any_more_has_no_signer(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC)
    demoted, stays = enrolled(cluster, "cp-2"), enrolled(cluster, "cp-2", signer=False)
    cluster.write(SPEC.replace("cp-2, roles: [control-plane, worker]", "cp-2, roles: [worker]"))
    cluster.apply()
    assert demoted.works == (False, False)
    assert stays.works == (True, True)
    assert not cluster.left_to_apply()


def test_without_signer_nothing_is_left(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC)
    signer = enrolled(cluster, "cp-1")
    cluster.write(NODES)
    planned = vaultpki("plan", "-f", cluster.file, env=cluster.environment()).stdout
    assert "every signer of certificate requests loses access at once" in planned
    for each in (f"auth {cluster.prefix}/signer", "csr-kubelet-client", "csr-kubelet-serving", "csr-person", "policy"):
        assert each in planned, planned
    cluster.apply()
    assert signer.works == (False, False)
    prefix, api = cluster.prefix, cluster.server.api
    assert api("GET", f"sys/policies/acl/{prefix}/signer").status == 404
    assert api("GET", f"{prefix}/config/data/signer").status == 404
    assert f"{prefix}/signer/" not in api("GET", "sys/auth").data
    for role in (
        "kubernetes/roles/csr-person",
        "kubernetes/roles/csr-kubelet-client",
        "kubelet/roles/csr-kubelet-serving",
    ):
        assert api("GET", f"{prefix}/{role}").status == 404
    assert not cluster.left_to_apply()
    cluster.write(SPEC)
    planned = vaultpki("plan", "-f", cluster.file, env=cluster.environment()).stdout
    assert "needs the controllers csrapproving and csrcleaner" in planned


def test_a_stranger_on_the_mount_is_refused(clusters: ClusterFactory) -> None:
    cluster = clusters.written(SPEC)
    cluster.apply()
    path = f"auth/{cluster.prefix}/signer/role/worker-1"
    assert cluster.server.api("POST", path, {"token_policies": f"{cluster.prefix}/signer"}).status == 204
    cluster.write(SPEC.replace("worker-1, roles: [worker]", "worker-1, roles: [control-plane]"))
    refused = vaultpki("plan", "-f", cluster.file, env=cluster.environment(), expect=1)
    assert f"{path} was not made by vaultpki" in refused.stderr


def test_destroy_ends_signers(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC)
    signer = enrolled(cluster, "cp-1")
    destroy.destroy(cluster.model, cluster.client(), ServerFacts((), None), progress=lambda path: None)
    assert cluster.server.api("GET", "auth/token/lookup-self", token=signer.token).status == 403
    assert f"{cluster.prefix}/signer/" not in cluster.server.api("GET", "sys/auth").data
    assert enrolled_nodes.login(cluster, "signer", signer.join.role_id, signer.secret_id) is None
