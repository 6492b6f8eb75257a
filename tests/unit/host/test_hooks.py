"""Who owes a hook and when it is tried again, and what a person is told where no hook is set."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.example_agent import agent_config
from vaultpki import readers
from vaultpki.certificates import ISSUING_CAS, TABLE
from vaultpki.host import hooks
from vaultpki.host.hooks import Owed
from vaultpki.model import Hook, NodeRole
from vaultpki.places import Layout

RELOAD = (Hook("command", argv=("reload",)),)
CONFIG = agent_config(hooks={"kubelet": RELOAD, "etcd-ca": RELOAD}, hook_timeout=90)
CONTROL_PLANE, ETCD, WORKER = NodeRole.CONTROL_PLANE, NodeRole.ETCD, NodeRole.WORKER


def test_a_hook_is_owed_until_it_ran_for_what_lies_there() -> None:
    live = {"kubelet": "1", "etcd-ca": "2", "kube-proxy": "3"}
    assert hooks.owed(live, {}, CONFIG.hooks) == ("etcd-ca", "kubelet")
    assert hooks.owed(live, {"kubelet": "1"}, CONFIG.hooks) == ("etcd-ca",)
    assert hooks.owed(live, {"kubelet": "0", "etcd-ca": "2"}, CONFIG.hooks) == ("kubelet",)
    assert hooks.owed(live, live, CONFIG.hooks) == ()
    assert hooks.owed({"kube-proxy": "3"}, {}, CONFIG.hooks) == ()


def test_bundles_come_before_certificates() -> None:
    live = {"b": "1", "kubernetes-ca": "1", "a": "1", "front-proxy-ca": "1"}
    assert hooks.owed(live, {}, dict.fromkeys(live, RELOAD)) == ("kubernetes-ca", "front-proxy-ca", "b", "a")


def test_a_hook_written_down_later_waits_for_the_next_change() -> None:
    live = {"kubelet": "1", "etcd-ca": "2"}
    done = hooks.settled(live, {}, {})
    assert done == live
    assert hooks.owed(live, done, CONFIG.hooks) == ()
    assert hooks.owed({**live, "kubelet": "3"}, done, CONFIG.hooks) == ("kubelet",)


def test_what_is_settled_keeps_what_is_owed_and_drops_what_is_gone() -> None:
    done = hooks.settled({"kubelet": "2", "etcd-ca": "1", "x": "7"}, {"kubelet": "1", "gone": "1"}, CONFIG.hooks)
    assert done == {"kubelet": "1", "x": "7"}
    assert hooks.owed({"kubelet": "2", "etcd-ca": "1", "x": "7"}, done, CONFIG.hooks) == ("etcd-ca", "kubelet")


def test_a_change_while_the_hook_ran_is_owed_as_well() -> None:
    done = {"kubelet": "1"}
    [key] = hooks.owed({"kubelet": "2"}, done, CONFIG.hooks)
    # It ran for 2; by then 3 lies there.
    assert hooks.owed({"kubelet": "3"}, {**done, key: "2"}, CONFIG.hooks) == ("kubelet",)


def test_failures_are_tried_again_ever_later() -> None:
    def pause(attempts: int, jitter: float) -> float:
        return hooks.failed(Owed(0.0, attempts - 1), "no", 1000.0, jitter).not_before - 1000.0

    assert [pause(n, 1.0) for n in (1, 2, 3, 7, 8, 9, 10_000)] == [5.0, 10.0, 20.0, 320.0, 600.0, 600.0, 600.0]
    assert pause(3, 0.0) == 15.0
    one = hooks.failed(Owed(since=7.0), "no", 100.0, 0.0)
    assert one == Owed(since=7.0, attempts=1, not_before=103.75, error="no")
    assert hooks.failed(one, "still no", 200.0, 0.0) == Owed(7.0, 2, 207.5, "still no")


def test_what_is_pending_begins_once_and_is_forgotten_once_paid() -> None:
    before = {"kubelet": Owed(1.0, 3, 50.0, "no"), "paid": Owed(1.0)}
    assert hooks.pending(("kubelet", "etcd-ca"), before, 9.0) == {"kubelet": before["kubelet"], "etcd-ca": Owed(9.0)}


def test_ready_is_what_is_not_held_back_and_no_clock_set_back_holds_for_long() -> None:
    owing = {"a": Owed(0.0), "b": Owed(0.0, 1, 100.0), "c": Owed(0.0, 1, 10_000.0)}
    assert hooks.ready(owing, 99.0) == ("a", "c")
    assert hooks.ready(owing, 100.0) == ("a", "b", "c")


def test_jobs_carry_what_their_run_needs() -> None:
    assert hooks.jobs(CONFIG, ("etcd-ca", "kubelet"), {"etcd-ca": "1", "kubelet": "2"}, {"kubelet": Owed(0.0, 4)}) == (
        hooks.Job("etcd-ca", "1", RELOAD, 0, "/srv/pki", 90, ("/srv/pki",)),
        hooks.Job("kubelet", "2", RELOAD, 4, "/srv/pki", 90, ("/srv/pki",)),
    )


def test_unknown_keys_are_named() -> None:
    assert hooks.unknown(CONFIG, {"kubelet"}) == ("etcd-ca",)
    assert hooks.unknown(CONFIG, {"kubelet", *readers.CA_OF_BUNDLE}) == ()


def test_every_bundle_has_its_readers_and_no_row_its_name() -> None:
    assert list(readers.CA_OF_BUNDLE.values()) == list(ISSUING_CAS)
    assert {reader.ca for reader in readers.READERS} == set(ISSUING_CAS)
    assert not {row.name for row in TABLE} & set(readers.CA_OF_BUNDLE)


@pytest.mark.parametrize(
    ("key", "roles", "said"),
    [
        (
            "etcd-ca",
            {CONTROL_PLANE, ETCD},
            (
                "etcd-ca changed: restart etcd and kube-apiserver on this node, one control-plane node at a time, "
                "because this file is read only at start"
            ),
        ),
        (
            "etcd-ca",
            {ETCD},
            (
                "etcd-ca changed: restart etcd on this node, one etcd member at a time, because this file is read only "
                "at start"
            ),
        ),
        ("etcd-ca", {WORKER}, None),
        (
            "kubernetes-ca",
            {CONTROL_PLANE},
            (
                "kubernetes-ca changed: restart kube-controller-manager on this node, one control-plane node at a "
                "time, because this file is read only at start; on Kubernetes before 1.36, restart kube-scheduler"
            ),
        ),
        ("kubernetes-ca", {WORKER}, "kubernetes-ca changed: on Kubernetes before 1.36, restart kubelet and kube-proxy"),
        ("kubernetes-ca", {ETCD}, None),
        ("kubelet-ca", {CONTROL_PLANE}, "kubelet-ca changed: on Kubernetes before 1.36, restart kube-apiserver"),
        ("front-proxy-ca", {CONTROL_PLANE, ETCD, WORKER}, None),
        ("kubelet", {WORKER}, None),
        (
            readers.KUBECONFIG_SERVERS,
            {WORKER},
            (
                "the server in kubeconfigs changed: restart kube-proxy and kubelet on this node, which read it only at "
                "start"
            ),
        ),
        ("of-the-users-own", {WORKER}, None),
    ],
)
def test_advice(key: str, roles: set[NodeRole], said: str | None) -> None:
    assert hooks.advice(key, roles) == said


@pytest.mark.parametrize(
    ("key", "roles", "minor", "said"),
    [
        ("kubernetes-ca", {WORKER}, 34, "restart kubelet and kube-proxy on this node, one node at a time, because "),
        ("kubernetes-ca", {WORKER}, 35, "restart kubelet and kube-proxy on this node, one node at a time, because "),
        ("kubernetes-ca", {WORKER}, 36, None),
        ("kubernetes-ca", {WORKER}, 37, None),
        ("kubelet-ca", {CONTROL_PLANE}, 35, "restart kube-apiserver on this node, one control-plane node at a time"),
        ("kubelet-ca", {CONTROL_PLANE}, 36, None),
        ("etcd-ca", {CONTROL_PLANE}, 37, "restart kube-apiserver on this node, one control-plane node at a time"),
        ("kubernetes-ca", {CONTROL_PLANE}, 35, "restart kube-controller-manager and kube-scheduler on this node"),
        ("kubernetes-ca", {CONTROL_PLANE}, 37, "restart kube-controller-manager on this node"),
    ],
)
def test_advice_by_the_version_that_runs_here(key: str, roles: set[NodeRole], minor: int, said: str | None) -> None:
    names = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
    found = hooks.advice(key, roles, versions=dict.fromkeys(names, minor))
    assert (found is None) is (said is None)
    assert (found or "").startswith(f"{key} changed: {said}" if said else "")
    assert "before 1.36" not in (found or "")
    if said and roles == {WORKER}:
        assert (found or "").endswith(f"because Kubernetes 1.{minor} reads it only at start")


@pytest.mark.parametrize("minor", [34, 35, 36, 37, None])
def test_advice_on_a_renewed_pair_of_the_kubelet(minor: int | None) -> None:
    versions = {} if minor is None else {"kubelet": minor}
    found = hooks.advice("kubelet", {WORKER}, versions=versions)
    assert (found is not None) is (minor in (34, 35)) and (found is None or f"Kubernetes 1.{minor} goes on" in found)
    assert hooks.advice("kubelet-client", {WORKER}, versions=versions) is None


def test_advice_where_one_version_is_known() -> None:
    assert hooks.advice("kubernetes-ca", {WORKER}, versions={"kubelet": 35}) == (
        "kubernetes-ca changed: restart kubelet on this node, one node at a time, because Kubernetes 1.35 reads it "
        "only at start; on Kubernetes before 1.36, restart kube-proxy"
    )
    assert hooks.advice("kubernetes-ca", {WORKER}, versions={"kubelet": 37}) == (
        "kubernetes-ca changed: on Kubernetes before 1.36, restart kube-proxy"
    )


def test_advice_names_no_component_that_has_no_certificate() -> None:
    said = "kubernetes-ca changed: on Kubernetes before 1.36, restart kubelet"
    assert hooks.advice("kubernetes-ca", {WORKER}, Layout.KUBEADM) == said


def test_hooks_of_no_key_are_no_hooks() -> None:
    assert hooks.owed({"kubelet": "1"}, {}, {"kubelet": ()}) == ()
    assert replace(CONFIG, hooks={}).hooks == {}
