"""Manifests of static pods in the form in which kubeadm 1.36 writes them: block style, keys in order, no quotes."""

from __future__ import annotations

from collections.abc import Mapping

FLAGS: Mapping[str, str] = {
    "etcd": """
advertise-client-urls=https://{address}:2379
cert-file={pki}/etcd/server.crt
client-cert-auth=true
data-dir=/var/lib/etcd
feature-gates=InitialCorruptCheck=true
initial-advertise-peer-urls=https://{address}:2380
initial-cluster={node}=https://{address}:2380
key-file={pki}/etcd/server.key
listen-client-urls=https://127.0.0.1:2379,https://{address}:2379
listen-metrics-urls=http://127.0.0.1:2381
listen-peer-urls=https://{address}:2380
name={node}
peer-cert-file={pki}/etcd/peer.crt
peer-client-cert-auth=true
peer-key-file={pki}/etcd/peer.key
peer-trusted-ca-file={pki}/etcd/ca.crt
snapshot-count=10000
trusted-ca-file={pki}/etcd/ca.crt
watch-progress-notify-interval=5s""",
    "kube-apiserver": """
advertise-address={address}
allow-privileged=true
authorization-mode=Node,RBAC
client-ca-file={pki}/ca.crt
enable-admission-plugins=NodeRestriction
enable-bootstrap-token-auth=true
etcd-cafile={pki}/etcd/ca.crt
etcd-certfile={pki}/apiserver-etcd-client.crt
etcd-keyfile={pki}/apiserver-etcd-client.key
etcd-servers=https://127.0.0.1:2379
kubelet-client-certificate={pki}/apiserver-kubelet-client.crt
kubelet-client-key={pki}/apiserver-kubelet-client.key
kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname
proxy-client-cert-file={pki}/front-proxy-client.crt
proxy-client-key-file={pki}/front-proxy-client.key
requestheader-allowed-names=front-proxy-client
requestheader-client-ca-file={pki}/front-proxy-ca.crt
requestheader-extra-headers-prefix=X-Remote-Extra-
requestheader-group-headers=X-Remote-Group
requestheader-username-headers=X-Remote-User
secure-port=6443
service-account-issuer=https://kubernetes.default.svc.cluster.local
service-account-key-file={pki}/sa.pub
service-account-signing-key-file={pki}/sa.key
service-cluster-ip-range=10.96.0.0/12
tls-cert-file={pki}/apiserver.crt
tls-private-key-file={pki}/apiserver.key""",
    "kube-controller-manager": """
authentication-kubeconfig=/etc/kubernetes/controller-manager.conf
authorization-kubeconfig=/etc/kubernetes/controller-manager.conf
bind-address=127.0.0.1
client-ca-file={pki}/ca.crt
cluster-name=kubernetes
cluster-signing-cert-file={pki}/ca.crt
cluster-signing-key-file={pki}/ca.key
controllers=*,bootstrapsigner,tokencleaner
kubeconfig=/etc/kubernetes/controller-manager.conf
leader-elect=true
requestheader-client-ca-file={pki}/front-proxy-ca.crt
root-ca-file={pki}/ca.crt
service-account-private-key-file={pki}/sa.key
use-service-account-credentials=true""",
    "kube-scheduler": """
authentication-kubeconfig=/etc/kubernetes/scheduler.conf
authorization-kubeconfig=/etc/kubernetes/scheduler.conf
bind-address=127.0.0.1
kubeconfig=/etc/kubernetes/scheduler.conf
leader-elect=true""",
}
COMPONENTS = tuple(FLAGS)

_ANNOTATIONS = {
    "etcd": "  annotations:\n    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://{address}:2379\n",
    "kube-apiserver": (
        "  annotations:\n    kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint: {address}:6443\n"
    ),
}
_CERTS = ("ca-certs", "/etc/ssl/certs", "DirectoryOrCreate")
_PKI = ("k8s-certs", "{pki}", "DirectoryOrCreate")
_VOLUMES = {
    "etcd": (("etcd-certs", "{pki}/etcd", "DirectoryOrCreate"), ("etcd-data", "/var/lib/etcd", "DirectoryOrCreate")),
    "kube-apiserver": (_CERTS, _PKI),
    "kube-controller-manager": (
        _CERTS,
        _PKI,
        ("kubeconfig", "/etc/kubernetes/controller-manager.conf", "FileOrCreate"),
    ),
    "kube-scheduler": (("kubeconfig", "/etc/kubernetes/scheduler.conf", "FileOrCreate"),),
}


def manifest(
    component: str, node: str = "cp-1", address: str = "198.51.100.11", pki: str = "/etc/kubernetes/pki"
) -> str:
    """The manifest of a component of a control plane."""
    named = {"node": node, "address": address, "pki": pki}
    flags = [line for line in FLAGS[component].format(**named).splitlines() if line]
    volumes = [(name, path.format(**named), kind) for name, path, kind in _VOLUMES[component]]
    lines = [
        "apiVersion: v1",
        "kind: Pod",
        "metadata:",
        *_ANNOTATIONS.get(component, "").format(**named).splitlines(),
        "  labels:",
        f"    component: {component}",
        "    tier: control-plane",
        f"  name: {component}",
        "  namespace: kube-system",
        "spec:",
        "  containers:",
        "  - command:",
        f"    - {component}",
        *(f"    - --{flag}" for flag in flags),
        f"    image: registry.k8s.io/{component}:v1.36.3",
        "    imagePullPolicy: IfNotPresent",
        "    livenessProbe:",
        "      failureThreshold: 8",
        "      httpGet:",
        "        host: 127.0.0.1",
        "        path: /livez",
        "        port: probe-port",
        "        scheme: HTTPS",
        "      initialDelaySeconds: 10",
        f"    name: {component}",
        "    resources:",
        "      requests:",
        "        cpu: 100m",
        "    volumeMounts:",
        *(f"    - mountPath: {path}\n      name: {name}\n      readOnly: true" for name, path, _ in volumes),
        "  hostNetwork: true",
        "  priority: 2000001000",
        "  priorityClassName: system-node-critical",
        "  securityContext:",
        "    seccompProfile:",
        "      type: RuntimeDefault",
        "  volumes:",
        *(f"  - hostPath:\n      path: {path}\n      type: {kind}\n    name: {name}" for name, path, kind in volumes),
        "status: {}",
    ]
    return "\n".join(lines) + "\n"
