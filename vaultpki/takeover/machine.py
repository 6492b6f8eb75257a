"""Reads a machine that is taken over: which CAs lie where a component reads them, and whose certificates.

Nothing is written here.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vaultpki.certificates import laid_out
from vaultpki.errors import CertificateUnreadable, StateConflict, StoreError
from vaultpki.host import setting_files
from vaultpki.host.pod_manifest import PodManifest
from vaultpki.kube.flags import FLAGS, Expect
from vaultpki.model import NodeRole, TakenOver
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.places import Layout
from vaultpki.records.adoption_report import RESTART_ORDER, Held, OldKeys, common
from vaultpki.takeover import folders, settings
from vaultpki.takeover.arrangement import FolderKind
from vaultpki.takeover.journal import read
from vaultpki.values.yaml_edit import UnsafePlace, YamlText

_BLOCK: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)
COMPONENT_KUBECONFIGS: Final = {
    "kube-controller-manager": "controller-manager.conf",
    "kube-scheduler": "scheduler.conf",
}
"""The kubeconfigs of components but the kubelet's."""

KUBELET_CONF: Final = "kubelet.conf"
PEOPLE: Final = ("admin.conf", "super-admin.conf")
"""The kubeconfigs of people that kubeadm leaves on a control plane."""

# A line of a command that runs one of the components that are restarted.
_PROGRAM: Final = re.compile(
    rb"(?m)^[ \t]*(?:-|[\"']?(?:command|args)[\"']?:)[ \t\[]*[\"']?(?:/[^ ]*/)?"
    rb"(?:etcd|kube-apiserver|kube-controller-manager|kube-scheduler)[\"']?[ \t,\]\r]*(?:$|[\"'-])"
)
_MEMBER_FILES: Final = {"etcd": "etcd/ca.crt", "etcd-server": "etcd/server.crt", "etcd-peer": "etcd/peer.crt"}
_CA_OF_ROW: Final = {row.name: row.ca for row in laid_out(Layout.KUBEADM)}


@dataclass(frozen=True, slots=True)
class OldAndNew:
    """The CAs of both sides by domain; `above` are those above the new one of the API server, up to the root."""

    old: Mapping[str, tuple[Facts, ...]]
    new: Mapping[str, tuple[Facts, ...]]
    above: tuple[Facts, ...] = ()

    def trusted(self, held: Iterable[Facts], ca: str) -> Held:
        """Return which CAs of a domain are among certificates."""
        prints = {facts.fingerprint for facts in held}
        old = {facts.fingerprint for facts in self.old.get(ca, ())}
        new = {facts.fingerprint for facts in self.new.get(ca, ())}
        whole_old, whole_new = bool(old) and old <= prints, bool(new) and new <= prints
        if whole_old and whole_new:
            return Held.BOTH
        if whole_old and not new & prints:
            return Held.OLD
        if whole_new and not old & prints:
            return Held.NEW
        return Held.MIXED if (old | new) & prints else Held.UNKNOWN

    def signer(self, leaf: Facts, ca: str) -> Held:
        """Return which side signed a certificate of a domain."""
        for side, cas in ((Held.OLD, self.old), (Held.NEW, self.new)):
            if x509.issuer_of(leaf, cas.get(ca, ())) is not None:
                return side
        return Held.UNKNOWN


class KubeadmMachine:
    """The machine at the places of `where`; `old` are the SHA-256 of the old CAs by domain.

    `at` says where a path of its disk is found, for one that is only looked at: then links are followed, and what
    cannot be read is empty.
    """

    def __init__(
        self, where: TakenOver, old: Mapping[str, Iterable[str]], at: Callable[[str], str] | None = None
    ) -> None:
        self.where, self._at = where, at
        self.manifests = f"{where.kubeconfigs}/manifests"
        self.kubelet_settings = f"{where.kubelet.rpartition('/')[0]}/config.yaml"
        self.kubelet_flags = f"{where.kubelet.rpartition('/')[0]}/kubeadm-flags.env"
        stated = settings.values_of(self.content(self.kubelet_settings)).get("staticPodPath")
        if isinstance(stated, str) and stated.startswith("/"):
            self.manifests = stated
        self.old = {ca: frozenset(prints) for ca, prints in old.items()}

    # -- what there is -----------------------------------------------------------------------------------------------

    def static_pods(self) -> dict[str, str]:
        """Return the manifests of components by component, in the order in which they are restarted."""
        found = {}
        for path, data in self.manifest_files():
            with contextlib.suppress(StoreError):
                found[PodManifest(data, path).component] = path
        return {component: found[component] for component in RESTART_ORDER if component in found}

    def unreadable_pods(self) -> list[str]:
        """Return a sentence about each manifest of a component that cannot be read, or that is one too many."""
        found, told = dict[str, str](), list[str]()
        for path, data in self.manifest_files():
            try:
                component = PodManifest(data, path).component
            except StoreError as error:
                # Manifests of others may have any form.
                if os.path.basename(path).rpartition(".")[0] in RESTART_ORDER or _PROGRAM.search(data):
                    told.append(str(error))
                continue
            if component in RESTART_ORDER and component in found:
                told.append(_one_too_many(path, found[component], component))
            found[component] = path
        return told

    def manifest_files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the path and the content of each file that the kubelet runs a static pod from."""
        absent = (FileNotFoundError, NotADirectoryError) if self._at is None else (OSError,)
        with contextlib.suppress(*absent):
            for name in sorted(os.listdir(self.place(self.manifests))):
                # The kubelet runs each file whatever its name ends with (kubernetes pkg/kubelet/config/file.go).
                if not name.startswith(".") and self.is_file(f"{self.manifests}/{name}"):
                    yield f"{self.manifests}/{name}", self.content(f"{self.manifests}/{name}")

    def place(self, path: str) -> str:
        """Return where a path of the machine is found."""
        return self._at(path) if self._at is not None else path

    def is_file(self, path: str) -> bool:
        """Return whether a file lies there."""
        return os.path.isfile(self.place(path))

    def has_kubelet(self) -> bool:
        """Return whether a kubelet of kubeadm's runs on this machine."""
        return os.path.exists(self.place(self.kubelet_settings))

    def has_other_member(self, roles: Collection[NodeRole]) -> bool:
        """Return whether a member of etcd runs here that is no static pod; `roles` are those of the node."""
        return NodeRole.ETCD in roles and "etcd" not in self.static_pods() and bool(self.old.get("etcd"))

    @property
    def member_flags(self) -> dict[str, str]:
        """Return the flags of a member of etcd that is no static pod, for the files that lie where kubeadm has them."""
        return {
            flag.name: f"{self.where.directory}/{_MEMBER_FILES[flag.of]}"
            for flag in FLAGS
            if flag.component == "etcd" and flag.of in _MEMBER_FILES and flag.expect is not Expect.KEY
        }

    def components(self) -> tuple[str, ...]:
        """Return the components of this machine, in the order in which they are restarted."""
        return (*self.static_pods(), *(("kubelet",) if self.has_kubelet() else ()))

    def kubeconfig(self, component: str) -> str | None:
        """Return the path of the kubeconfig of a component; None if it has none."""
        name = KUBELET_CONF if component == "kubelet" else COMPONENT_KUBECONFIGS.get(component)
        return f"{self.where.kubeconfigs}/{name}" if name else None

    def kubeconfigs(self) -> list[str]:
        """Return the kubeconfigs that are there: those of components and of people, without the kubelet's."""
        names = (*COMPONENT_KUBECONFIGS.values(), *PEOPLE)
        paths = [f"{self.where.kubeconfigs}/{name}" for name in names]
        return [path for path in paths if os.path.lexists(path)]

    def kind(self) -> FolderKind | None:
        """Return which folder of certificates is in place."""
        return folders.kind(self.where.directory)

    def folder(self, kind: FolderKind) -> str:
        """Return where the folder of a kind lies."""
        return folders.path_of(self.where.directory, self.where.aside, kind)

    def kubelet_folder(self, kind: FolderKind) -> str:
        """Return where the kubelet's folder of a kind lies."""
        return folders.path_of(self.where.kubelet, self.where.kubelet_aside, kind)

    # -- certificates ------------------------------------------------------------------------------------------------

    def cas(self) -> OldAndNew:
        """Return the CAs of both sides, by what lies in the folders.

        Only what the agent has put into its own bundles counts as new. Raises StateConflict if it has none yet.
        """
        own = self.folder(FolderKind.AGENT)
        held = {ca: self.certificates(f"{own}/{name}") for ca, name in folders.CA_FILES.items()}
        new = {ca: tuple(f for f in cas if f.fingerprint not in self._old(ca)) for ca, cas in held.items()}
        # A machine of etcd's alone has the CA of etcd alone.
        if not any(new.values()):
            raise StateConflict(f"{own} holds no CA of the cluster yet; run `vaultpki agent --once`")
        chain = self.certificates(f"{own}/ca-chain.crt")
        # With a root from outside there are CAs between, without which OpenSSL finds no way up.
        above = tuple(f for f in chain if f not in held["kubernetes"] and f.fingerprint not in self._old("kubernetes"))
        old = {}
        for ca, name in folders.CA_FILES.items():
            seen = list(held[ca])
            for kind in (FolderKind.KUBEADM, FolderKind.BOTH):
                seen += self.certificates(f"{self.folder(kind)}/{name}")
            old[ca] = tuple({f.fingerprint: f for f in seen if f.fingerprint in self._old(ca)}.values())
        return OldAndNew(old, new, above)

    def joined_by_both(self) -> bool:
        """Return whether kubeadm's own bundles hold both CAs: it joined while everybody trusted both."""
        try:
            cas = self.cas()
        except StateConflict:
            return False
        paths = {
            ca: f"{self.folder(FolderKind.KUBEADM)}/{name}"
            for ca, name in folders.CA_FILES.items()
            if not self._left_out(ca)
        }
        held = {cas.trusted(self.certificates(path), ca) for ca, path in paths.items() if os.path.lexists(path)}
        return held == {Held.BOTH}

    def _old(self, ca: str) -> frozenset[str]:
        return self.old.get(ca, frozenset())

    def _left_out(self, ca: str) -> bool:
        """Return whether a domain of kubeadm's has no part in the adoption, such as an etcd that keeps its own CA."""
        return ca in folders.CA_FILES and bool(self.old) and not self.old.get(ca)

    def trust(self, component: str, cas: OldAndNew, flags: Mapping[str, str]) -> Held:
        """Return which CAs lie where a component reads them; `flags` are those that it has or shall have."""
        found = []
        for ca, path in self._named(component, flags, (Expect.ISSUING, Expect.BUNDLE, Expect.CHAIN)):
            if ca in folders.CA_FILES and not self._left_out(ca):
                found.append(cas.trusted(self.certificates(path), ca))
        config = self.kubeconfig(component)
        if config is not None:
            found.append(cas.trusted(self.kubeconfig_cas(config), "kubernetes"))
        if component == "kubelet":
            found.append(cas.trusted(self.certificates(f"{self.where.directory}/ca.crt"), "kubernetes"))
        return common(found)

    def leaves(self, component: str, cas: OldAndNew, flags: Mapping[str, str]) -> Held:
        """Return whose certificates lie where a component reads them."""
        found = []
        for row, path in self._named(component, flags, (Expect.CERTIFICATE,)):
            if self._left_out(_CA_OF_ROW[row]):
                continue
            found += [cas.signer(facts, _CA_OF_ROW[row]) for facts in self.certificates(path)[:1]]
        config = self.kubeconfig(component)
        if config is not None:
            found += [cas.signer(facts, "kubernetes") for facts in self.kubeconfig_leaf(config)[:1]]
        return common(found)

    def _named(
        self, component: str, flags: Mapping[str, str], expected: tuple[Expect, ...]
    ) -> Iterator[tuple[str, str]]:
        """Yield CA or row, and path, of the files in the folder of certificates that flags of a component name."""
        for flag in FLAGS:
            value = flags.get(flag.name, "")
            if flag.component == component and flag.expect in expected and value.startswith(f"{self.where.directory}/"):
                yield flag.of, value

    def certificates(self, path: str) -> tuple[Facts, ...]:
        """Return the certificates in a file, whatever else is in it; empty if there is none."""
        try:
            with open(self.place(path), "rb") as file:
                data = file.read(1 << 20)
        except OSError:
            return ()
        return _certificates(data)

    def kubeconfig_cas(self, path: str) -> tuple[Facts, ...]:
        """Return the CAs that a kubeconfig holds or names."""
        data = self.content(path)
        held = settings.cas_of(data)
        return _certificates(held) if held else self.certificates(named_ca(data))

    def kubeconfig_leaf(self, path: str) -> tuple[Facts, ...]:
        """Return the client certificate that a kubeconfig holds or names."""
        data = self.content(path)
        with contextlib.suppress(binascii.Error, ValueError):
            held = base64.b64decode(_first(data, "users", "client-certificate-data"), validate=True)
            if held:
                return _certificates(held)
        return self.certificates(_first(data, "users", "client-certificate"))

    def keys(self) -> OldKeys:
        """Return where the keys of the old CAs lie."""
        if folders.keys_there(self.where.directory):
            return OldKeys.IN_PLACE
        aside = [f"{self.where.aside}/{kind.value}" for kind in FolderKind]
        if any(map(folders.keys_there, aside)) or os.path.lexists(folders.signer_files(self.where.aside)[1]):
            return OldKeys.ASIDE
        return OldKeys.NONE

    def kept_until(self, cas: OldAndNew) -> datetime | None:
        """Return when the first of the old pairs that are kept expires."""
        ends = []
        kind = FolderKind.BOTH if folders.kind(self.folder(FolderKind.BOTH)) else FolderKind.KUBEADM
        for pair in folders.old_pairs():
            leaf = self.certificates(f"{self.folder(kind)}/{pair.crt}")[:1]
            ends += [facts.not_after for facts in leaf if cas.signer(facts, pair.ca) is Held.OLD]
        client = f"{self.kubelet_folder(FolderKind.KUBEADM)}/{client_pem(self.kubelet_folder(FolderKind.KUBEADM))}"
        ends += [facts.not_after for facts in self.certificates(client)[:1]]
        return min(ends, default=None)

    def content(self, path: str) -> bytes:
        """Return a file; empty if there is none. Raises StoreError."""
        if self._at is not None:
            return setting_files.content(self._at(path))
        found = read(path)
        return found[0] if found is not None else b""


def _one_too_many(path: str, other: str, component: str) -> str:
    folder = os.path.dirname(path)
    spare = other if path == f"{folder}/{component}.yaml" else path
    return (
        f"{path}: {component} has another manifest, {other}, and the kubelet runs every file of that folder. Keep "
        f"one of them there, such as by `mv {spare} {os.path.dirname(folder)}/`"
    )


def client_pem(folder: str) -> str:
    """Return the name of the pair with which a kubelet logs in, as its own link says (client-go certificate_store)."""
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(f"{folder}/kubelet-client-current.pem"))
    return "kubelet-client-current.pem"


def _certificates(data: bytes) -> tuple[Facts, ...]:
    found: list[Facts] = []
    for block in _BLOCK.findall(data):
        with contextlib.suppress(CertificateUnreadable):
            found += x509.read_certificates(block)
    return tuple(found)


def named_ca(data: bytes) -> str:
    """Return the file with CAs that a kubeconfig names; "" if it names none."""
    return _first(data, "clusters", "certificate-authority")


def _first(data: bytes, entries: str, key: str) -> str:
    """Return a value of the first cluster or user of a kubeconfig; "" without it."""
    try:
        value = YamlText(data).value[entries][0][entries.removesuffix("s")][key]
    except (UnsafePlace, LookupError, TypeError):
        return ""
    return value if isinstance(value, str) else ""
