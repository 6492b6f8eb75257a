"""Tries the new server of a move before nodes are told of it: it signs for nodes as their agents would ask it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from vaultpki.ca.facts import longest_ttl, read_mount, read_root
from vaultpki.certificates import issuing_cas
from vaultpki.errors import BadAnswer, CertificateRefused, Denied, Refused, StateConflict
from vaultpki.identity.credentials import Identity, role_id
from vaultpki.issue.issuers import fetch_issuers, roots_below, trusts
from vaultpki.model import Node
from vaultpki.move.server import MoveServer
from vaultpki.provision import apply
from vaultpki.records.move import MoveRecord
from vaultpki.records.server_facts import ServerFacts
from vaultpki.redact import first_few, stamp
from vaultpki.vault import HEALTH, Request, Vault
from vaultpki.vault.answers import login_token
from vaultpki.verify import forbidden_signing
from vaultpki.verify.forbidden_signing import Allowed
from vaultpki.verify.vault_trial import Judge, Keys

_APART: Final = timedelta(minutes=1)
"""How far the clocks of both servers may be apart."""

# In seconds: its login follows at once, and a command that is killed in between leaves nothing that lasts.
_SECRET_ID: Final = 60


def try_signing(new: MoveServer, record: MoveRecord) -> None:
    """Have the new server sign each certificate of one listed node of each kind, and check it as an agent would.

    The keys are thrown away. Raises StateConflict with what is wrong.
    """
    kinds: dict[object, Node] = {}
    for node in new.cluster.nodes:
        kinds.setdefault(node.roles, node)
    for node in kinds.values():
        if why := next(_failures(new, record, node), ""):
            raise StateConflict(f"{new.vault.address} does not sign for {node.name} as it should: {why}")


def _failures(new: MoveServer, record: MoveRecord, node: Node) -> Iterator[str]:
    cluster, now = new.cluster, _time(new.vault)
    own, keys = _logged_in(new, node), Keys()
    issuers = fetch_issuers(own, cluster.prefix, cas=issuing_cas(cluster))
    above = roots_below(issuers, record.root, None, now, cluster=cluster.name)
    judge = keys.judge(trusts(issuers, above, now, cluster=cluster.name), now)
    for request in forbidden_signing.allowed(cluster, node.name, node, keys.request):
        if why := _failure(own, request, judge):
            yield f"{request.path}: {why}"


def _failure(own: Vault, request: Allowed, judge: Judge) -> str:
    try:
        answer = own.write(request.path, request.body, once=True)
        judge(str((answer.get("data") or {}).get("certificate")), request.certificate)
    except (Denied, Refused, BadAnswer, CertificateRefused) as error:
        return str(error)
    return ""


def _logged_in(new: MoveServer, node: Node) -> Vault:
    """Return a client that is logged in as the node, by a secret id for that alone."""
    cluster, vault = new.cluster, new.vault
    identity = Identity("listed", node.name)
    mount, known = identity.mount(cluster), role_id(cluster, vault, identity)
    if known is None:
        raise StateConflict(f"{node.name} has no AppRole at {vault.address} yet; run this again")
    plain: Request = vault.prepare.auth.approle.generate_secret_id(node.name, mount_point=mount)
    # hvac's method has no TTL.
    minted = vault.call(replace(plain, once=True, body={"ttl": f"{_SECRET_ID}s", "num_uses": 1})).data.get("secret_id")
    login = vault.prepare.auth.approle.login(known, str(minted), use_token=False, mount_point=mount)
    return vault.as_token(login_token(vault.call(login).body, login.path))


def problems(old: MoveServer, new: MoveServer, record: MoveRecord) -> tuple[str, ...]:
    """Return why nodes cannot be told of the new server yet, as sentences; writes nothing."""
    return tuple(_problems(old, new, record))


def _problems(old: MoveServer, new: MoveServer, record: MoveRecord) -> Iterator[str]:
    times = [_time(each.vault) for each in (old, new)]
    apart = abs(times[0] - times[1])
    if apart > _APART:
        yield (
            f"the clocks of {old.vault.address} and {new.vault.address} are {int(apart.total_seconds())} seconds "
            "apart; set them right"
        )
    root = read_root(new.cluster, new.vault, times[1])
    if root.fingerprint != record.root:
        yield f"{new.vault.address} shows another root than the one that nodes are pinned to ({root.fingerprint})"
    for domain in issuing_cas(new.cluster):
        mount = read_mount(new.cluster, new.vault, domain, root)
        found = next((each for each in mount.issuers if each.sha256 == record.cas[domain].new_sha256), None)
        if found is None or found.facts is None or not found.key or found.revoked or mount.default != found.id:
            yield f"{mount.path} does not sign by {record.cas[domain].new}; find out who changed it"
            continue
        last = times[1] + timedelta(seconds=longest_ttl(new.cluster, domain))
        if found.facts.not_after <= last:
            yield (
                f"{record.cas[domain].new} ends at {stamp(found.facts.not_after)}, before a certificate that it signs "
                "now would; rotate the root first (`vaultpki ca rotate root`)"
            )
    place = new.place
    where = ServerFacts(place.addresses, place.ca_pem or None, place.namespace)
    _, left = apply.observe_and_plan(new.cluster, new.vault, where)
    if left.changes:
        names = [f"{each.kind} {each.name}" for each in left.changes]
        yield f"{new.vault.address} lacks what `vaultpki apply` makes ({first_few(names)}); run `vaultpki move start`"
    for danger in left.dangers:
        yield f"{danger.name} at {new.vault.address}: {danger.reason}"


def _time(vault: Vault) -> datetime:
    """Return the server's own time; this computer's with the server's offset if it does not say it."""
    said = vault.call(HEALTH).body.get("server_time_utc")
    if isinstance(said, int):
        return datetime.fromtimestamp(said, UTC)
    return datetime.now(UTC) + timedelta(seconds=vault.clock_offset or 0.0)
