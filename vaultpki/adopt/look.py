"""Looks at an adoption once: the record, what machines report, and after that what the cluster shows.

Nothing is written. The order counts: a node that registers after the reports were read is seen without an agent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from vaultpki.adopt import etcd, inventory
from vaultpki.adopt.found import CONTROL_PLANE, ClusterInventory, EtcdMember
from vaultpki.ca import imported
from vaultpki.ca.facts import read_above, read_root
from vaultpki.ca.imported import OldIssuer
from vaultpki.certificates import ISSUING_CAS, ROOT, ca_subject, rows
from vaultpki.errors import CertificateUnreadable
from vaultpki.identity.adoption_record import read_adoption, write_adoption
from vaultpki.identity.change_notice import ChangeNotice
from vaultpki.identity.nodes import Member, members
from vaultpki.kube import api
from vaultpki.kube.cluster import Copied
from vaultpki.kube.flags import signing_files
from vaultpki.kube.kubeconfig import KubeAccess
from vaultpki.kube.objects import KubeTrust
from vaultpki.live.trust import readable_certificates
from vaultpki.model import Cluster, NodeRole
from vaultpki.pki import chains, foreign_cas, trust
from vaultpki.pki.facts import Facts
from vaultpki.procedure.phases import Side
from vaultpki.provision.refused_changes import refuse_missing_cas
from vaultpki.readers import KUBECONFIG_SERVERS
from vaultpki.records.adoption import AdoptionRecord
from vaultpki.records.adoption_report import AdoptionReport, ComponentReport, Held, common
from vaultpki.records.node_report import NodeReport
from vaultpki.rotation.adoption_evidence import HELD, AdoptedMachine, ClusterSeen, IssuedRequest, Served, side_of
from vaultpki.values import pem
from vaultpki.vault import Vault, text
from vaultpki.vault.kv import Stored

_NODE_USER = "system:node:"


@dataclass(frozen=True, slots=True)
class Sides:
    """The certificates of the old CAs and of the new ones, by domain, and the root of the new ones."""

    old: Mapping[str, tuple[Facts, ...]]
    new: Mapping[str, tuple[Facts, ...]]
    root: Facts

    def of_copy(self, copied: str, domain: str) -> Side | None:
        """Return which CAs of a domain a text holds."""
        return side_of(pem.fingerprints(copied), _hashes(self.old.get(domain, ())), _hashes(self.new.get(domain, ())))

    def of_root_copy(self, copied: str) -> Side | None:
        """Return which CAs a `kube-root-ca.crt` holds; of the new ones the root counts, without which OpenSSL fails."""
        return side_of(pem.fingerprints(copied), _hashes(self.old.get("kubernetes", ())), {self.root.fingerprint})

    def signer(self, leaf: Facts) -> Side | None:
        """Return whose certificate this is, by its signature; None if it is neither's."""
        for side, cas in ((Side.OLD, self.old), (Side.NEW, self.new)):
            if any(trust.signed_by(leaf, each) for held in cas.values() for each in held):
                return side
        return None

    @property
    def old_ends(self) -> datetime | None:
        """Return when the first of the old CAs expires."""
        return min((each.not_after for held in self.old.values() for each in held), default=None)


def _hashes(cas: Collection[Facts]) -> frozenset[str]:
    return frozenset(each.fingerprint for each in cas)


@dataclass(frozen=True, slots=True)
class AdoptionLook:
    """All that one look has found; `found` is what the cluster showed, `now` the server's time.

    `notice` is begun before each write of the record, since nodes follow it. `imported` are the CAs by domain that are
    in Vault with their keys, whether they are old CAs of this cluster or others.
    """

    cluster: Cluster
    vault: Vault
    access: KubeAccess
    stored: Stored[AdoptionRecord]
    sides: Sides
    found: ClusterInventory
    seen: ClusterSeen
    now: datetime
    notice: ChangeNotice = field(repr=False)
    imported: Mapping[str, OldIssuer] = field(default_factory=dict)

    @property
    def record(self) -> AdoptionRecord:
        """Return the record; ValueError without one."""
        if self.stored.record is None:
            raise ValueError("there is no record of an adoption")
        return self.stored.record

    def writing(self, record: AdoptionRecord) -> AdoptionLook:
        """Write a record over the one that was read, and return the look with it; ChangedMeanwhile if it changed."""
        self.notice.begin()
        record = replace(record, shape=etcd.shape(self.found.static, self.found.members))
        return replace(self, stored=write_adoption(self.cluster, self.vault, record, self.stored.version))


def look(cluster: Cluster, vault: Vault, access: KubeAccess, now: datetime, notice: ChangeNotice) -> AdoptionLook:
    """Look at the adoption of a cluster: Vault first, and then the cluster that `access` leads to.

    Raises Unavailable or Untrusted if either cannot be talked to, and SpecError as `read_sides`.
    """
    vault.pin_to_leader()
    # As records have it.
    now = now.replace(microsecond=0)
    stored = read_adoption(cluster, vault)
    sides = read_sides(cluster, vault, stored.record, now)
    former = imported.shown(cluster, vault)
    enrolled = members(cluster, vault)
    found = inventory.take(access, (), now)
    pods = api.read_trust(access)
    seen = seen_of(cluster, sides, enrolled, found, pods, stored.record)
    return AdoptionLook(cluster, vault, access, stored, sides, found, seen, now, notice, former)


def read_sides(cluster: Cluster, vault: Vault, record: AdoptionRecord | None, now: datetime) -> Sides:
    """Return the old CAs as cluster.yaml has them, and the new ones as Vault shows them.

    Raises SpecError if cluster.yaml lacks an old CA that the record names: none could then be put back, or told apart.
    """
    if record is not None:
        refuse_missing_cas(cluster, record)
    old = foreign_cas.read(cluster)
    named = {
        domain: tuple(each for each in cas if record is None or each.fingerprint in record.old.get(domain, ()))
        for domain, cas in old.items()
    }
    root = read_root(cluster, vault, now)
    return Sides({domain: cas for domain, cas in named.items() if cas} or old, _new(cluster, vault, root), root)


def _new(cluster: Cluster, vault: Vault, root: Facts) -> dict[str, tuple[Facts, ...]]:
    """Return the issuing CAs below the root, by domain; each counts on its own mount alone."""
    above = read_above(cluster, vault)
    found = vault.map(lambda ca: _issuing(cluster, vault, ca, root, above), ISSUING_CAS)
    return dict(zip(ISSUING_CAS, found, strict=True))


def _issuing(cluster: Cluster, vault: Vault, domain: str, root: Facts, above: Collection[Facts]) -> tuple[Facts, ...]:
    """Return the issuing CAs on the mount of a domain; `above` are the CAs of a root from outside."""
    from vaultpki.pki import x509

    mount, pki = cluster.mount(domain), vault.api.secrets.pki
    name, root_name = ca_subject(cluster.name, domain), ca_subject(cluster.name, ROOT)
    between = chains.between(above, (root,), root_name=root_name)
    found = []
    for id_ in pki.list_issuers(mount_point=mount).keys:
        answer = pki.read_issuer(id_, mount_point=mount)
        try:
            # One may have been deleted meanwhile.
            facts = x509.read_certificates(text(answer.data, "certificate").encode())[0] if answer.found else None
        except CertificateUnreadable:
            continue
        if facts is not None and chains.why_untrusted(facts, root, name, between, root_name=root_name) is None:
            found.append(facts)
    return tuple(found)


def seen_of(
    cluster: Cluster,
    sides: Sides,
    enrolled: Collection[Member],
    found: ClusterInventory,
    pods: KubeTrust,
    record: AdoptionRecord | None,
) -> ClusterSeen:
    """Return the evidence in what was read. Pure."""
    etcd = record is None or "etcd" in record.old
    machines = {each.name: each for each in _machines(cluster, found, etcd=etcd)}
    agents = {each.name: each for each in enrolled if not each.locked}
    # One with these roles may run what the API server does not show.
    for name, agent in agents.items():
        roles = agent.holder.roles if agent.holder is not None else frozenset[NodeRole]()
        if name not in machines and roles & {NodeRole.CONTROL_PLANE, NodeRole.ETCD} and agent.report is not None:
            plane, member = NodeRole.CONTROL_PLANE in roles, NodeRole.ETCD in roles
            machines[name] = AdoptedMachine(name, plane=plane, member=member, kubelet=False)
    copies = found.whole.live.copies
    return ClusterSeen(
        machines=tuple(_with_evidence(each, agents.get(each.name), sides, found, record) for each in machines.values()),
        info=next((sides.of_copy(each.pem, "kubernetes") for each in copies if each.copied is Copied.JOINING), None),
        clients={
            each.place: sides.of_copy(each.pem, each.copied.value)
            for each in copies
            if each.copied in (Copied.CLIENTS, Copied.FRONT_PROXY) and each.pem
        },
        roots=dict.fromkeys(pods.namespaces)
        | {each.namespace: sides.of_root_copy(each.pem) for each in pods.copies if each.namespace in pods.namespaces},
        changed={each.namespace: each.changed for each in pods.copies},
        pods=pods.pods,
        tokens=tuple(each.id for each in found.whole.tokens),
        keys_secret=found.whole.keys_token is not None,
        requests=tuple(_requests(sides, found)),
        without_rights=tuple(sorted(_bound_by_nobody(cluster, found))),
        servers=tuple(
            each.place
            for each in copies
            if each.copied in (Copied.SERVER, Copied.BUNDLE)
            and any(sides.of_copy(each.pem, domain) is Side.OLD for domain in sides.old)
        ),
        spare=tuple(sorted(name for name in agents if name not in machines and agents[name].report is not None)),
        unread=found.whole.unread,
    )


def _bound_by_nobody(cluster: Cluster, found: ClusterInventory) -> Iterator[str]:
    """Yield the users of nodes' certificates whose rights a manifest gives, and whom no ClusterRoleBinding names.

    kubeadm's own certificates have a group in place of that (cmd/kubeadm/app/phases/certs/certlist.go).
    """
    for row in rows(cluster):
        if row.manifest and not row.operator and not row.organization and row.common_name not in found.whole.bound:
            yield row.common_name


def _machines(cluster: Cluster, found: ClusterInventory, *, etcd: bool) -> Iterator[AdoptedMachine]:
    """Yield the Node objects, and the machines of etcd members that have none."""
    ran: dict[str, set[str]] = {}
    for pod in found.whole.static:
        ran.setdefault(pod.node, set()).add(pod.component)
    at = {machine_of(cluster, each): each for each in found.members if each.stacked or etcd}
    for node in found.whole.nodes:
        yield AdoptedMachine(
            node.name,
            plane=node.control_plane or not ran.get(node.name, set()).isdisjoint(CONTROL_PLANE),
            member=node.name in at,
            silent=node.ready == "Unknown",
        )
    named = {node.name for node in found.whole.nodes}
    for name in at:
        if name not in named:
            yield AdoptedMachine(name, member=True, kubelet=False)


def machine_of(cluster: Cluster, member: EtcdMember) -> str:
    """Return the name in cluster.yaml of the machine that runs a member of etcd, else the name that it was given."""
    named = {node.name for node in cluster.nodes}
    if member.node in named:
        return member.node
    where = {*member.hosts, *member.addresses}
    fits = [node.name for node in cluster.nodes if NodeRole.ETCD in node.roles and where & {node.name, *node.addresses}]
    return fits[0] if len(fits) == 1 else member.node


def _with_evidence(
    machine: AdoptedMachine,
    agent: Member | None,
    sides: Sides,
    found: ClusterInventory,
    record: AdoptionRecord | None,
) -> AdoptedMachine:
    static = [pod for pod in found.whole.static if pod.node == machine.name]
    managers = [pod for pod in static if pod.component == "kube-controller-manager"]
    shown = found.whole.live.kubelets.get(machine.name, {})
    kubelet = shown.get("rotateCertificates")
    report = agent.report if agent is not None else None
    told = report.adoption if report is not None else None
    later = None
    signs = any(signing_files(pod.flags, "cert") for pod in managers) if managers else None
    unknown = ""
    if report is not None and told is None and record is not None:
        later = joined_later(report, record, sides, signs=signs)
        if later is not None and machine.kubelet and not shown:
            unknown = found.whole.unread.get(f"kubelet of {machine.name}", "it shows no configuration")
        # kubeadm's kubelet renews its own certificate: this is none of ours, whatever an agent of its name has
        # elsewhere. What is false is left out (kubelet.config.k8s.io/v1beta1, omitempty).
        later = later if kubelet is not True and not unknown else None
    return replace(
        machine,
        enrolled=agent is not None,
        pooled=agent is not None and agent.kind != "listed",
        report=told or later,
        later=later is not None,
        time=report.time if report is not None else None,
        signs=signs,
        rotates=kubelet if isinstance(kubelet, bool) else None,
        unknown=unknown,
        started={pod.component: pod.started for pod in static if pod.started is not None},
        stopped=tuple(pod.component for pod in static if pod.started is None),
        mounting=tuple(
            f"{each.namespace}/{each.name} ({each.path})"
            for each in found.whole.readers
            if each.path and each.node == machine.name
        ),
        served=tuple(
            Served(each.row, each.place, sides.signer(each.leaf), own=_self_made(machine.name, each.leaf))
            for each in found.listeners
            if each.node == machine.name and each.leaf is not None
        ),
    )


def joined_later(
    report: NodeReport, record: AdoptionRecord, sides: Sides, *, signs: bool | None
) -> AdoptionReport | None:
    """Return what a node would say of the adoption that has joined with the new CAs' certificates; None for others.

    It has no files of kubeadm's to take over, so it only holds what its agent writes. Its report does not say which
    record it has read; what its bundles hold does, and it must be of after the state began. `signs` is what the flags
    of its controller manager say.
    """
    keys = {each.subject_key_id for cas in sides.new.values() for each in cas}
    leaves = report.certificates.values()
    if not leaves or not all(each.issuer_key_id in keys for each in leaves) or not report.bundles:
        return None
    trusted = {ca: _trusted(report, ca, sides) for ca in report.bundles if ca in record.old}
    components = {"kubelet": ComponentReport(report.time, common(trusted.values()), Held.NEW, healthy=True)}
    for name, reader in report.readers.items():
        ca, _, component = name.partition("/")
        if ca == KUBECONFIG_SERVERS:
            continue
        bundle = report.bundles.get(ca)
        new = reader.started is not None and bundle is not None and reader.started >= bundle.installed
        held = trusted.get(ca, Held.NEW) if new else Held.UNKNOWN
        components[name] = ComponentReport(reader.started, held, Held.NEW, reader.sound, reader.problem or component)
    changes = [each.installed for each in report.bundles.values()]
    changes += [each.installed for each in leaves if each.installed is not None]
    return AdoptionReport(
        revision=record.revision if report.time > record.since else 0,
        reached=record.state,
        trust=common(trusted.values()),
        leaves=Held.NEW,
        components=components,
        signer=signs,
        by_agent=True,
        since=max(changes, default=None),
    )


def _trusted(report: NodeReport, ca: str, sides: Sides) -> Held:
    """Return which CAs a domain's bundle holds by a report."""
    held = report.bundles[ca].sha256 | report.foreign.get(ca, frozenset())
    side = side_of(held, _hashes(sides.old.get(ca, ())), _hashes(sides.new.get(ca, ())))
    return HELD[side] if side is not None else Held.UNKNOWN


def _self_made(node: str, leaf: Facts) -> bool:
    """Return whether a kubelet has made it itself (client-go util/cert, GenerateSelfSignedCertKey)."""
    return leaf.issuer_text.startswith(f"CN={node}-ca@")


def _requests(sides: Sides, found: ClusterInventory) -> Iterator[IssuedRequest]:
    """Yield the CSRs that the old CA has signed, each with the node whose certificate it is."""
    for each in found.whole.requests:
        leaf = next(iter(readable_certificates(each.pem)), None)
        if leaf is None or each.state != "issued" or sides.signer(leaf) is not Side.OLD:
            continue
        name = leaf.subject.common_name
        node = name.removeprefix(_NODE_USER) if name.startswith(_NODE_USER) else ""
        yield IssuedRequest(each.name, each.user, node, each.made)
