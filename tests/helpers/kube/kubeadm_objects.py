"""The objects and the disks of clusters as `kubeadm init` and `kubeadm join` leave them, of the shapes that tests need.

Certificates are real, with the names and keys that kubeadm gives them.
"""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# TLS goes by the machine's clock.
NOW = datetime.now(UTC).replace(microsecond=0)
SYSTEM = "/api/v1/namespaces/kube-system"
PUBLIC = "/api/v1/namespaces/kube-public"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
CERTIFICATES = "/apis/certificates.k8s.io/v1"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
TOKEN_SECRET = "0123456789abcdef"
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Shape:
    """How a cluster was made: what a person would tell kubeadm, and how many machines joined."""

    planes: int = 1
    workers: int = 1
    version: str = "v1.36.3"
    external: tuple[str, ...] = ()
    dual: bool = False
    directory: str = "/etc/kubernetes/pki"
    key: str = "RSA-2048"
    endpoint: str = ""
    sans: tuple[str, ...] = ()
    etcd_sans: tuple[str, ...] = ()
    serving_by_csr: bool = False
    kubelet_sans: tuple[str, ...] = ()

    @property
    def stacked(self) -> bool:
        return not self.external

    @property
    def names(self) -> tuple[str, ...]:
        return (*(f"cp-{n}" for n in range(1, self.planes + 1)), *(f"w-{n}" for n in range(1, self.workers + 1)))

    def plane(self, name: str) -> bool:
        return name.startswith("cp-")

    def addresses(self, name: str) -> tuple[str, ...]:
        """The InternalIPs of a node."""
        last = (10 if self.plane(name) else 30) + int(name.rpartition("-")[2])
        return (f"198.51.100.{last}", *([f"fd00::{last}"] if self.dual else []))

    @property
    def services(self) -> str:
        return "10.96.0.0/16,fd00:1::/112" if self.dual else "10.96.0.0/12"


@dataclass(frozen=True)
class Signed:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()


@cache
def key_of(kind: str, number: int = 0) -> Key:
    """A key; making one of RSA takes long, so tests share them."""
    return rsa.generate_private_key(65537, 2048) if kind.startswith("RSA") else ec.generate_private_key(ec.SECP256R1())


@cache
def authority(name: str, kind: str = "RSA-2048", days: int = 3650, number: int = 0) -> Signed:
    """A CA as kubeadm makes it: no path length."""
    key = key_of(kind, len(name) + 100 * number)
    return Signed(_built(name, (), key, None, ((), ()), (), days, ca=True), key)


def leaf(
    name: str,
    signer: Signed | None,
    *,
    groups: Sequence[str] = (),
    names: Sequence[str] = (),
    addresses: Sequence[str] = (),
    kind: str = "RSA-2048",
    days: int = 365,
) -> Signed:
    """A certificate of a CA, or one that its holder has signed itself."""
    key = key_of(kind)
    usages = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    return Signed(_built(name, groups, key, signer, (names, addresses), usages, days), key)


def _built(
    name: str,
    groups: Sequence[str],
    key: Key,
    signer: Signed | None,
    sans: tuple[Sequence[str], Sequence[str]],
    usages: Sequence[x509.ObjectIdentifier],
    days: int,
    *,
    ca: bool = False,
) -> x509.Certificate:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=400))
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if usages:
        made = made.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    held = [x509.DNSName(each) for each in sans[0]]
    held_ips = [x509.IPAddress(ipaddress.ip_address(each)) for each in sans[1]]
    if held or held_ips:
        made = made.add_extension(x509.SubjectAlternativeName([*held, *held_ips]), critical=False)
    return made.sign(signer.key if signer else key, hashes.SHA256())


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def items(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"items": list(found), "metadata": {}}


@dataclass
class KubeadmObjects:
    """One cluster of a shape: its CAs, its certificates by node and row, and what its API server answers by path."""

    shape: Shape
    ca: Signed = field(init=False)
    front: Signed = field(init=False)
    etcd: Signed = field(init=False)
    leaves: dict[tuple[str, str], Signed] = field(init=False)

    def __post_init__(self) -> None:
        kind = self.shape.key
        self.ca, self.front, self.etcd = (authority(name, kind) for name in ("kubernetes", "front-proxy-ca", "etcd-ca"))
        self.leaves = {(name, row): made for name in self.shape.names for row, made in self._leaves(name)}
        for number, host in enumerate(self.shape.external, 1):
            addresses = [host] if is_address(host) else []
            names = [f"etcd-{number}", "localhost", *([] if addresses else [host])]
            self.leaves[host, "etcd-server"] = leaf(
                f"etcd-{number}", self.etcd, names=names, addresses=["127.0.0.1", *addresses], kind=kind
            )

    def _leaves(self, name: str) -> Iterator[tuple[str, Signed]]:
        shape, kind = self.shape, self.shape.key
        node = leaf(f"system:node:{name}", self.ca, groups=["system:nodes"], kind="ECDSA-P256")
        yield "kubelet-client", node
        own = list(shape.addresses(name))
        if shape.serving_by_csr:
            names = [name, *(each.format(node=name) for each in shape.kubelet_sans if not is_address(each))]
            yield (
                "kubelet",
                leaf(
                    f"system:node:{name}",
                    self.ca,
                    groups=["system:nodes"],
                    names=names,
                    addresses=own,
                    kind="ECDSA-P256",
                ),
            )
        else:
            yield "kubelet", leaf(f"{name}@1700000000", authority(f"{name}-ca@1700000000"), names=[name])
        if not shape.plane(name):
            return
        first = own[:1]
        host = (shape.endpoint.rpartition(":")[0] or shape.endpoint).strip("[]")
        more = [each for each in (*shape.sans, host) if each]
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        yield (
            "kube-apiserver",
            leaf(
                "kube-apiserver",
                self.ca,
                names=[name, *names, *(each for each in more if not is_address(each))],
                addresses=["10.96.0.1", *first, *(each for each in more if is_address(each))],
                kind=kind,
            ),
        )
        admins = ["kubeadm:cluster-admins"]
        yield "kube-apiserver-kubelet", leaf("kube-apiserver-kubelet-client", self.ca, groups=admins, kind=kind)
        yield "kube-apiserver-etcd", leaf("kube-apiserver-etcd-client", self.etcd, kind=kind)
        yield "front-proxy-client", leaf("front-proxy-client", self.front, kind=kind)
        yield "admin", leaf("kubernetes-admin", self.ca, groups=admins, kind=kind)
        yield "super-admin", leaf("kubernetes-super-admin", self.ca, groups=["system:masters"], kind=kind)
        yield "kube-scheduler", leaf("system:kube-scheduler", self.ca, kind=kind)
        yield "kube-controller-manager", leaf("system:kube-controller-manager", self.ca, kind=kind)
        if shape.stacked:
            sans = [name, "localhost", *(each for each in shape.etcd_sans if not is_address(each))]
            ips = [*first, "127.0.0.1", "::1", *(each for each in shape.etcd_sans if is_address(each))]
            for row in ("etcd-server", "etcd-peer"):
                yield row, leaf(name, self.etcd, names=sans, addresses=ips, kind=kind)
            yield "etcd-healthcheck-client", leaf("kube-etcd-healthcheck-client", self.etcd, kind=kind)

    # Objects

    def node(self, name: str) -> dict[str, Any]:
        labels = {"node-role.kubernetes.io/control-plane": ""} if self.shape.plane(name) else {}
        addresses = [{"type": "InternalIP", "address": each} for each in self.shape.addresses(name)]
        addresses.append({"type": "Hostname", "address": name})
        return {
            "metadata": {"name": name, "labels": labels},
            "status": {
                "addresses": addresses,
                "conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"kubeletVersion": self.shape.version},
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            },
        }

    def command(self, component: str, name: str) -> list[str]:
        """The words with which kubeadm starts a component."""
        shape, pki = self.shape, self.shape.directory
        (address,) = shape.addresses(name)[:1]
        servers = ",".join(f"https://{host}:2379" for host in shape.external) or "https://127.0.0.1:2379"
        flags = {
            "kube-apiserver": {
                "advertise-address": address,
                "authorization-mode": "Node,RBAC",
                "client-ca-file": f"{pki}/ca.crt",
                "enable-admission-plugins": "NodeRestriction",
                "enable-bootstrap-token-auth": "true",
                "etcd-cafile": f"{pki}/etcd/ca.crt",
                "etcd-servers": servers,
                "kubelet-preferred-address-types": "InternalIP,ExternalIP,Hostname",
                "requestheader-client-ca-file": f"{pki}/front-proxy-ca.crt",
                "secure-port": "6443",
                "service-cluster-ip-range": shape.services,
                "tls-cert-file": f"{pki}/apiserver.crt",
            },
            "kube-controller-manager": {
                "cluster-signing-cert-file": f"{pki}/ca.crt",
                "cluster-signing-key-file": f"{pki}/ca.key",
                "controllers": "*,bootstrapsigner,tokencleaner",
                "kubeconfig": "/etc/kubernetes/controller-manager.conf",
                "root-ca-file": f"{pki}/ca.crt",
            },
            "kube-scheduler": {"kubeconfig": "/etc/kubernetes/scheduler.conf", "leader-elect": "true"},
            "etcd": {
                "advertise-client-urls": f"https://{address}:2379",
                "cert-file": f"{pki}/etcd/server.crt",
                "initial-advertise-peer-urls": f"https://{address}:2380",
                "listen-client-urls": f"https://127.0.0.1:2379,https://{address}:2379",
                "name": name,
                "trusted-ca-file": f"{pki}/etcd/ca.crt",
            },
        }[component]
        return [component, *(f"--{flag}={value}" for flag, value in flags.items())]

    def components(self, name: str) -> tuple[str, ...]:
        planes = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
        return (*planes, *(["etcd"] if self.shape.stacked else [])) if self.shape.plane(name) else ()

    def pod(self, component: str, name: str) -> dict[str, Any]:
        """A static pod as the API server shows it."""
        tag = "3.6.6-0" if component == "etcd" else self.shape.version
        file = {"kube-scheduler": "scheduler", "kube-controller-manager": "controller-manager"}.get(component)
        path = (
            f"/etc/kubernetes/{file}.conf" if file else self.shape.directory + ("/etcd" if component == "etcd" else "")
        )
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{component}-{name}",
                "namespace": "kube-system",
                "annotations": {"kubernetes.io/config.mirror": "0123"},
            },
            "spec": {
                "nodeName": name,
                "containers": [
                    {
                        "name": component,
                        "command": self.command(component, name),
                        "image": f"registry.k8s.io/{component}:{tag}",
                        "volumeMounts": [{"name": "files", "mountPath": path, "readOnly": True}],
                    }
                ],
                "volumes": [
                    {
                        "name": "files",
                        "hostPath": {"path": path, "type": "FileOrCreate" if file else "DirectoryOrCreate"},
                    }
                ],
            },
            "status": {
                "phase": "Running",
                "containerStatuses": [{"name": component, "state": {"running": {"startedAt": stamp(-100)}}}],
            },
        }

    def settings(self) -> dict[str, Any]:
        shape = self.shape
        etcd: dict[str, Any] = {"local": {"dataDir": "/var/lib/etcd"}}
        if shape.etcd_sans:
            etcd["local"] |= {"serverCertSANs": list(shape.etcd_sans), "peerCertSANs": list(shape.etcd_sans)}
        if shape.external:
            etcd = {"external": {"endpoints": [f"https://{host}:2379" for host in shape.external]}}
        return {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "apiServer": {"certSANs": list(shape.sans)} if shape.sans else {},
            "certificatesDir": shape.directory,
            "clusterName": "kubernetes",
            "controlPlaneEndpoint": shape.endpoint,
            "encryptionAlgorithm": shape.key,
            "etcd": etcd,
            "kubernetesVersion": shape.version,
            "networking": {"dnsDomain": "cluster.local", "serviceSubnet": shape.services},
        }

    def kubelet(self, name: str) -> dict[str, Any]:
        """The configuration with which a kubelet runs."""
        return {
            "rotateCertificates": True,
            "serverTLSBootstrap": self.shape.serving_by_csr,
            "staticPodPath": "/etc/kubernetes/manifests",
            "authentication": {"x509": {"clientCAFile": f"{self.shape.directory}/ca.crt"}},
        }

    def values(self) -> dict[str, Any]:
        """What the API server answers, by path."""
        shape, ca = self.shape, self.ca.pem
        spaces = ("default", "kube-public", "kube-system")
        pods = [self.pod(component, name) for name in shape.names for component in self.components(name)]
        config = {"clusters": [{"name": "", "cluster": {"certificate-authority-data": encoded(ca)}}]}
        planes = [name for name in shape.names if shape.plane(name)]
        holder = {"spec": {"holderIdentity": f"{planes[0]}_8a9c"}}
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
        return {
            "/api/v1/nodes": items([self.node(name) for name in shape.names]),
            "/api/v1/namespaces": items([{"metadata": {"name": space}} for space in spaces]),
            "/api/v1/configmaps": items(
                [
                    {"metadata": {"name": "kube-root-ca.crt", "namespace": space}, "data": {"ca.crt": ca}}
                    for space in spaces
                ]
            ),
            "/api/v1/pods": items([*pods, user_pod("app", "default")]),
            f"{SYSTEM}/pods": items(pods),
            f"{SYSTEM}/configmaps/kubeadm-config": {"data": {"ClusterConfiguration": json.dumps(self.settings())}},
            f"{SYSTEM}/configmaps/kubelet-config": {"data": {"kubelet": json.dumps(self.kubelet(""))}},
            f"{SYSTEM}/configmaps/extension-apiserver-authentication": {
                "data": {
                    "client-ca-file": ca,
                    "requestheader-client-ca-file": self.front.pem,
                    "requestheader-allowed-names": '["front-proxy-client"]',
                }
            },
            f"{PUBLIC}/configmaps/cluster-info": {"data": {"kubeconfig": json.dumps(config)}},
            f"{SYSTEM}/secrets": items([token("abcdef", 3600)]),
            f"{CERTIFICATES}/certificatesigningrequests": items([self.request("csr-1", planes[0])]),
            f"{leases}/kube-controller-manager": holder,
            f"{leases}/kube-scheduler": holder,
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes": {
                "endpoints": [{"addresses": [shape.addresses(name)[0] for name in planes]}]
            },
            BINDINGS: items([binding("Group", "kubeadm:cluster-admins")]),
            f"{ADMISSION}/validatingwebhookconfigurations": items([]),
            f"{ADMISSION}/mutatingwebhookconfigurations": items([]),
            "/apis/apiregistration.k8s.io/v1/apiservices": items([]),
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions": items([]),
            **{f"/api/v1/nodes/{name}/proxy/configz": {"kubeletconfig": self.kubelet(name)} for name in shape.names},
        }

    def request(
        self, name: str, node: str, state: str = "issued", *, signer: str = "", minutes: int = 30
    ) -> dict[str, Any]:
        """A CSR of a kubelet that asked some minutes ago."""
        pem = self.leaves[node, "kubelet-client"].pem
        status: dict[str, Any] = {} if state == "pending" else {"conditions": [{"type": "Approved"}]}
        if state == "issued":
            status["certificate"] = encoded(pem)
        return {
            "metadata": {"name": name, "creationTimestamp": stamp(-60 * minutes)},
            "spec": {
                "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
                "username": f"system:node:{node}",
            },
            "status": status,
        }

    # Disks

    def kubeconfig(self, row: str, name: str, *, files: Mapping[str, str] | None = None) -> str:
        """A kubeconfig as kubeadm writes it: all in the file itself, but for the pair of a kubelet."""
        (address,) = self.shape.addresses(name)[:1]
        made = self.leaves[name, row]
        user = files or {"client-certificate-data": encoded(made.pem), "client-key-data": encoded(made.key_pem)}
        cluster = {"certificate-authority-data": encoded(self.ca.pem), "server": f"https://{address}:6443"}
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "kubernetes", "cluster": cluster}],
                "contexts": [{"name": "c", "context": {"cluster": "kubernetes", "user": "u"}}],
                "current-context": "c",
                "users": [{"name": "u", "user": dict(user)}],
            }
        )

    def disk(self, root: Path, name: str) -> Path:
        """Lays down what kubeadm leaves on the disk of a machine, below `root`."""
        shape = self.shape
        made = {f"{shape.directory}/ca.crt": self.ca.pem}
        current = "/var/lib/kubelet/pki/kubelet-client-current.pem"
        pair = {"client-certificate": current, "client-key": current}
        made["/etc/kubernetes/kubelet.conf"] = self.kubeconfig("kubelet-client", name, files=pair)
        made["/var/lib/kubelet/config.yaml"] = json.dumps(self.kubelet(name))
        client = self.leaves[name, "kubelet-client"]
        made["/var/lib/kubelet/pki/kubelet-client-2026.pem"] = client.pem + client.key_pem
        serving = self.leaves[name, "kubelet"]
        file = "kubelet-server-current.pem" if shape.serving_by_csr else "kubelet.crt"
        made[f"/var/lib/kubelet/pki/{file}"] = serving.pem
        if shape.plane(name):
            made |= self._plane_files(name)
        for path, text in made.items():
            file_path = root / path.lstrip("/")
            file_path.parent.mkdir(parents=True, exist_ok=True)
            file_path.write_text(text)
        # The kubelet's link is absolute.
        link = root / current.lstrip("/")
        link.symlink_to("/var/lib/kubelet/pki/kubelet-client-2026.pem")
        return root

    def _plane_files(self, name: str) -> dict[str, str]:
        pki = self.shape.directory
        cas = {"ca": self.ca, "front-proxy-ca": self.front, "etcd/ca": self.etcd}
        made = {f"{pki}/{file}.crt": ca.pem for file, ca in cas.items()}
        made |= {f"{pki}/{file}.key": ca.key_pem for file, ca in cas.items()}
        files = {
            "kube-apiserver": "apiserver",
            "kube-apiserver-kubelet": "apiserver-kubelet-client",
            "kube-apiserver-etcd": "apiserver-etcd-client",
            "front-proxy-client": "front-proxy-client",
            "etcd-server": "etcd/server",
            "etcd-peer": "etcd/peer",
            "etcd-healthcheck-client": "etcd/healthcheck-client",
        }
        for row, file in files.items():
            if (name, row) in self.leaves:
                made[f"{pki}/{file}.crt"] = self.leaves[name, row].pem
                made[f"{pki}/{file}.key"] = self.leaves[name, row].key_pem
        for row, file in {
            "admin": "admin",
            "super-admin": "super-admin",
            "kube-scheduler": "scheduler",
            "kube-controller-manager": "controller-manager",
        }.items():
            made[f"/etc/kubernetes/{file}.conf"] = self.kubeconfig(row, name)
        for component in self.components(name):
            pod = self.pod(component, name)
            made[f"/etc/kubernetes/manifests/{component}.yaml"] = json.dumps(
                {key: pod[key] for key in ("apiVersion", "kind", "metadata", "spec")}
            )
        return made


def binding(kind: str, name: str) -> dict[str, Any]:
    """A ClusterRoleBinding of a user or group."""
    return {"metadata": {"name": name}, "subjects": [{"kind": kind, "name": name}]}


def stamp(seconds: float) -> str:
    return f"{NOW + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


def token(name: str, seconds: float) -> dict[str, Any]:
    """The Secret of a bootstrap token that ends in so many seconds."""
    data = {"token-id": name, "token-secret": TOKEN_SECRET, "expiration": stamp(seconds)}
    return {
        "metadata": {"name": f"bootstrap-token-{name}", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "data": {key: encoded(value) for key, value in data.items()},
    }


def user_pod(name: str, space: str, *, sub_path: str = "", host_path: str = "") -> dict[str, Any]:
    """A pod of a user's with the ConfigMap of the root, and what else it mounts."""
    mounts: list[dict[str, Any]] = [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]
    volumes: list[dict[str, Any]] = [
        {"name": "token", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}
    ]
    if sub_path:
        volumes.append({"name": "one", "configMap": {"name": "kube-root-ca.crt"}})
        mounts.append({"name": "one", "mountPath": "/ca.crt", "subPath": sub_path})
    if host_path:
        volumes.append({"name": "host", "hostPath": {"path": host_path}})
        mounts.append({"name": "host", "mountPath": "/host"})
    owner = {"kind": "ReplicaSet", "name": f"{name}-1"}
    return {
        "metadata": {"name": name, "namespace": space, "ownerReferences": [owner]},
        "spec": {"nodeName": "w-1", "containers": [{"name": "a", "volumeMounts": mounts}], "volumes": volumes},
        "status": {
            "phase": "Running",
            "startTime": stamp(-100),
            "containerStatuses": [{"name": "a", "state": {"running": {"startedAt": stamp(-90)}}}],
        },
    }
