"""Digests what a plan was computed from, and says by name what differs from a plan that was saved; pure.

Reports, times, credentials and the record that agents poll are not digested: a node may join and report between a plan
and its apply, and a rotation may go on. The impact is computed again for the nodes that took part before.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from vaultpki.certificates import ROOT
from vaultpki.model import Cluster
from vaultpki.provision.impact import GRAVE
from vaultpki.provision.plan import Impact, Plan, without_notice
from vaultpki.records.saved_plan import Basis, SavedPlan
from vaultpki.records.server_facts import UNKNOWN
from vaultpki.redact import escaped, first_few

if TYPE_CHECKING:
    from vaultpki.provision.observe import Observation
    from vaultpki.records.rotation import RotationRecord

# Fields of a Cluster that are compared by themselves, or are not what cluster.yaml says.
_APART: Final = frozenset({"name", "prefix", "file", "vault", "pools", "templates"})
# A lock gives a listed node another role id, which a plan only copies into its record.
_ROLE_ID: Final = "role_id"
# Any file that is added to a checkout of vaultpki, also the saved plan itself (packages/version.py).
_DIRTY: Final = ".dirty"


def basis_of(cluster: Cluster, addresses: tuple[str, ...], namespace: str) -> Basis:
    """Return what a plan is computed from before the server is asked; the arguments are as in ServerFacts.

    Comments and the order of keys in cluster.yaml do not count.
    """
    from vaultpki import __version__

    pools = [
        replace(pool, jwt=replace(pool.jwt, public_keys=(), jwks_ca_pem=None)) if pool.jwt else pool
        for pool in cluster.pools
    ]
    templates = [(each.name, each.file, each.roles) for each in cluster.templates]
    vault = (cluster.vault.addresses, cluster.vault.namespace, cluster.vault.ca_pem is not None)
    # Foreign CAs are files, and have the places of their names.
    cluster_yaml = replace(cluster, authority=replace(cluster.authority, also_trust=()))
    others = {each.name: getattr(cluster_yaml, each.name) for each in fields(cluster) if each.name not in _APART}
    foreign = [(each.ca, each.source) for each in cluster.authority.also_trust]
    return Basis(
        release=__version__,
        cluster=cluster.name,
        prefix=cluster.prefix,
        addresses=addresses,
        namespace=namespace,
        spec=_digest([others, pools, templates, vault, foreign]),
        files={name: _digest(content) for name, content in _files(cluster)},
    )


def _files(cluster: Cluster) -> list[tuple[str, Any]]:
    """Return what was read from the files that cluster.yaml names, each with the key that names it."""
    found: list[tuple[str, Any]] = []
    if cluster.vault.ca_pem is not None:
        found.append(("vault.ca_file", cluster.vault.ca_pem))
    if cluster.authority.outside is not None:
        found.append(("the chain of ca.root", list(cluster.authority.outside.certificates)))
    for pool in cluster.pools:
        if pool.jwt and pool.jwt.public_keys:
            found.append((f"the public_keys_file of pool {pool.name}", pool.jwt.public_keys))
        if pool.jwt and pool.jwt.jwks_ca_pem is not None:
            found.append((f"the jwks_ca_file of pool {pool.name}", pool.jwt.jwks_ca_pem))
    for source in dict.fromkeys(each.source for each in cluster.authority.also_trust):
        held = sorted({each.sha256 for each in cluster.authority.also_trust if each.source == source})
        found.append((f"{source} of ca.also_trust", held))
    return [*found, *((f"the template {each.name}", each.text) for each in cluster.templates)]


def saved_plan(
    basis: Basis, cluster: Cluster, seen: Observation, plan: Plan, shown: Sequence[str], until: datetime
) -> SavedPlan:
    """Return the plan with the digests of what it was computed from; `shown` are the lines of its changes."""
    root = seen.facts.root_sha256
    return SavedPlan(
        **asdict(basis),
        file=cluster.file,
        root_sha256="" if root == UNKNOWN else root,
        objects=_objects(cluster, seen),
        changes={
            f"{change.kind} {change.name}": _digest([change.action, _without_role_id(change.fields)])
            for change in without_notice(plan.changes)
        },
        shown=tuple(shown),
        losses=tuple(each.detail for each in plan.impact if each.effect in GRAVE),
        impact=tuple(each.detail for each in plan.impact),
        reported=tuple(sorted(plan.live.reported)),
        pooled=plan.live.pooled,
        until=until,
    )


def _objects(cluster: Cluster, seen: Observation) -> dict[str, str]:
    """Return the digests of the objects on the server, of the CAs' certificates and of the rotations."""
    made = {}
    for (kind, name), fields_ in seen.observed.objects.items():
        ca = seen.found.cas.get(name) if kind == "issuer" and name != cluster.mount(ROOT) else None
        made[f"{kind} {name}"] = _digest([_without_role_id(fields_), ca.pem if ca is not None else ""])
    for domain, record in seen.found.rotations.items():
        made[f"the rotation of {domain}"] = _digest(_of_rotation(record))
    return dict(sorted(made.items()))


def _of_rotation(record: RotationRecord) -> Any:
    """Return what a plan depends on: not whose turn it is, which changes with every report."""
    return [record.state, record.old.name, record.new.name if record.new is not None else ""]


def _without_role_id(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "" if name == _ROLE_ID else value for name, value in values.items()}


def other_basis(saved: Basis, now: Basis, file: str) -> list[str]:
    """Return what differs before the server is asked; `file` is the path of cluster.yaml."""
    if saved.release.removesuffix(_DIRTY) != now.release.removesuffix(_DIRTY):
        # Another release may digest and plan differently, so nothing else is compared.
        return [f"it was saved by vaultpki {escaped(saved.release)}, and this is {now.release}"]
    words = (
        ("cluster", saved.cluster, now.cluster),
        ("prefix", saved.prefix, now.prefix),
        ("server", ", ".join(saved.addresses), ", ".join(now.addresses)),
        ("namespace", saved.namespace or "the root namespace", now.namespace or "the root namespace"),
    )
    found = [f"the {what} is another one: {escaped(new)}, not {escaped(old)}" for what, old, new in words if old != new]
    changed = [escaped(file)] if saved.spec != now.spec else []
    changed += [name for name in now.files if name in saved.files and saved.files[name] != now.files[name]]
    return [*found, *(f"{name} has changed since the plan was saved" for name in changed)]


def other_root(saved: SavedPlan, now: SavedPlan) -> list[str]:
    """Return whether the root CA is another one."""
    if saved.root_sha256 == now.root_sha256:
        return []
    if not saved.root_sha256:
        return ["the root CA was made since the plan was saved"]
    if not now.root_sha256:
        return ["the root CA of the server is gone"]
    return [f"the root CA of the server is another one: {now.root_sha256}, not {saved.root_sha256}"]


def other_plan(saved: SavedPlan, now: SavedPlan, impact: Sequence[Impact]) -> list[str]:
    """Return what differs on the server, or if nothing does, in the plan that was computed again.

    `impact` is what it means for the nodes that took part when the plan was saved.
    """
    found = other_root(saved, now)
    if differing := _differing(saved.objects, now.objects):
        found.append(f"on the server {first_few(differing)} since the plan was saved")
    if found:
        return found
    if differing := _differing(saved.changes, now.changes):
        found.append(f"the plan is not the saved one: the change of {first_few(differing)}")
    elif saved.shown != now.shown:
        found.append("the text of the plan in the file is not that of the plan: somebody edited it")
    elif saved.impact != tuple(each.detail for each in impact):
        found.append("the impact in the file is not that of the plan: somebody edited it")
    # Those who have joined since are no reason, unless they lose something.
    new = [sentence for sentence in now.losses if sentence not in saved.impact]
    return [*found, *(f"the saved plan does not say that {escaped(sentence)}" for sentence in new)]


def _differing(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    names = dict.fromkeys([*before, *after])
    return [
        f"{escaped(name)} {'is new' if name not in before else 'is gone' if name not in after else 'has changed'}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_as_json)
    return hashlib.sha256(text.encode()).hexdigest()


def _as_json(value: Any) -> Any:
    """Return what JSON has not by itself: an enum's value, a dataclass's fields, a set's sorted values."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(each.value if isinstance(each, enum.Enum) else each for each in value)
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    raise TypeError(f"{type(value).__name__} has no canonical form")
