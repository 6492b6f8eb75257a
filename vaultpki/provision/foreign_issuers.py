"""Finds issuers on a cluster's CA mounts that do not belong there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vaultpki.certificates import MOST_ISSUERS, ROOT, ca_subject
from vaultpki.model import Cluster
from vaultpki.pki import trust
from vaultpki.pki.chains import why_untrusted
from vaultpki.pki.facts import Facts
from vaultpki.provision.plan import Danger
from vaultpki.provision.read_back import CaMount


def find(cluster: Cluster, cas: Mapping[str, CaMount]) -> Iterator[Danger]:
    """Find every issuer that does not belong on its mount; `cas` are by mount. Dates are not checked."""
    mount_of_root = cas.get(cluster.mount(ROOT), CaMount())
    pems = [mount_of_root.pem, mount_of_root.certificates.get(mount_of_root.other, "")]
    roots = tuple(facts for facts in map(_read, filter(None, pems)) if facts is not None)
    for mount, ca in cas.items():
        for name, pem in ca.certificates.items():
            why = _problem(cluster, mount, _read(pem), roots)
            if why:
                yield Danger(f"issuer {mount}/issuer/{name}", f"foreign and dangerous: {why}")
    for mount, ca in cas.items():
        if ca.count > MOST_ISSUERS:
            why = (
                f"it has {ca.count} issuers, and nodes read only {MOST_ISSUERS} of them: delete those that nobody needs"
            )
            yield Danger(f"mount {mount}", why)


def _read(pem: str) -> Facts | None:
    from vaultpki.pki import x509

    return next(iter(x509.readable(pem)), None)


def _problem(cluster: Cluster, mount: str, facts: Facts | None, roots: Sequence[Facts]) -> str | None:
    ca = mount.rpartition("/")[2]
    name = ca_subject(cluster.name, ca)
    if facts is None:
        return "its certificate cannot be read"
    if ca != ROOT:
        whys = [why_untrusted(facts, root, name) for root in roots]
        if not whys:
            return "the cluster has no root CA that signed it"
        return None if None in whys else whys[0]
    # A cross certificate has the key of the root for which it vouches.
    if facts not in roots and facts.public_key not in {root.public_key for root in roots}:
        return "it is not the cluster's root CA"
    return trust.no_root(facts) if trust.named(facts, name) else f"its name is not CN={name} alone"
