"""Has the old server's CA kubernetes sign what names the new server to nodes, by a role that a move alone has.

The certificate's key is thrown away at once: it proves nothing but that this CA has signed the URI in it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from vaultpki.errors import BadAnswer, CertificateUnreadable
from vaultpki.model import Certificate, KeyType, Subject, Usage
from vaultpki.move.server import MoveServer
from vaultpki.pki.hand_over import HAND_OVER_EKU, HAND_OVER_LIFE, HAND_OVER_SIGNER, common_name, problem
from vaultpki.provision.desired import full_role
from vaultpki.records.move import HAND_OVER_ROLE, MoveRecord
from vaultpki.records.server_facts import Fields, ServerFacts
from vaultpki.vault import HEALTH, Capabilities, text

if TYPE_CHECKING:
    from vaultpki.pki.facts import Facts

EARLY: Final = timedelta(days=4)
"""How long before its end a hand-over is signed again: a cluster may be looked after on weekdays alone."""


def ends(pem: str) -> datetime | None:
    """Return when a hand-over ends; None if there is none."""
    facts = _facts(pem)
    return facts.not_after if facts is not None else None


def is_due(record: MoveRecord, now: datetime) -> bool:
    """Return whether a hand-over must be signed: there is none, it binds another text, or it ends soon.

    Once the old CA signs no more nothing is due: each node has had it by then.
    """
    if not record.cas or not record.new_root:
        return False
    facts = _facts(record.hand_over)
    return facts is None or not _binds(facts, record.uri) or facts.not_after - now < EARLY


def sign(old: MoveServer, record: MoveRecord) -> str:
    """Return a new hand-over as PEM, signed by the old server's CA, after its role was made for exactly that.

    Raises BadAnswer if what comes back is something else.
    """
    from vaultpki.pki import keys, x509

    cluster, vault, mount = old.cluster, old.vault, old.cluster.mount(HAND_OVER_SIGNER)
    name = common_name(cluster.name)
    # hvac's methods write lists as one string, or send fields that nobody asked for.
    vault.write(f"{mount}/roles/{HAND_OVER_ROLE}", _role(old, record.uri))
    csr = keys.request(keys.generate_key(KeyType.EC_P256), Subject(name))
    body = {
        "csr": csr,
        "common_name": name,
        "uri_sans": record.uri,
        "exclude_cn_from_sans": True,
        "format": "pem",
    }
    signed = vault.write(f"{mount}/sign/{HAND_OVER_ROLE}", body, once=True).get("data") or {}
    pem = text(signed, "certificate")
    issuer = x509.read_certificates(text(signed, "issuing_ca").encode())[0]
    facts = x509.read_certificates(pem.encode())[0]
    now = datetime.now(UTC) + timedelta(seconds=vault.clock_offset or 0.0)
    why = problem(facts, [issuer], record.uri, cluster.name, now)
    if why is None and issuer.fingerprint != record.cas[HAND_OVER_SIGNER].old_sha256:
        why = "it was signed by another CA than the old one of the move"
    if why is not None:
        raise BadAnswer(f"{mount} signed a hand-over that no node would take ({why}); check any proxy in between")
    return facts.pem


def remove_role(old: MoveServer) -> None:
    """Remove the role, so that nobody can have a hand-over signed; nothing if it has gone, or its mount."""
    mount = old.cluster.mount(HAND_OVER_SIGNER)
    if f"{mount}/" in old.vault.api.sys.list_mounted_secrets_engines().data:
        old.vault.api.secrets.pki.delete_role(HAND_OVER_ROLE, mount_point=mount)


def _role(old: MoveServer, uri: str) -> Fields:
    """Return the role. The name in it has a space, which no check of host names would pass: the URI alone is bound."""
    cluster, mount = old.cluster, old.cluster.mount(HAND_OVER_SIGNER)
    whose, last = Subject(common_name(cluster.name)), HAND_OVER_ROLE
    sample = Certificate(
        last, Usage.SIGNING, whose, HAND_OVER_SIGNER, mount, last, HAND_OVER_LIFE, KeyType.EC_P256, last
    )
    facts = ServerFacts(openbao=Capabilities.of(old.vault.call(HEALTH)).openbao)
    return full_role(sample, facts) | {
        "ext_key_usage_oids": [HAND_OVER_EKU],
        "allowed_domains": [whose.common_name],
        "allowed_uri_sans": [uri],
        "cn_validations": ["disabled"],
    }


def _binds(facts: Facts, uri: str) -> bool:
    return any(each.endswith(uri) for each in facts.further_names)


def _facts(pem: str) -> Facts | None:
    from vaultpki.pki import x509

    try:
        return x509.read_certificates(pem.encode())[0] if pem else None
    except CertificateUnreadable:
        return None
