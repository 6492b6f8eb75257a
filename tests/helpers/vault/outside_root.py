"""Makes a cluster below a PKI outside, as its owner does it: `apply`, `ca csr`, a signer in memory, `ca import`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from helpers.corporate_certificates import Ca
from helpers.vault.applied_cluster import NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster
from vaultpki.certificates import ISSUING_CAS

BEGUN = timedelta(minutes=20)


@dataclass(frozen=True)
class OutsideRoot:
    """A cluster whose issuing CAs are signed by `lower`, below `upper` and `root`; nodes are pinned to `pin`."""

    cluster: AuditedCluster
    root: Ca
    upper: Ca
    lower: Ca
    pin: Ca

    def equip(self, name: str, **options: Any) -> NodeFolder:
        return self.cluster.equip(name, **options)

    def write_chain(self, *cas: Ca) -> None:
        """The file that cluster.yaml names as ca.root_file."""
        (self.cluster.folder / "corp.pem").write_text("".join(each.pem for each in cas))

    def forget(self, ca: str, issuer: str) -> None:
        assert self.cluster.server.api("DELETE", f"{self.cluster.prefix}/{ca}/issuer/{issuer}").status in (200, 204)

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.cluster.server.api(method, path, body)
        assert answer.status == 200, (path, answer)
        found: dict[str, Any] = answer.data
        return found


def put_outside(clusters: ClusterFactory, spec: str, *, pin: str = "root", **options: Any) -> OutsideRoot:
    """A cluster below a root outside, by the commands that make one; `pin` is the anchor of its nodes.

    `options` are of the certificate of the CA that signs the issuing CAs.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    ends: dict[str, Any] = {"begins": now - timedelta(days=1), "ends": now + timedelta(days=3000)}
    root = Ca("Corp Root", **ends)
    upper = Ca("Corp Policy CA", root, **ends)
    lower = Ca("Corp Platform CA", upper, **{**ends, **options})
    anchor = {"root": root, "upper": upper, "lower": lower}[pin]
    above = f"ca: {{root: external, root_file: corp.pem, root_sha256: {anchor.facts.fingerprint}, issuing_ttl: 2y}}\n"
    cluster = clusters.written(spec + above, {"corp.pem": root.pem + upper.pem + lower.pem})
    cluster.apply(expect=3)
    requests = cluster.folder / "requests"
    vaultpki("ca", "csr", "-f", cluster.file, "-o", requests, env=cluster.environment())
    answers = [csr.with_suffix(".crt") for csr in sorted(requests.glob("*.csr"))]
    assert len(answers) == len(ISSUING_CAS)
    for answer in answers:
        csr = answer.with_suffix(".csr").read_text()
        answer.write_text(lower.sign(csr, begins=now - BEGUN, ends=now + timedelta(days=700)))
    vaultpki("ca", "import", "-f", cluster.file, *answers, env=cluster.environment())
    return OutsideRoot(cluster, root, upper, lower, anchor)
