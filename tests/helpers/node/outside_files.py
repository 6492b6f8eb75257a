"""The files of a cluster below a PKI outside with two CAs between, as the product writes them from such a trust."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import Certificate, load_der_x509_certificate

from helpers.corporate_certificates import Ca, name
from helpers.node import handmade_files
from helpers.node.handmade_files import NOW, Authority, HandmadeFiles, put
from vaultpki.certificates import ISSUING_CAS, ROOT, bundle, ca_subject, chain_bundle
from vaultpki.pki.chains import trust_below
from vaultpki.pki.facts import Facts, Trust

_BEGUN, _ENDS = NOW - timedelta(days=1), NOW + timedelta(days=900)


@dataclass(frozen=True)
class OutsideFiles:
    """The nodes' files, the CAs above, and the trust of the nodes by CA; the anchor is one of the CAs above."""

    files: HandmadeFiles
    root: Ca
    upper: Ca
    lower: Ca
    trust: dict[str, Trust]

    def put_bundles(self, trust: dict[str, Trust] | None = None) -> None:
        """Lays down what every node and the operator have of this trust, by default of the right one."""
        for folder in {path.parent for path in self.files.folder.rglob("*-ca.crt")}:
            for ca, known in (trust or self.trust).items():
                put(folder / bundle(ca), known.bundle.encode(), 0o644)
                put(folder / chain_bundle(ca), known.chain_bundle.encode(), 0o644)


def made(folder: Path, *, pin: str = "root", root: Ca | None = None) -> OutsideFiles:
    """Good files; `pin` is the anchor, which is `root`, `upper` or `lower`."""
    top = root or Ca("Corp Root", begins=_BEGUN, ends=_ENDS)
    upper = Ca("Corp Policy CA", top, begins=_BEGUN, ends=_ENDS)
    lower = Ca("Corp Platform CA", upper, begins=_BEGUN, ends=_ENDS)
    anchor = {"root": top, "upper": upper, "lower": lower}[pin].facts
    shown = (top.facts, upper.facts, lower.facts)
    issuing, trust = dict[str, Authority](), dict[str, Trust]()
    for ca in ISSUING_CAS:
        key = ec.generate_private_key(ec.SECP256R1())
        facts: Facts = lower.certify(
            key.public_key(), name(ca_subject("prod", ca), O="Corp"), begins=_BEGUN, ends=_ENDS
        )
        issuing[ca] = Authority(_loaded(facts), key)
        trust[ca] = trust_below(
            [facts.pem.encode()],
            (anchor,),
            NOW,
            name=ca_subject("prod", ca),
            shown=shown,
            root_name=ca_subject("prod", ROOT),
        )
        assert trust[ca].issuing == (facts,)
    plain = handmade_files.made(folder, issuing)
    found = OutsideFiles(replace(plain, issuing=issuing), top, upper, lower, trust)
    found.put_bundles()
    return found


def _loaded(facts: Facts) -> Certificate:
    return load_der_x509_certificate(facts.der)
