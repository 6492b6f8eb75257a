"""A node's own credential: taken out of a join file, kept in the state folder, rolled long before it ends.

    STATE/secret-id        the secret id in use, 0600
    STATE/secret-id.json   when it was minted and for how long, and its digest, so that one put there by hand is known
    STATE/secret-id.old    the one before, until Vault has taken the new one for a while and destroyed it
    STATE/joined           how far the last join came: the digest of its wrapping token, and what that held until it is
                           in its place, 0600

Every step leaves a secret id that Vault takes: the new one is on disk, and no longer at the mercy of the server's
tidying, before the old one is destroyed. Only a cut within the unwrapping itself loses it, and then a new join file is
needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import field, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from vaultpki import issuance, words
from vaultpki.certificates import ROOT, ca_subject
from vaultpki.config import tree
from vaultpki.errors import BadAnswer, Denied, NeedsJoin, Refused, SpecError, StoreError
from vaultpki.facts import Trust
from vaultpki.files import open_folder, private_folder, probe_folder, read_private, read_swapped, told, write_private
from vaultpki.join import Join
from vaultpki.model import AgentConfig, Auth
from vaultpki.undo import Undo
from vaultpki.values import dataclass
from vaultpki.vault import Request, Settings, Vault, from_environment

SECRET_ID: Final = "secret-id"  # noqa: S105 -- a file's name
CA_FILE: Final = "vault-ca.pem"
_OLD = f"{SECRET_ID}.old"
_JOINED = "joined"
_PATIENCE = 15.0

_DAY = 86400
# Of a secret id that somebody else put here nothing is known; apply never grants less.
_UNKNOWN_TTL: Final = 7 * _DAY
# Once a minute both servers remove what is left of secret ids, and one that is minted in that very moment with it: its
# accessor is listed, its own entry not yet (path_tidy_user_id.go). Nothing tells it but that a login is refused.
_SETTLED: Final = 5 * 60
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
# RFC 7519 section 3: three parts in base64url. Nothing else that a file may hold is ever sent.
_JWT = re.compile(r"[A-Za-z0-9_-]{1,16384}\.[A-Za-z0-9_-]{1,16384}\.[A-Za-z0-9_-]{0,16384}")


def mount(config: AgentConfig) -> str:
    """The AppRole mount of this node's kind."""
    return f"auth/{config.prefix}/{'pooled' if config.pool else 'listed'}"


def server(config: AgentConfig, *, allow_http: bool = False, patience: float = _PATIENCE) -> Vault:
    """Vault as agent.yaml names it, with no token yet. SpecError where its CA file cannot be used."""
    ca_pem = None
    if config.ca_file is not None:
        try:
            ca_pem = words.pem_certificates(tree.read_text(Path(config.ca_file)))
        except SpecError as error:
            where = "" if error.problem.startswith("/") else f"{config.ca_file}: "
            raise SpecError(f"{where}{error.problem}", file=config.file, field="vault.ca_file") from None
    hint = f"this machine's CAs did not sign it: write the file of the one that did as vault.ca_file into {config.file}"
    if ca_pem:
        again = f", or join with a new join file ({enrolling(config)})" if config.auth.method == "approle" else ""
        hint = f"the CA in {config.ca_file} (vault.ca_file in {config.file}) did not sign it: compare the two{again}"
    settings = _settings(config, ca_pem, allow_http=allow_http)
    settings = replace(settings, ca_hint=hint, namespace_hint=f"look at vault.namespace in {config.file}")
    return Vault(settings, patience=patience)


def _settings(told: AgentConfig | Join, ca_pem: str | None, *, allow_http: bool) -> Settings:
    """The way to Vault as this node is told it; of the environment only what it is told nothing of."""
    settings = from_environment(addresses=told.addresses, ca_pem=ca_pem, allow_http=allow_http, with_token=False)
    # VAULT_NAMESPACE has no say, set or not: a unit and a pod start with another environment than a shell.
    return replace(settings, namespace=told.namespace)


def _settings_of(join: Join, *, allow_http: bool) -> Settings:
    """The way to Vault as a join file tells it; where it leads nowhere, only a new one helps."""
    ca = "the CA in the join file" if join.ca_pem else "the join file names no CA, and this machine's"
    new = f"and make a new join file ({enrolling(join)})"
    return replace(
        _settings(join, join.ca_pem, allow_http=allow_http),
        ca_hint=f"{ca} did not sign it: whoever enrolled {join.node} must look at vault.ca_file in cluster.yaml, {new}",
        namespace_hint=f"whoever enrolled {join.node} must look at vault.namespace in cluster.yaml, {new}",
    )


def enrolling(who: AgentConfig | Join) -> str:
    """The command by which an enroller makes a new join file for a node."""
    return f"`vaultpki enroll -f cluster.yaml {who.node}{f' --pool {who.pool}' if who.pool else ''}`"


def _locking(who: AgentConfig | Join) -> str:
    """The command that ends all that a thief may hold of a node, listed or of a pool."""
    return f"`vaultpki lock -f cluster.yaml {who.node}`"


def _joining(config: AgentConfig) -> str:
    """What heals a node whose credential is gone."""
    return (
        f"join with a new join file ({enrolling(config)}, then `vaultpki agent -c {config.file} --join join.json` here)"
    )


def login(config: AgentConfig, *, allow_http: bool = False) -> Vault:
    """Vault, as this node. NeedsJoin where its credential is missing or not taken, SpecError for a file that is not."""
    vault = server(config, allow_http=allow_http)
    if config.auth.method == "approle":
        return _login_by_approle(config, vault)
    path = config.auth.path or ""
    jwt = config.auth.method == "jwt"
    raw = read_swapped(path) if jwt else read_private(path)
    if raw is None:
        raise SpecError(f"{path} is missing, so this node cannot prove who it is", file=config.file, field="auth.path")
    text = raw.decode("ascii", "replace").strip()
    if not (_JWT if jwt else _TOKEN).fullmatch(text):
        raise SpecError(f"{path} holds no token; write one there, on one line", file=config.file, field="auth.path")
    return _login_by_jwt(config, vault, text) if jwt else vault.as_token(text)


def _login_by_jwt(config: AgentConfig, vault: Vault, jwt: str) -> Vault:
    try:
        return vault.login(
            f"auth/{config.prefix}/jwt/login", {"role": config.pool, "jwt": jwt}, who=("role", str(config.pool))
        )
    except Refused as error:
        if error.status != 400:
            raise
        raise Denied(
            f"Vault does not take the token in {config.auth.path} ({'; '.join(error.reasons) or 'no reason given'}); "
            f"see what its issuer puts into it, and what pool {config.pool} takes by `jwt` in cluster.yaml"
        ) from None


def _login_by_approle(config: AgentConfig, vault: Vault) -> Vault:
    secret = _read(config, SECRET_ID)
    if secret is None:
        raise NeedsJoin(
            f"{config.state}/{SECRET_ID} is missing, so this node cannot prove who it is; {_joining(config)}"
        )
    node = _present(config, vault, secret)
    old = _read(config, _OLD) if node is None else None
    if old is not None and old != secret:
        node = _present(config, vault, old)
        if node is not None:
            # As one that is long due: this very pass rolls it, and keeps it until the next one is settled. Where that
            # cannot be written, the next pass comes here again.
            with contextlib.suppress(StoreError):
                _keep(config, old, 0.0, _UNKNOWN_TTL)
    if node is None:
        raise NeedsJoin(f"Vault does not take this node's credential; {_joining(config)}")
    return node


def _present(config: AgentConfig, vault: Vault, secret: str) -> Vault | None:
    """Vault, as this node; None where it does not take that secret id."""
    try:
        body = {"role_id": config.auth.role_id, "secret_id": secret}
        return vault.login(f"{mount(config)}/login", body, who=("role_name", config.node))
    except Refused as error:
        # Both servers answer 400 to a role id or secret id that they do not know (any more).
        if error.status != 400:
            raise
        return None


def own_record(config: AgentConfig) -> str:
    """The record of the config store that says what this node holds, as a path below the store's `data`."""
    return f"pools/{config.pool}" if config.pool else f"nodes/{config.node}"


def roll(config: AgentConfig, vault: Vault, now: float) -> bool:
    """Replaces the secret id once a third of its life is over, and the one of a join file at once; True where it did.

    The one before is destroyed by a later call, some minutes on; that of a join file at once.
    `vault` is logged in as the node; `now` is Unix time in seconds.
    """
    current = _read(config, SECRET_ID) if config.auth.method == "approle" else None
    if current is None:
        return False
    joined = _joined(config)
    if joined is not None and joined.secret == current:
        _write_joined(config, _Joined(joined.token, "done"))
    memory = _memory(config, current)
    if memory is None or not 0 <= now - memory[0] < _SETTLED:
        _destroy_old(config, vault, current)
    # Whoever carried the join file may have seen what was in it.
    from_join = memory is None and joined is not None
    minted, ttl = memory or (_written(config), float(_UNKNOWN_TTL))
    if not from_join and 0 <= now - minted < ttl / 3:
        return False
    # One that cannot be kept would be minted again by the next pass, and live for days beside the others.
    probe_folder(config.state)
    role = f"{mount(config)}/role/{config.node}"
    # Its policy lets a node mint wrapped alone, for a minute at most: what somebody else had wrapped with its token is
    # worth nothing soon, and no join file can be made of it that lasts.
    data = vault.unwrapped(Request("POST", f"{role}/secret-id", {}, once=True)).data
    new, lives = data.get("secret_id"), data.get("secret_id_ttl")
    if not isinstance(new, str) or not _TOKEN.fullmatch(new) or not isinstance(lives, int) or isinstance(lives, bool):
        raise BadAnswer(f"{role}/secret-id brought no secret id; is this address really a Vault?")
    write_private(f"{config.state}/{_OLD}", current.encode())
    _keep(config, new, now, lives or _UNKNOWN_TTL)
    if from_join:
        _destroy_old(config, vault, new)
    return True


def join(
    join: Join,
    old: AgentConfig | None,
    *,
    file: str,
    directory: str,
    state: str,
    now: datetime,
    allow_http: bool,
) -> AgentConfig:
    """The configuration of a node that takes part from now on; its secret id lies in `state` when this returns.

    What a person changed in an `old` agent.yaml stays. The root CA that Vault shows is held to the join file's pin
    before the wrapping token is used, so a join file for another cluster is not spent. SpecError with what to do for a
    file that is spent, late or not what Vault wrapped. A join that is refused leaves nothing behind; one that was cut
    off after the token was used goes on where it is repeated.
    """
    from vaultpki.config import dump_agent

    fresh = AgentConfig(
        cluster=join.cluster,
        prefix=join.prefix,
        node=join.node,
        pool=join.pool,
        addresses=join.addresses,
        ca_file=f"{state}/{CA_FILE}" if join.ca_pem else None,
        root_sha256=join.root_sha256,
        auth=Auth("approle", role_id=join.role_id),
        directory=directory,
        state=state,
        namespace=join.namespace,
        file=file,
    )
    config = fresh
    if old is not None:
        config = replace(
            fresh,
            owner=old.owner,
            certificates=old.certificates,
            hooks=old.hooks,
            hook_timeout=old.hook_timeout,
            poll=old.poll,
            windows=old.windows,
            metrics=old.metrics,
        )
    settings = _settings_of(join, allow_http=allow_http)
    issuers = issuance.fetch_issuers(Vault(settings), join.prefix)
    trusts = issuance.trusts(issuers, join.root_sha256, now, cluster=join.cluster)
    _refuse_other_cluster(join, trusts)
    secret, node = _taken_out(config, join, settings, now)
    if join.ca_pem:
        write_private(f"{state}/{CA_FILE}", join.ca_pem.encode(), 0o644)
    os.close(open_folder(os.path.dirname(file), create=True))
    write_private(file, dump_agent(config).encode(), 0o644)
    if secret is not None:
        before = _read(config, SECRET_ID)
        if before is not None:
            write_private(f"{state}/{_OLD}", before.encode())
        write_private(f"{state}/{SECRET_ID}", secret.encode())
        _write_joined(config, _Joined(_digest(join.wrap_token), "done"))
    if node is not None:
        roll(config, node, now.timestamp())
    return config


def _taken_out(config: AgentConfig, join: Join, settings: Settings, now: datetime) -> tuple[str | None, Vault | None]:
    """The secret id of the join file, kept as opened, and Vault as the node by it; none where that is done already."""
    token, undo = _digest(join.wrap_token), Undo(config.state, [os.path.dirname(config.file)], _joined_file(config))
    joined = _joined(config)
    if joined is None or joined.token != token:
        joined = _Joined(token, "new")
    secret, used = joined.secret, joined.stage != "new"
    try:
        if joined.stage in ("new", "opening"):
            vault = Vault(replace(settings, token=join.wrap_token))
            _refuse_other_token(join, joined, vault, now)
            private_folder(config.state)
            _write_joined(config, _Joined(token, "opening"))
            used = True
            secret = _unwrap(join, vault)
            _write_joined(config, _Joined(token, "opened", secret))
        return secret, None if secret is None else _prove(config, join, Vault(settings), secret)
    except BaseException as error:
        # Once the token is used, what was in it is kept for another try, unless only another join file helps.
        if not used or isinstance(error, SpecError):
            undo()
        raise


def _refuse_other_cluster(join: Join, trusts: Mapping[str, Trust]) -> None:
    name = next(iter(trusts.values())).root.subject.common_name
    if name != ca_subject(join.cluster, ROOT):
        raise SpecError(
            f"the join file is for cluster {join.cluster}, and what Vault has at {join.prefix} is {name!r}: the file "
            f"was changed or mixed up; tell whoever enrolled {join.node}, and ask for a new one"
        )


def _refuse_other_token(join: Join, joined: _Joined, vault: Vault, now: datetime) -> None:
    """SpecError where the wrapping token is spent, late, or wraps something else; only looks at it."""
    new = f"ask for a new one ({enrolling(join)})"
    try:
        # The wrapping token alone, as the client's own: no other token is in the request.
        origin = vault.write("sys/wrapping/lookup", {"token": join.wrap_token}).get("data") or {}
    except (Refused, Denied):
        if joined.stage == "opening":
            raise SpecError(
                "a join on this node was cut off in the very moment when it took its credential out of the join file, "
                "and what was in it is lost (or somebody else was faster: then run "
                f"{_locking(join)}); {new}"
            ) from None
        if now >= join.expires:
            raise SpecError(f"the join file ended at {join.expires:%Y-%m-%dT%H:%M:%SZ}; {new}") from None
        raise SpecError(
            "the join file has been used already, and not by this node: somebody may have intercepted it; run "
            f"{_locking(join)}, find out who had the file, and {new}"
        ) from None
    kind = "pooled" if join.pool else "listed"
    expected = f"auth/{join.prefix}/{kind}/role/{join.node}/secret-id"
    if origin.get("creation_path") != expected:
        raise SpecError(
            "the join file's token was not made for this node's secret id: the file was tampered with or mixed up; "
            f"tell whoever enrolled the node, and {new}"
        )


def _unwrap(join: Join, vault: Vault) -> str:
    """The secret id that the wrapping token wraps, which is used up by this."""
    new = f"ask for a new one ({enrolling(join)})"
    try:
        data = vault.call(Request("POST", "sys/wrapping/unwrap", {}, once=True)).body.get("data") or {}
    except (Refused, Denied):
        raise SpecError(
            "the join file was used by somebody else in this very moment: it may be intercepted; run "
            f"{_locking(join)}, and {new}"
        ) from None
    secret = data.get("secret_id")
    if not isinstance(secret, str) or not _TOKEN.fullmatch(secret):
        raise BadAnswer(f"the join file held no secret id; {new}")
    return secret


def _prove(config: AgentConfig, join: Join, vault: Vault, secret: str) -> Vault:
    """Vault as the node that the join file says, before anything of an earlier join is replaced; else SpecError."""
    try:
        body = {"role_id": join.role_id, "secret_id": secret}
        node = vault.login(f"{mount(config)}/login", body, who=("role_name", join.node))
        node.read(f"{config.prefix}/config/data/{own_record(config)}")
        return node
    except (Refused, Denied):
        raise SpecError(
            f"Vault does not take what the join file holds for {join.node}: the node was unenrolled since, or the "
            "file's role_id or pool was changed on its way; tell whoever enrolled it, and ask for a new one "
            f"({enrolling(join)})"
        ) from None


@dataclass(frozen=True, slots=True)
class _Joined:
    """How far a join came. `token` is the digest of its wrapping token, `secret` what that held, while "opened"."""

    token: str
    stage: str
    secret: str | None = field(default=None, repr=False)


def _joined_file(config: AgentConfig) -> str:
    return f"{config.state}/{_JOINED}"


def _joined(config: AgentConfig) -> _Joined | None:
    raw = _read(config, _JOINED)
    if raw is None:
        return None
    try:
        value = json.loads(raw)
        return _Joined(str(value["token"]), str(value["stage"]), value["secret_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _write_joined(config: AgentConfig, joined: _Joined) -> None:
    value = {"version": 1, "token": joined.token, "stage": joined.stage, "secret_id": joined.secret}
    write_private(_joined_file(config), json.dumps(value).encode())


def _destroy_old(config: AgentConfig, vault: Vault, current: str) -> None:
    old = _read(config, _OLD)
    if old is None:
        return
    if old != current:
        # Refused where Vault does not know it any more, which is what was wanted.
        with contextlib.suppress(Refused):
            vault.write(f"{mount(config)}/role/{config.node}/secret-id/destroy", {"secret_id": old})
    with told(f"{config.state}/{_OLD}"):
        os.unlink(f"{config.state}/{_OLD}")


def _keep(config: AgentConfig, secret: str, now: float, ttl: int) -> None:
    write_private(f"{config.state}/{SECRET_ID}", secret.encode())
    memory = {"version": 1, "minted": int(now), "ttl": ttl, "sha256": _digest(secret)}
    write_private(f"{config.state}/{SECRET_ID}.json", json.dumps(memory).encode())


def _memory(config: AgentConfig, secret: str) -> tuple[float, float] | None:
    """When the secret id was minted and for how many seconds; None for one that this node did not mint itself."""
    raw = read_private(f"{config.state}/{SECRET_ID}.json")
    try:
        value = json.loads(raw or b"{}")
        if value["sha256"] == _digest(secret):
            return float(value["minted"]), float(value["ttl"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _written(config: AgentConfig) -> float:
    """When the secret id was last written, as Unix time; 0.0 where there is none."""
    try:
        return os.stat(f"{config.state}/{SECRET_ID}").st_mtime
    except FileNotFoundError:
        return 0.0


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _read(config: AgentConfig, name: str) -> str | None:
    raw = read_private(f"{config.state}/{name}")
    return None if raw is None else raw.decode("ascii", "replace").strip()
