"""Makes the documents of `kubeadm init`, `join` and `upgrade` for one node, in `kubernetes_versions.KUBEADM_API`; pure.

A pooled node is a `Node` without addresses here, and without a name if kubeadm shall take the host name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from vaultpki.certificates import NODE_ADDRESSES, laid_out, pair_files
from vaultpki.errors import ArgumentError, SpecError
from vaultpki.kubernetes_versions import KUBEADM_API, KUBEADM_FIRST, KUBEADM_KEYS, minor
from vaultpki.layout import ETCD_PORT, advertised, api_port, bundle_of
from vaultpki.model import NODE, Cluster, KeyType, Node, NodeRole
from vaultpki.places import KUBELET, PKI, Layout, inner_folders
from vaultpki.values import hosts, names

Document = dict[str, Any]

PATCHES: Final = "patches"
"""The folder with the patches, below the one that is copied to the node."""
DISCOVERY: Final = "discovery.conf"

# Fixed in kubeadm (cmd/kubeadm/app/constants, KubernetesDir); only the folder of the certificates can be another one.
KUBECONFIGS: Final = "/etc/kubernetes"

_ROWS: Final = {row.name: row for row in laid_out(Layout.KUBEADM)}

# The bootstrap-token phase makes a token that reads the cluster's configuration, shows the cluster's CA to anonymous
# clients, and approves CSRs that nobody signs here. Nodes join with their own certificate instead. The other phase
# prints a command with that token. Where nodes join with a token the signer answers them, and need the first phase: it
# copies the CAs of admin.conf, root and issuing CA, into cluster-info.
_SKIPPED: Final = ("bootstrap-token", "show-join-command")
_SKIPPED_WITH_TOKENS: Final = ("show-join-command",)
BY_REQUESTS: Final = {"rotateCertificates": True, "serverTLSBootstrap": True}
"""What the ConfigMap kubelet-config gives to nodes that join with a token; those with an agent have patches."""

# Semantic versioning (semver.org), to which kubeadm holds what it has read.
_NUMBER: Final = "(?:0|[1-9][0-9]{0,8})"
_PARTS: Final = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION: Final = re.compile(rf"v?({_NUMBER})\.({_NUMBER})\.{_NUMBER}(?:-{_PARTS})?(?:\+{_PARTS})?")


@dataclass(frozen=True, slots=True)
class KubeadmFolders:
    """Absolute folders on the node: certificates (certificatesDir), kubelet pairs, and what is written here."""

    pki: str
    kubelet: str
    own: str

    @property
    def patches(self) -> str:
        return f"{self.own}/{PATCHES}"

    def bundle(self, ca: str, *, chain: bool = False) -> str:
        """Return the path of a CA's bundle."""
        found = bundle_of(Layout.KUBEADM, ca, chain=chain)
        return f"{self._folder(found.folder)}/{found.file}"

    def pair(self, name: str) -> tuple[str, str]:
        """Return the paths of the certificate and the key of a row."""
        crt, key, _ = pair_files(_ROWS[name].stem)
        folder = self.folder_of(name)
        return f"{folder}/{crt}", f"{folder}/{key}"

    def folder_of(self, name: str) -> str:
        """Return the path of the folder with the pair of a row."""
        place = _ROWS[name].kubeadm
        return self._folder(place.folder if place is not None else PKI)

    def _folder(self, name: str) -> str:
        return {PKI: self.pki, KUBELET: self.kubelet, **inner_folders(self.pki)}[name]


def kubernetes_version(text: str) -> str:
    """Return a Kubernetes version as `vMAJOR.MINOR.PATCH`, with a pre-release or build if it has one.

    kubeadm takes it with and without the v (cmd/kubeadm/app/util/version.go). Labels such as `stable-1`, which it takes
    too, are refused: kubeadm asks the internet what they mean, and each node could get another answer. So are versions
    whose kubeadm reads no configuration of today.
    """
    found = _VERSION.fullmatch(text)
    if found is None or len(text) > 128:
        raise ArgumentError(
            f"{names.quoted(text)} is not a Kubernetes version: write one such as v1.37.2, with three numbers"
        )
    if (int(found[1]), int(found[2])) < (1, KUBEADM_FIRST):
        raise ArgumentError(
            f"kubeadm {found[1]}.{found[2]} does not read {KUBEADM_API}, which is written here: use Kubernetes "
            f"1.{KUBEADM_FIRST} or newer"
        )
    return f"v{text.removeprefix('v')}"


def refuse_etcd_only(cluster: Cluster, node: Node) -> None:
    """Raise ArgumentError if kubeadm cannot run on this node of this cluster."""
    if node.roles & {NodeRole.CONTROL_PLANE, NodeRole.WORKER}:
        return
    raise ArgumentError(
        f"{cluster.file}: {node.name} has the role etcd only, and kubeadm joins control-plane and worker nodes: start "
        "its etcd without kubeadm"
    )


def init(cluster: Cluster, node: Node, places: KubeadmFolders, *, version: str | None = None) -> tuple[Document, ...]:
    """Return InitConfiguration and ClusterConfiguration for the first control-plane node.

    Where nodes join with a token there is a KubeletConfiguration too, which kubeadm keeps for them.

    `version` is the Kubernetes version; without it kubeadm decides. Raises ArgumentError if the node is not a
    control-plane node, and SpecError if no node of the cluster has the role etcd.
    """
    if NodeRole.CONTROL_PLANE not in node.roles:
        raise ArgumentError(
            f"{cluster.file}: {node.name} is not a control-plane node, and `kubeadm init` makes one: pass --join"
        )
    tokens = bool(cluster.token_pools)
    kubelets = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", **BY_REQUESTS}
    return (
        _document(
            "InitConfiguration",
            nodeRegistration=_registration(cluster, node, ()),
            localAPIEndpoint=_local_endpoint(cluster, node),
            skipPhases=list(_SKIPPED_WITH_TOKENS if tokens else _SKIPPED),
            patches={"directory": places.patches},
        ),
        _document("ClusterConfiguration", **_cluster(cluster, places, version), **_version(version)),
        *((kubelets,) if tokens else ()),
    )


def join(cluster: Cluster, node: Node, places: KubeadmFolders) -> tuple[Document, ...]:
    """Return JoinConfiguration for a further control-plane node or a worker.

    There is no bootstrap token: the node finds the cluster by `discovery`, and logs in as itself.
    """
    there = [f"{KUBECONFIGS}/{_ROWS['kubelet-client'].kubeconfig}"]
    more: Document = {}
    if NodeRole.CONTROL_PLANE in node.roles:
        more["controlPlane"] = {"localAPIEndpoint": _local_endpoint(cluster, node)}
    else:
        # Of a worker only, kubeadm expects that it has no CA yet.
        there.append(places.bundle("kubernetes"))
    return (
        _document(
            "JoinConfiguration",
            nodeRegistration=_registration(cluster, node, there),
            caCertPath=places.bundle("kubernetes"),
            discovery={"file": {"kubeConfigPath": f"{places.own}/{DISCOVERY}"}},
            **more,
            patches={"directory": places.patches},
        ),
    )


def discovery(cluster: Cluster, places: KubeadmFolders) -> Document:
    """Return a kubeconfig that names the kubelet's pair by its paths, and the endpoint of the cluster.

    kubelet.conf cannot be used on a control-plane node: it names the kube-apiserver that is not there before the join.
    """
    crt, key = places.pair("kubelet-client")
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": cluster.name,
                "cluster": {
                    "server": f"https://{_endpoint(cluster)}",
                    "certificate-authority": places.bundle("kubernetes"),
                },
            }
        ],
        "users": [
            {"name": "kubelet", "user": {"client-certificate": crt, "client-key": key}},
        ],
        "contexts": [{"name": "join", "context": {"cluster": cluster.name, "user": "kubelet"}}],
        "current-context": "join",
    }


def upgrade(places: KubeadmFolders, *, version: str | None = None) -> tuple[Document, ...]:
    """Return UpgradeConfiguration, for `kubeadm upgrade apply` and `kubeadm upgrade node`.

    It renews no certificate, and applies the patches again: kubeadm would else ask kubelets to rotate theirs.
    """
    each = {"certificateRenewal": False, "patches": {"directory": places.patches}}
    return (_document("UpgradeConfiguration", apply={**each, **_version(version)}, node=dict(each)),)


def patches(places: KubeadmFolders) -> dict[str, Document]:
    """Return the patches for kubeadm by file name; the kubelet's own settings can be changed in no other way.

    kubeadm sets `rotateCertificates: true` after it has read the configuration (componentconfigs/kubelet.go), and
    nobody signs the CSRs that a kubelet would send then.
    """
    crt, key = places.pair("kubelet")
    kubelet = {
        "rotateCertificates": False,
        "serverTLSBootstrap": False,
        "tlsCertFile": crt,
        "tlsPrivateKeyFile": key,
        "authentication": {"x509": {"clientCAFile": places.bundle("kubernetes")}},
    }
    return {"kubeletconfiguration+merge.yaml": kubelet}


def stacked(cluster: Cluster) -> bool:
    """Return whether kubeadm runs etcd: its members are the control-plane nodes, all of them and no other node."""
    members, planes = (
        {node.name for node in cluster.nodes if role in node.roles} for role in (NodeRole.ETCD, NodeRole.CONTROL_PLANE)
    )
    return members == planes


def _document(kind: str, **fields: Any) -> Document:
    return {"apiVersion": KUBEADM_API, "kind": kind, **fields}


def _version(version: str | None) -> Document:
    return {"kubernetesVersion": version} if version else {}


def _algorithm(key: KeyType, version: str | None) -> str:
    """Return the type of the service-account key, which alone depends on it here; one that every kubeadm knows else.

    Without a version kubeadm may be of any.
    """
    known = minor(version) if version else None
    name, since = KUBEADM_KEYS.get(key.value, ("", 0))
    return name if name and (known or KUBEADM_FIRST) >= since else KUBEADM_KEYS[KeyType.EC_P256.value][0]


def _cluster(cluster: Cluster, places: KubeadmFolders, version: str | None) -> Document:
    api = cluster.api_server
    return {
        "controlPlaneEndpoint": _endpoint(cluster),
        "certificatesDir": places.pki,
        "encryptionAlgorithm": _algorithm(cluster.key, version),
        "networking": {"serviceSubnet": ",".join(api.service_cidr), "dnsDomain": api.dns_domain},
        "etcd": _etcd(cluster, places),
        **components(cluster, places),
    }


def components(cluster: Cluster, places: KubeadmFolders) -> Document:
    """Return the parts of ClusterConfiguration about the components of control planes, by the name of each."""
    server_args = [("kubelet-certificate-authority", places.bundle("kubelet"))]
    if cluster.pools:
        # A pooled kubelet has only its name in its certificate. kube-apiserver tries the first type that a node has.
        server_args.append(
            ("kubelet-preferred-address-types", "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP")
        )
    scheduler = places.folder_of("kube-scheduler")
    return {
        "apiServer": {"certSANs": _extra_sans(cluster, "kube-apiserver"), "extraArgs": _args(server_args)},
        # kubeadm gives ca.crt, which lacks the root; OpenSSL in pods needs the root too.
        "controllerManager": {"extraArgs": _args([("root-ca-file", places.bundle("kubernetes", chain=True))])},
        # kubeadm mounts scheduler.conf alone into this pod, and that names the pair by its paths.
        "scheduler": {
            "extraVolumes": [
                {
                    "name": "scheduler-pki",
                    "hostPath": scheduler,
                    "mountPath": scheduler,
                    "readOnly": True,
                    "pathType": "Directory",
                }
            ]
        },
    }


def _etcd(cluster: Cluster, places: KubeadmFolders) -> Document:
    members = [node for node in cluster.nodes if NodeRole.ETCD in node.roles]
    if not members:
        raise SpecError("no node has the role etcd: give it to the nodes that run etcd", file=cluster.file)
    if stacked(cluster):
        sans = _extra_sans(cluster, "etcd-server")
        return {"local": {"dataDir": "/var/lib/etcd", **({"serverCertSANs": sans} if sans else {})}}
    crt, key = places.pair("kube-apiserver-etcd")
    return {
        "external": {
            "endpoints": [f"https://{hosts.in_url(advertised(cluster, node)[0])}:{ETCD_PORT}" for node in members],
            "caFile": places.bundle("etcd"),
            "certFile": crt,
            "keyFile": key,
        }
    }


def _extra_sans(cluster: Cluster, row: str) -> list[str]:
    """Return the names and addresses of a row that are the same on every node and that kubeadm does not add itself."""
    override = cluster.overrides.get(row)
    api = cluster.api_server
    found = [*api.names, *api.addresses] if row == "kube-apiserver" else []
    found += [*override.extra_names, *override.extra_addresses] if override else []
    named = (each.replace("{domain}", api.dns_domain) for each in found)
    return [each for each in dict.fromkeys(named) if NODE not in each and each != NODE_ADDRESSES]


def _registration(cluster: Cluster, node: Node, there: Sequence[str]) -> Document:
    """Return how the node is registered; `there` are the files that kubeadm expects to be missing."""
    # The flag stays in kubeadm-flags.env whatever an upgrade without our patches writes into config.yaml.
    args = [("rotate-certificates", "false")]
    if node.addresses:
        # Of several addresses, the kubelet would else choose one that may not be in its certificate.
        args.append(("node-ip", ",".join(advertised(cluster, node))))
    ignored = [f"FileAvailable-{path.replace('/', '-')}" for path in there]
    return {
        **({"name": node.name} if node.name else {}),
        "kubeletExtraArgs": _args(args),
        **({"ignorePreflightErrors": ignored} if ignored else {}),
    }


def _local_endpoint(cluster: Cluster, node: Node) -> Document:
    return {"advertiseAddress": advertised(cluster, node)[0], "bindPort": api_port(cluster)}


def _endpoint(cluster: Cluster) -> str:
    """Return HOST:PORT of the API server."""
    url = cluster.api_server.endpoint or ""
    return hosts.parse_origin(url, allow_http=False).partition("://")[2]


def _args(pairs: Sequence[tuple[str, str]]) -> list[Document]:
    return [{"name": name, "value": value} for name, value in pairs]
