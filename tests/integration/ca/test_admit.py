"""`vaultpki admit` with the policy that `vaultpki policy` prints, beside real agents of control-plane nodes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from helpers.node.agents_with_keys import SPEC, AgentsWithKeys
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import Ran, fails, vaultpki
from vaultpki.key_rotation import admission
from vaultpki.records.service_account import KeyState


def admit(made: AgentsWithKeys, *words: str, expect: int | set[int] = 0) -> Ran:
    return vaultpki("admit", "-f", made.cluster.file, *words, env=made.cluster.environment("applier"), expect=expect)


def soon(made: AgentsWithKeys) -> None:
    """An agent ends the credential of before once five minutes have passed; commands have the server's time."""
    made.now = datetime.now(UTC) + timedelta(seconds=400)


def test_all_that_have_joined_an_empty_cluster_are_admitted_at_once(clusters: ClusterFactory) -> None:
    with AgentsWithKeys.joined(clusters.applied(SPEC)) as made:
        assert admit(made).stdout == "No control plane waits with a new key.\n"
        soon(made)
        planes = {name: made.equip(name) for name in ("cp-1", "cp-2")}
        fails(admit(made, expect=1), "there is no terminal to ask on", "--yes")
        fails(admit(made, "--json", expect=1), "there is no terminal to ask on", "--yes")
        assert made.known is None
        ran = admit(made, "--yes", "--wait").stdout
        assert "kube-apiserver may start, on: cp-1, cp-2" in ran
        assert "SHA-256" in ran and "credential:" in ran and "last report:" in ran
        assert made.admitted() == {*planes}
        revision = made.record.revision
        again = admit(made, "--yes").stdout
        assert again.startswith("No control plane waits with a new key.\n") and "on: cp-1, cp-2" in again
        assert made.record.revision == revision
        for plane in planes.values():
            made.start(plane)


@pytest.mark.on_node
def test_one_that_joins_later_starts_once_every_running_server_has_its_key(clusters: ClusterFactory) -> None:
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        soon(made)
        plane = made.equip("cp-3")
        found = json.loads(admit(made, "--yes", "--json", expect=3).stdout)
        (key,) = found["keys"]
        assert key["node"] == "cp-3" and len(key["sha256"]) == 64 and key["credential"]["accessor"]
        assert (found["admitted"], found["waiting"]) == ([], ["cp-3"])
        for _ in range(8):
            soon(made)
            made.passes()
            if not (waits := json.loads(admit(made, "--yes", "--json", expect={0, 3}).stdout)["waiting"]):
                break
            assert waits == ["cp-3"]
        assert made.admitted() == {"cp-1", "cp-2", "cp-3"}
        # No agent passes while a command waits here, so it waits for nobody.
        assert "kube-apiserver may start, on: cp-3" in admit(made, "--yes", "--wait").stdout
        soon(made)
        made.start(plane)


def test_a_node_with_two_live_credentials_is_refused(clusters: ClusterFactory) -> None:
    with AgentsWithKeys.joined(clusters.applied(SPEC)) as made:
        soon(made)
        made.equip("cp-1")
        path = f"auth/{made.cluster.prefix}/listed/role/cp-1/secret-id"
        assert made.cluster.server.api("POST", path).status == 200
        ran = admit(made, "--yes", expect=1)
        fails(ran, "cp-1 has 2 live credentials", f"`vaultpki lock cp-1 -f {made.cluster.file}`")
        assert made.known is None
        vaultpki("lock", "-f", made.cluster.file, "cp-1", env=made.cluster.environment("applier"))
        assert admit(made).stdout == "No control plane waits with a new key.\n"


def test_a_key_that_was_not_shown_is_not_admitted(clusters: ClusterFactory) -> None:
    """A node that joins between the question and the answer waits for the next one."""
    with AgentsWithKeys.joined(clusters.applied(SPEC)) as made:
        soon(made)
        made.equip("cp-1")
        ahead = admission.waiting_keys(made.cluster.model, made.vault, made.now)
        made.equip("cp-2")
        confirmed = {each.node: each.public_key for each in ahead.keys}
        other = admission.admit(made.cluster.model, made.vault, made.now, {"cp-1": "ab" * 32})
        assert other.record is None and admission.not_admitted(other, ["cp-1"]) == ["cp-1"]
        done = admission.admit(made.cluster.model, made.vault, made.now, confirmed)
        assert made.admitted() == {"cp-1"} and not admission.not_admitted(done, confirmed)


@pytest.mark.on_node
def test_it_takes_no_step_of_a_rotation(clusters: ClusterFactory) -> None:
    with AgentsWithKeys.standing(clusters, "cp-1") as made:
        made.begin()
        made.passes()
        made.equip("cp-2")
        for _ in range(8):
            ahead = admission.waiting_keys(made.cluster.model, made.vault, made.now)
            if not ahead.keys:
                break
            confirmed = {each.node: each.public_key for each in ahead.keys}
            admission.admit(made.cluster.model, made.vault, made.now, confirmed)
            made.passes()
            made.later(61)
        assert made.admitted() == {"cp-1", "cp-2"} and made.record.state is KeyState.PUBLISHED
