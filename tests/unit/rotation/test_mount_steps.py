"""The writes of a rotation: from wherever an earlier run stopped, they end in what the record says."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import ca_certificates
from helpers.ca_certificates import BEGUN
from helpers.example_cluster import BASE, load
from vaultpki.certificates import ca_subject
from vaultpki.records.rotation import CaRef, Method, RotationRecord, State
from vaultpki.rotation import start
from vaultpki.rotation.mount_steps import (
    SIGNS,
    MountIssuer,
    RotationMount,
    Write,
    issuer_of,
    next_write,
    problem,
    usable,
)
from vaultpki.rotation.states import BACK, FORWARD, Presence, server_state
from vaultpki.vault.issuer import FULL, number

ROOT = ca_certificates.root("prod")
USAGE = frozenset(FULL.split(","))


def issuer(name: str, *, key: str = "", id_: str = "", serial: int = 1, named: bool = True) -> MountIssuer:
    key = key or name.partition("r")[0]
    facts = ca_certificates.ca(ca_subject("prod", "etcd", number(name)), key=key, signer="prod root CA", serial=serial)
    return MountIssuer(id_ or f"i-{name}", name if named else "", f"k-{key}", USAGE, facts=facts)


OLD = issuer("etcd-1")
FIRST = CaRef("etcd-1", OLD.id, OLD.key, OLD.sha256)
STANDING = RotationMount("p/etcd", ROOT, (OLD,), {"k-etcd-1": "etcd-1"}, OLD.id, OLD.key)


def begun(method: Method) -> RotationRecord:
    new = CaRef("etcd-1r2", key=OLD.key) if method is Method.SAME_KEY else CaRef("etcd-2")
    return RotationRecord("etcd", State.PREPARED, 1, BEGUN, FIRST, new, method, 2)


def carried_out(record: RotationRecord, mount: RotationMount, write: Write) -> tuple[RotationRecord, RotationMount]:
    """What a server makes of a write."""
    assert write.kind in (
        "amend",
        "make-key",
        "sign",
        "name",
        "usage",
        "default",
        "default-key",
        "delete-issuer",
        "delete-key",
    )
    if write.kind == "amend":
        assert write.record is not None and write.record.revision == record.revision + 1
        return write.record, mount
    ca = write.ca
    if write.kind == "default":
        return record, replace(mount, default=write.target, follows=False)
    assert ca is not None
    issuers = {each.id: each for each in mount.issuers}
    if write.kind == "make-key":
        assert ca.name not in mount.keys.values()
        return record, replace(mount, keys={**mount.keys, f"k-{ca.name}": ca.name})
    if write.kind == "default-key":
        assert write.target in mount.keys
        return record, replace(mount, default_key=write.target)
    if write.kind == "delete-key":
        assert all(each.key != write.target for each in mount.issuers)
        keys = {id_: name for id_, name in mount.keys.items() if id_ != write.target}
        return record, replace(mount, keys=keys)
    if write.kind == "sign":
        return record, signed(mount, ca)
    known = issuers[write.target]
    if write.kind == "delete-issuer":
        # Deleting the default leaves none, and nothing signs.
        assert write.target != mount.default
        del issuers[write.target]
    elif write.kind == "name":
        assert ca.name not in {each.name for each in mount.issuers}
        issuers[write.target] = replace(known, name=ca.name, usage=USAGE)
    else:
        issuers[write.target] = replace(known, usage=frozenset(write.usage.split(",")))
    return record, replace(mount, issuers=tuple(issuers.values()))


def signed(mount: RotationMount, ca: CaRef) -> RotationMount:
    """The mount with one more certificate for the CA's key, which nobody has named yet."""
    serial = len(mount.issuers) + 10
    key = "etcd-1" if "r" in ca.name else ca.name
    made = issuer(ca.name, key=key, id_=f"i-{ca.name}-{serial}", serial=serial, named=False)
    default = mount.default or made.id
    return replace(mount, issuers=(*mount.issuers, made), default=default)


def matched(record: RotationRecord, mount: RotationMount) -> tuple[RotationRecord, RotationMount]:
    """Where the writes end."""
    for _ in range(20):
        write = next_write("prod", record, mount)
        if write is None:
            return record, mount
        record, mount = carried_out(record, mount, write)
    pytest.fail(f"no end of writes in {record.state}")


def check(record: RotationRecord, mount: RotationMount) -> None:
    """The mount holds exactly what the record says."""
    want = server_state(record)
    assert mount.default == want.default.issuer and mount.default_key == want.default.key, record
    assert record.new is not None
    ours = 0
    for ca, presence in ((record.old, want.old), (record.new, want.new)):
        found = issuer_of("prod", record, mount, ca)
        if presence in (Presence.SIGNING, Presence.MUTE):
            assert found is not None and (found.id, found.key, found.sha256) == (ca.issuer, ca.key, ca.sha256)
            assert found.name == ca.name and (SIGNS in found.usage) is (presence is Presence.SIGNING)
            ours += 1
        else:
            assert found is None, (record.state, ca)
        if record.method is not Method.SAME_KEY:
            assert (ca.name in mount.keys.values()) is (presence is not Presence.ABSENT)
    assert len(mount.issuers) == ours, (record.state, mount.issuers)


def around(
    record: RotationRecord, mount: RotationMount, operators: int
) -> Iterator[tuple[RotationRecord, RotationMount]]:
    """What may come next: a write of this state, a second operator's signature, or another state, wherever this is."""
    write = next_write("prod", record, mount)
    if write is not None:
        yield carried_out(record, mount, write)
        if write.kind == "sign" and operators > 1 and write.ca is not None:
            yield record, signed(signed(mount, write.ca), write.ca)
    for table in (FORWARD, BACK):
        to = table.get(record.state)
        if to is None or record.state.resting:
            continue
        # The next state is recorded when this one holds; the rollback may begin anywhere.
        if table is BACK or write is None:
            moved = record.moved(to, BEGUN)
            if moved.leaf.sha256:
                yield replace(moved, revision=1), mount


@pytest.mark.parametrize("operators", [1, 2])
@pytest.mark.parametrize("method", [Method.NEW_KEY, Method.SAME_KEY])
def test_from_wherever_a_run_stopped_the_next_one_ends_well(method: Method, operators: int) -> None:
    first = (begun(method), STANDING)
    seen, todo = {repr(first)}, deque([first])
    ended = set()
    while todo:
        record, mount = todo.popleft()
        end = matched(record, mount)
        check(*end)
        ended.add(record.state)
        for after in around(record, mount, operators):
            at = (replace(after[0], revision=1), after[1])
            if repr(at) not in seen:
                seen.add(repr(at))
                todo.append(at)
    assert ended == {*State} and len(seen) > 20


def test_each_new_issuer_is_kept_from_becoming_the_default() -> None:
    write = next_write("prod", begun(Method.NEW_KEY), replace(STANDING, follows=True))
    assert write == Write("default", target=OLD.id)


def test_somebody_elses_certificate_for_our_key_is_not_taken_for_ours() -> None:
    record, mount = matched(begun(Method.NEW_KEY), STANDING)
    assert record.new is not None
    foreign = ca_certificates.ca("prod etcd CA 3", key="etcd-2", signer="prod root CA", serial=9)
    other = MountIssuer("i-other", "theirs", "k-etcd-2", USAGE, facts=foreign)
    record = record.moved(State.PUBLISHED, BEGUN)
    mount = replace(mount, issuers=(*mount.issuers, other))
    assert issuer_of("prod", record, mount, record.new or FIRST) is None
    record, mount = matched(record, mount)
    assert mount.issuer("i-other") == other and record.new is not None and record.new.sha256 != foreign.fingerprint
    # It has the key, so the key stays when this CA goes.
    back, left = matched(record.moved(State.STEADY, BEGUN), mount)
    assert {each.id for each in left.issuers} == {OLD.id, "i-other"} and "k-etcd-2" in left.keys
    assert back.leaf == FIRST


@pytest.mark.parametrize("state", [State.PUBLISHED, State.SWITCHED, State.RETIRED, State.DONE])
def test_a_ca_that_cannot_sign_is_told_with_what_to_do(state: State) -> None:
    record, mount = matched(begun(Method.NEW_KEY), STANDING)
    for each in (State.PUBLISHED, State.SWITCHED, State.RETIRED, State.DONE):
        record, mount = matched(record.moved(each, BEGUN), mount)
        if each is state:
            break
    assert problem("prod", record, mount) == "" and usable("prod", record, mount, record.leaf)
    leaf = issuer_of("prod", record, mount, record.leaf)
    assert leaf is not None
    how = {
        State.PUBLISHED: "`vaultpki ca continue` goes on to key 2 of the CA etcd",
        State.SWITCHED: "`vaultpki ca abort` goes back to key 1 of the CA etcd",
        State.RETIRED: "`vaultpki ca abort` goes back to key 1 of the CA etcd",
        State.DONE: "`vaultpki ca rotate etcd` makes the next one",
    }[state]
    others = tuple(each for each in mount.issuers if each != leaf)
    revoked = replace(mount, issuers=(*others, replace(leaf, revoked=True, usage=frozenset({"read-only"}))))
    assert "somebody revoked" in problem("prod", record, revoked)
    no_key = replace(
        mount, issuers=(*others, replace(leaf, key="")), keys={k: n for k, n in mount.keys.items() if k != leaf.key}
    )
    assert " of the CA etcd is gone from " in problem("prod", record, no_key)
    gone = replace(no_key, issuers=others)
    assert "and its certificate are gone" in problem("prod", record, gone)
    for broken in (revoked, no_key, gone):
        assert problem("prod", record, broken).endswith(how)
        # Nothing is written that a server would refuse, or that makes it worse.
        kinds = {write.kind for write in [next_write("prod", record, broken)] if write is not None}
        assert kinds <= {"default", "default-key"}, kinds


def test_only_a_ca_that_is_not_there_is_made_by_apply(tmp_path: Path) -> None:
    """Beside one that has lost its names `apply` would make another one, and a chain comes from its owner."""
    corporate = ca_certificates.ca("Corp Root", key="prod root CA", path_length=None)
    renamed = replace(STANDING, issuers=(replace(OLD, name="mine"),), keys={OLD.key: "mine"})
    stands = {
        f"under the name mine; give its name back: `bao write p/etcd/issuer/{OLD.id} issuer_name=etcd-1`, "
        "or the same with `vault`": renamed,
        "it was not signed by the cluster's root CA; `vaultpki plan": replace(STANDING, root=ca_certificates.root("x")),
        "put the certificate of CN=prod root CA that signed it back into ca.root_file": replace(
            STANDING, root=corporate, root_name="prod root CA"
        ),
        "has no CA prod etcd CA; run `vaultpki apply": replace(STANDING, issuers=()),
    }
    assert start.own_issuer("prod", "etcd", STANDING) is OLD
    for says, mount in stands.items():
        why = start.why_missing(load(tmp_path, BASE), "etcd", mount)
        assert start.own_issuer("prod", "etcd", mount) is None and says in why, why
        assert "vaultpki apply" not in why or not mount.issuers
