"""What is in the way of a take-over is named, each fault of a cluster once, and nothing where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, Final

import pytest

from helpers.kube.kubeadm_inventory import Values, facts, judged, named, served, taken
from helpers.kube.kubeadm_objects import (
    SYSTEM,
    KubeadmObjects,
    Shape,
    authority,
    encoded,
    items,
    leaf,
    stamp,
    token,
    user_pod,
)
from vaultpki.adopt import kubelets, obstacles, starts, text
from vaultpki.adopt.catalogue import OBSTACLES
from vaultpki.adopt.found import Machine
from vaultpki.findings.catalogue import Severity

Change = Callable[[KubeadmObjects, Values], None]

# What a cluster has as kubeadm leaves it, seen from outside of its machines.
USUAL: Final = {
    "embedded-kubeconfig",
    "signer-of-the-bundle",
    "open-tokens",
    "names-not-seen",
    "kubeconfigs-outside",
}


# Their keys of RSA take a second, which every worker would spend to collect the tests.
@cache
def one() -> KubeadmObjects:
    return KubeadmObjects(Shape())


@cache
def three() -> KubeadmObjects:
    return KubeadmObjects(Shape(planes=3, endpoint="api.example.com:6443"))


def found_in(objects: KubeadmObjects, change: Change = lambda *_: None, **more: Any) -> dict[str, list[str]]:
    return named(judged(taken(objects, change=lambda values: change(objects, values), **more))[1])


def node(values: Values, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in values["/api/v1/nodes"]["items"] if each["metadata"]["name"] == name)
    return found


def flags(values: Values, component: str, changed: Callable[[list[str]], list[str]]) -> None:
    for pod in values[f"{SYSTEM}/pods"]["items"]:
        container = pod["spec"]["containers"][0]
        if container["command"][0] == component:
            container["command"] = changed(container["command"])


def without(values: Values, component: str, name: str) -> None:
    pods = values[f"{SYSTEM}/pods"]["items"]
    pods[:] = [pod for pod in pods if pod["metadata"]["name"] != f"{component}-{name}"]


def config(values: Values, name: str, **more: Any) -> None:
    values[f"/api/v1/nodes/{name}/proxy/configz"]["kubeletconfig"] |= more


def unsigned(_: KubeadmObjects, values: Values) -> None:
    flags(values, "kube-controller-manager", lambda words: [word for word in words if "signing" not in word])


def two_cas(objects: KubeadmObjects, values: Values) -> None:
    data = values[f"{SYSTEM}/configmaps/extension-apiserver-authentication"]["data"]
    data["client-ca-file"] += authority("next").pem


def webhook(objects: KubeadmObjects, values: Values) -> None:
    hook = {"name": "one.example.com", "clientConfig": {"service": {}, "caBundle": encoded(objects.ca.pem)}}
    own = {"name": "two.example.com", "clientConfig": {"service": {}, "caBundle": encoded(authority("own").pem)}}
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    values[path] = items([{"metadata": {"name": "hooks"}, "webhooks": [hook, own]}])


def stuck(objects: KubeadmObjects, values: Values) -> None:
    values["/apis/certificates.k8s.io/v1/certificatesigningrequests"] = items(
        [objects.request("old", "w-1", "approved"), objects.request("new", "cp-1", "approved", minutes=1)]
    )


def signed_by_others(objects: KubeadmObjects, values: Values) -> None:
    request = objects.request("odd", "w-1")
    request["status"]["certificate"] = encoded(leaf("system:node:w-1", authority("stranger")).pem)
    values["/apis/certificates.k8s.io/v1/certificatesigningrequests"] = items([request])


def settings(values: Values) -> dict[str, Any]:
    return values[f"{SYSTEM}/configmaps/kubeadm-config"]["data"]  # type: ignore[no-any-return]


def asked(_: KubeadmObjects, values: Values) -> None:
    whole = json.loads(settings(values)["ClusterConfiguration"])
    whole["apiServer"]["certSANs"] = ["later.example.com"]
    settings(values)["ClusterConfiguration"] = json.dumps(whole)


def none_of_kubeadm(_: KubeadmObjects, values: Values) -> None:
    values.pop(f"{SYSTEM}/configmaps/kubeadm-config")
    values[f"{SYSTEM}/pods"] = items([])


def by_systemd(_: KubeadmObjects, values: Values) -> None:
    without(values, "kube-scheduler", "cp-2")


def forged(objects: KubeadmObjects, values: Values) -> None:
    values[f"{SYSTEM}/pods"]["items"].append(objects.pod("kube-scheduler", "cp-1") | {"x": 1})
    pod = json.loads(json.dumps(objects.pod("kube-apiserver", "cp-1")))
    pod["spec"]["nodeName"] = "w-1"
    pod["spec"]["containers"][0]["command"][1] = "--advertise-address=198.51.100.31"
    values[f"{SYSTEM}/pods"]["items"].append(pod)


def keeps(_: KubeadmObjects, values: Values) -> None:
    values["/api/v1/pods"]["items"] += [
        user_pod("by-file", "apps", sub_path="ca.crt"),
        user_pod("by-host", "apps", host_path="/etc/kubernetes/pki/etcd"),
    ]


def balances(_: KubeadmObjects, values: Values) -> None:
    pod = user_pod("kube-vip-cp-1", "kube-system", host_path="/etc/kubernetes/admin.conf")
    pod["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "0123"}
    values["/api/v1/pods"]["items"].append(pod)


def called(_: KubeadmObjects, values: Values) -> None:
    flags(values, "kube-apiserver", lambda words: [*words, "--kubelet-preferred-address-types=InternalDNS"])
    node(values, "w-1")["status"]["addresses"].append({"type": "InternalDNS", "address": "w-1.int"})


def status(**more: Any) -> Change:
    """The worker's status has this."""
    return lambda _, values: node(values, "w-1")["status"].update(more)


def at(path: str, **more: Any) -> Change:
    """The object at a path has this."""
    return lambda _, values: values[f"/apis/{path}"].update(more)


def uploaded(_: KubeadmObjects, values: Values) -> None:
    owner = {"ownerReferences": [{"name": "bootstrap-token-abcdef"}]}
    values[f"{SYSTEM}/secrets/kubeadm-certs"] = {"metadata": owner}


def own_clients(_: KubeadmObjects, values: Values) -> None:
    config(values, "w-1", authentication={"x509": {"clientCAFile": "/own/ca.crt"}})


def plain_http(_: KubeadmObjects, values: Values) -> None:
    flags(values, "etcd", lambda words: [word.replace("https://198", "http://198") for word in words])


LEASE: Final = "coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler"
SLICES: Final = "discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
CASES: Final[dict[str, tuple[Change, str, str]]] = {
    "none of kubeadm": (none_of_kubeadm, "not-kubeadm", "neither a static pod of kube-apiserver nor"),
    "by systemd": (by_systemd, "not-a-static-pod", "cp-2 is a control plane without kube-scheduler"),
    "API elsewhere": (
        at(SLICES, endpoints=[{"addresses": ["203.0.113.3"]}]),
        "not-a-static-pod",
        "a kube-apiserver answers at 203.0.113.3",
    ),
    "leader elsewhere": (
        at(LEASE, spec={"holderIdentity": "hosted_1"}),
        "leader-elsewhere",
        "kube-scheduler on hosted leads",
    ),
    "a pod of a worker's": (forged, "unlabelled-control-plane", "w-1 shows kube-apiserver"),
    "old kubelet": (
        status(nodeInfo={"kubeletVersion": "v1.30.4"}),
        "old-kubeadm",
        "v1.30.4 is the version of kubelet of w-1",
    ),
    "new kubelet": (
        status(nodeInfo={"kubeletVersion": "v1.38.0"}),
        "untried-version",
        "v1.38.0 is the version of kubelet of w-1",
    ),
    "silent": (status(conditions=[{"type": "Ready", "status": "Unknown"}]), "node-silent", "w-1 does not report"),
    "two CAs": (two_cas, "several-cas", "holds CN=kubernetes, CN=next"),
    "nobody signs": (unsigned, "kubelet-locked-out", "and no controller manager signs them"),
    "another client CA": (own_clients, "kubelet-locked-out", "the kubelet of w-1 trusts clients by /own/ca.crt"),
    "called by a name": (
        called,
        "kubelet-locked-out",
        "the kubelet of w-1 is called at w-1.int, which its certificate would not name",
    ),
    "stuck": (stuck, "requests-stuck", "approved and not issued: 1, of system:node:w-1"),
    "strange signer": (signed_by_others, "foreign-signer", "odd of system:node:w-1 was signed by CN=stranger"),
    "webhook": (webhook, "copies-by-hand", "webhook one.example.com holds the CA of kubernetes"),
    "keys": (uploaded, "uploaded-keys", "kubeadm-certs is there until the token abcdef ends"),
    "names asked for": (asked, "names-asked-for", "kube-apiserver: later.example.com"),
    "pods": (keeps, "pods-keep-the-ca", "apps/by-file: one file of kube-root-ca.crt, by subPath"),
    "host files": (keeps, "pods-mount-files", "apps/by-host: /etc/kubernetes/pki/etcd of its node"),
    "static pods": (balances, "pods-mount-files", "kube-system/kube-vip-cp-1: /etc/kubernetes/admin.conf of its node"),
    "etcd without TLS": (plain_http, "etcd-without-tls", "etcd of cp-1 is called by http://"),
}


def test_three_control_planes_have_nothing_but_the_usual() -> None:
    made, every = judged(taken(three()))
    assert made.cluster is not None
    assert set(named(every)) == USUAL and not obstacles.attention(every)


@pytest.mark.parametrize("case", CASES)
def test_each_fault_is_named_with_its_cure(case: str) -> None:
    change, name, text = CASES[case]
    _, every = judged(taken(three(), change=lambda values: change(three(), values)))
    texts = named(every)
    assert any(text in each for each in texts[name]), texts
    (kind,) = {each.kind for each in every if each.kind.name == name}
    assert kind.cure and kind.means
    assert obstacles.attention(every) is any(each.severity is Severity.CRITICAL for each in every)


def test_a_certificate_that_is_no_ca_is_no_second_ca() -> None:
    def change(objects: KubeadmObjects, values: Values) -> None:
        data = values[f"{SYSTEM}/configmaps/extension-apiserver-authentication"]["data"]
        data["client-ca-file"] += leaf("jane", objects.ca).pem

    assert "several-cas" not in found_in(three(), change)


def test_a_listener_that_does_not_answer_is_named_with_its_node_and_the_reason() -> None:
    """Only members of etcd are at addresses whose node has to be found."""
    silent = ("kube-apiserver", "kubelet")
    listeners = [
        replace(each, leaf=None, why="it times out") if each.node == "cp-2" and each.row in silent else each
        for each in served(three())
    ]
    texts = found_in(three(), listeners=listeners)
    assert "kube-apiserver of cp-2: it times out" in texts["names-not-seen"]


def test_the_heaviest_comes_first() -> None:
    _, every = judged(taken(three(), change=lambda values: two_cas(three(), values)))
    weights = [each.severity for each in every]
    assert weights == sorted(weights, key=list(Severity).index)
    assert [kind.severity for kind in OBSTACLES] == sorted(
        (kind.severity for kind in OBSTACLES), key=list(Severity).index
    )


def test_two_members_are_said_with_the_length_of_the_outage() -> None:
    texts = found_in(KubeadmObjects(Shape(planes=2, endpoint="api.example.com:6443")))
    (text,) = texts["two-etcd-members"]
    assert text.startswith(
        "cp-1 and cp-2 run the two members of etcd, and one alone has no majority: the API is away 6 times "
    )
    assert "one-control-plane" not in texts
    (text,) = found_in(one())["one-control-plane"]
    assert text.startswith("cp-1 runs the only kube-apiserver; the API is away 3 times for 35 to 45 seconds, ")
    assert "two-etcd-members" not in found_in(one())
    assert not {"one-control-plane", "two-etcd-members"} & found_in(three()).keys()


def test_external_etcd_is_said_also_with_two_control_planes() -> None:
    texts = found_in(KubeadmObjects(Shape(planes=2, external=("198.51.100.21",), endpoint="api.example.com:6443")))
    assert texts["external-etcd"] == ["kubeadm does not run etcd on etcd-1"]
    assert "two-etcd-members" not in texts


@pytest.mark.parametrize("minor", [34, 35, 36, 37])
def test_versions_that_were_tried_are_no_obstacle(minor: int) -> None:
    found = taken(KubeadmObjects(Shape(version=f"v1.{minor}.1")))
    assert not {"old-kubeadm", "untried-version"} & named(judged(found)[1]).keys()
    read = {(each.component, each.ca) for each in starts.only(found, judged(found)[0])}
    assert ("etcd", "etcd") in read and ("kube-controller-manager", "kubernetes") in read
    # From 1.36 on clients read the CA of the API server again.
    assert (("kubelet", "kubernetes") in read) is (minor < 36)


def test_an_expired_token_is_no_obstacle() -> None:
    def change(_: KubeadmObjects, values: Values) -> None:
        values[f"{SYSTEM}/secrets"] = items([token("oldold", -60)])

    assert "open-tokens" not in found_in(one(), change)


def test_a_ca_that_ends_soon() -> None:
    objects = KubeadmObjects(Shape())
    objects.front = authority("front-proxy-ca", days=90)
    texts = found_in(objects)
    assert texts["ca-expires"] == [f"the CA of front-proxy expires on {stamp(90 * 86400)[:10]}"]


def test_a_cluster_that_was_taken_over_already() -> None:
    objects = KubeadmObjects(Shape())
    objects.ca = authority("prod kubernetes CA")
    assert found_in(objects)["other-ca-of-vault"] == ["the CA of kubernetes is called prod kubernetes CA"]


def test_a_disk_shows_what_the_api_does_not(tmp_path: Any) -> None:
    texts = found_in(one(), disks={"cp-1": tmp_path})
    assert "/etc/kubernetes/pki/etcd/ca.key" in texts["keys-on-disk"][0]
    assert any("with the CA inside: /etc/kubernetes/kubelet.conf" in each for each in texts["embedded-kubeconfig"])
    assert any("scheduler.conf" in each for each in texts["embedded-kubeconfig"])
    rights = "kube-apiserver-kubelet of cp-1 is in the group kubeadm:cluster-admins today, and would not be"
    assert texts["rights-differ"] == [rights]
    assert "names-not-seen" not in texts


def test_what_a_join_would_refuse_is_said_of_each_machine() -> None:
    found = taken(one())
    machine = Machine("/", "cp-1", "/etc/kubernetes/pki", unfit=("a.yaml: one", "b.yaml: two"))
    _, every = judged(replace(found, machines=(machine,)))
    assert named(every)["unfit-machine"] == ["cp-1: a.yaml: one", "cp-1: b.yaml: two"]
    assert obstacles.attention(every)


def test_a_disk_of_another_cluster_does_not_count(tmp_path: Any) -> None:
    other = KubeadmObjects(Shape())
    other.ca = authority("kubernetes", number=1)
    found = taken(one())
    machines = taken(other, disks={"cp-1": tmp_path}).machines
    assert machines and machines[0].node == "cp-1"
    texts = found_in(one(), disks={"cp-1": tmp_path / "own"})
    assert "other-cas" not in texts
    _, every = judged(replace(found, foreign=machines))
    assert "are of another cluster's CA" in named(every)["other-cas"][0]


def test_a_kubelet_with_its_certificate_inside_its_kubeconfig(tmp_path: Any) -> None:
    root = one().disk(tmp_path, "w-1")
    (root / "etc/kubernetes/kubelet.conf").write_text(one().kubeconfig("kubelet-client", "w-1"))
    from vaultpki.adopt import machine

    found = replace(taken(one()), machines=(machine.read(str(root)),))
    texts = named(judged(found)[1])
    assert (
        "the kubelet of w-1 has its client certificate in /etc/kubernetes/kubelet.conf"
        in texts["kubelet-locked-out"][0]
    )


@pytest.mark.parametrize(
    ("signed", "says"),
    [
        ({"name": "system:node:other"}, "logs in as system:node:other"),
        ({"days": -1}, "has a client certificate that expired on"),
        ({"signer": "stranger"}, "of CN=stranger, which is no CA of the cluster"),
    ],
)
def test_a_kubelet_that_cannot_log_in(signed: dict[str, Any], says: str) -> None:
    signer = authority(signed["signer"]) if "signer" in signed else one().ca
    given = {"name": "system:node:w-1", "groups": ["system:nodes"], **signed, "signer": signer}
    found = taken(one())
    client = next(each for each in found.certificates if each.row == "kubelet")
    made = facts(leaf(given.pop("name"), given.pop("signer"), **given))
    ca = "" if "signer" in signed else "kubernetes"
    more = replace(client, node="w-1", row="kubelet-client", served=False, place="/x", facts=made, ca=ca)
    found = replace(found, certificates=(*found.certificates, more))
    assert any(says in problem for _, problem in kubelets.problems(found, None))


def test_what_was_not_read_is_said_once_for_each_reason() -> None:
    why = "the user of admin.conf may not read it"
    texts = found_in(one(), unread={"bootstrap tokens": why, "pods": why, "kubelet of w-1": "no answer"})
    assert texts["not-read"] == [f"bootstrap tokens, pods: {why}", "kubelet of w-1: no answer"]


def test_no_secret_of_a_token_is_kept() -> None:
    assert "0123456789abcdef" not in repr(taken(one()))


def test_many_of_a_kind_are_counted() -> None:
    def change(_: KubeadmObjects, values: Values) -> None:
        names = [f"node-{number}" for number in range(30)]
        silent = [{"metadata": {"name": name}, "status": {"addresses": []}} for name in names]
        values["/api/v1/nodes"]["items"] += silent

    found = taken(one(), change=lambda values: change(one(), values))
    made, every = judged(found)
    printed = list(text.inventory_lines(found, made, every))
    assert sum(line.startswith("warning node-silent: ") for line in printed) == 20
    assert "and 10 more of node-silent; --json has all of them" in printed


def test_kubelets_are_shown_with_what_told_how_they_are_configured() -> None:
    """What kubeadm gives to those that join says nothing of one that has joined long ago."""

    def change(values: Values) -> None:
        del values["/api/v1/nodes/w-1/proxy/configz"]

    found = taken(one(), change=change)
    made, every = judged(found)
    lines = [line.split() for line in text.inventory_lines(found, made, every)]
    told = {words[0]: words[4] for words in lines if words[1:2] == ["yes"]}
    assert told == {"cp-1": "configz", "w-1": "kubelet-config"}


def ending(row: str, days: int, node: str = "cp-1", **more: Any) -> dict[str, list[str]]:
    """What is in the way if the pair of a row ends in so many days."""
    found = taken(one(), **more)
    made = facts(leaf("x", one().etcd if row.startswith("etcd") else one().ca, days=days))
    held = [
        replace(each, facts=made, ca="kubernetes") if (each.node, each.row) == (node, row) else each
        for each in found.certificates
    ]
    return named(judged(replace(found, certificates=tuple(held)))[1])


@pytest.mark.parametrize(
    ("row", "how"),
    [
        ("kube-apiserver", "`kubeadm certs renew apiserver` there, then restart kube-apiserver"),
        ("kube-apiserver-etcd", "`kubeadm certs renew apiserver-etcd-client` there, then restart kube-apiserver"),
        ("etcd-peer", "`kubeadm certs renew etcd-peer` there, then restart etcd"),
        ("kube-scheduler", "`kubeadm certs renew scheduler.conf` there, then restart kube-scheduler"),
        ("admin", "`kubeadm certs renew admin.conf` there, and give its users the new one"),
    ],
)
def test_a_pair_that_has_expired_or_will_is_named_with_its_date_and_its_command(
    row: str, how: str, tmp_path: Any
) -> None:
    (text,) = ending(row, -1, disks={"cp-1": tmp_path / "a"})["pair-expired"]
    assert text.startswith(f"{row} of cp-1 (/etc/kubernetes/") and text.endswith(
        f"expired on {stamp(-86400)[:10]}: {how}"
    )
    texts = ending(row, 20, disks={"cp-1": tmp_path / "b"})
    assert f"expires on {stamp(20 * 86400)[:10]}: {how}" in texts["pair-expires"][0] and "pair-expired" not in texts
    assert not {"pair-expired", "pair-expires"} & ending(row, 40, disks={"cp-1": tmp_path / "c"}).keys()


def test_a_server_that_shows_an_expired_pair_though_its_file_is_new_is_to_be_restarted(tmp_path: Any) -> None:
    found = taken(one(), disks={"cp-1": tmp_path})
    old = facts(leaf("x", one().ca, days=-1))
    held = [replace(e, facts=old) if e.served and e.row == "kube-apiserver" else e for e in found.certificates]
    texts = named(judged(replace(found, certificates=tuple(held)))[1])
    assert all("/apiserver.crt has a newer one: restart kube-apiserver there" in each for each in texts["pair-expired"])


def test_a_kubelet_that_renews_by_itself_or_has_signed_itself_is_no_matter(tmp_path: Any) -> None:
    assert not {"pair-expires"} & ending("kubelet-client", 5, disks={"cp-1": tmp_path}).keys()
    found = taken(one())
    assert {each.ca for each in found.certificates if each.row == "kubelet"} == {""}
    old = facts(leaf("x", None, days=-1))
    held = [replace(each, facts=old) if each.row == "kubelet" else each for each in found.certificates]
    assert "pair-expired" not in named(judged(replace(found, certificates=tuple(held)))[1])
