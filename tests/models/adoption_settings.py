"""The settings in which the model of an adoption is explored, and the rules without which each of them breaks."""

from __future__ import annotations

from collections.abc import Iterator

from models.adoption import Settings
from models.adoption_space import adoption, domains
from models.adoption_tables import ALL
from models.explore import Try

ADOPTIONS = {
    "etcd": Settings("me", reads="start"),
    "etcd, years": Settings("me", reads="start", expiry=True),
    "kubernetes": Settings("mw"),
    "kubernetes, O's key is lost, years": Settings("mw", expiry=True, loses=True),
    "kubernetes, years": Settings("mw", expiry=True),
    "kubernetes, half-way for years": Settings("mw", expiry=True, slow=True),
    "kubernetes, a worker joins": Settings("mj"),
    "kubernetes, a control plane joins": Settings("mk"),
    "kubernetes, kubeadm upgrade": Settings("mm", upgrade=True),
    "kubernetes, pods": Settings("mm", pods=True),
    "kubernetes, a kubeconfig outside": Settings("mw", outside=True),
    "kubernetes, agents are taken away": Settings("mw", unenrol=True, expiry=True),
    "kubernetes, key imported, years": Settings("mw", imported=True, expiry=True),
    "kubernetes, key imported, a worker joins": Settings("mj", imported=True),
}
LARGE = {
    "etcd, three members": Settings("mme", reads="start", late=False),
    "kubernetes, two workers, years": Settings("mww", late=False, expiry=True),
    "kubernetes, two control planes and a worker": Settings("mmw", late=False),
    "kubernetes, a worker and one that joins": Settings("mwj", late=False),
}
NEEDED = {
    "etcd": ("members", "memory", "echo", "kept", "retrust"),
    "etcd, years": ("bring",),
    "kubernetes": (
        *("nodes", "pinned", "leafword", "memory", "paths", "settle", "echo", "rotate-off", "shown", "last", "retrust"),
    ),
    "kubernetes, O's key is lost, years": ("able",),
    "kubernetes, years": ("signfile", "signer-on", "rotate-on", "enddate", "resign"),
    "kubernetes, half-way for years": ("close",),
    "kubernetes, a worker joins": ("info", "stale", "signer-off", "order", "csrs", "resign"),
    "kubernetes, a control plane joins": ("secret",),
    "kubernetes, kubeadm upgrade": ("aside",),
    "kubernetes, pods": ("signfile", "pods", "pods-last"),
    "kubernetes, a kubeconfig outside": ("outside",),
    "kubernetes, agents are taken away": ("unenrol",),
    "kubernetes, key imported, years": ("rotate-on", "signer-on", "signfile", "last"),
    "kubernetes, key imported, a worker joins": ("signer-off", "order", "csrs"),
}
"""The rules without which each of these breaks."""

SPARED = {
    "kubernetes, years": ("close", "kept"),
    "kubernetes, key imported, years": ("kept", "enddate", "resign"),
    "kubernetes, key imported, a worker joins": ("resign",),
}
"""The rules without which these hold: no node stands half-way there, and an imported key makes leaves of O again."""


def tries() -> Iterator[Try]:
    """Yield every exploration but those of `large`; each is given a limit of states."""
    for name, s in ADOPTIONS.items():
        yield _try(name, "all rules", s)
    for table, holds in ((NEEDED, False), (SPARED, True)):
        for name, rules in table.items():
            for rule in rules:
                yield _try(name, f"without {rule}", ADOPTIONS[name]._replace(rules=ALL - {rule}), holds=holds)
    for how, count in (("together", 2), ("in turn", 2), ("free", 2), ("together", 3), ("in turn", 3)):
        title = f"adoption: {count} CAs {how}"
        yield Try(title, True, lambda limit, how=how, count=count: domains(how, count)[0])  # type: ignore[misc]


def large() -> Iterator[Try]:
    """Yield the explorations of three machines, which take minutes."""
    for name, s in LARGE.items():
        yield _try(name, "all rules", s)._replace(title=f"large adoption: {name}: all rules")


def _try(name: str, rules: str, s: Settings, *, holds: bool = True) -> Try:
    return Try(f"adoption: {name}: {rules}", holds, lambda limit: adoption(s, limit))
