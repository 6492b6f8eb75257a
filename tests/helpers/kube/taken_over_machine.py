"""The disk of a machine as kubeadm leaves it, an agent's folders beside it, and a kubelet that restarts what changes.

Certificates and files are real. The kubelet and the components are stand-ins: what each has read at its start is noted
in a file, so a run in another process sees the same machine.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization

from helpers.example_agent import agent_config
from helpers.kube.kubeadm_manifests import COMPONENTS, manifest
from helpers.kube.kubeadm_objects import KubeadmObjects, Shape, Signed, authority, encoded, leaf
from vaultpki.certificates import BUNDLES, file_set, node_rows, pair_files, resolve
from vaultpki.config.cluster import load_cluster
from vaultpki.config.taken_over import located
from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import File
from vaultpki.host import boot_time
from vaultpki.host.boot_time import Moment
from vaultpki.host.mounts import MountHolder
from vaultpki.host.presented import Presented
from vaultpki.issue.issuers import Issuers
from vaultpki.issue.rotations import RecordRead, Rotations
from vaultpki.layout import trust_bundles
from vaultpki.model import Certificate, NodeRole, TakenOver
from vaultpki.node.assignment import Assignment
from vaultpki.pki import x509
from vaultpki.places import KUBELET, PKI, Layout, inner_folders
from vaultpki.records.adoption import NAME, AdoptionRecord, AdoptionState
from vaultpki.records.adoption_report import AdoptionReport, Held
from vaultpki.takeover import arrangement, carry_out, report
from vaultpki.takeover.arrangement import HOME, FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.values.yaml_edit import UnsafePlace, YamlText

NEW = Held.NEW
_KINDS = {"kubernetes": "ca", "front-proxy": "front-proxy-ca", "etcd": "etcd/ca"}


def conf(server: str, ca: str, user: dict[str, str]) -> str:
    """A kubeconfig with this CA, and with the pair of its user."""
    document = {
        "apiVersion": "v1",
        "clusters": [{"cluster": {"certificate-authority-data": encoded(ca), "server": server}, "name": "kubernetes"}],
        "contexts": [{"context": {"cluster": "kubernetes", "user": "u"}, "name": "u@kubernetes"}],
        "current-context": "u@kubernetes",
        "kind": "Config",
        "users": [{"name": "u", "user": user}],
    }
    return yaml.safe_dump(document)


class TakenOverMachine:
    """A machine below `root`: a control plane with etcd, or by its name a worker (w-), or a member of etcd (etcd-)."""

    def __init__(self, root: Path, name: str = "cp-1", days: int = 365, objects: KubeadmObjects | None = None) -> None:
        self.root, self.name = root, name
        self.objects = objects or KubeadmObjects(Shape(key="ECDSA-P256", planes=3))
        self.plane, self.member = name.startswith("cp-"), name.startswith("etcd-")
        kubernetes, kubelet = root / "etc/kubernetes", root / "var/lib/kubelet"
        self.where = TakenOver(True, f"{kubernetes}/pki", f"{kubelet}/pki", str(kubernetes))
        self.old = {"kubernetes": self.objects.ca, "front-proxy": self.objects.front, "etcd": self.objects.etcd}
        self.root_ca = authority("prod root CA", "ECDSA-P256", number=1)
        self.new = {ca: self._issuing(ca) for ca in ("kubernetes", "kubelet", "etcd", "front-proxy")}
        self.state = root / "var/lib/vaultpki"
        self.state.mkdir(parents=True, mode=0o700)
        self.config = agent_config(
            node=name,
            directory=self.where.directory,
            state=str(self.state),
            layout=Layout.KUBEADM,
            taken_over=self.where,
            also_trust={ca: (self._print(each),) for ca, each in self.old.items()},
        )
        self._lay_down(days)
        self.processes = StandInComponents(self)
        self.processes.boot()

    # -- kubeadm's files ---------------------------------------------------------------------------------------------

    def _lay_down(self, days: int) -> None:
        pki, kubernetes = Path(self.where.directory), Path(self.where.kubeconfigs)
        kubelet = Path(self.where.kubelet)
        (pki / "etcd").mkdir(parents=True)
        if self.member:
            self._member(pki / "etcd", days)
            return
        for folder in (kubernetes / "manifests", kubelet):
            folder.mkdir(parents=True)
        self._write(pki / "ca.crt", self.old["kubernetes"].pem)
        server = "https://198.51.100.11:6443"
        if self.plane:
            self._plane(pki, kubernetes, server, days)
        client = leaf(
            f"system:node:{self.name}", self.objects.ca, groups=["system:nodes"], kind="ECDSA-P256", days=days
        )
        self._write(kubelet / "kubelet-client-2026-01-01.pem", client.pem + client.key_pem, 0o600)
        current = kubelet / "kubelet-client-current.pem"
        current.symlink_to(kubelet / "kubelet-client-2026-01-01.pem")
        serving = self.objects.leaves[self.name, "kubelet"]
        self._write(kubelet / "kubelet.crt", serving.pem)
        self._write(kubelet / "kubelet.key", serving.key_pem, 0o600)
        pair = {"client-certificate": str(current), "client-key": str(current)}
        self._write(kubernetes / "kubelet.conf", conf(server, self.objects.ca.pem, pair), 0o600)
        settings = f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  x509:
    clientCAFile: {pki}/ca.crt
cgroupDriver: systemd
kind: KubeletConfiguration
rotateCertificates: true
staticPodPath: {kubernetes}/manifests
syncFrequency: 0s
"""
        self._write(kubelet.parent / "config.yaml", settings)
        self._write(kubelet.parent / "kubeadm-flags.env", 'KUBELET_KUBEADM_ARGS="--node-ip=198.51.100.11"\n')

    def _member(self, pki: Path, days: int) -> None:
        """What `kubeadm init phase certs` makes for a member of etcd that is no static pod."""
        self._write(pki / "ca.crt", self.old["etcd"].pem)
        self._write(pki / "ca.key", self.old["etcd"].key_pem, 0o600)
        for name in ("server", "peer"):
            made = leaf(self.name, self.old["etcd"], kind="ECDSA-P256", days=days)
            self._write(pki / f"{name}.crt", made.pem)
            self._write(pki / f"{name}.key", made.key_pem, 0o600)

    def _plane(self, pki: Path, kubernetes: Path, server: str, days: int) -> None:
        for ca, name in _KINDS.items():
            self._write(pki / f"{name}.crt", self.old[ca].pem)
            self._write(pki / f"{name}.key", self.old[ca].key_pem, 0o600)
        self._write(pki / "sa.key", self.objects.ca.key_pem, 0o600)
        self._write(pki / "sa.pub", "public\n")
        self._write(pki / "encryption.yaml", "kind: EncryptionConfiguration\n", 0o600)
        files = {
            "apiserver": ("kube-apiserver", "kubernetes"),
            "apiserver-kubelet-client": ("kube-apiserver-kubelet-client", "kubernetes"),
            "apiserver-etcd-client": ("kube-apiserver-etcd-client", "etcd"),
            "front-proxy-client": ("front-proxy-client", "front-proxy"),
            "etcd/server": (self.name, "etcd"),
            "etcd/peer": (self.name, "etcd"),
            "etcd/healthcheck-client": ("kube-etcd-healthcheck-client", "etcd"),
        }
        for name, (subject, ca) in files.items():
            made = leaf(subject, self.old[ca], names=[self.name], addresses=["127.0.0.1"], kind="ECDSA-P256", days=days)
            self._write(pki / f"{name}.crt", made.pem)
            self._write(pki / f"{name}.key", made.key_pem, 0o600)
        for name in ("admin", "super-admin", "scheduler", "controller-manager"):
            made = leaf(f"system:{name}", self.objects.ca, kind="ECDSA-P256", days=days)
            user = {"client-certificate-data": encoded(made.pem), "client-key-data": encoded(made.key_pem)}
            self._write(kubernetes / f"{name}.conf", conf(server, self.objects.ca.pem, user), 0o600)
        for component in COMPONENTS:
            text = manifest(component, self.name, pki=str(pki)).replace("/etc/kubernetes/", f"{kubernetes}/")
            self._write(
                kubernetes / f"manifests/{component}.yaml", text.replace(f"{self.root}{self.root}", str(self.root))
            )

    def join_by_both(self) -> None:
        """Have kubeadm's files as `kubeadm join` writes them while everybody trusts both CAs."""
        for ca, name in _KINDS.items():
            path = Path(self.where.directory, f"{name}.crt")
            if path.exists():
                path.write_text(self.old[ca].pem + self.new[ca].pem)
        both = encoded(self.old["kubernetes"].pem + self.new["kubernetes"].pem)
        for path in Path(self.where.kubeconfigs).glob("*.conf"):
            path.write_text(path.read_text().replace(encoded(self.old["kubernetes"].pem), both))
        self.processes.boot()

    @staticmethod
    def _write(path: Path, text: str, mode: int = 0o644) -> None:
        path.write_text(text)
        path.chmod(mode)
        os.utime(path, ns=(1_700_000_000_123_456_789, 1_700_000_000_987_654_321))

    # -- the agent's files -------------------------------------------------------------------------------------------

    def _issuing(self, ca: str) -> Signed:
        return authority(f"prod {ca} CA", "ECDSA-P256", number=2)

    @staticmethod
    def _print(signed: Signed) -> str:
        return hashlib.sha256(signed.certificate.public_bytes(serialization.Encoding.DER)).hexdigest()

    def certificates(self) -> tuple[Certificate, ...]:
        file = self.root / "cluster.yaml"
        roles = "[control-plane, etcd, worker]" if self.plane else "[etcd]" if self.member else "[worker]"
        file.write_text(
            "cluster: prod\nlayout: kubeadm\nnodes:\n"
            f"- {{name: {self.name}, roles: {roles}, addresses: [198.51.100.11]}}\n"
            "api_server: {names: [api.example.com], endpoint: 'https://api.example.com:6443'}\n"
        )
        cluster = load_cluster(file)
        node = cluster.nodes[0]
        return tuple(resolve(row, cluster, node) for row in node_rows(cluster, node))

    def assignment(self, record: AdoptionRecord | None, *, ahead: int = 0) -> Assignment:
        roles = {NodeRole.ETCD} if self.member else {NodeRole.WORKER}
        roles |= {NodeRole.CONTROL_PLANE, NodeRole.ETCD} if self.plane else set()
        return Assignment(
            fetched=0.0,
            endpoint="https://api.example.com:6443",
            server="https://198.51.100.11:6443",
            roles=frozenset(roles),
            certificates=self.certificates(),
            templates=(),
            issuers=Issuers({}, ()),
            trusted={},
            rotations=Rotations(),
            procedures={NAME: RecordRead(record, not_followed=ahead)},
        )

    def agent_pass(self, state: AdoptionState | None) -> None:
        """Leave what a pass of the agent leaves in this state: bundles and pairs of the new CAs, wherever they lie."""
        carry_out.tidy(self.config)
        config = located(self.config)
        paths = {PKI: config.directory, **inner_folders(config.directory), KUBELET: config.folders[KUBELET]}
        for aside in (self.where.aside, self.where.kubelet_aside):
            Path(aside).mkdir(mode=0o700, parents=True, exist_ok=True)
        trust = arrangement.arrangement(state).trust if state is not None else Held.BOTH
        wanted = self.certificates()
        roles = self.assignment(None).roles
        with Folders.open(paths) as folders:
            bundles: dict[str, dict[str, File]] = {}
            for each in trust_bundles(Layout.KUBEADM, roles, wanted):
                pems = [self.new[each.ca].pem]
                if trust is not NEW and each.ca in self.old:
                    pems.append(self.old[each.ca].pem)
                if each.chain:
                    pems.append(self.root_ca.pem)
                bundles.setdefault(each.folder, {})[each.file] = File("".join(pems).encode())
            for folder, files in bundles.items():
                folders.install(folder, BUNDLES, files)
            for want in wanted:
                names = pair_files(want.stem)
                if folders.read(want.folder, file_set(want.stem), names)[names[0]].data is None:
                    made = leaf(want.subject.common_name, self.new[want.ca], kind="ECDSA-P256")
                    contents = (made.pem + self.new[want.ca].pem, made.key_pem, made.pem + made.key_pem)
                    pair = {
                        n: File(d.encode(), 0o600 if n[-3:] != "crt" else 0o644)
                        for n, d in zip(names, contents, strict=True)
                    }
                    folders.install(want.folder, file_set(want.stem), pair)
            folders.settle(0.0)

    # -- runs --------------------------------------------------------------------------------------------------------

    def record(self, state: AdoptionState, **changes: Any) -> AdoptionRecord:
        old = {ca: (self._print(each),) for ca, each in self.old.items()}
        return AdoptionRecord(state, 7, 7, datetime(2026, 11, 29, tzinfo=UTC), old, turn=self.name, **changes)

    def run(self, state: AdoptionState | None, *, clock: float | None = None, **changes: Any) -> TakeOver:
        """A run to a state; None leads home."""
        target = arrangement.arrangement(state) if state is not None else HOME
        record = self.record(state, **changes) if state is not None else None
        made = carry_out.prepare(self.config, self.assignment(record), target, self.processes, clock=clock, finish=True)
        return replace(made, timeout=3.0)

    def go(self, state: AdoptionState | None, *, clock: float | None = None, **changes: Any) -> None:
        """Make a pass of the agent, and lead the machine to a state."""
        if state is not None:
            self.agent_pass(state)
        carry_out.carry_out(self.run(state, clock=clock, **changes))

    def report(self, state: AdoptionState) -> AdoptionReport:
        """What the agent reports in a state."""
        found = report.build(
            self.config,
            self.assignment(self.record(state)),
            7,
            self.processes,
            lambda clock: datetime.fromtimestamp(clock, UTC),
            1000.0,
        )
        assert found is not None
        return found

    # -- looking -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, tuple[str, int, int]]:
        """Every file of kubeadm's folders: its content or link, mode and time."""
        found = {}
        for top in (self.where.kubeconfigs, str(Path(self.where.kubelet).parent)):
            for path in sorted(Path(top).rglob("*")):
                about = path.lstat()
                data = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
                digest = data if isinstance(data, str) else hashlib.sha256(data).hexdigest()
                time = 0 if path.is_dir() else about.st_mtime_ns
                found[str(path.relative_to(self.root))] = (digest, about.st_mode, time)
        return found

    def certificate_facts(self, path: str) -> tuple[Any, ...]:
        return x509.readable(Path(path).read_text().partition("-----BEGIN EC")[0].partition("-----BEGIN PRI")[0])


class StandInComponents:
    """A kubelet that starts a pod anew when its manifest changes, and components that note what they read then."""

    def __init__(self, machine: TakenOverMachine) -> None:
        self._machine = machine
        self._file = machine.root / "processes.json"
        self._containers = machine.root / "containers.json"
        self.serves_old, self.refuses, self.lets_in = False, "", tuple[str, ...]()

    def boot(self) -> None:
        """Start everything, as after a boot of the machine."""
        self._save({})
        self._sync(kubelet=True)

    def restart_all(self) -> None:
        """Start everything anew, as after a crash of each."""
        self._save({name: {**entry, "manifest": ""} for name, entry in self.load().items()})
        self._sync(kubelet=True)

    def load(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._file.read_text())
        return found

    def _save(self, value: dict[str, Any]) -> None:
        self._file.write_text(json.dumps(value))

    def _sync(self, *, kubelet: bool = False) -> None:
        self._sync_others()
        known = self.load()
        pods = {}
        for path in sorted(Path(self._machine.where.kubeconfigs, "manifests").glob("[!.]*.yaml")):
            component = path.stem
            if component not in COMPONENTS:
                continue
            pods[component] = hashlib.sha256(path.read_bytes()).hexdigest()
            if known.get(component, {}).get("manifest") != pods[component]:
                pod = YamlText(path.read_bytes()).value
                words = pod["spec"]["containers"][0]["command"][1:]
                mounts = [each["mountPath"] for each in pod["spec"]["containers"][0]["volumeMounts"]]
                known[component] = self._started(pods[component], words, mounts)
        by_others = {"etcd"} if self._machine.member else {"kubelet"}
        for component in set(known) - set(pods) - by_others:
            del known[component]
        if self._machine.member:
            if "etcd" not in known:
                pki = f"{self._machine.where.directory}/etcd"
                known["etcd"] = self._started("", [f"--trusted-ca-file={pki}/ca.crt"], ["/"])
        elif kubelet:
            settings = yaml.safe_load(Path(self._machine.where.kubelet).parent.joinpath("config.yaml").read_text())
            words = [f"--client-ca-file={settings['authentication']['x509']['clientCAFile']}"]
            words += [f"--kubeconfig={self._machine.where.kubeconfigs}/kubelet.conf"]
            words += [f"--serving={settings.get('tlsCertFile', self._machine.where.kubelet + '/kubelet.crt')}"]
            words += [f"--rotate={settings['rotateCertificates']}"]
            known["kubelet"] = self._started("", words, ["/"])
        self._save(known)

    def containers(self) -> dict[str, Any]:
        """The containers beside the components, by the file of their manifest, or a name."""
        found: dict[str, Any] = json.loads(self._containers.read_text()) if self._containers.exists() else {}
        return found

    def mount(self, name: str, *paths: str, digest: str = "") -> None:
        """Start a container with these paths mounted: each is the file or folder that is there now."""
        held = {}
        for path in paths:
            # What the kubelet does for a path that is missing (hostPath without a type).
            if not os.path.exists(path):
                os.makedirs(path)
            held[path] = os.stat(path).st_ino
        moment = boot_time.now()
        entry = {"digest": digest, "moment": [moment.boot, moment.uptime], "held": held}
        self._containers.write_text(json.dumps({**self.containers(), name: entry}))

    def _sync_others(self) -> None:
        for path in sorted(Path(self._machine.where.kubeconfigs, "manifests").glob("[!.]*.yaml")):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if path.stem not in COMPONENTS and self.containers().get(path.stem, {}).get("digest") != digest:
                # The kubelet starts nothing from a broken one.
                with contextlib.suppress(UnsafePlace, AttributeError):
                    volumes = YamlText(path.read_bytes()).value["spec"].get("volumes", [])
                    self.mount(path.stem, *(each["hostPath"]["path"] for each in volumes), digest=digest)

    def holders(self, folders: Collection[str]) -> tuple[MountHolder, ...]:
        self._sync_others()
        found = []
        for name, entry in self.containers().items():
            for path, number in entry["held"].items():
                asides = (f"{self._machine.where.aside}/{kind.value}" for kind in FolderKind)
                where = [each for each in (path, *asides) if os.path.exists(each) and os.stat(each).st_ino == number]
                found.append(MountHolder(where[0] if where else path, not where, name, 1, Moment(*entry["moment"])))
        return tuple(each for each in found if any(each.path.startswith(f"{folder}") for folder in folders))

    def _started(self, manifest_digest: str, words: Iterable[str], mounts: list[str]) -> dict[str, Any]:
        read = {}
        for word in words:
            name, _, value = word.lstrip("-").partition("=")
            value = value.partition(",")[0]
            if value.startswith(str(self._machine.root)):
                assert any(f"{value}/".startswith(f"{mount}/") or mount == "/" for mount in mounts), (
                    f"{value}: not mounted"
                )
                read[name] = Path(value).read_text() if os.path.exists(value) else ""
                if name.endswith("kubeconfig") and name == "kubeconfig":
                    read |= self._of_kubeconfig(read[name], mounts)
        moment = boot_time.now()
        return {"manifest": manifest_digest, "moment": [moment.boot, moment.uptime], "read": read, "words": list(words)}

    def _of_kubeconfig(self, text: str, mounts: list[str]) -> dict[str, str]:
        value = YamlText(text.encode()).value
        cluster, user = value["clusters"][0]["cluster"], value["users"][0]["user"]
        found = {}
        for entry, key, name in (
            (cluster, "certificate-authority", "kubeconfig-ca"),
            (user, "client-certificate", "kubeconfig-leaf"),
        ):
            if f"{key}-data" in entry:
                found[name] = base64.b64decode(entry[f"{key}-data"]).decode()
            else:
                assert any(f"{entry[key]}/".startswith(f"{mount.rstrip('/')}/") for mount in mounts), (
                    f"{entry[key]}: not mounted"
                )
                found[name] = Path(entry[key]).read_text()
        return found

    # -- what the product asks ---------------------------------------------------------------------------------------

    def started(self, component: str) -> tuple[Moment, ...]:
        self._sync()
        found = self.load().get(component)
        return (Moment(*found["moment"]),) if found else ()

    def problem(self, component: str) -> str:
        found = self.load().get(component)
        if found is None:
            return "no process of it was seen"
        for name, text in found["read"].items():
            if not text:
                return f"--{name} names a file that is missing"
        signing = found["read"].get("cluster-signing-cert-file", "")
        if signing.count("BEGIN CERTIFICATE") > 1:
            return "the signing file holds two certificates"
        return ""

    def presented(self, address: str, port: int) -> Presented | str:
        """What lies there now, or a certificate of an old CA."""
        where = self._machine.where
        files = {2379: "etcd/server.crt", 2380: "etcd/peer.crt", 6443: "apiserver.crt"}
        path = f"{where.directory}/{files[port]}" if port in files else f"{where.kubelet}/kubelet.crt"
        pem = Path(path).read_text() if port in files or port == 10250 else authority("localhost-ca@1").pem
        if self.serves_old:
            pem = leaf("own", self._machine.old["etcd"], kind="ECDSA-P256").pem
        return self.refuses or Presented(x509.read_certificates(pem.encode()), self.lets_in)

    def restart_kubelet(self) -> str:
        self._sync(kubelet=True)
        return ""

    def pause(self, seconds: float) -> None:
        return None

    # -- what a test asks --------------------------------------------------------------------------------------------

    def trust(self, component: str, *, mixed: bool = False) -> set[str]:
        """Which sides every CA file of a component held when it was started; with `mixed` some may hold more."""
        found = list[frozenset[str]]()
        for name, text in self.load()[component]["read"].items():
            if name in _CA_NAMES:
                sides = set[str]()
                for ca, each in self._machine.old.items():
                    sides |= {"old"} if each.pem in text else set()
                    sides |= {"new"} if self._machine.new[ca].pem in text else set()
                found.append(frozenset(sides))
        assert mixed or len(set(found)) == 1, (component, found)
        return set(frozenset.intersection(*found))

    def shows(self, component: str) -> str:
        """Whose certificates a component was started with."""
        found = set()
        for name, text in self.load()[component]["read"].items():
            if name in _LEAF_NAMES:
                end = text.index("-----END CERTIFICATE-----") + 26
                leaf_facts = x509.readable(text[:end] if text[:end].endswith("\n") else f"{text[:end]}\n")[0]
                old = [x509.readable(each.pem)[0] for each in self._machine.old.values()]
                found.add("old" if x509.issuer_of(leaf_facts, old) else "new")
        assert len(found) == 1, (component, found)
        return found.pop()

    def words(self, component: str) -> dict[str, str]:
        return dict(word.lstrip("-").partition("=")[::2] for word in self.load()[component]["words"])


_CA_NAMES = {
    "client-ca-file",
    "requestheader-client-ca-file",
    "etcd-cafile",
    "trusted-ca-file",
    "peer-trusted-ca-file",
    "root-ca-file",
    "kubeconfig-ca",
}
_LEAF_NAMES = {
    "tls-cert-file",
    "etcd-certfile",
    "kubelet-client-certificate",
    "proxy-client-cert-file",
    "cert-file",
    "peer-cert-file",
    "kubeconfig-leaf",
}


def _mounted(path: str, mounts: list[str]) -> bool:
    return any(f"{path}/".startswith(f"{mount.rstrip('/')}/") for mount in mounts)
