"""Makes a server the cluster's certificate authority: observe, plan, act, and again until nothing is left to do."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from vaultpki.anchor import refuse_other_root
from vaultpki.authorities import Authorities
from vaultpki.ca_facts import rotations_needed
from vaultpki.certificates import ROOT
from vaultpki.desired import STORE_OPTIONS, desired, marker
from vaultpki.endings import Endings
from vaultpki.errors import BadAnswer, Denied, Refused, Sealed, Unavailable
from vaultpki.identities import approle_pools, auth_mounts, jwt_roles
from vaultpki.known import Fields, Key, Known
from vaultpki.live_credentials import end_entities, noted, unfinished
from vaultpki.model import Cluster
from vaultpki.observe import Sight, made_by_us, observe, refuse_foreign
from vaultpki.plan import STAGES, Change, Impact, Plan, plan, stage
from vaultpki.reading import APPLIED, Memory
from vaultpki.values import dataclass
from vaultpki.vault import Json, Request, Vault, member, text

# Long enough for an election (8 to 14 s by default) and a slow one after it.
_AWAY_SECONDS = 90.0

# Roles are made while their CAs are made or mended; the look at the end sees whether all are as they should be.
_NO_DEFAULT_YET = ("no default issuing certificate",)
_KV_UPGRADE = ("Upgrading mount from version",)


@dataclass(frozen=True, slots=True)
class Where:
    """Where nodes find Vault when cluster.yaml does not say it: as the applier does.

    `namespace` is the applier's, and with it the cluster's, as it stands in a URL's path; empty for none.
    """

    addresses: tuple[str, ...]
    ca_pem: str | None
    namespace: str = ""

    @property
    def known(self) -> Known:
        """What is known of the server before it is asked."""
        return Known(addresses=self.addresses, ca_pem=self.ca_pem, namespace=self.namespace)


Progress = Callable[[Change], None]


def look(cluster: Cluster, vault: Vault, where: Where, *, expected: Iterable[Key] = ()) -> tuple[Sight, Plan]:
    """What is there, and what an apply would change; writes nothing.

    `expected` are the objects that an apply has just made. Raises ForeignObject where something of others stands where
    ours belongs.
    """
    sight = observe(cluster, vault, where.known, expected=expected)
    refuse_foreign(cluster, sight)
    return sight, replace(plan(sight.wanted, sight.observed), rotations=rotations_needed(cluster, sight.cas))


def impact(cluster: Cluster, vault: Vault, sight: Sight, todo: Plan) -> Plan:
    """The plan with what it means for nodes that take part already; asks who has reported only where that matters."""
    if not todo.changes:
        return todo
    from vaultpki.impact import Live, concerns_nodes, impact_of

    if not concerns_nodes(cluster, todo.changes):
        return todo
    reported = vault.names(f"{cluster.mount('config')}/metadata/reports")
    return replace(todo, impact=impact_of(cluster, todo.changes, Live(frozenset(reported), sight.pooled)))


def apply(cluster: Cluster, vault: Vault, where: Where, *, first: Plan | None, progress: Progress) -> Plan:
    """Carries out what `look` shows, and gives every change made.

    `first` is the plan a person agreed to; a server that has changed since is looked at again, not written over. A
    server that goes away in the middle is waited for, and the work goes on from what is there then.
    """
    done: list[Change] = []
    give_up = time.monotonic() + _AWAY_SECONDS
    rounds = 0
    made: Iterable[Key] = ()
    meaning: tuple[Impact, ...] = ()
    while True:
        try:
            sight, todo = look(cluster, vault, where, expected=made)
            made = ()
            if first is not None and rounds == 0 and todo.changes != first.changes:
                raise Refused(
                    "the server has changed since the plan was shown; nothing was written, look at the plan again",
                    status=409,
                )
            if not todo.changes and sight.memory == _memory(cluster, sight.known, sight.wanted):
                root = sight.known.root_sha256
                return replace(todo, changes=tuple(done), impact=meaning, root_sha256=root)
            if rounds == 0:
                meaning = impact(cluster, vault, sight, todo).impact
                _refuse_weak_token(cluster, vault, _rights(cluster, sight, todo))
            rounds += 1
            if rounds > 8:
                raise BadAnswer(
                    "changes come back after every apply"
                    + "".join(f", such as that of {change.kind} {change.name}" for change in todo.changes[:1])
                    + ": something else writes here too"
                )
            for change in _Run(cluster, vault, sight, todo).act():
                done.append(change)
                progress(change)
            made = sight.wanted
        except Sealed:
            raise
        except Refused as error:
            # The last request of a run that was killed may still have been under way when we looked.
            if not any("name already in use" in reason for reason in error.reasons) or time.monotonic() >= give_up:
                raise
            time.sleep(0.5)
        except Unavailable:
            if rounds == 0 or time.monotonic() >= give_up:
                raise
            time.sleep(0.5)


def destroy(cluster: Cluster, vault: Vault, where: Where, *, progress: Callable[[str], None]) -> list[str]:
    """Removes everything that apply made; what is not ours stays. A run cut off anywhere goes on when repeated.

    Gives the policies that have a name of ours and stay, since nothing tells that apply made them.
    """
    sight = observe(cluster, vault, where.known)
    if ("issuer", cluster.mount(ROOT)) in sight.observed.objects:
        # One that is gone is no reason to leave the rest.
        refuse_other_root(cluster, sight.known.root_sha256)
    doomed = [key for key in sight.observed.objects if made_by_us(sight, key)]
    # Without a memory a pool's policy is known by its rules, which name its auth mount. The store goes last: it
    # remembers what is ours.
    doomed.sort(key=lambda key: (("policy", "auth", "mount").index(key[0]), key[1] == cluster.mount("config")))
    removals = {key: _path(cluster, Change("delete", *key, {}), {}) for key in doomed}
    if removals:
        _refuse_weak_token(cluster, vault, dict.fromkeys(removals.values(), "delete"))
    for (kind, name), path in removals.items():
        accessor = sight.known.accessors[name.rpartition("/")[2]] if kind == "auth" else ""
        aliases = _aliases(cluster, vault, sight, name) if kind == "auth" else []
        end_entities(vault, accessor, aliases, wait=0)
        vault.call(Request("DELETE", path))
        progress(path)
        # A login in between made one more; none can follow, for want of a mount.
        end_entities(vault, accessor, aliases, wait=0)
    there = [key for key in sight.wanted if key[0] == "policy" and key in sight.observed.objects]
    return [key[1] for key in there if key not in removals]


def _aliases(cluster: Cluster, vault: Vault, sight: Sight, path: str) -> list[str]:
    """By what names Vault knows who logged in at an auth mount, as far as anything tells.

    They are the role ids of every AppRole, also of those it once had; for the tokens of an issuer, the nodes that
    reported.
    """
    if path == f"{cluster.prefix}/jwt":
        return list(vault.names(f"{cluster.mount('config')}/metadata/reports"))
    names = vault.names(f"auth/{path}/role")
    found = vault.many([Request("GET", f"auth/{path}/role/{name}/role-id") for name in names])
    there = {str(answer.data.get("role_id")) for answer in found if answer.found}
    begun = vault.map(lambda name: noted(cluster, vault, name), sorted(unfinished(cluster, vault)))
    return sorted(there.union(sight.known.role_ids.values(), *begun))


def _memory(cluster: Cluster, known: Known, wanted: Iterable[Key]) -> Memory:
    """What is to be remembered of a cluster once all of it is as it should be."""
    paths = (f"{cluster.mount('config')}/", f"{jwt_roles(cluster)}/")
    return Memory(
        frozenset(
            (kind, name)
            for kind, name in wanted
            if kind in ("role", "policy", "approle") or (kind == "config" and name.startswith(paths))
        ),
        {node.name: known.role_ids[node.name] for node in cluster.nodes if node.name in known.role_ids},
        {pool.name: pool.node_names for pool in approle_pools(cluster)},
    )


def _rights(cluster: Cluster, sight: Sight, todo: Plan) -> dict[str, str]:
    """The capability that each path of a plan needs."""
    needs = {f"{cluster.mount('config')}/data/{APPLIED}": "update"}
    for change in todo.changes:
        mended = change.kind == "issuer" and change.action == "update"
        needs[_path(cluster, change, sight.issuers)] = (
            "delete" if change.action == "delete" else "patch" if mended else "update"
        )
    return needs


def _refuse_weak_token(cluster: Cluster, vault: Vault, needs: Mapping[str, str]) -> None:
    """Raises Denied before the first write where the token lacks a capability, path by path."""
    try:
        answer = vault.write("sys/capabilities-self", {"paths": ",".join(sorted(needs))})
    except Denied:
        # A token without the default policy may not ask; it is told at the first write.
        return
    granted = member(answer, "data")
    for path, need in needs.items():
        may = granted.get(path)
        # Whether a write is a create is Vault's to say, path by path.
        enough = {"root", need} | ({"create"} if need == "update" else set())
        if isinstance(may, list) and not enough & {*may}:
            raise Denied(f"it may not {need} {path}; `vaultpki policy -f {cluster.file} applier` prints what it needs")


def _path(cluster: Cluster, change: Change, issuers: Mapping[str, str]) -> str:
    """The path in Vault's API at which a change is carried out; of several, the one that makes the object."""
    kind, name = change.key
    mount, _, last = name.rpartition("/")
    store = cluster.mount("config")
    if _of_store_options(change):
        return f"{store}/config"
    if kind in ("mount", "auth"):
        return f"sys/{kind}{'s' if kind == 'mount' else ''}/{name}{'/tune' if change.action == 'update' else ''}"
    if kind == "issuer" and change.action == "create":
        return f"{name}/root/generate/internal" if last == ROOT else f"{name}/intermediate/set-signed"
    if kind == "issuer":
        return f"{name}/issuer/{issuers[name]}"
    if kind == "policy":
        return f"sys/policies/acl/{name}"
    if kind == "role":
        return f"{mount}/roles/{last}"
    if kind == "approle":
        return f"auth/{mount}/role/{last}"
    if stage(change) == "engines" or name.startswith("auth/"):
        return name
    # All versions of a record go with its metadata only.
    return f"{store}/{'metadata' if change.action == 'delete' else 'data'}/{name.removeprefix(store + '/')}"


def _of_store_options(change: Change) -> bool:
    """Whether a mount is there as it should be, but for what the store says of itself."""
    return change.kind == "mount" and change.action == "update" and change.fields.keys() <= STORE_OPTIONS.keys()


class _Run:
    """One plan being carried out: stage by stage, but for stages that need nothing of each other.

    Within a stage all is under way at once, each object by its own requests.
    """

    def __init__(self, cluster: Cluster, vault: Vault, sight: Sight, todo: Plan) -> None:
        self._cluster, self._vault, self._sight, self._todo = cluster, vault, sight, todo
        ids = {n.name: sight.known.role_ids.get(n.name) or str(uuid.uuid4()) for n in cluster.nodes}
        self._known = replace(sight.known, role_ids=ids)
        self._wanted = sight.wanted
        self._remembered = sight.memory
        self._authorities = Authorities(cluster, vault, sight)
        self._endings = Endings(cluster, vault, sight)
        # Mounts whose own issuer is made, or becomes the default, in this run.
        self._unsettled = frozenset(change.name for change in todo.changes if change.kind == "issuer")

    def act(self) -> Iterator[Change]:
        stages = {name: [change for change in self._todo.changes if stage(change) == name] for name in STAGES}
        self._do(stages["first"])
        yield from stages["first"]
        self._at_once(partial(self._do, stages["mounts"]), partial(self._do, stages["root"]))
        yield from stages["mounts"] + stages["root"]
        # The root's URLs are there before it signs: they become a part of what it signs.
        issuing = [change.name for change in stages["issuers"] if change.action == "create"]
        self._at_once(
            partial(self._vault.map, self._authorities.request, issuing),
            partial(self._do, stages["engines"]),
            self._prepare,
        )
        yield from stages["engines"]
        # An AppRole is known as ours by its record, and nobody logs in before the policy is there.
        self._at_once(partial(self._do, stages["issuers"]), partial(self._do, stages["rules"], stages["nodes"]))
        yield from stages["issuers"] + stages["rules"] + stages["nodes"]
        self._endings.note(self._todo)
        self._do(stages["removals"])
        yield from stages["removals"]
        self._end_entities()
        self._do(stages["farewells"])
        yield from stages["farewells"]
        self._remember(_memory(self._cluster, self._known, self._wanted))

    def _at_once(self, *works: Callable[[], object]) -> None:
        self._vault.map(lambda work: work(), works)

    def _do(self, *stages: Sequence[Change]) -> None:
        """Carries the changes out, stage after stage."""
        for changes in stages:
            requests = [self._plain(change) for change in changes]
            plain = [request for request in requests if request]
            other = [change for change, request in zip(changes, requests, strict=True) if not request]
            works = [partial(self._vault.map, self._carry_out, other)] if other else []
            self._at_once(*works, *([partial(self._vault.many, plain)] if plain else []))

    def _prepare(self) -> None:
        """Learns the accessors of auth mounts just made, and remembers what is ours before it is made."""
        mounts = auth_mounts(self._cluster)
        if mounts.keys() - self._known.accessors.keys():
            found = self._vault.read("sys/auth") or {}
            accessors = {m: text(member(found, f"{self._cluster.prefix}/{m}/"), "accessor") for m in mounts}
            self._known = replace(self._known, accessors=accessors)
        self._wanted = desired(self._cluster, self._known)
        ours = _memory(self._cluster, self._known, self._wanted)
        known = self._remembered
        # That all AppRoles are those of these pools is true only when the others have ended.
        pools = known.pools if self._sight.ending else ours.pools
        self._remember(Memory(ours.objects | known.objects, {**known.role_ids, **ours.role_ids}, pools))

    def _remember(self, memory: Memory) -> None:
        """Writes down what is ours: before it is made, and after it is removed, so that no crash leaves an orphan."""
        if memory != self._remembered:
            self._vault.write(f"{self._cluster.mount('config')}/data/{APPLIED}", {"data": memory.record()})
            self._remembered = memory

    def _end_entities(self) -> None:
        """Ends the tokens of nodes whose AppRoles or pools are gone by now, and forgets what these nodes reported."""
        listed = {node.name for node in self._cluster.nodes}
        known, store = self._sight.known, self._cluster.mount("config")
        off_list = sorted(self._sight.memory.role_ids.keys() - listed)
        by_token = self._endings.by_token(self._todo)
        # A note does not tell which mount its node was on: it may have been cut off at the end of either.
        noted_ids = self._endings.role_ids
        aliases = {
            "listed": sorted({known.role_ids.get(name, "") for name in off_list}.union(noted_ids)),
            "pooled": noted_ids,
            "jwt": by_token,
        }
        self._at_once(
            *(
                partial(end_entities, self._vault, known.accessors.get(mount, ""), some)
                for mount, some in aliases.items()
                if some
            )
        )
        gone = {*off_list, *self._endings.nodes, *by_token} - listed
        self._vault.many([Request("DELETE", f"{store}/metadata/reports/{name}") for name in sorted(gone)])
        self._endings.forget()

    def _plain(self, change: Change) -> Request | None:
        """The one request that carries a change out, and may be repeated; None where there is more to it."""
        kind, name, wanted = change.kind, change.name, self._wanted.get(change.key, {})
        path = _path(self._cluster, change, self._sight.issuers)
        if change.action == "delete":
            return None if kind == "auth" else Request("DELETE", path)
        if _of_store_options(change):
            return Request("POST", path, {field: wanted[field] for field in change.fields})
        if kind in ("mount", "auth", "issuer"):
            return None
        if kind == "policy":
            # JSON, not HCL: a name cannot break out of it.
            return Request("POST", path, {"policy": json.dumps({"path": wanted}, indent=1)})
        if kind == "approle":
            create = change.action == "create"
            own = {"role_id": self._known.role_ids[name.rpartition("/")[2]]} if create else {}
            return Request("POST", path, {**wanted, **own})
        if kind == "config" and name.startswith(f"{self._cluster.mount('config')}/"):
            return Request("POST", path, {"data": wanted})
        unsettled = kind == "role" and name.rpartition("/")[0] in self._unsettled
        return Request("POST", path, wanted, warnings=_NO_DEFAULT_YET if unsettled else ())

    def _carry_out(self, change: Change) -> None:
        kind, name, create = change.kind, change.name, change.action == "create"
        path = _path(self._cluster, change, self._sight.issuers)
        wanted = self._wanted.get(change.key, {})
        if kind == "auth" and change.action == "delete":
            aliases = _aliases(self._cluster, self._vault, self._sight, name)
            self._vault.call(Request("DELETE", path))
            end_entities(self._vault, self._sight.known.accessors[name.rpartition("/")[2]], aliases, wait=0)
        elif kind in ("mount", "auth"):
            self._mount(path, wanted, create=create)
        elif not create:
            self._authorities.mend(name, {field: wanted[field] for field in change.fields})
        elif name == self._cluster.mount(ROOT):
            self._known = replace(self._known, root_sha256=self._authorities.make_root(name, wanted))
        else:
            self._authorities.make_issuing(name, wanted)

    def _mount(self, path: str, wanted: Fields, *, create: bool) -> None:
        config = {}
        if "max_ttl" in wanted:
            config = {"default_lease_ttl": wanted["default_ttl"], "max_lease_ttl": wanted["max_ttl"]}
        options = {"options": {"version": wanted["version"]}} if "version" in wanted else {}
        # A new mount does not take it, whatever the body says.
        lockout = {"user_lockout_config": {"lockout_disable": not wanted["lockout"]}} if "lockout" in wanted else {}
        if not create:
            token_type = {"token_type": wanted["token_type"]} if "token_type" in wanted else {}
            self._vault.write(path, {**config, **options, **token_type, **lockout}, warnings=_KV_UPGRADE)
            return
        body: Json = {"type": wanted["type"], "description": marker(self._cluster), "config": config, **options}
        try:
            # Not twice: the second would be told that the path is in use.
            self._vault.write(path, body, once=True)
        except Refused as error:
            if any("not found in the catalog" in reason for reason in error.reasons):
                raise Refused(
                    f"the server has no {wanted['type']} engine, which {path} needs; enable the plugin and apply again",
                    status=error.status,
                ) from None
            raise
        if lockout:
            self._vault.write(f"{path}/tune", lockout)
