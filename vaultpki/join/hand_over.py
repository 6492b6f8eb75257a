"""Takes a node's credential at the server to which its cluster moves, which lies in the old server's KV store.

What names that server is believed because a hand-over binds it, whose signature and number are checked. The credential
is checked as a join file is: the server shows CAs below the pin of this node, the wrapping token was made for this
node's secret id, and the login comes back as this node. Nothing is sent to that server before all of this.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from vaultpki.disk.files import private_folder, write_private
from vaultpki.errors import CertificateRefused, JoinRefused, StateConflict
from vaultpki.join import enter
from vaultpki.model import AgentConfig
from vaultpki.node import credential, servers
from vaultpki.node.secret_id import SecretIdFiles, digest
from vaultpki.node.servers import KnownServers
from vaultpki.pki import hand_over, x509
from vaultpki.pki.hand_over import HAND_OVER_SIGNER
from vaultpki.pki.trust import no_signer
from vaultpki.records.join_file import Join
from vaultpki.records.move_credential import Handed, credential_path, read_credential
from vaultpki.records.rotation import State
from vaultpki.vault import Settings, Vault

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from vaultpki.pki.facts import Facts, Trust
    from vaultpki.records.move import MoveRecord


def wanted(known: KnownServers, record: MoveRecord, *, in_place: bool) -> bool:
    """Return whether a record asks for a credential that this node does not have; `in_place` is whether it has one.

    An aborted hand-over does not come back, and none of a lower number than the one that was taken.
    """
    if not record.active or record.state is State.PREPARED or not record.hand_over:
        return False
    if known.closed or record.number <= known.ended or record.number < known.number:
        return False
    return record.number > known.number or known.place is None or not in_place


def take(
    config: AgentConfig,
    vault: Vault,
    known: KnownServers,
    record: MoveRecord,
    trust: Trust | None,
    signers: Collection[Facts],
    now: datetime,
    *,
    allow_http: bool,
) -> KnownServers | None:
    """Take the credential, and return what the node then knows, which is not written yet.

    `config` is that of agent.yaml, `vault` its server, logged in as this node, and `trust` and `signers` are as in
    `refuse_unbound`. None if there is no credential that can still be taken: the next command makes one. Raises
    StateConflict for what is not as it should be.
    """
    refuse_unbound(config, record, trust, signers, now)
    if config.auth.method == "jwt":
        return _by_token(config, known, record, now, allow_http=allow_http)
    handed = _read(config, vault, record)
    if handed is None:
        return None
    here = servers.at_server(config, record.new, handed.role_id)
    files = SecretIdFiles(here.credentials)
    step = files.join_step()
    used = step is not None and step.token == digest(handed.wrap_token)
    if used and step is not None and step.stage == "done" and files.current() is None:
        return None
    if not used and now >= handed.expires:
        return None
    if not used and record.number > known.number:
        # What lies there is of a move that ended while this node was away.
        servers.remove_credential(config.state)
    join = _join(config, record, handed.role_id, handed.wrap_token, handed.expires)
    settings = _settings(join, allow_http=allow_http)
    cas = _proven_cas(join, settings, record, now)
    try:
        secret, node = enter.open_credential(here, join, settings, now)
    except JoinRefused as error:
        where = f"{config.prefix}/config/{credential_path(config.node, config.pool)}"
        raise StateConflict(f"{where} is the join file for the new server, and is refused: {error}") from None
    private_folder(here.credentials)
    if record.new.ca_pem:
        write_private(f"{here.credentials}/{servers.NEW_CA_FILE}", record.new.ca_pem.encode(), 0o644)
    if secret is not None:
        enter.keep_secret(here, join, secret)
    if node is not None:
        credential.roll(here, node, now.timestamp())
    return _taken(known, record, handed.role_id, cas)


def _by_token(
    config: AgentConfig, known: KnownServers, record: MoveRecord, now: datetime, *, allow_http: bool
) -> KnownServers:
    """Return what a node knows that logs in by the token of an issuer, once the new server has let it in by that."""
    join = _join(config, record, "", "", now)
    cas = _proven_cas(join, _settings(join, allow_http=allow_http), record, now)
    here = servers.at_server(config, record.new, "")
    private_folder(config.state)
    private_folder(here.credentials)
    if record.new.ca_pem:
        write_private(f"{here.credentials}/{servers.NEW_CA_FILE}", record.new.ca_pem.encode(), 0o644)
    node = credential.login(here, allow_http=allow_http)
    node.stored(f"{here.prefix}/config", credential.own_record(here))
    return _taken(known, record, "", cas)


def _taken(known: KnownServers, record: MoveRecord, role_id: str, cas: dict[str, str]) -> KnownServers:
    number, place = record.number, record.new
    return replace(known, at_new=False, number=number, place=place, role_id=role_id, cas=cas, reported="")


def _settings(join: Join, *, allow_http: bool) -> Settings:
    return replace(
        enter.join_settings(join, allow_http=allow_http),
        ca_hint="the CA in the hand-over did not sign its TLS certificate: look at move.ca_file in cluster.yaml",
        namespace_hint="look at move.namespace in cluster.yaml",
    )


def own_signers(trust: Trust | None, shown: Iterable[str], held: Collection[str]) -> tuple[Facts, ...]:
    """Return the CAs kubernetes by which this node's own server may hand over: those whose leaves are valid here.

    `trust` is that in the CA kubernetes. A node that was away until the old CA is retired has leaves of it still, and
    can get no others: `shown` are the CAs on its mount as PEM, `held` the SHA-256 of those that signed its own leaves.
    """
    if trust is None:
        return ()
    old = (facts for pem in shown for facts in x509.readable(pem) if facts.fingerprint in held)
    below = (facts for facts in old if any(x509.signed_by(facts, root) for root in trust.roots))
    return tuple(dict.fromkeys((*trust.live, *(facts for facts in below if no_signer(facts) is None))))


def refuse_unbound(
    config: AgentConfig, record: MoveRecord, trust: Trust | None, signers: Collection[Facts], now: datetime
) -> None:
    """Raise StateConflict unless a hand-over of this node's own server binds what the record says of the new one.

    `trust` is that in the CA kubernetes, by the answers of its own server, and `signers` are as `own_signers` returns
    them.
    """
    read, ca = x509.readable(record.hand_over), record.cas.get(HAND_OVER_SIGNER)
    issuers = [each for each in signers if ca is not None and each.fingerprint == ca.old_sha256]
    why: str | None = "it is not one certificate"
    if len(read) == 1:
        why = hand_over.problem(read[0], issuers, record.uri, config.cluster, now)
    if why is None and (trust is None or record.root not in {each.fingerprint for each in trust.roots}):
        why = "the record names a root that this node does not trust"
    if why is not None:
        raise StateConflict(
            f"this node takes no hand-over to {record.new.addresses[0]}: {why}; run `vaultpki move status`"
        )


def _read(config: AgentConfig, vault: Vault, record: MoveRecord) -> Handed | None:
    store, path = f"{config.prefix}/config", credential_path(config.node, config.pool)
    found = vault.stored(store, path).get("data")
    if found is None:
        return None
    handed = read_credential(found, where=f"{store}/data/{path}")
    if (handed.node, handed.pool) != (config.node, config.pool):
        raise StateConflict(f"{store}/data/{path} is of another node; find out who wrote it")
    return handed if handed.number == record.number else None


def _join(config: AgentConfig, record: MoveRecord, role_id: str, wrap_token: str, expires: datetime) -> Join:
    """Return the join file for the new server that a hand-over and a credential make together."""
    return Join(
        cluster=config.cluster,
        prefix=record.new.prefix,
        namespace=record.new.namespace or None,
        node=config.node,
        pool=config.pool,
        addresses=record.new.addresses,
        ca_pem=record.new.ca_pem or None,
        root_sha256=record.root,
        role_id=role_id,
        wrap_token=wrap_token,
        expires=expires,
        layout=config.layout,
    )


def _proven_cas(join: Join, settings: Settings, record: MoveRecord, now: datetime) -> dict[str, str]:
    """Return the key ids of the CAs by which the server signs, by domain: those of the hand-over, below our pin.

    Raises StateConflict for any others.
    """
    try:
        shown, below = enter.cluster_shown(join, settings, now)
    except (CertificateRefused, JoinRefused) as error:
        raise StateConflict(f"the new server {join.addresses[0]} is refused: {error}") from None
    found = {}
    for domain, ca in record.cas.items():
        live = below[domain].live if domain in below else ()
        named = next((each for each in live if each.fingerprint == ca.new_sha256), None)
        if named is None or shown.defaults.get(domain) != ca.new_sha256 or not named.subject_key_id:
            raise StateConflict(
                f"the new server {join.addresses[0]} does not sign {domain} by the CA that the hand-over names; "
                "run `vaultpki move status`"
            )
        found[domain] = named.subject_key_id
    return found
