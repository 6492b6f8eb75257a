"""What commands on CAs tell agents by the record that they poll: before the first write, and at the end of a step."""

from __future__ import annotations

import pytest

from helpers.vault.rotations import Rotation
from vaultpki.ca import commands
from vaultpki.errors import Denied, StateConflict
from vaultpki.records.rotation import Method, State
from vaultpki.vault import Settings, Vault


def path(rotation: Rotation) -> str:
    return f"{rotation.cluster.prefix}/config/data/changes"


def state(rotation: Rotation) -> str:
    return str(rotation.cluster.read(path(rotation))["data"]["state"])


def written(rotation: Rotation, since: int) -> list[str]:
    return [where for _, where in rotation.cluster.server.writes(since)]


def interrupt(rotation: Rotation) -> None:
    """The record as a command leaves it that is killed."""
    value = rotation.cluster.read(path(rotation))["data"]
    body = {"data": {**value, "state": "changing"}}
    assert rotation.cluster.server.api("POST", path(rotation), body).status == 200


def agreed(rotation: Rotation, since: int) -> None:
    """The command since then has told agents before it wrote anything else, and at its end what a plan sees too."""
    writes = written(rotation, since)
    assert writes[0] == writes[-1] == path(rotation) and writes.count(path(rotation)) == 2 and len(writes) > 2
    rotation.settled()


@pytest.mark.on_node
def test_each_step_tells_agents_and_a_plan_agrees(rotation: Rotation) -> None:
    server = rotation.cluster.server
    since = server.audit_position()
    rotation.begin()
    agreed(rotation, since)
    # Nobody has reported: whoever has the turn is written once, and then nothing.
    rotation.advance()
    since = server.audit_position()
    rotation.advance()
    assert written(rotation, since) == []
    while rotation.record.state is not State.SWITCHED:
        rotation.reported()
        since = server.audit_position()
        assert rotation.advance().moved
        agreed(rotation, since)
    while rotation.record.active:
        rotation.reported()
        since = server.audit_position()
        assert rotation.abort().moved
        agreed(rotation, since)


@pytest.mark.on_node
def test_a_command_ends_what_a_killed_one_has_left(rotation: Rotation) -> None:
    rotation.begin()
    rotation.advance()
    interrupt(rotation)
    assert not rotation.advance().moved
    assert state(rotation) == "settled" and rotation.cluster.plan()["changes"] == []
    while rotation.record.active:
        rotation.reported()
        rotation.abort()
    interrupt(rotation)
    with pytest.raises(StateConflict, match="no CA of"):
        rotation.advance()
    assert state(rotation) == "settled"
    rotation.settled()
    # Until an apply has written a record, agents look at everything at each poll, and nobody is told.
    gone = path(rotation).replace("/data/", "/metadata/")
    assert rotation.cluster.server.api("DELETE", gone).status == 204
    rotation.begin()
    assert rotation.cluster.server.api("GET", path(rotation)).status == 404
    rotation.cluster.apply()
    rotation.cluster.settled()


def test_a_token_that_may_not_tell_agents(rotation: Rotation) -> None:
    """Nothing is begun with it but an emergency, which says that agents notice later."""
    cluster, server = rotation.cluster, rotation.cluster.server
    name = f"narrow-{cluster.name}"
    rules = f'path "{cluster.prefix}/*" {{ capabilities = ["create", "read", "update", "patch", "delete", "list"] }}\n'
    rules += f'path "auth/{cluster.prefix}/*" {{ capabilities = ["read", "list", "update"] }}\n'
    rules += (
        'path "sys/auth" { capabilities = ["read"] }\npath "identity/lookup/entity" { capabilities = ["update"] }\n'
    )
    rules += f'path "{path(rotation)}" {{ capabilities = ["read"] }}\n'
    assert server.api("POST", f"sys/policies/acl/{name}", {"policy": rules}).status == 204
    made = server.api("POST", "auth/token/create", {"policies": [name], "ttl": "10m"})
    ca_pem = server.ca_file.read_text()
    narrow = Vault(Settings((server.address,), ca_pem=ca_pem, token=made.body["auth"]["client_token"]))
    before = rotation.names()
    with pytest.raises(Denied, match="config/data/changes"):
        rotation.begin(vault=narrow)
    assert rotation.names() == before
    begun = commands.rotate(cluster.model, narrow, "etcd", Method.EMERGENCY, 60, rotation.now)
    assert begun.record.state is State.RETIRED
    assert any("may not write" in note and "within 1h" in note for note in begun.notes)
    assert [change["name"] for change in cluster.plan()["changes"]] == [path(rotation).replace("/data/", "/")]
