"""The catalogue of what can be in the way of a take-over: each kind with its weight, what it means, and its cure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vaultpki.findings.catalogue import Severity
from vaultpki.kubernetes_versions import KUBEADM_FIRST, TRIED
from vaultpki.records.adoption import ClusterShape
from vaultpki.rotation.adoption_outages import outages


@dataclass(frozen=True, slots=True)
class ObstacleKind:
    """One kind of obstacle: its name for programs, what it means, and the cure, each as one sentence.

    CRITICAL must be cured before a take-over begins. WARNING is work or a price that a person must know of. INFO is
    what a person should look at once.
    """

    name: str
    severity: Severity
    means: str
    cure: str


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One obstacle in this cluster: its kind, where it is, and what was found there."""

    kind: ObstacleKind
    where: tuple[str, ...]
    text: str

    @property
    def severity(self) -> Severity:
        """How heavy it is."""
        return self.kind.severity


def _critical(name: str, means: str, cure: str) -> ObstacleKind:
    return ObstacleKind(name, Severity.CRITICAL, means, cure)


def _warning(name: str, means: str, cure: str) -> ObstacleKind:
    return ObstacleKind(name, Severity.WARNING, means, cure)


def _info(name: str, means: str, cure: str) -> ObstacleKind:
    return ObstacleKind(name, Severity.INFO, means, cure)


OBSTACLES: Final = (
    _critical(
        "not-kubeadm",
        "no kube-apiserver runs as a static pod and there is no kubeadm-config, so kubeadm did not make the cluster",
        "take over only clusters that `kubeadm init` made; others have other files and other restarts",
    ),
    _critical(
        "other-ca-of-vault",
        "the CA of the cluster has a name that vaultpki gives: it has been taken over already",
        "use the cluster.yaml by which it was made; `vaultpki plan` shows the cluster's state",
    ),
    _critical(
        "not-a-static-pod",
        "a component is not a static pod of kubeadm, so its flags and restarts are not those that a take-over knows",
        "have the kubelet run it from kubeadm's manifest (`kubeadm init phase control-plane all`), or take that "
        "machine out of the cluster",
    ),
    _critical(
        "unfit-machine",
        "a machine has something that `vaultpki join` and `vaultpki adopt node` would refuse, so it could take no part",
        "do on that machine what each sentence says",
    ),
    _critical(
        "unlabelled-control-plane",
        "a node shows a static pod of the control plane without the label of one. Any kubelet may show such a pod, "
        "so it does not count",
        "if it is a control plane, give it the label by `kubectl label node NAME "
        "node-role.kubernetes.io/control-plane=`; else find out who runs this there",
    ),
    _critical(
        "old-kubeadm",
        f"a version is older than Kubernetes 1.{KUBEADM_FIRST}, whose kubeadm does not read today's configuration",
        f"upgrade the cluster with kubeadm, minor version by minor version, to 1.{TRIED[0]} or newer",
    ),
    _critical(
        "kubelet-locked-out",
        "a kubelet would lose its way into the cluster, or kube-apiserver its way to the kubelet",
        "cure what is named at each node; a node that is gone for good is deleted with `kubectl delete node`",
    ),
    _critical(
        "several-cas",
        "the cluster trusts more than one CA for its clients: another exchange of CAs is under way or unfinished",
        "end that exchange first, so that one CA is left in each file",
    ),
    _critical(
        "requests-stuck",
        "CSRs are approved and nobody issues them, so kubelets cannot renew their certificates",
        "look at --cluster-signing-cert-file of each controller manager: the file must hold exactly one certificate, "
        "and its key must be there",
    ),
    _critical(
        "other-cas",
        "the files of a machine hold another CA than kube-apiserver publishes",
        "find out which is right, and give every machine the same CA before anything else",
    ),
    _critical(
        "name-left-out",
        "a name in today's certificates cannot be carried over, and who calls by it would fail",
        "have its callers use another name, or give them one that cluster.yaml can have",
    ),
    _critical(
        "wildcard-name",
        "a certificate of today has a wildcard name, which no role allows. The draft has the names below it that were "
        "seen in use",
        "add each other name below it that callers use to `extra_names`, and give the wildcard up: pass "
        "`--without-wildcard NAME` to `adopt inventory` and `adopt start`. Or make today's certificate anew without "
        "it: the page has kubeadm's commands",
    ),
    _critical(
        "pair-expired",
        "a certificate of today has expired, so whoever calls with it, or is called by it, is refused",
        "do what stands behind the certificate, as root on that machine, and run this again. `kubeadm certs renew` "
        "needs the CA's key. A static pod restarts when its manifest leaves the folder for 20 seconds",
    ),
    _critical(
        "draft-refused",
        "vaultpki's own check refuses the drafted cluster.yaml, which is therefore not written",
        "correct in the cluster what the sentence names, and run this again; `--json` has the draft as it is",
    ),
    _warning(
        "two-etcd-members",
        f"two stacked members of etcd have no majority while one restarts: {outages(ClusterShape.TWO_MEMBERS)}",
        "join a third control plane first, or choose a time in which the API may be away once for each restart",
    ),
    _warning(
        "one-control-plane",
        f"there is one control plane, whose etcd and kube-apiserver restart: {outages(ClusterShape.ONE_PLANE)}",
        "choose a time in which the API may be away; pods go on running",
    ),
    _warning(
        "external-etcd",
        "etcd is not run by kubeadm, so nobody restarts its members for it, and its CA may be another team's",
        "run an agent with the role etcd on each of its machines, and restart the members one at a time by a hook. "
        "Or leave these nodes out of cluster.yaml: then etcd keeps its own CA",
    ),
    _warning(
        "etcd-without-tls",
        "kube-apiserver calls etcd without TLS",
        "give etcd TLS before the take-over; its certificates come from the same cluster.yaml",
    ),
    _warning(
        "embedded-kubeconfig",
        "a kubeconfig holds its CA and its client certificate itself, so who reads it follows neither a new CA nor a "
        "renewal",
        "have it name files (certificate-authority, client-certificate, client-key), and restart its reader. A pod "
        "that mounts it as a single file gets the new one only when the pod is started again",
    ),
    _warning(
        "signer-of-the-bundle",
        "the controller manager signs CSRs from the same ca.crt that is the trust bundle. With a second CA in it no "
        "CSR is issued, and the controller manager ends when it becomes the leader",
        "before any CA is added there, copy ca.crt and ca.key to another folder on each control plane, and name the "
        "copies by --cluster-signing-cert-file and --cluster-signing-key-file",
    ),
    _warning(
        "open-tokens",
        "a bootstrap token is in date: a node that joins with it trusts what cluster-info holds at that moment",
        "let it expire, or delete it with `kubeadm token delete ID`",
    ),
    _warning(
        "uploaded-keys",
        "the Secret kubeadm-certs holds the keys of today's CAs, encrypted",
        "delete it with `kubectl -n kube-system delete secret kubeadm-certs` unless a control plane joins now",
    ),
    _warning(
        "copies-by-hand",
        "an object holds a CA of the cluster that somebody has written there, and nobody renews it",
        "give it the new CA beside the old one when the cluster trusts both, and remove the old one at the end",
    ),
    _warning(
        "pods-keep-the-ca",
        "running pods read a CA once, or by a single file, so a new one does not reach them",
        "restart them after kube-root-ca.crt holds both CAs, and before the old one leaves",
    ),
    _warning(
        "pods-mount-files",
        "pods mount files of kubeadm's from their node, such as admin.conf. Each goes on with the old file until it "
        "is started again, and the take-over waits for that",
        "static pods are restarted by turns (`vaultpki adopt node`, or the agent). Restart the others when `vaultpki "
        "adopt status` names them. In switched, write a kubeconfig of Vault's into each file by which a pod logs in",
    ),
    _warning(
        "pair-beside",
        "a flag names a certificate beside the table that a CA of today has signed. Nobody trusts it once the old "
        "CAs have left. The step to retired waits until another one lies there",
        "where the draft has a row for it, check that row. Else give the flag another pair, such as that of a row of "
        "your own, and restart what reads it",
    ),
    _warning(
        "rights-differ",
        "a certificate of today gives another user name or other groups than the one of cluster.yaml",
        "bind the groups that are lost to the user. Apply the manifests that `vaultpki issue` writes beside an "
        "operator's certificate, before the first such certificate is used",
    ),
    _warning(
        "untried-version",
        f"a version is none of those that this was held against: Kubernetes 1.{TRIED[0]} to 1.{TRIED[-1]}",
        "upgrade the cluster to one of them, or the vaultpki that you use",
    ),
    _warning(
        "leader-elsewhere",
        "the leader of a component has a host name that is no control plane's. Another one may run outside, or a "
        "machine has another host name than its node",
        "compare `hostname` on each control plane; if none has this name, find who runs the component, and end that",
    ),
    _warning(
        "node-silent",
        "a node's kubelet does not report, so it would miss every step and be locked out at the end",
        "bring it back, or delete the node with `kubectl delete node`",
    ),
    _warning(
        "foreign-signer",
        "somebody else than the controller manager signs CSRs: certificates of an unknown CA were issued",
        "find out who signs, and for whom; kubelets must get theirs from the agent afterwards",
    ),
    _warning(
        "ca-expires",
        "a CA of today ends soon, and with it the way back",
        "take over well before that, or renew this CA first",
    ),
    _warning(
        "pair-expires",
        "a certificate of today expires within 30 days, perhaps before its machine has Vault's. Nodes may enrol for "
        "weeks, and keep the old pairs until switched",
        "do what stands behind the certificate before `adopt start`, or reach switched before that day",
    ),
    _warning(
        "names-not-seen",
        "the names in a certificate were not seen, so the draft may lack some",
        "run this on that machine as root, or name its disk with --machine",
    ),
    _warning(
        "name-of-one-kubelet",
        "the draft gives the name of one kubelet to every kubelet, since cluster.yaml has no names of single nodes",
        "remove the name from the draft unless somebody calls the kubelet by it",
    ),
    _info(
        "names-asked-for",
        "kubeadm's configuration asks for names that no certificate in use has",
        "add them to the draft if somebody calls the server by them",
    ),
    _info(
        "keys-on-disk",
        "the keys of today's CAs lie on machines of the cluster, as kubeadm leaves them",
        "keep them until the take-over is at its end, since the way back needs them; then remove them, also from "
        "copies and backups",
    ),
    _info(
        "kubeconfigs-outside",
        "kubeconfigs outside of the cluster hold the CA too, and none of them can be seen from here",
        "list who has one: people, pipelines, monitoring; each needs the new CA beside the old one",
    ),
    _info(
        "not-read",
        "a part could not be read, so nothing is known of it",
        "use a kubeconfig with the rights that the page names, or run this where it can be reached",
    ),
)
"""All kinds, the heaviest first."""

OBSTACLE_KINDS: Final[Mapping[str, ObstacleKind]] = {kind.name: kind for kind in OBSTACLES}
"""The kinds by name."""
