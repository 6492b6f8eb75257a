"""Judges what a cluster's CA mounts show: an issuer that does not belong on its mount is foreign and dangerous."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vaultpki import ca_rules
from vaultpki.certificates import MOST_ISSUERS, ROOT, ca_subject
from vaultpki.errors import CertificateUnreadable
from vaultpki.facts import Facts
from vaultpki.model import Cluster
from vaultpki.plan import Danger


def find(
    cluster: Cluster, shown: Mapping[str, Mapping[str, str]], counts: Mapping[str, int], root_pem: str
) -> tuple[Danger, ...]:
    """Every issuer that does not belong where it is.

    `shown` are issuers of each CA mount, as PEM by their names, and `counts` how many there are in all; `root_pem` is
    the cluster's own root, empty where there is none. Dates are not looked at.
    """
    return tuple(_find(cluster, shown, counts, root_pem))


def _find(
    cluster: Cluster, shown: Mapping[str, Mapping[str, str]], counts: Mapping[str, int], root_pem: str
) -> Iterator[Danger]:
    root = _read(root_pem)
    for mount, issuers in shown.items():
        ca = mount.rpartition("/")[2]
        for name, pem in issuers.items():
            facts = _read(pem)
            if facts is None:
                why: str | None = "its certificate cannot be read"
            elif ca == ROOT:
                why = _no_root(facts, root, ca_subject(cluster.name, ca))
            else:
                why = _no_issuing_ca(facts, root, ca_subject(cluster.name, ca))
            if why:
                yield Danger(f"issuer {mount}/issuer/{name}", f"foreign and dangerous: {why}")
    for mount, count in counts.items():
        if count > MOST_ISSUERS:
            why = f"it shows {count} issuers, and nodes take nothing from a CA that shows more than {MOST_ISSUERS}"
            yield Danger(f"mount {mount}", why)


def _read(pem: str) -> Facts | None:
    from vaultpki import x509

    try:
        return x509.read_certificates(pem.encode())[0]
    except CertificateUnreadable:
        return None


def _no_root(facts: Facts, root: Facts | None, name: str) -> str | None:
    if facts != root:
        return "it is not the cluster's root CA"
    return ca_rules.no_root(facts) if ca_rules.named(facts, name) else f"its name is not CN={name} alone"


def _no_issuing_ca(facts: Facts, root: Facts | None, name: str) -> str | None:
    from vaultpki import x509

    return "the cluster has no root CA that signed it" if root is None else x509.stranger(facts, root, name)
