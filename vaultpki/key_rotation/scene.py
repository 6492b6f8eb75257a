"""Reads all that a command on service-account keys decides by, once: record, nodes, CAs, policies, and the time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from urllib.parse import urlsplit

from vaultpki.ca.facts import read_mount, read_root, refuse_unknown
from vaultpki.ca.token_key_certificates import key_holders
from vaultpki.certificates import ROOT, SERVICE_ACCOUNT, ca_subject, resolve, rows
from vaultpki.errors import BadAnswer, StateConflict, Unavailable
from vaultpki.identity.change_notice import ChangeNotice
from vaultpki.identity.nodes import NodeList, read_nodes
from vaultpki.key_rotation import policies as key_policies
from vaultpki.kube import published_keys
from vaultpki.kube.token_flags import TokenFlags, TokensInUse
from vaultpki.model import Cluster, NodeRole
from vaultpki.pki import chains, jwk, x509
from vaultpki.pki.facts import Facts
from vaultpki.provision.rotation_records import read_key_record, read_records, write_key_record
from vaultpki.records.rotation import RotationRecord
from vaultpki.records.server_facts import Fields, Key
from vaultpki.records.service_account import KeyRecord
from vaultpki.token_keys.course import KeyScene, held_by
from vaultpki.token_keys.holders import KeyHolder
from vaultpki.token_keys.issuer import JWKS, PublishedKeys, lacking, outside
from vaultpki.token_keys.life import longest_life
from vaultpki.token_keys.states import STEPS_OF_KEY_SETS
from vaultpki.vault import Vault
from vaultpki.vault.kv import Stored


@dataclass(frozen=True, slots=True)
class KeysOnServer:
    """Service-account keys as a command found them.

    `stored` is their record, `rotations` those of CAs. `facts` is what decides how the record goes on. `tokens` is what
    the running cluster shows, None without `--kubeconfig`. `notice` is begun before each write.
    """

    cluster: Cluster
    vault: Vault
    stored: Stored[KeyRecord]
    rotations: Mapping[str, Stored[RotationRecord]]
    facts: KeyScene
    policies: Mapping[Key, Fields] = field(repr=False)
    notice: ChangeNotice
    tokens: TokensInUse | None = None

    @property
    def record(self) -> KeyRecord | None:
        """The record; None if there is none."""
        return self.stored.record

    def writing(self, record: KeyRecord) -> KeysOnServer:
        """Write the record over the one that was read, and return what is there then; Refused if it was changed."""
        self.notice.begin()
        return replace(self, stored=write_key_record(self.cluster, self.vault, record, self.stored.version))

    def reconciled(self) -> KeysOnServer:
        """Make policies and role allow the numbers of the record, and return what is there then."""
        writes = key_policies.reconcile_numbers(self.cluster, self.vault, self.record, self.policies, self.notice)
        if not writes:
            return self
        policies = key_policies.read_policies(self.cluster, self.vault)
        given = key_policies.given(self.cluster, policies)
        return replace(self, policies=policies, facts=replace(self.facts, given=given))


def read_keys(
    cluster: Cluster,
    vault: Vault,
    now: datetime,
    *,
    strict: bool = True,
    found: NodeList | None = None,
    notice: ChangeNotice | None = None,
    tokens: TokensInUse | None = None,
) -> KeysOnServer:
    """Read service-account keys from the server's active node, and the report of every node unless they are `found`.

    Arguments and errors are as of `scene.read_scene`; StateConflict if the cluster has no such keys.
    """
    refuse_no_keys(cluster)
    vault.pin_to_leader()
    now = now.replace(microsecond=0)
    stored, rotations, root = (
        read_key_record(cluster, vault),
        read_records(cluster, vault),
        read_root(cluster, vault, now),
    )
    nodes = found if found is not None else read_nodes(cluster, vault)
    if strict:
        refuse_unknown(cluster, vault, nodes)
    recorded = stored.record.nodes if stored.record is not None else ()
    holders = key_holders(cluster, nodes.members, recorded)
    policies = key_policies.read_policies(cluster, vault)
    issuing, roots, between = _read_issuing(cluster, vault, root)
    own = rotations[SERVICE_ACCOUNT].record
    # What a CA has signed that is trusted no more brings no key in.
    issuing = tuple(each for each in issuing if own is None or each.fingerprint in own.trust)
    flags = known_flags(holders.values(), tokens)
    # Of a node that has left nobody may know the flags; those of the others count for it then.
    counted = [
        name
        for name in (stored.record.nodes if stored.record is not None else holders)
        if name in holders or name in flags
    ]
    given = key_policies.given(cluster, policies)
    # What either says: a pod that restarts is not listed, and an agent may see no flags.
    everything = (*flags.values(), *known_flags(holders.values(), None).values())
    life, published = longest_life(counted, flags), _published(cluster, stored.record, everything)
    facts = KeyScene(holders, issuing, roots, now, life, given, between, published)
    return KeysOnServer(
        cluster, vault, stored, rotations, facts, policies, notice or ChangeNotice(cluster, vault), tokens
    )


def _published(cluster: Cluster, record: KeyRecord | None, flags: Iterable[TokenFlags]) -> tuple[PublishedKeys, ...]:
    """Return the key sets outside of the cluster, as far as they can be read from here; none where no step asks."""
    if record is None or JWKS in record.checked or record.state not in {state for state, _ in STEPS_OF_KEY_SETS}:
        return ()
    keys = {
        name: [jwk.material(jwk.key(facts.public_key)) for pem in held_by(record, each) for facts in x509.readable(pem)]
        for name, each in record.nodes.items()
    }
    found = []
    for url in outside(flags, _own_hosts(cluster)):
        try:
            found.append(PublishedKeys(url, lacking(keys, published_keys.read(url))))
        except (Unavailable, BadAnswer) as error:
            found.append(PublishedKeys(url, unseen=str(error)))
    return tuple(found)


def _own_hosts(cluster: Cluster) -> frozenset[str]:
    """Return the names and addresses at which API servers are asked."""
    servers = [
        resolve(row, cluster, node).subject
        for row in rows(cluster)
        if row.name == "kube-apiserver"
        for node in cluster.nodes
        if NodeRole.CONTROL_PLANE in node.roles
    ]
    endpoint = urlsplit(cluster.api_server.endpoint or "").hostname or ""
    return frozenset({endpoint, *(each for one in servers for each in (*one.dns, *one.ips))})


def refuse_no_keys(cluster: Cluster) -> None:
    """Raise StateConflict if cluster.yaml asks for no service-account keys."""
    if not cluster.service_account_keys:
        raise StateConflict(
            f"{cluster.file} does not ask for service-account keys: write `service_account_keys: true`, and run "
            "`vaultpki apply`"
        )


def _read_issuing(
    cluster: Cluster, vault: Vault, root: Facts
) -> tuple[tuple[Facts, ...], tuple[Facts, ...], tuple[Facts, ...]]:
    """Return the CAs of service-account keys, expired ones too, the roots, and the CAs of a PKI outside between them.

    There are two roots while the root is rotated.
    """
    mounts = [read_mount(cluster, vault, ca, root) for ca in (SERVICE_ACCOUNT, ROOT)]
    issuing, shown = (
        tuple(each.facts for each in mount.issuers if each.facts is not None and not each.revoked) for mount in mounts
    )
    # Of the root's mount only what has a key there signs: others may have been imported.
    owned = {each.facts.public_key for each in mounts[1].issuers if each.key and each.facts is not None}
    roots = tuple(dict.fromkeys((root, *(each for each in shown if each.public_key in owned))))
    above = (*mounts[1].above, *shown, *issuing)
    return issuing, roots, chains.between(above, roots, root_name=ca_subject(cluster.name, ROOT))


def known_flags(holders: Iterable[KeyHolder], tokens: TokensInUse | None) -> dict[str, TokenFlags]:
    """Return the flags of kube-apiserver by node: as the running cluster shows them, else as nodes report them."""
    found = {
        holder.name: TokenFlags(keys.extends, keys.longest, keys.issuer, keys.jwks_uri)
        for holder in holders
        if (keys := holder.keys) is not None and keys.extends is not None and keys.longest is not None
    }
    return found | dict(tokens.flags if tokens is not None else {})
