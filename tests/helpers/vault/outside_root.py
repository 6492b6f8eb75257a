"""Puts a cluster that was applied below a PKI outside: by the API of the server, as a person would without vaultpki."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from helpers.corporate_certificates import Ca
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from vaultpki.certificates import ISSUING_CAS, ROOT, ca_subject

BEGUN = timedelta(minutes=20)


@dataclass(frozen=True)
class OutsideRoot:
    """A cluster whose issuing CAs are signed by `lower`, below `upper` and `root`; nodes are pinned to `pin`."""

    cluster: AppliedCluster
    root: Ca
    upper: Ca
    lower: Ca
    pin: Ca

    def equip(self, name: str, **options: Any) -> NodeFolder:
        node = self.cluster.equip(name, **options)
        own = self.cluster.root_sha256
        node.configure(own, self.pin.facts.fingerprint)
        return node

    def signed(self, ca: str, signer: Ca, **options: Any) -> str:
        """An issuing CA with its key and another certificate, and the default of its mount; return its issuer id."""
        mount = f"{self.cluster.prefix}/{ca}"
        key = self.api("GET", f"{mount}/issuer/default")["key_id"]
        asked = {"key_ref": key, "common_name": ca_subject(self.cluster.name, ca), "exclude_cn_from_sans": True}
        csr = self.api("POST", f"{mount}/intermediate/generate/existing", asked)["csr"]
        now = datetime.now(UTC).replace(microsecond=0)
        options = {"begins": now - BEGUN, "ends": now + timedelta(days=700), **options}
        made = self.api("POST", f"{mount}/intermediate/set-signed", {"certificate": signer.sign(csr, **options)})
        (issuer,) = made["imported_issuers"]
        self.api("POST", f"{mount}/config/issuers", {"default": issuer})
        return str(issuer)

    def shown(self, *cas: Ca) -> list[str]:
        """Imports certificates without their keys on the mount of the root; return the issuer ids."""
        pem = "".join(each.pem for each in cas)
        made = self.api("POST", f"{self.cluster.prefix}/{ROOT}/issuers/import/cert", {"pem_bundle": pem})
        return list(made["imported_issuers"])

    def forget(self, ca: str, issuer: str) -> None:
        assert self.cluster.server.api("DELETE", f"{self.cluster.prefix}/{ca}/issuer/{issuer}").status in (200, 204)

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.cluster.server.api(method, path, body)
        assert answer.status == 200, (path, answer)
        found: dict[str, Any] = answer.data
        return found


def put_outside(cluster: AppliedCluster, *, pin: str = "root", **options: Any) -> OutsideRoot:
    """The root of this cluster is replaced by one outside, with two CAs between; `pin` is the anchor of its nodes."""
    now = datetime.now(UTC).replace(microsecond=0)
    ends: dict[str, Any] = {"begins": now - timedelta(days=1), "ends": now + timedelta(days=3000)}
    root = Ca("Corp Root", **ends)
    upper = Ca("Corp Policy CA", root, **ends)
    lower = Ca("Corp Platform CA", upper, **{**ends, **options})
    made = OutsideRoot(cluster, root, upper, lower, {"root": root, "upper": upper, "lower": lower}[pin])
    for ca in ISSUING_CAS:
        before = made.api("GET", f"{cluster.prefix}/{ca}/issuer/default")["issuer_id"]
        made.signed(ca, lower)
        made.forget(ca, before)
    before = made.api("GET", f"{cluster.prefix}/{ROOT}/issuer/default")["issuer_id"]
    made.shown(root, upper, lower)
    made.forget(ROOT, before)
    return made
