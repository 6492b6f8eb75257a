"""Finds what nodes and operators of a cluster are told to trust: where Vault is, and which root CA they are pinned to.

All of it comes from cluster.yaml, from whoever runs the command, and from the root CA's own mount. The record of the
config store says the same, but more people may write that: it is compared, and never believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from vaultpki import records, words
from vaultpki.certificates import MOST_ISSUERS, ROOT, ca_subject
from vaultpki.errors import BadAnswer, ForeignObject, SpecError
from vaultpki.model import Cluster
from vaultpki.values import dataclass
from vaultpki.vault import HEALTH, Answer, Capabilities, Request, Vault, check_named

if TYPE_CHECKING:
    from vaultpki.facts import Facts


@dataclass(frozen=True, slots=True)
class Place:
    """What every node of a cluster is told alike. `namespace` is None for the one above all.

    `drift` names the fields in which the cluster's record in Vault says something else.
    """

    addresses: tuple[str, ...]
    ca_pem: str | None
    root_sha256: str
    namespace: str | None = None
    drift: tuple[str, ...] = ()


def find(cluster: Cluster, vault: Vault, now: datetime) -> Place:
    """Returns what the nodes of an applied cluster are told; `now` is the time at which the root CA is judged.

    SpecError where the cluster was not applied, ForeignObject where the root's mount shows no root CA of this cluster,
    or another one than `ca.root_sha256` in cluster.yaml.
    """
    namespace = _namespace(cluster, vault)
    path = f"{cluster.mount('config')}/data/cluster"
    record = (vault.read(path) or {}).get("data")
    listed = vault.call(Request("LIST", f"{cluster.mount(ROOT)}/issuers")) if record is not None else None
    if record is None or listed is None or not listed.keys:
        raise SpecError(f"cluster {cluster.name} is not in this Vault; run `vaultpki apply -f {cluster.file}` first")
    addresses, ca_pem = where(cluster, vault.addresses, vault.ca_pem)
    names = {id_: str(info.get("issuer_name")) for id_, info in listed.key_info.items()}
    pin = _root(cluster, _shown(cluster, vault, listed.keys), names, now)
    wanted = records.cluster_record(cluster, addresses, ca_pem, pin)
    return Place(addresses, ca_pem, pin, namespace, records.drift(record, wanted, where=path))


def where(cluster: Cluster, addresses: tuple[str, ...], ca_pem: str | None) -> tuple[tuple[str, ...], str | None]:
    """Returns the addresses of Vault that nodes are told, and the CA of its certificate as PEM.

    The arguments are those of whoever runs the command, and count where cluster.yaml is silent: a CA for other
    addresses than one's own is cluster.yaml's to name.
    """
    told = cluster.vault
    if told.addresses:
        return told.addresses, told.ca_pem
    return addresses, told.ca_pem or ca_pem


def told_drift(cluster: Cluster, drift: tuple[str, ...]) -> str:
    """The sentence that says that the cluster's record in Vault is not what cluster.yaml makes it."""
    return (
        f"the record {cluster.mount('config')}/cluster in Vault says something else than {cluster.file} "
        f"({', '.join(drift)}), which is not believed; `vaultpki plan -f {cluster.file}` shows it, and `apply` mends it"
    )


def refuse_other_root(cluster: Cluster, shown: str | None) -> None:
    """Raises ForeignObject where `ca.root_sha256` is given and `shown` is not it; None means there is no root CA."""
    wanted, mount = cluster.authority.root_sha256, cluster.mount(ROOT)
    if wanted is None or wanted == shown:
        return
    if shown is None:
        raise ForeignObject(
            f"there is no root CA at {mount}, and a new one would be another root than ca.root_sha256 in "
            f"{cluster.file} names; bring that one back from a backup, or remove the key to make a new one"
        )
    raise ForeignObject(
        f"the root CA at {mount} has the SHA-256 {shown}, and {cluster.file} names {wanted} (ca.root_sha256): this is "
        "another Vault, or somebody changed the root; find out which before anything is trusted"
    )


def refuse_no_namespaces(cluster: Cluster, capabilities: Capabilities) -> None:
    """Raises SpecError where cluster.yaml names a namespace and the server does not look at such a name."""
    if cluster.vault.namespace not in (None, "root") and not capabilities.namespaces:
        raise SpecError(
            f"this server (Vault {capabilities.version}, community edition) has no namespaces, so the cluster would "
            "lie where everything else does; leave vault.namespace out, or use OpenBao or Vault Enterprise",
            file=cluster.file,
            field="vault.namespace",
        )


def shown_certificate(mount: str, issuer: str, answer: Answer) -> str:
    """The certificate in the answer to `MOUNT/issuer/ID/json`, as PEM; BadAnswer where it is another's, or none."""
    path = f"{mount}/issuer/{issuer}/json"
    check_named(answer.data, "issuer_id", issuer, path)
    pem = answer.data.get("certificate")
    if not isinstance(pem, str):
        raise BadAnswer(f"{path} shows no certificate; is this address really a Vault?")
    return pem


def _namespace(cluster: Cluster, vault: Vault) -> str | None:
    name = words.vault_namespace(vault.namespace) if vault.namespace else "root"
    if name == "root":
        return None
    capabilities = Capabilities.of(vault.call(HEALTH))
    refuse_no_namespaces(cluster, capabilities)
    return name if capabilities.namespaces else None


def _shown(cluster: Cluster, vault: Vault, ids: tuple[str, ...]) -> dict[str, Facts]:
    """The certificate of every issuer on the root's mount, by the issuer's id; the engine shows them to anybody."""
    from vaultpki import x509

    mount = cluster.mount(ROOT)
    if len(ids) > MOST_ISSUERS:
        raise BadAnswer(
            f"{mount} shows {len(ids)} issuers, and a CA has one to {MOST_ISSUERS}; "
            f"run `vaultpki plan -f {cluster.file}`"
        )
    answers = vault.many([Request("GET", f"{mount}/issuer/{id_}/json") for id_ in ids])
    found = {}
    for id_, answer in zip(ids, answers, strict=True):
        found[id_] = x509.read_certificates(shown_certificate(mount, id_, answer).encode())[0]
    return found


def _root(cluster: Cluster, shown: Mapping[str, Facts], names: Mapping[str, Any], now: datetime) -> str:
    """The SHA-256 of the cluster's root CA among the issuers on its mount; `names` are theirs, by id."""
    from vaultpki import x509

    subject, mount = ca_subject(cluster.name, ROOT), cluster.mount(ROOT)
    fit = {id_: facts for id_, facts in shown.items() if x509.is_root(facts, subject, now)}
    wanted = cluster.authority.root_sha256
    prints = [facts.fingerprint for facts in fit.values()]
    if wanted in prints:
        return str(wanted)
    if not fit:
        raise ForeignObject(
            f"{mount} shows no root CA of this cluster: none of its issuers is a self-signed CA named {subject} that "
            f"is in date; run `vaultpki plan -f {cluster.file}`, and find out who changed it"
        )
    # Others that were imported beside it do not count; this is the one that apply made.
    own = [facts.fingerprint for id_, facts in fit.items() if names.get(id_) == f"{ROOT}-1"]
    chosen = prints if len(prints) == 1 else own
    if len(chosen) != 1:
        raise ForeignObject(
            f"{mount} shows {len(prints)} root CAs named {subject}; write the SHA-256 of the right one into "
            f"{cluster.file} as ca.root_sha256"
        )
    refuse_other_root(cluster, chosen[0])
    return chosen[0]
