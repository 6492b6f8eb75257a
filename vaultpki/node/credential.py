"""How a node proves to Vault who it is: the login, and the rolling of its secret id long before it expires.

Every step leaves a secret id that Vault accepts: the new one is on disk, and safe from the server's tidying, before the
old one is destroyed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vaultpki.disk.files import (
    exists,
    probe_folder,
    read_private,
    read_swapped,
)
from vaultpki.errors import (
    BadAnswer,
    Denied,
    NeedsJoin,
    Refused,
    SigningPaused,
    SpecError,
    StoreError,
    Unavailable,
    VaultError,
)
from vaultpki.model import AgentConfig
from vaultpki.node import backoff
from vaultpki.node.secret_id import SECRET_ID, Asked, JoinStep, SecretIdFiles
from vaultpki.pki import renewal
from vaultpki.values import names, pem, yaml_tree
from vaultpki.vault import Request, Settings, Vault, from_environment

if TYPE_CHECKING:
    from vaultpki.records.join_file import Join

_PATIENCE = 15.0

_DAY = 86400
# For a secret id that somebody else put here; apply never grants less.
_UNKNOWN_TTL: Final = 7 * _DAY
_EARLIEST_ROLL: Final = 1 / 3
_LATEST_ROLL: Final = 5 / 12
# Once a minute both servers tidy secret ids, and may remove one that is minted in that moment: its accessor is listed,
# its own entry not yet (path_tidy_user_id.go). Only a refused login shows it.
_SETTLED: Final = 5 * 60
# RFC 7519 section 3: three parts in base64url. Nothing else in a file is ever sent.
_JWT = re.compile(r"[A-Za-z0-9_-]{1,16384}\.[A-Za-z0-9_-]{1,16384}\.[A-Za-z0-9_-]{0,16384}")


def mount(config: AgentConfig) -> str:
    """Return the AppRole mount of this node's kind, or of its signer's, as a path below `auth`."""
    return f"{config.prefix}/{'signer' if config.signer else 'pooled' if config.pool else 'listed'}"


def server(config: AgentConfig, *, allow_http: bool = False, patience: float = _PATIENCE) -> Vault:
    """Return Vault as agent.yaml names it, with no token yet. SpecError if its CA file cannot be used."""
    return Vault(server_settings(config, allow_http=allow_http), patience=patience)


def server_settings(config: AgentConfig, *, allow_http: bool = False) -> Settings:
    """Return how agent.yaml says to reach Vault. SpecError if its CA file cannot be used, NeedsJoin if it was lost."""
    if lost := lost_folder(config):
        raise NeedsJoin(lost)
    ca_pem = None
    if config.ca_file is not None:
        try:
            ca_pem = pem.pem_certificates(yaml_tree.read_text(Path(config.ca_file)))
        except SpecError as error:
            where = "" if error.problem.startswith("/") else f"{config.ca_file}: "
            raise SpecError(f"{where}{error.problem}", file=config.file, field="vault.ca_file") from None
    hint = f"this machine's CAs did not sign it: write the file of the one that did as vault.ca_file into {config.file}"
    if ca_pem:
        again = f", or join with a new join file ({enrolling(config)})" if config.auth.method == "approle" else ""
        hint = f"the CA in {config.ca_file} (vault.ca_file in {config.file}) did not sign it: compare the two{again}"
    settings = settings_of(config, ca_pem, allow_http=allow_http)
    return replace(settings, ca_hint=hint, namespace_hint=f"look at vault.namespace in {config.file}")


def settings_of(who: AgentConfig | Join, ca_pem: str | None, *, allow_http: bool) -> Settings:
    """Return how this node reaches Vault; from the environment only what agent.yaml or the join file lacks."""
    settings = from_environment(addresses=who.addresses, ca_pem=ca_pem, allow_http=allow_http, with_token=False)
    # VAULT_NAMESPACE has no say, set or not: a unit and a pod start with another environment than a shell.
    return replace(settings, namespace=who.namespace)


def enrolling(who: AgentConfig | Join, *, replace: bool = False) -> str:
    """Return the command that makes a new join file for a node; `replace` ends the credential that it has."""
    pool = f" --pool {who.pool}" if who.pool else ""
    pool = " --signer" if who.signer else pool
    return f"`vaultpki enroll {who.node}{pool}{' --replace' if replace else ''}`"


def joining(config: AgentConfig, *, lost: bool = False) -> str:
    """Return what repairs a node whose credential Vault rejects; or one that has `lost` it, while Vault accepts it."""
    enrolled, agent = enrolling(config, replace=lost), "" if config.signer else f" -c {config.file}"
    return f"join with a new join file ({enrolled}, then `vaultpki join{agent} join.json` here)"


def lost_folder(config: AgentConfig) -> str:
    """Return what to do about an agent's own folder that is gone with this node's credential; "" if nothing is wrong.

    A node that logs in by a token of an issuer keeps no credential there.
    """
    if config.auth.method != "approle" or exists(config.state):
        return ""
    return (
        f"the agent's own folder {config.state} is missing, and with it this node's credential. If it lies on a disk "
        f"of its own, mount that; else {joining(config, lost=True)}"
    )


def login(
    config: AgentConfig, *, allow_http: bool = False, kept: Vault | None = None, only_looks: bool = False
) -> Vault:
    """Log in as this node. NeedsJoin if its credential is missing or refused, SpecError for a missing token file.

    The connections of `kept` are used again if agent.yaml still says the same of the server, but not with a client
    certificate, whose file may have been renewed. With `only_looks` nothing is written on disk.
    """
    vault = server(config, allow_http=allow_http)
    same = kept is not None and replace(kept.settings, token=vault.settings.token) == vault.settings
    if kept is not None and same and vault.settings.client_certificate is None:
        vault = kept.as_token(vault.settings.token)
    if config.auth.method == "approle":
        return _login_by_approle(config, vault, only_looks=only_looks)
    path = config.auth.path or ""
    jwt = config.auth.method == "jwt"
    raw = read_swapped(path) if jwt else read_private(path)
    if raw is None:
        raise SpecError(f"{path} is missing, so this node cannot prove who it is", file=config.file, field="auth.path")
    text = raw.decode("ascii", "replace").strip()
    if not (_JWT.fullmatch(text) if jwt else names.fits(text, names.token)):
        raise SpecError(f"{path} holds no token; write one there, on one line", file=config.file, field="auth.path")
    return _login_by_jwt(config, vault, text) if jwt else vault.as_token(text)


def _login_by_jwt(config: AgentConfig, vault: Vault, jwt: str) -> Vault:
    try:
        login = vault.prepare.auth.jwt.jwt_login(config.pool, jwt, use_token=False, path=f"{config.prefix}/jwt")
        return vault.login(login, who=("role", str(config.pool)))
    except Refused as error:
        if error.status != 400:
            raise
        raise Denied(
            f"Vault rejects the token in {config.auth.path} ({'; '.join(error.reasons) or 'no reason given'}); "
            f"see what its issuer puts into it, and what pool {config.pool} takes by `jwt` in cluster.yaml"
        ) from None
    except Denied as error:
        _refuse_missing_mount(config, vault, f"{config.prefix}/jwt", error)
        # Both servers refuse the login of a disabled identity so.
        raise Denied(
            f"Vault knows the token in {config.auth.path} and refuses this node all the same ({error}). It may be "
            f"locked. To let it in again, run on an operator's machine: `vaultpki unlock {config.node}`"
        ) from None


def _login_by_approle(config: AgentConfig, vault: Vault, *, only_looks: bool) -> Vault:
    files = SecretIdFiles(config.credentials)
    secret = files.current()
    if secret is None:
        raise NeedsJoin(
            f"{config.credentials}/{SECRET_ID} is missing, so this node cannot prove who it is; "
            f"{joining(config, lost=True)}"
        )
    node = present(config, vault, secret)
    old = files.previous() if node is None else None
    if old is not None and old != secret:
        node = present(config, vault, old)
        if node is not None and not only_looks:
            # This very pass rolls it, and keeps it until the next one is settled. If it cannot be written, the next
            # pass comes here again.
            with contextlib.suppress(StoreError):
                files.restore(old, _UNKNOWN_TTL)
    if node is None:
        raise NeedsJoin(f"Vault rejects this node's credential; {joining(config)}")
    return node


def in_place(config: AgentConfig) -> bool:
    """Return whether the file is there by which this node proves who it is."""
    return exists(f"{config.credentials}/{SECRET_ID}" if config.auth.method == "approle" else config.auth.path or "")


def tighten(config: AgentConfig) -> bool:
    """Take this node's secret id from others who may read its file; return whether they could, so that it must go."""
    return config.auth.method == "approle" and SecretIdFiles(config.credentials).tighten(_UNKNOWN_TTL)


def present(config: AgentConfig, vault: Vault, secret: str) -> Vault | None:
    """Log in with this secret id, and change nothing on disk; None if Vault refuses it."""
    try:
        return vault.login(approle_login(config, vault, config.auth.role_id, secret), who=("role_name", config.node))
    except Refused as error:
        # Both servers answer 400 to an unknown role id or secret id.
        if error.status != 400:
            raise
        return None
    except Denied as error:
        _refuse_missing_mount(config, vault, mount(config), error)
        raise


def _refuse_missing_mount(config: AgentConfig, vault: Vault, path: str, error: Denied) -> None:
    """Raise Denied with what to do if the auth mount `auth/PATH` is gone, which looks like a refusal of this node.

    `error` is that refusal. A login with nothing in it is refused with 400 by a mount that is there, by both kinds.
    """
    if config.auth.method == "jwt":
        empty = vault.prepare.auth.jwt.jwt_login("-", "-", use_token=False, path=path)
    else:
        empty = approle_login(config, vault, "-", "-")
    try:
        vault.call(empty)
    except Denied:
        raise Denied(
            f"Vault has no auth mount auth/{path}, so no node can log in there ({error}). Where the cluster is "
            "applied, look at what is missing (`vaultpki plan`). Then make it: "
            "`vaultpki apply`"
        ) from None
    except VaultError:
        return


def approle_login(config: AgentConfig, vault: Vault, role_id: str | None, secret: str) -> Request:
    approle = vault.prepare.auth.approle
    request: Request = approle.login(role_id, secret, use_token=False, mount_point=mount(config))
    return request


def own_record(config: AgentConfig) -> str:
    """Return the record of the config store that says what this node holds, or its signer knows: a path in `data`."""
    if config.signer:
        # As `records.signer.SIGNER_RECORD`, which an agent does not load.
        return "signer"
    return f"pools/{config.pool}" if config.pool else f"nodes/{config.node}"


def _share(node: str, minted: float) -> float:
    # Nodes that joined together must not ask together.
    return _EARLIEST_ROLL + (_LATEST_ROLL - _EARLIEST_ROLL) * renewal.jitter(node, SECRET_ID, int(minted))


def roll(config: AgentConfig, vault: Vault, now: float, *, force: bool = False) -> bool:
    """Replace the secret id after 33 to 42 % of its life, and the one of a join file at once; return if it did.

    A later call destroys the previous one, some minutes on; that of a join file is destroyed as soon as Vault accepts
    the new one. `vault` is logged in as the node; `now` is Unix time in seconds. After an answer that was lost the next
    try waits, unless `force`: each may leave a secret id that lives for weeks. SigningPaused says so once half of the
    life is over.
    """
    files = SecretIdFiles(config.credentials)
    current = files.current() if config.auth.method == "approle" else None
    if current is None:
        return False
    joined = files.join_step()
    if joined is not None and joined.secret == current:
        files.write_join_step(JoinStep(joined.token, "done"))
    note = files.minted(current)
    if note is None or not 0 <= now - note[0] < _SETTLED:
        _destroy_previous(config, vault, files, current)
    # Whoever carried the join file may have seen what was in it; or others could read the secret id's own file.
    seen = (note is None and joined is not None) or files.exposed(current)
    minted, ttl = note or (files.written(), _UNKNOWN_TTL)
    if not seen and 0 <= now - minted < ttl * _share(config.node, minted):
        return False
    # One that cannot be kept would be minted again by the next pass, and live for days beside the others.
    probe_folder(config.credentials)
    asked = files.asked()
    left = max(minted + ttl - now, 0.0)
    at = backoff.next_mint(asked.pending, now, left)
    if at > now and not force:
        if left < ttl / 2:
            raise SigningPaused("the answers to requests for a new secret id of this node were lost", at)
        return False
    # Noted before it is sent, and on disk: a crash in between must not allow one more.
    files.write_asked(replace(asked, pending=(*(min(each, now) for each in asked.pending), now)))
    mint = vault.prepare.auth.approle.generate_secret_id(config.node, mount_point=mount(config))
    # Its policy lets a node mint wrapped only, for a minute at most: what somebody else wrapped with its token is soon
    # worth nothing, and no lasting join file can be made of it.
    try:
        data = vault.unwrapped(replace(mint, once=True)).data
    except Denied:
        # Nothing was minted, or this token may not even unwrap it.
        files.write_asked(asked)
        raise
    except Unavailable as error:
        if not error.sent:
            files.write_asked(asked)
        raise
    new, lives = data.get("secret_id"), data.get("secret_id_ttl")
    if not names.fits(new, names.token) or not isinstance(lives, int) or isinstance(lives, bool):
        raise BadAnswer(f"{mint.path} brought no secret id; check the address and any proxy in between")
    files.replace(new)
    accessor = data.get("secret_id_accessor")
    known = accessor if names.fits(accessor, names.uuid) else None
    files.note_minted(new, now, lives or _UNKNOWN_TTL, accessor=known)
    if asked.pending:
        asked = Asked((), (*asked.lost, *asked.pending))
    files.write_asked(asked)
    # The server may just have lost it, and nothing else lets the node in; then the next pass takes up the old one.
    if seen and present(config, vault, new) is not None:
        _destroy_previous(config, vault, files, new)
    return True


def leave(config: AgentConfig, vault: Vault, secrets: Iterable[str]) -> bool:
    """End the secret ids of a node that has left for another root; return whether the server did.

    `vault` is the server that it leaves, logged in as the node.
    """
    try:
        for secret in secrets:
            with contextlib.suppress(Refused):
                vault.api.auth.approle.destroy_secret_id(config.node, secret, mount_point=mount(config))
    except VaultError:
        return False
    return True


def _destroy_previous(config: AgentConfig, vault: Vault, files: SecretIdFiles, current: str) -> None:
    old = files.previous()
    if old is None:
        return
    if old != current:
        # Refused if Vault does not know it any more, which is what was wanted.
        with contextlib.suppress(Refused):
            vault.api.auth.approle.destroy_secret_id(config.node, old, mount_point=mount(config))
    files.drop_previous()
