"""What is served while the root is rotated passes for every holder of a root or of a bundle, with real TLS clients."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509 as c
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from helpers.corporate_certificates import Ca, name
from helpers.tls_clients import CLIENTS, go_client, listening
from vaultpki.pki.chains import trust_below, with_chains
from vaultpki.pki.facts import Facts
from vaultpki.pki.succession import chain
from vaultpki.verify.on_disk import chain_fits

pytestmark = pytest.mark.on_node

CN: Final = "prod etcd CA"
ROOT_NAME: Final = "prod root CA"
NOW: Final = datetime.now(UTC).replace(microsecond=0)
DATES: Final[dict[str, Any]] = {"begins": NOW - timedelta(days=1), "ends": NOW + timedelta(days=900)}


class Rotation:
    """An issuing CA below two roots, the first of which has signed the second one; each may sign through a CA."""

    def __init__(self, *, old_outside: bool = False, new_outside: bool = False, between: bool = False) -> None:
        ours = name(ROOT_NAME), name(f"{ROOT_NAME} 2")
        self.old = Ca("Corp Old Root", **DATES) if old_outside else Ca("", subject=ours[0], **DATES)
        self.new = Ca("Corp Root", **DATES) if new_outside else Ca("", subject=ours[1], **DATES)
        self.cross = self.new.again(self.old, **DATES).facts
        lower = {
            root: Ca("Corp Platform CA", root, **DATES) if outside and between else root
            for root, outside in ((self.old, old_outside), (self.new, new_outside))
        }
        self.before = Ca("", lower[self.old], subject=name(CN), path_length=0, **DATES)
        self.after = self.before.again(lower[self.new], path_length=0, **DATES).facts
        self.between = tuple(each.facts for root, each in lower.items() if each is not root)
        self.key = ec.generate_private_key(ec.SECP256R1())
        extensions = (
            (c.SubjectAlternativeName([c.DNSName("localhost")]), False),
            (c.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        )
        self.leaf = self.before.certify(self.key.public_key(), name("n"), ca=False, extensions=extensions, **DATES)

    def served(self) -> tuple[Facts, ...]:
        """What an agent serves behind the leaf."""
        roots, pems = (self.old.facts, self.new.facts), (self.before.pem.encode(), self.after.pem.encode())
        shown = (*roots, self.cross, *self.between)
        known = trust_below(pems, roots, NOW, name=CN, shown=shown, root_name=ROOT_NAME)
        during = replace(known, crosses=(self.cross,), serving=self.after, replaced=self.before.facts)
        whole = with_chains(during, shown, (), root_name=ROOT_NAME)
        found = chain(whole, self.after)
        assert chain_fits(self.leaf, found, whole.issuing, whole.roots)
        return found

    def write(self, folder: Path, *behind: Facts) -> tuple[Path, Path]:
        crt, key = folder / "served.crt", folder / "served.key"
        crt.write_text("".join(each.pem for each in (self.leaf, *behind)))
        options = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        key.write_bytes(self.key.private_bytes(serialization.Encoding.PEM, *options))
        return crt, key

    def holders(self) -> dict[str, tuple[tuple[Facts, ...], bool]]:
        """Who holds what; and whether that has the self-signed root, without which OpenSSL needs a partial chain."""
        old, new, before, after = self.old.facts, self.new.facts, self.before.facts, self.after
        return {
            "old root alone": ((old,), True),
            "new root alone": ((new,), True),
            "issuing CAs": ((before, after), False),
            "issuing CA of before": ((before,), False),
            "issuing CA of now": ((after,), False),
            "chain": ((before, after, *self.between, old, new), True),
            "chain of now": ((after, *self.between, new), True),
        }


KINDS: Final[dict[str, dict[str, bool]]] = {
    "ours to ours": {},
    "ours to outside": {"new_outside": True},
    "ours to outside with a CA between": {"new_outside": True, "between": True},
    "outside to ours": {"old_outside": True},
    "outside to outside": {"old_outside": True, "new_outside": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("client", [*CLIENTS, pytest.param("Go", marks=pytest.mark.conformance)])
def test_every_client_goes_on(client: str, kind: str, tmp_path: Path) -> None:
    _, partial, connects = CLIENTS[client] if client in CLIENTS else ("", True, go_client(tmp_path))
    rotation = Rotation(**KINDS[kind])
    with listening(*rotation.write(tmp_path, *rotation.served())) as port:
        for who, (held, whole) in rotation.holders().items():
            if (client, who) == ("GnuTLS", "new root alone"):
                # It depends on names; until the old root is retired everybody has both.
                continue
            bundle = tmp_path / "held.pem"
            bundle.write_text("".join(each.pem for each in held))
            assert connects(port, bundle) is (whole or partial), (who, kind)
        bundle.write_text(Ca("Corp Other Root", **DATES).pem)
        assert not connects(port, bundle)


def test_gnutls_refuses_what_ends_with_the_cross_certificate(tmp_path: Path) -> None:
    """As of vaultpki 0.2, whose agents left the last certificate out: the reason why it is served."""
    rotation = Rotation()
    bundle = tmp_path / "etcd-ca.crt"
    bundle.write_text(rotation.before.pem + rotation.after.pem)
    connects = CLIENTS["GnuTLS"][2]
    with listening(*rotation.write(tmp_path, *rotation.served()[:-1])) as port:
        assert not connects(port, bundle)


def test_verify_finds_another_order() -> None:
    rotation = Rotation(new_outside=True, between=True)
    roots, issuing = (rotation.old.facts, rotation.new.facts), (rotation.before.facts, rotation.after)
    now, middle, cross, before = rotation.served()
    for wrong in (
        (now, cross, before),
        (now, middle, before),
        (now, middle, cross, middle),
        (now, cross, middle, before),
        (now, middle, cross, rotation.old.facts),
        (now, middle, rotation.new.facts),
        (before, middle, cross),
    ):
        assert not chain_fits(rotation.leaf, wrong, issuing, roots), wrong
    assert chain_fits(rotation.leaf, (now, middle, cross), issuing, roots)
