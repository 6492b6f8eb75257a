"""Decides what the rotation of the CA `service-account` waits for beyond its nodes: certificates of keys; pure.

No bundle has that CA, and no TLS peer takes what it has signed. Who reads it are the agents of control-plane nodes,
which check certificates by it, and the union that each kube-apiserver has in memory is what it leaves behind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.procedure.words import AGENT_DOES, OR_AGENT
from vaultpki.records.rotation import RotationRecord, State
from vaultpki.records.service_account import DepartedKey, KeyRecord
from vaultpki.redact import stamp
from vaultpki.rotation.reasons import LEAF_STEPS, TRUST_STEPS, command
from vaultpki.token_keys.holders import Holders, KeyHolder, fresh, loaded, wanted_union
from vaultpki.token_keys.starts import to_start


def with_unions(
    record: RotationRecord,
    to: State,
    found: Gate,
    signer: Facts | None,
    keys: KeyRecord | None,
    holders: Holders,
    other_types: Mapping[str, str] = MappingProxyType({}),
) -> Gate:
    """Return the gate of a step with what the certificates of keys keep it from; `found` is that of the nodes.

    `record` is that of the CA, and `signer` its certificate that signs now, None if it is not known. `keys` is the
    record of the keys, None without any. A CA that is trusted no more, or is to be, must have signed nothing that the
    record of keys holds, and every union must have been loaded as it is. `other_types` are the types of keys, by node,
    that Vault certifies no more.
    """
    if (record.state, to) not in TRUST_STEPS | LEAF_STEPS:
        # As other CAs: such a step takes nobody's trust away.
        return found
    waiting = list(found.waiting)
    known = {each.node for each in waiting}
    for name, holder in sorted(holders.items()):
        if name not in record.excused and name not in known and (reason := _unread(record, holder)):
            waiting.append(Waiting(name, reason, itself=True))
    if (record.state, to) in LEAF_STEPS or to is State.DONE:
        waiting += _certificates(record, command(to), signer, keys, holders, other_types)
    return replace(found, waiting=tuple(dict.fromkeys(waiting)))


def _unread(record: RotationRecord, holder: KeyHolder) -> str:
    """Return why a node that reports does not check keys by the CAs of this record yet; "" if it does."""
    if holder.report is None or holder.keys is None:
        return ""
    seen, trusted = holder.report.seen.get(record.domain), holder.report.bundles.get(record.domain)
    if seen is None or seen.revision != record.revision or trusted is None or record.leaf.sha256 not in trusted.sha256:
        return f"does not check keys by {record.leaf.title} yet. Wait for its agent's next pass, {OR_AGENT}"
    return ""


def _certificates(
    record: RotationRecord,
    then: str,
    signer: Facts | None,
    keys: KeyRecord | None,
    holders: Holders,
    other_types: Mapping[str, str],
) -> Iterator[Waiting]:
    if keys is None:
        return
    if signer is None:
        yield Waiting(record.domain, f"{record.leaf.title} cannot be read on its mount. Run `vaultpki ca status`")
        return
    wanted = wanted_union(keys)
    for name, entry in sorted(keys.nodes.items()):
        if name in record.excused:
            continue
        offered = [entry.certificates[each] for each in entry.accepted(keys.state) if each in entry.certificates]
        if not _signed(offered, signer):
            reason = _uncertified(record, then, holders.get(name), signer, other_types.get(name, ""))
            yield Waiting(name, reason, itself=name in holders)
        elif name in holders and entry.admitted and (reason := _unloaded(keys, then, holders[name], wanted)):
            yield Waiting(name, reason)
    for each in keys.departed:
        if each.pem and each.node not in record.excused and not _signed([each.pem], signer):
            yield Waiting(each.node, _gone(each))


def _signed(pems: Collection[str], signer: Facts) -> bool:
    found = [facts for pem in pems for facts in x509.readable(pem)[:1]]
    return len(found) == len(pems) and all(x509.issuer_of(facts, (signer,)) is not None for facts in found)


def _uncertified(record: RotationRecord, then: str, holder: KeyHolder | None, signer: Facts, other_type: str) -> str:
    own = list(holder.keys.own.values()) if holder is not None and holder.keys is not None else []
    if own and _signed(own, signer):
        return f"has its key certified anew. To take its certificate in, run `{then}`"
    if other_type:
        return (
            f"its key is {other_type}, and Vault certifies another type. Write `certificates: {{{record.domain}: "
            f"{{key: {other_type}}}}}` into cluster.yaml, and run `vaultpki apply`"
        )
    said = f"its key is not certified by {record.leaf.title} yet"
    if holder is not None and holder.report is not None:
        return f"{said}. {AGENT_DOES}"
    return f"{said}. Remove the node from cluster.yaml, {OR_AGENT}"


def _unloaded(keys: KeyRecord, then: str, holder: KeyHolder, wanted: frozenset[str]) -> str:
    reported = holder.keys
    if reported is None:
        return ""
    if not fresh(keys, holder) or reported.union != wanted:
        return f"its sa.pub does not have the certificates of the record yet. {AGENT_DOES}"
    if loaded(keys, holder).union != wanted:
        return f"its kube-apiserver was not started with the sa.pub of now. {to_start(holder, then, keys.turn)}"
    return ""


def _gone(each: DepartedKey) -> str:
    until = f"until {stamp(each.until)}" if each.until is not None else "for a time that nobody knows"
    return (
        f"is gone, and its tokens live {until}. No node can have its key certified by the new CA. Wait. Or if none of "
        f"its tokens is used, go on without it: `--without {each.node}`"
    )
