"""Carries out a plan stage by stage, as `plan.STAGES` has them; the changes of one stage are made in parallel."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from vaultpki.certificates import ROOT
from vaultpki.errors import BadAnswer, Refused
from vaultpki.identity import reports
from vaultpki.identity.access import SIGNER_LOGINS, auth_mounts, unmatched
from vaultpki.identity.applied import APPLIED, AppliedRecord, of_cluster
from vaultpki.identity.credentials import Identity, role_id
from vaultpki.identity.ending import (
    await_logins,
    end_entities,
    locked_names,
    read_accessors,
    read_note,
    remove_locks,
    remove_note,
    store_again,
    write_note,
)
from vaultpki.identity.reports import TokenIdentity
from vaultpki.model import Cluster
from vaultpki.provision import authorities
from vaultpki.provision.api_calls import delete_request, object_path
from vaultpki.provision.desired import STORE_OPTIONS, desired, marker
from vaultpki.provision.observe import Observation
from vaultpki.provision.plan import STAGES, Change, Plan, stage
from vaultpki.provision.read_back import CaMount
from vaultpki.provision.rotation_records import read_record
from vaultpki.records.paths import is_record
from vaultpki.records.server_facts import Fields, Key, ServerFacts, shared
from vaultpki.vault import Json, Vault

# Of a role whose CA a signer outside has not signed yet, or whose CA is not imported to the end.
_NO_CA_YET = ("no default issuing certificate", "no issuing certificate currently has that name")
_KV_UPGRADE = ("Upgrading mount from version",)


@dataclass(frozen=True, slots=True)
class _Run:
    """One plan being carried out.

    `facts` and `wanted` are complete once the mounts and the root CA exist. `applied` is that record as last written.
    """

    cluster: Cluster
    vault: Vault
    seen: Observation
    todo: Plan
    facts: ServerFacts
    wanted: Mapping[Key, Fields]
    applied: AppliedRecord


def carry_out(
    cluster: Cluster,
    vault: Vault,
    seen: Observation,
    todo: Plan,
    counted: Callable[[Change], None],
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Change]:
    """Carry out a plan; yields the changes of a stage once all of them are made.

    `counted` is called after each change, from any thread. `say` is as for `await_logins`.
    """
    role_ids = {node.name: seen.facts.role_ids.get(node.name) or str(uuid.uuid4()) for node in cluster.nodes}
    run = _Run(cluster, vault, seen, todo, replace(seen.facts, role_ids=role_ids), seen.wanted, seen.found.applied)
    noted: dict[str, frozenset[str]] = {}
    for name in STAGES:
        changes = [change for change in todo.changes if stage(change) == name]
        if name == "engines":
            run = _learn(run)
        elif name == "removals":
            noted = _note_ends(run)
        elif name == "cleanup":
            _end_tokens(run, noted, say)
        made = vault.map(partial(_make_and_count, run, counted), changes)
        if any(made):
            run = replace(run, facts=replace(run.facts, root_sha256=made[0]))
        yield from changes
    _write_applied(run, of_cluster(cluster, run.facts, run.wanted))


def change_path(cluster: Cluster, vault: Vault, change: Change, seen: Observation) -> str:
    """Return the path at which a change is made; of several, the one that creates the object."""
    kind, name = change.key
    if _is_store_options(change):
        return f"{name}/config"
    if kind == "key":
        return f"{name}/intermediate/generate/internal"
    if change.action == "delete":
        return delete_request(cluster, vault, change.key).path
    if kind == "issuer" and name == cluster.mount(ROOT) and cluster.authority.outside is not None:
        return f"{name}/issuers/import/cert"
    if kind == "issuer" and change.action == "create":
        return f"{name}/root/generate/internal" if name == cluster.mount(ROOT) else f"{name}/intermediate/set-signed"
    if kind == "issuer":
        return f"{name}/issuer/{seen.found.cas[name].issuer}"
    path = object_path(cluster, vault, change.key)
    return f"{path}/tune" if kind in ("mount", "auth") and change.action == "update" else path


def _is_store_options(change: Change) -> bool:
    """Return whether only the options of the KV store differ, which are set on the store and not on its mount."""
    return change.kind == "mount" and change.action == "update" and change.fields.keys() <= STORE_OPTIONS.keys()


def _learn(run: _Run) -> _Run:
    """Learn the accessors of new auth mounts, and record what is ours before it is made."""
    facts, mounts, before = run.facts, auth_mounts(run.cluster).keys(), run.applied
    if mounts - facts.accessors.keys():
        facts = replace(facts, accessors=read_accessors(run.cluster, run.vault))
    if missing := mounts - facts.accessors.keys():
        raise BadAnswer(f"sys/auth lists no accessor of auth/{run.cluster.prefix}/{min(missing)}; apply again")
    wanted = shared(desired(run.cluster, facts), run.wanted)
    ours = of_cluster(run.cluster, facts, wanted)
    # Until the AppRoles of other pools have ended, the record must not say that there are none.
    pools = before.pools if run.seen.ending else ours.pools
    # A lock may have given an AppRole another role id, by which the tokens are found of a node that goes.
    now = {name: run.seen.found.role_ids.get(name, id_) for name, id_ in before.role_ids.items()}
    applied = AppliedRecord(ours.objects | before.objects, {**now, **ours.role_ids}, pools)
    _write_applied(run, applied)
    return replace(run, facts=facts, wanted=wanted, applied=applied)


def _write_applied(run: _Run, applied: AppliedRecord) -> None:
    if applied != run.applied:
        write = run.vault.api.secrets.kv.v2.create_or_update_secret
        write(APPLIED, applied.record(run.cluster), mount_point=run.cluster.mount("config"))


def _make_and_count(run: _Run, counted: Callable[[Change], None], change: Change) -> str:
    made = _make(run, change)
    counted(change)
    return made


def _make(run: _Run, change: Change) -> str:
    """Make one change; returns the SHA-256 of a root CA that was made, else nothing."""
    cluster, vault = run.cluster, run.vault
    wanted = run.wanted.get(change.key, {})
    if change.action == "delete" and change.kind == "auth":
        from vaultpki.provision import destroy

        destroy.delete_auth_mount(cluster, vault, run.seen, change.name)
    elif change.action == "delete":
        vault.call(delete_request(cluster, vault, change.key))
    elif change.kind == "issuer":
        return _make_issuer(run, change, wanted)
    elif change.kind == "key":
        authorities.make_waiting_key(cluster, vault, change.name)
    elif change.kind in ("mount", "auth") and not _is_store_options(change):
        write_mount(cluster, vault, change.key, wanted, create=change.action == "create")
    else:
        _write(run, change, wanted)
    return ""


def _make_issuer(run: _Run, change: Change, wanted: Fields) -> str:
    ca = run.seen.found.cas.get(change.name, CaMount())
    if change.name == run.cluster.mount(ROOT) and run.cluster.authority.outside is not None:
        return authorities.install_chain(run.vault, change.name, run.cluster.authority.outside, run.facts.left_out)
    if change.action == "update":
        _refuse_rotated(run, change.name)
        changed = {field: wanted[field] for field in change.fields}
        authorities.update_issuer(run.vault, change.name, ca.issuer, changed)
        return ""
    if change.name == run.cluster.mount(ROOT):
        return authorities.make_root(run.cluster, run.vault, change.name, wanted, ca.keys)
    authorities.make_issuing(run.cluster, run.vault, change.name, wanted, ca.keys)
    return ""


def _refuse_rotated(run: _Run, mount: str) -> None:
    """Raise Refused if a rotation of this CA has begun or gone on since the plan was made."""
    ca = mount.rpartition("/")[2]
    now = read_record(run.cluster, run.vault, ca).record
    if now != run.seen.found.as_stored.get(ca):
        raise Refused(
            f"the rotation of {ca} has gone on since the plan was made, and its CA was not changed; apply again",
            status=409,
        )


def _write(run: _Run, change: Change, wanted: Fields) -> None:
    api, path = run.vault.api, change_path(run.cluster, run.vault, change, run.seen)
    mount, _, last = change.name.rpartition("/config/")
    if change.kind == "policy":
        # JSON, not HCL: a name cannot break out of it.
        api.sys.create_or_update_acl_policy(change.name, json.dumps({"path": wanted}, indent=1))
    elif path == f"auth/{run.cluster.prefix}/jwt/config":
        api.auth.jwt.configure(**wanted, path=f"{run.cluster.prefix}/jwt")
    elif change.kind == "config" and last == "urls":
        api.secrets.pki.set_urls(wanted, mount_point=mount)
    elif change.kind == "config" and last == "crl":
        api.secrets.pki.set_crl_configuration(extra_params={**wanted}, mount_point=mount)
    else:
        # hvac's methods for these send fields that we do not set, or lists as one string.
        waits = run.facts.waiting or run.facts.imported
        warnings = _NO_CA_YET if change.kind == "role" and waits else ()
        run.vault.write(path, _body(run, change, wanted), warnings=warnings)


def _body(run: _Run, change: Change, wanted: Fields) -> Json:
    if change.kind == "mount":
        return {field: wanted[field] for field in change.fields}
    if change.action == "create" and change.name.startswith(f"{run.cluster.prefix}/listed/"):
        return {**wanted, "role_id": run.facts.role_ids[change.name.rpartition("/")[2]]}
    return {"data": wanted} if is_record(run.cluster, change.key) else wanted


def write_mount(cluster: Cluster, vault: Vault, key: Key, wanted: Fields, *, create: bool) -> None:
    """Make a mount or an auth mount, or tune it. Raises Refused if the server does not have its engine."""
    kind, name = key
    config = {}
    if "max_ttl" in wanted:
        config = {"default_lease_ttl": wanted["default_ttl"], "max_lease_ttl": wanted["max_ttl"]}
    options = {"options": {"version": wanted["version"]}} if "version" in wanted else {}
    # A new mount ignores it, whatever the body says.
    lockout = {"user_lockout_config": {"lockout_disable": not wanted["lockout"]}} if "lockout" in wanted else {}
    if not create:
        token_type = {"token_type": wanted["token_type"]} if "token_type" in wanted else {}
        api = vault.sending(warnings=_KV_UPGRADE).api.sys
        tune = api.tune_auth_method if kind == "auth" else api.tune_mount_configuration
        tune(name, **config, **options, **token_type, **lockout)
        return
    path = object_path(cluster, vault, key)
    body: Json = {"type": wanted["type"], "description": marker(cluster), "config": config, **options}
    try:
        # Once: a second try would fail because the path is in use. Not hvac's methods, which also send `local`.
        vault.write(path, body, once=True)
    except Refused as error:
        if any("not found in the catalog" in reason for reason in error.reasons):
            raise Refused(
                f"the server has no {wanted['type']} engine, which {path} needs; enable the plugin and apply again",
                status=error.status,
            ) from None
        raise
    if lockout:
        vault.api.sys.tune_auth_method(name, **lockout)


def _note_ends(run: _Run) -> dict[str, frozenset[str]]:
    """Note the role ids of pooled nodes, and of signers, before their AppRoles are deleted.

    Returns the noted role ids by node, also of nodes whose end an earlier apply did not finish.
    """
    cluster, vault = run.cluster, run.vault
    deleted = [change.name for change in run.todo.changes if change.action == "delete" and change.kind == "approle"]
    going: dict[str, list[Identity]] = {}
    for path in deleted:
        name = path.rpartition("/")[2]
        both = (Identity("pooled", name), Identity("signer", name))
        going.setdefault(name, []).extend(each for each in both if path == f"{each.mount(cluster)}/{name}")

    def note(name: str) -> frozenset[str]:
        ids = {id_ for each in going.get(name, ()) if (id_ := role_id(cluster, vault, each)) is not None}
        return write_note(cluster, vault, name, ids) if ids else read_note(cluster, vault, name)

    names = sorted({*(name for name, some in going.items() if some), *run.seen.ending})
    return dict(zip(names, run.vault.map(note, names), strict=True))


def _end_tokens(run: _Run, noted: Mapping[str, frozenset[str]], say: Callable[[str], None]) -> None:
    """End the tokens of nodes whose AppRoles or pools were removed, and delete their reports and notes."""
    cluster, vault, seen = run.cluster, run.vault, run.seen
    listed = {node.name for node in cluster.nodes}
    unlisted = seen.found.applied.role_ids.keys() - listed
    removed = _removed_by_token(run)
    noted_ids = frozenset[str]().union(*noted.values())
    aliases = {
        # A note does not say on which mount its node was.
        "listed": noted_ids.union(
            ids.get(name, "") for ids in (seen.facts.role_ids, run.applied.role_ids) for name in unlisted
        ),
        "pooled": noted_ids,
        SIGNER_LOGINS: noted_ids,
        "jwt": [each.name for each in removed],
    }
    accessors = seen.facts.accessors
    # The mounts wait at the same time, and one of them says so.
    sayer = next((mount for mount, ids in aliases.items() if any(ids) and accessors.get(mount)), "")

    def end(mount: str) -> None:
        # The pool may come back, and its locked nodes with it.
        kept = mount == "jwt"
        told = say if mount == sayer else lambda line: None
        waiting = partial(await_logins, partial(store_again, cluster, vault, APPLIED), say=told)
        end_entities(vault, accessors.get(mount, ""), sorted(aliases[mount]), waiting=waiting, keep_disabled=kept)

    vault.map(end, [mount for mount in aliases if accessors.get(mount)])
    # A note does not say whose it is here either.
    gone = {*unlisted, *noted} - listed
    entities = {each.entity: each.name for each in removed}
    head = f"{cluster.mount('config')}/pools/"
    deleted = [change.name for change in run.todo.changes if change.action == "delete"]
    pools = [name.removeprefix(head) for name in deleted if name.startswith(head)]
    reports.remove(cluster, vault, listed=gone, pooled=noted.keys(), entities=entities, pools=pools)
    if gone:
        remove_locks(cluster, vault, sorted(gone.intersection(locked_names(cluster, vault))))
    # Last: a run that was cut goes on by them.
    vault.map(lambda name: remove_note(cluster, vault, name), noted)


def _removed_by_token(run: _Run) -> list[TokenIdentity]:
    """Return the nodes that logged in by an issuer's token and fit no pool any more."""
    if not (pools := _removed_pools(run)):
        return []
    found = reports.token_identities(run.cluster, run.vault, pools)
    return [each for each in found if unmatched(run.cluster, [each.name])]


def _removed_pools(run: _Run) -> list[str]:
    """Return the pools that this plan removes, or whose `node_names` it changes; none without a jwt mount."""
    head = f"{run.cluster.mount('config')}/pools/"
    if "jwt" not in run.seen.facts.accessors:
        return []
    return [
        change.name.removeprefix(head)
        for change in run.todo.changes
        if change.kind == "config" and change.name.startswith(head)
        if change.action != "create" and "node_names" in change.fields
    ]
