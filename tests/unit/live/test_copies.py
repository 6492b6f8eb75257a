"""Each wrong copy of a CA in a cluster is named with what is wrong about it; the right ones are not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest

from helpers.node.handmade_files import NOW, Authority, authority
from vaultpki.certificates import ISSUING_CAS, TABLE
from vaultpki.kube import cluster as kube_cluster
from vaultpki.kube.cluster import CaCopy, Copied, LiveCluster
from vaultpki.live.copies import BundleWord, bundle_checks, copy_checks
from vaultpki.live.trust import Expected, certificates
from vaultpki.pki.facts import Facts
from vaultpki.verify.on_disk import Check


def text(*of: Authority) -> str:
    return b"".join(each.pem for each in of).decode()


def facts(of: Authority) -> Facts:
    (found,) = certificates(of.pem.decode())
    return found


ROOT: Final = authority("root")
SECOND: Final = authority("root")
FORGED: Final = authority("root")
ISSUING: Final = {ca: authority(ca, ROOT) for ca in ISSUING_CAS}
NEW: Final = authority("kubernetes", ROOT)
STRANGE: Final = authority("kubernetes", FORGED)
EXPIRED: Final = authority("webhook", life=(-timedelta(days=9), -timedelta(days=1)))
OWN: Final = authority("webhook")
EXPECTED: Final = Expected("prod", (facts(ROOT),), {ca: (facts(each),) for ca, each in ISSUING.items()}, "Vault")
BOTH: Final = (facts(ISSUING["kubernetes"]), facts(NEW))
ROTATING: Final = replace(EXPECTED, issuing={**EXPECTED.issuing, "kubernetes": BOTH})
TWO_ROOTS: Final = replace(EXPECTED, roots=(facts(ROOT), facts(SECOND)))

KUBERNETES: Final = ISSUING["kubernetes"]
POD: Final = "kube-root-ca.crt in default"
INFO: Final = "cluster-info in kube-public"
CLIENTS: Final = "client-ca-file of extension-apiserver-authentication in kube-system"
NAMES: Final = "requestheader-allowed-names of extension-apiserver-authentication in kube-system"
FRONT: Final = "requestheader-client-ca-file of extension-apiserver-authentication in kube-system"
HOOK: Final = "ValidatingWebhookConfiguration hooks: webhook one.example.com"
KIND: Final = "ValidatingWebhookConfiguration"
SCRAPED: Final = "kubelet-serving-ca in kube-system"
CONVERSION: Final = "CustomResourceDefinition things.own: conversion webhook"
CHAIN: Final = text(KUBERNETES, ROOT)
TRUST: Final = "ClusterTrustBundle trust"
SIGNER: Final = "kubernetes.io/kube-apiserver-serving"
PUBLIC: Final = tuple(authority(f"public {number}") for number in range(30))
DAMAGED: Final = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nMII"


def configmap(name: str, space: str, **data: str) -> dict[str, Any]:
    about = {"name": name, "namespace": space}
    return {"metadata": about, "data": {key.replace("_", "-"): each for key, each in data.items()}}


def root_copy(space: str, pem: str) -> dict[str, Any]:
    return {"metadata": {"name": "kube-root-ca.crt", "namespace": space}, "data": {"ca.crt": pem}}


def encoded(pem: str) -> str:
    return base64.b64encode(pem.encode()).decode()


def cluster_info(pem: str) -> dict[str, Any]:
    config = {"clusters": [{"cluster": {"certificate-authority-data": encoded(pem), "server": "https://a:6443"}}]}
    return configmap("cluster-info", "kube-public", kubeconfig=json.dumps(config))


def authentication(clients: str, front: str, names: str = '["front-proxy-client"]') -> dict[str, Any]:
    found = configmap("extension-apiserver-authentication", "kube-system", client_ca_file=clients)
    found["data"] |= {"requestheader-client-ca-file": front, "requestheader-allowed-names": names}
    return found


def webhook(pem: str, **client: Any) -> list[dict[str, Any]]:
    config = {"caBundle": encoded(pem), "service": {"name": "hook", "namespace": "default"}, **client}
    return [{"metadata": {"name": "hooks"}, "webhooks": [{"name": "one.example.com", "clientConfig": config}]}]


def api_service(pem: str, **spec: Any) -> list[dict[str, Any]]:
    return [{"metadata": {"name": "v1.own"}, "spec": {"service": {"name": "own"}, "caBundle": encoded(pem), **spec}}]


def definition(pem: str) -> list[dict[str, Any]]:
    client = {"caBundle": encoded(pem), "service": {"name": "own"}}
    conversion = {"strategy": "Webhook", "webhook": {"clientConfig": client}}
    return [{"metadata": {"name": "things.own"}, "spec": {"conversion": conversion}}]


def live(
    *,
    root: str | None = CHAIN,
    info: str | None = CHAIN,
    clients: str = text(KUBERNETES),
    front: str = text(ISSUING["front-proxy"]),
    names: str = '["front-proxy-client"]',
    further: tuple[CaCopy, ...] = (),
) -> LiveCluster:
    """A cluster whose copies are right, with some of them changed."""
    told = authentication(clients, front, names)
    copies = [
        *kube_cluster.root_copies([root_copy("default", root)] if root is not None else []),
        *(kube_cluster.cluster_info(cluster_info(info)) if info is not None else ()),
        *kube_cluster.authentication(told),
        *further,
    ]
    return LiveCluster(namespaces=("default",), copies=tuple(copies), allowed_names=kube_cluster.allowed_names(told))


def made(**changed: Any) -> Callable[[], LiveCluster]:
    return lambda: live(**changed)


def hooks(pem: str, **client: Any) -> Callable[[], LiveCluster]:
    return lambda: live(further=tuple(kube_cluster.webhooks(webhook(pem, **client), KIND)))


def only_hooks(pem: str) -> Callable[[], LiveCluster]:
    return lambda: replace(live(), copies=tuple(kube_cluster.webhooks(webhook(pem), KIND)))


def services(pem: str, **spec: Any) -> Callable[[], LiveCluster]:
    return lambda: live(further=tuple(kube_cluster.api_services(api_service(pem, **spec))))


def scraped(pem: str) -> Callable[[], LiveCluster]:
    found = {"metadata": {"name": "kubelet-serving-ca"}, "data": {"kubelet-ca.crt": pem}}
    return lambda: live(further=tuple(kube_cluster.serving_ca(found)))


def bundle(pem: object, signer: str = "example.com/own", *, alone: bool = False) -> Callable[[], LiveCluster]:
    """A cluster with a ClusterTrustBundle beside the right copies, or with it alone."""
    found = {"metadata": {"name": "trust"}, "spec": {"signerName": signer, "trustBundle": pem}}
    copies = tuple(kube_cluster.trust_bundles([found]))
    return (lambda: replace(live(), namespaces=(), copies=copies)) if alone else lambda: live(further=copies)


def wrong(found: LiveCluster, expected: Expected) -> list[Check]:
    return [check for check in copy_checks(found, expected, TABLE, NOW) if check.ok is not True]


RIGHT: Final[dict[str, tuple[Callable[[], LiveCluster], Expected]]] = {
    "all": (live, EXPECTED),
    "by the root's SHA-256 alone": (live, replace(EXPECTED, issuing={})),
    "no cluster-info": (made(info=None), EXPECTED),
    "cluster-info with issuing CAs alone, as kubeadm writes it": (made(info=text(KUBERNETES)), EXPECTED),
    "the root alone in kube-root-ca.crt": (made(root=text(ROOT)), EXPECTED),
    "two roots": (made(root=text(KUBERNETES, ROOT, SECOND), info=text(ROOT, SECOND)), TWO_ROOTS),
    "a webhook of the user's own CA": (hooks(text(OWN)), EXPECTED),
    "text between certificates": (hooks(f"# mine\n{text(OWN)}\n"), EXPECTED),
    "a webhook of ours": (hooks(text(KUBERNETES)), EXPECTED),
    "a webhook of our root": (hooks(text(ROOT)), EXPECTED),
    "a webhook outside with a public CA": (hooks("", service=None, url="https://hooks.example.com"), EXPECTED),
    "an APIService": (services(text(KUBERNETES)), EXPECTED),
    "a conversion webhook": (made(further=tuple(kube_cluster.conversions(definition(text(OWN))))), EXPECTED),
    "the controller manager's bundle": (bundle(CHAIN, SIGNER), EXPECTED),
    "a bundle of our root among public CAs, one of them ended": (
        bundle(text(*PUBLIC, EXPIRED, ROOT) + DAMAGED),
        EXPECTED,
    ),
    "a bundle of an issuing CA": (bundle(text(ISSUING["etcd"])), EXPECTED),
    "a bundle that is not ours": (bundle(text(OWN, EXPIRED)), EXPECTED),
    "a bundle that is no PEM": (bundle("hello"), EXPECTED),
    "a bundle of another type": (bundle(["hello"]), EXPECTED),
    "a scraper's": (scraped(text(ISSUING["kubelet"])), EXPECTED),
}

EMPTY_INFO: Final = tuple(kube_cluster.cluster_info(configmap("cluster-info", "kube-public")))

Fault = tuple[Callable[[], LiveCluster], Expected, str, str]


def fault(place: str, words: str, make: Callable[[], LiveCluster], expected: Expected = EXPECTED) -> Fault:
    """What is wrong: where the check must say so, and with which words."""
    return make, expected, place, words


FAULTS: Final[dict[str, Fault]] = {
    "root copy of another root": fault(POD, "not a CA of the API server", made(root=text(FORGED))),
    "root copy without the root": fault(POD, "lacks CN=prod root CA", made(root=text(KUBERNETES))),
    "root copy with a stranger beside": fault(POD, "holds CN=prod webhook CA", made(root=CHAIN + text(OWN))),
    "root copy without the new root": fault(POD, "lacks CN=prod root CA", made(info=None), TWO_ROOTS),
    "root copy of another domain": fault(
        POD, "its name is not CN=prod kubernetes CA alone", made(root=text(ISSUING["etcd"], ROOT))
    ),
    "root copy that is no PEM": fault(POD, "not a PEM", made(root="hello")),
    "empty root copy": fault(POD, "holds no CA", made(root="")),
    "namespace without a copy": fault(POD, "is missing", made(root=None)),
    "cluster-info of another CA": fault(INFO, "not a CA of the API server", made(info=text(OWN))),
    "cluster-info without the new CA": fault(
        INFO, "lacks CN=prod kubernetes CA", made(info=text(KUBERNETES), clients=text(KUBERNETES, NEW)), ROTATING
    ),
    "cluster-info without a kubeconfig": fault(INFO, "holds no CA", made(info=None, further=EMPTY_INFO)),
    "client CA with the root": fault(CLIENTS, "certificates of every other CA are accepted", made(clients=CHAIN)),
    "client CA of etcd": fault(CLIENTS, "not a CA of kubernetes", made(clients=text(KUBERNETES, ISSUING["etcd"]))),
    "client CA that has left": fault(CLIENTS, "Vault does not have it any more", made(clients=text(KUBERNETES, NEW))),
    "client CA that is new is missing": fault(CLIENTS, "lacks CN=prod kubernetes CA", made(info=CHAIN), ROTATING),
    "client CA forged": fault(CLIENTS, "not signed by the cluster's root", made(clients=text(KUBERNETES, STRANGE))),
    "extra requestheader CA": fault(FRONT, "not a CA of front-proxy", made(front=text(ISSUING["front-proxy"], OWN))),
    "no requestheader CA": fault(FRONT, "holds no CA", made(front="")),
    "any front proxy": fault(NAMES, "may speak for any user", made(names="[]")),
    "another front proxy": fault(NAMES, "lets mallory speak", made(names='["front-proxy-client", "mallory"]')),
    "webhook with an expired CA": fault(HOOK, "expired on", hooks(text(EXPIRED))),
    "webhook without a CA": fault(HOOK, "holds no CA", hooks("")),
    "webhook with a damaged CA": fault(HOOK, "not a PEM", hooks(text(OWN)[:-40])),
    "webhook of a forged root": fault(HOOK, "has the name of the root CA and is not it", hooks(text(FORGED))),
    "webhook of a CA that has left": fault(HOOK, "does not have it any more", hooks(text(NEW))),
    "webhook without our new CA": fault(HOOK, "lacks CN=prod kubernetes CA", only_hooks(text(KUBERNETES)), ROTATING),
    "webhook without our new root": fault(HOOK, "lacks CN=prod root CA", only_hooks(text(ROOT)), TWO_ROOTS),
    "APIService that checks nobody": fault(
        "APIService v1.own", "not to be checked at all", services("", insecureSkipTLSVerify=True)
    ),
    "APIService with a forged CA": fault("APIService v1.own", "not a CA of kubernetes", services(text(STRANGE))),
    "conversion webhook without a CA": fault(
        CONVERSION, "holds no CA", made(further=tuple(kube_cluster.conversions(definition(""))))
    ),
    "the controller manager's bundle without the root": fault(
        TRUST, "lacks CN=prod root CA", bundle(text(KUBERNETES), SIGNER)
    ),
    "the controller manager's bundle with a stranger": fault(
        TRUST, "which is not a CA of the API server", bundle(CHAIN + text(OWN), SIGNER)
    ),
    "the controller manager's bundle that is no PEM": fault(TRUST, "not a PEM", bundle("hello", SIGNER)),
    "bundle of the old root alone": fault(
        TRUST, "lacks CN=prod root CA", bundle(text(*PUBLIC, ROOT), alone=True), TWO_ROOTS
    ),
    "bundle with a forged root": fault(TRUST, "has the name of the root CA and is not it", bundle(text(ROOT, FORGED))),
    "bundle of a CA that has left": fault(TRUST, "does not have it any more", bundle(text(OWN, NEW))),
    "scraper's with the root": fault(SCRAPED, "holds the root CA", scraped(text(ISSUING["kubelet"], ROOT))),
    "scraper's of another domain": fault(SCRAPED, "not a CA of kubelet", scraped(text(KUBERNETES))),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_copies_are_right(name: str) -> None:
    make, expected = RIGHT[name]
    assert wrong(make(), expected) == []


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named(name: str) -> None:
    make, expected, place, words = FAULTS[name]
    found = {check.target: check for check in wrong(make(), expected)}
    assert words in found[place].detail, found
    assert found[place].got == "refuse" and found[place].kind == "live"
    others = {target for target in found if target != place and target in str(RIGHT)}
    assert others == set()


def test_what_may_not_be_read_is_not_checked() -> None:
    found = replace(live(root=None, info=None), unread={"kube-root-ca.crt": "the user may not", "cluster-info": "no"})
    left = wrong(found, EXPECTED)
    assert {(check.target, check.ok, check.got) for check in left} == {
        ("kube-root-ca.crt", None, "unchecked"),
        ("cluster-info", None, "unchecked"),
    }


def test_bundles_of_nodes_are_compared_with_the_right_ones() -> None:
    own = {ca: frozenset({each[0].fingerprint}) for ca, each in EXPECTED.issuing.items()}
    root = frozenset({EXPECTED.roots[0].fingerprint})
    words = [
        BundleWord("right", "files", own, root),
        BundleWord("late", "files", {**own, "kubernetes": frozenset({facts(NEW).fingerprint})}, root),
        BundleWord("other", "files", own, frozenset({facts(FORGED).fingerprint})),
    ]
    found = {check.source: check.detail for check in bundle_checks(words, EXPECTED)}
    assert found["right"] == ""
    assert found["late"].startswith("its bundle of kubernetes lacks ") and "and also holds" in found["late"]
    assert found["other"].startswith("its roots: it lacks ")


def test_a_kubeconfig_that_grows_is_not_read() -> None:
    bomb = "a: &a {b: 1}\n" + "".join(f"{key}: &{key} {{<<: [*a, *a]}}\n" for key in "cdefgh") + "clusters: [*h]\n"
    (found,) = kube_cluster.cluster_info(configmap("cluster-info", "kube-public", kubeconfig=bomb))
    assert found.pem == ""


def test_a_bundle_of_both_roots_is_right() -> None:
    found = copy_checks(bundle(text(OWN, SECOND, ROOT), alone=True)(), TWO_ROOTS, TABLE, NOW)
    assert [check.ok for check in found if check.target == TRUST] == [True]


def test_a_bundle_that_is_not_ours_is_no_check_and_a_public_ca_does_not_date_ours() -> None:
    def shown(pem: str) -> list[Check]:
        return [check for check in copy_checks(bundle(pem)(), EXPECTED, TABLE, NOW) if check.target == TRUST]

    assert shown(text(OWN, EXPIRED)) == []
    (ours,), (alone,) = shown(text(EXPIRED, *PUBLIC, ROOT)), shown(text(ROOT))
    assert ours.ok and ours.detail == alone.detail


def test_a_bundle_of_thousands_of_certificates_is_read_whole() -> None:
    # As many as a ClusterTrustBundle of 1 MiB holds.
    many = text(*PUBLIC) * (1024 * 1024 // len(text(*PUBLIC)) - 1) + text(FORGED)
    (check,) = (check for check in wrong(bundle(many)(), EXPECTED) if check.target == TRUST)
    assert "has the name of the root CA and is not it" in check.detail


def test_copied_names_every_reader() -> None:
    assert {copy.copied for copy in live().copies} == {
        Copied.PODS,
        Copied.JOINING,
        Copied.CLIENTS,
        Copied.FRONT_PROXY,
    }
