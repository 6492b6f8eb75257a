"""Which record of the config store each printed policy lets write: just those of the table on the page Security."""

from __future__ import annotations

import re
from typing import Final

import pytest

from helpers import pages
from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import SPEC
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.least_privilege import holder, made
from vaultpki.identity import access, credentials, ending, enrol
from vaultpki.identity.applied import APPLIED
from vaultpki.identity.credentials import Identity
from vaultpki.records.adoption import OLD_CAS
from vaultpki.records.changes import CHANGES
from vaultpki.records.paths import LEAVING, LOCKED
from vaultpki.records.report_paths import REPORT_FOLDER
from vaultpki.records.rotation import ROTATION_FOLDER
from vaultpki.records.signer import SIGNER_RECORD

TABLE: Final = pages.rows(pages.part("security", "Who may write which record"))
EXAMPLES: Final = {"NODE": "worker-1", "POOL": "autoscaled", "DOMAIN": "etcd", "ENTITY": "x"}
DATA: Final = {"data": {"version": 1}}
WAYS: Final = (
    ("POST", "data", DATA),
    ("PATCH", "data", DATA),
    ("DELETE", "data", None),
    ("POST", "delete", {"versions": [1]}),
    ("POST", "undelete", {"versions": [1]}),
    ("POST", "destroy", {"versions": [1]}),
    ("POST", "metadata", {"max_versions": 1}),
    ("DELETE", "metadata", None),
)


def test_each_policy_writes_the_records_of_its_rows_and_no_other(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC)
    api, store = cluster.server.api, f"{cluster.prefix}/config"
    heads = {
        CHANGES,
        APPLIED,
        LEAVING,
        LOCKED,
        REPORT_FOLDER,
        ROTATION_FOLDER,
        SIGNER_RECORD,
        "cluster",
        "nodes",
        "pools",
    }
    assert {row[0].strip("`").partition("/")[0] for row in TABLE} == heads
    for who in access.POLICIES:
        rules = access.policy_of(cluster.model, who, OLD_CAS if who == "adopter" else ())
        ask = made(cluster.server, holder(cluster.server, rules))
        for shown, writers, _ in TABLE:
            record = re.sub("[A-Z]+", lambda found: EXAMPLES[found[0]], shown.strip("`"))
            allowed = []
            for there in (False, True):
                for method, kind, body in WAYS:
                    assert api("DELETE", f"{store}/metadata/{record}").status == 204
                    if there:
                        assert api("POST", f"{store}/data/{record}", DATA).status == 200
                    allowed += [f"{method} {kind}"] if ask(method, f"{store}/{kind}/{record}", body) != 403 else []
            assert bool(allowed) is (who in writers.split(", ")), (who, record, allowed)


@pytest.mark.on_node
def test_a_stolen_locker_moves_nothing(clusters: ClusterFactory) -> None:
    """By other role ids and false notes it can have `plan` delete no AppRole, nor change anything else."""
    cluster = clusters.applied(SPEC)
    rules = access.policy_of(cluster.model, "locker")
    ask = made(cluster.server, holder(cluster.server, rules))
    for number, node in enumerate(("cp-1", "worker-1")):
        role = f"auth/{cluster.prefix}/listed/role/{node}/role-id"
        assert ask("POST", role, {"role_id": f"stolen-{number}"}) in (200, 204)
    for note in ({"version": 2, "role_ids": "x"}, {"version": 1, "role_ids": ["stolen-1"], "ended": True}):
        for record in ("leaving/worker-1", "leaving/w-77", "leaving/no%20name", "locked/no%20name", "locked/cp-1"):
            ask("POST", f"{cluster.prefix}/config/data/{record}", {"data": note})
    # A record of a lock is made, never changed nor removed; what is in it may be anything.
    locked = f"{cluster.prefix}/config/data/locked/w-5"
    assert ask("POST", locked, {"data": {"by": "\x1b[2J" * 999, "time": []}}) == 200
    for path in (locked, f"{cluster.prefix}/config/data/locked/cp-1"):
        for method, kind, body in WAYS:
            assert ask(method, path.replace("/data/", f"/{kind}/"), body) == 403, (method, path)
    found = ending.find_lock(cluster.model, cluster.client("viewer"), "w-5")
    assert found is not None and found.by == ("?[2J" * 999)[:100] and found.since is not None
    kinds = {(change.action, change.kind) for change in cluster.left_to_apply()}
    # The note of a node that cluster.yaml does not have goes, as after any end that was interrupted.
    assert kinds <= {("delete", "config")}
    cluster.applied_here()
    assert cluster.left_to_apply() == ()
    enrol.lock(cluster.model, cluster.client("locker"), "worker-1", wait=0)
    assert cluster.left_to_apply() == ()
    assert cluster.destroy().returncode == 0


@pytest.mark.on_node
def test_a_lock_by_0_2_0_stays_one_and_moves_nothing(clusters: ClusterFactory) -> None:
    """It wrote the new role id into the node's record and into `applied`, and left no note."""
    cluster = clusters.applied(SPEC)
    model, vault = cluster.model, cluster.client()
    node = Identity("listed", "worker-1")
    before = str(credentials.role_id(model, vault, node))
    assert cluster.server.api("POST", f"{node.role(model)}/role-id", {"role_id": "of-0.2.0"}).status in (200, 204)
    for record in ("nodes/worker-1", "applied"):
        path = f"{cluster.prefix}/config/data/{record}"
        text = {
            name: value.replace(before, "of-0.2.0") if isinstance(value, str) else value
            for name, value in cluster.read(path)["data"].items()
        }
        assert cluster.server.api("POST", path, {"data": text}).status == 200
    assert cluster.left_to_apply() == ()
    assert credentials.count(model, vault, node) == 0
    who = enrol.holder(model, "worker-1", None)
    join = enrol.enroll(model, vault, "worker-1", who, enrol.place(model, vault), wrap_ttl=60)
    assert join.role_id == "of-0.2.0"


@pytest.mark.conformance
def test_a_node_that_was_locked_and_is_taken_off_the_list_is_ended_whole(clusters: ClusterFactory) -> None:
    """By its role id of then: who logged in with that has no token any more."""
    cluster = clusters.applied(SPEC)
    enrol.lock(cluster.model, cluster.client("locker"), "worker-1", wait=0)
    model, vault = cluster.model, cluster.client()
    who, where = enrol.holder(model, "worker-1", None), enrol.place(model, vault)
    join = enrol.enroll(model, vault, "worker-1", who, where, wrap_ttl=300)
    secret_id = cluster.server.api("POST", "sys/wrapping/unwrap", token=join.wrap_token).data["secret_id"]
    token = enrolled_nodes.login(cluster, "listed", join.role_id, secret_id)
    assert token is not None and enrolled_nodes.works(cluster, token)
    # Without the note, which only informs.
    assert cluster.server.api("DELETE", f"{cluster.prefix}/config/metadata/leaving/worker-1").status == 204
    cluster.write("".join(line for line in SPEC.splitlines(keepends=True) if "worker-1" not in line))
    cluster.applied_here()
    assert not enrolled_nodes.works(cluster, token)
    assert enrolled_nodes.entity(cluster, "listed", join.role_id) is None
    assert cluster.left_to_apply() == ()
