"""Joining a cluster: a join file becomes agent.yaml and the node's own credential.

Everything that can be checked is checked before the wrapping token is used, since it works only once. A join that was
interrupted afterwards goes on if it is repeated; only an interruption of the unwrapping itself needs a new join file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from vaultpki.certificates import ISSUING_CAS, ROOT, ca_subject
from vaultpki.config.agent import dump_agent
from vaultpki.disk.files import open_folder, private_folder, write_private
from vaultpki.disk.undo import Undo
from vaultpki.errors import ArgumentError, BadAnswer, Denied, JoinRefused, Refused, VaultpkiError
from vaultpki.host.static_pod import MANIFEST_FOLDER
from vaultpki.issue.issuers import Issuers, fetch_issuers, roots_below, trusts
from vaultpki.join import hooks
from vaultpki.join.checks import JoinPlan
from vaultpki.join.hooks import Added
from vaultpki.model import AgentConfig, Auth, TakenOver
from vaultpki.node import assignment, foreign_kubeadm_files, pins, servers, state
from vaultpki.node.credential import approle_login, enrolling, leave, login, own_record, roll, settings_of
from vaultpki.node.secret_id import Asked, JoinStep, SecretIdFiles, digest
from vaultpki.pki.facts import Trust
from vaultpki.pki.roots import Roots
from vaultpki.pki.trust import named
from vaultpki.places import SIGNER_FILE
from vaultpki.records.foreign_cas import MOST_PINS
from vaultpki.records.join_file import Join
from vaultpki.values import names
from vaultpki.vault import Settings, Vault

CA_FILE: Final = "vault-ca.pem"


@dataclass(frozen=True, slots=True)
class Joined:
    """The configuration after a join, and the hooks that it added; None if the plan asked for none.

    `note` is a sentence about the server that the node has left; "" if there is none, or all is well.
    """

    config: AgentConfig
    hooks: Added | None
    note: str = ""


def join(plan: JoinPlan, now: datetime, *, allow_http: bool) -> Joined:
    """Join as planned: write agent.yaml and the node's secret id, and return the configuration.

    What a person changed in an earlier agent.yaml stays. The root CA that Vault shows is compared with the join file's
    pin before the wrapping token is used, so a join file for another cluster is not spent. Raises JoinRefused with what
    to do if the file is spent, expired or not what Vault wrapped. A join that is refused leaves nothing behind.
    """
    join = plan.join
    config = _configuration(plan)
    settings = join_settings(join, allow_http=allow_http)
    _, below = cluster_shown(join, settings, now)
    if plan.old is None and config.taken_over is not None:
        foreign_kubeadm_files.refuse_other_cas(join, plan.paths, below)
    secret, node = open_credential(config, join, settings, now)
    # As long as the files are there by which that server is reached.
    before = _before(plan, allow_http=allow_http) if secret is not None else None
    added = None
    if plan.static_pods:
        roles, keys = assignment.own_roles(config, node or login(config, allow_http=allow_http))
        runs = _runs_here(config) if plan.adopt else None
        config, added = hooks.add(config, roles, token_keys=keys, runs=runs)
    if join.ca_pem:
        write_private(f"{plan.state}/{CA_FILE}", join.ca_pem.encode(), 0o644)
    os.close(open_folder(os.path.dirname(plan.file), create=True))
    if secret is not None:
        _forget(plan.state, join)
    _keep(config, join, secret, node, now)
    return Joined(config, added, before.end() if before is not None else "")


def enter_signer(agent: AgentConfig, join: Join, state: str, now: datetime, *, allow_http: bool) -> AgentConfig:
    """Join as the signer on the node of agent.yaml, and return the configuration, which is written to `state`.

    It runs as the user to whom these files shall belong, and the folder must exist. Raises as `join`, and ArgumentError
    for a join file of another node.
    """
    if (agent.cluster, agent.prefix, agent.node) != (join.cluster, join.prefix, join.node):
        raise ArgumentError(
            f"the join file is for the signer on {join.node} of {join.cluster}, and {agent.file} is of {agent.node} of "
            f"{agent.cluster}; name that node's agent.yaml with -c"
        )
    config = AgentConfig(
        cluster=join.cluster,
        prefix=join.prefix,
        node=join.node,
        pool=None,
        addresses=join.addresses,
        ca_file=f"{state}/{CA_FILE}" if join.ca_pem else None,
        root_sha256=join.root_sha256,
        auth=Auth("approle", role_id=join.role_id),
        directory=agent.directory,
        state=state,
        namespace=join.namespace,
        layout=agent.layout,
        folders=agent.folders,
        signer=True,
        file=f"{state}/{SIGNER_FILE}",
    )
    settings = join_settings(join, allow_http=allow_http)
    cluster_shown(join, settings, now)
    secret, node = open_credential(config, join, settings, now)
    if join.ca_pem:
        write_private(f"{state}/{CA_FILE}", join.ca_pem.encode(), 0o644)
    _keep(config, join, secret, node, now)
    return config


def cluster_shown(join: Join, settings: Settings, now: datetime) -> tuple[Issuers, dict[str, Trust]]:
    """Return what the CA mounts show, and the trust in each CA; JoinRefused for another cluster than the join file's.

    Raises CertificateRefused if they show no root that the join file names.
    """
    issuers = fetch_issuers(Vault(settings), join.prefix)
    # Of the root's rotation a node learns from its record, which it may read once it has joined.
    above = roots_below(issuers, join.root_sha256, None, now, cluster=join.cluster)
    below = trusts(issuers, above, now, cluster=join.cluster)
    _refuse_other_cluster(join, above, below)
    return issuers, below


def _keep(config: AgentConfig, join: Join, secret: str | None, node: Vault | None, now: datetime) -> None:
    """Write the configuration and, if the join file was just opened, its secret id, by which `node` is logged in."""
    write_private(config.file, dump_agent(config).encode(), 0o644)
    if secret is not None:
        keep_secret(config, join, secret)
    if node is not None:
        roll(config, node, now.timestamp())


def keep_secret(config: AgentConfig, join: Join, secret: str) -> None:
    """Write the secret id that was in the join file. Raises StoreError."""
    files = SecretIdFiles(config.credentials)
    files.replace(secret)
    # Nobody is enrolled beside live credentials, so what was lost before has ended.
    files.write_asked(Asked())
    files.write_join_step(JoinStep(digest(join.wrap_token), "done"))


def _forget(folder: str, join: Join) -> None:
    """Forget which records and roots the node has seen: it begins with what the join file says.

    The files stay as they are, and what is in the bundles counts as held. Raises StoreError.
    """
    former = join.former_root_sha256
    assignment.remove_copy(folder)
    servers.forget(folder)
    pins.forget(folder, (join.root_sha256, former) if former else ())
    state.forget_records(folder, keys=former is not None)


@dataclass(frozen=True, slots=True)
class _Before:
    """The server that a node leaves, as it is still logged in there; None if it did not let it in."""

    config: AgentConfig
    vault: Vault | None
    secrets: tuple[str, ...] = field(repr=False)

    def end(self) -> str:
        """End the node's credential there, so that nobody takes it for one of that cluster; else say who can."""
        if self.vault is not None and leave(self.config, self.vault, self.secrets):
            return ""
        return (
            f"its credential at {self.config.addresses[0]}, which it has left, could not be ended: run "
            f"{_locking(self.config)} there if that server still runs"
        )


def _before(plan: JoinPlan, *, allow_http: bool) -> _Before | None:
    """Return the server that this join leaves: that of an earlier one below another root; None if there is none."""
    old = plan.old
    if old is None or old.auth.method != "approle":
        return None
    learnt = pins.load(plan.state)
    held = [facts.fingerprint for facts in (*learnt.trusted, *learnt.parked)] if learnt is not None else []
    if plan.join.root_sha256 in (*pins.every_pin(old), *held):
        return None
    files = SecretIdFiles(plan.state)
    secrets = tuple(each for each in (files.current(), files.previous()) if each is not None)
    if not secrets:
        return None
    try:
        return _Before(old, login(old, allow_http=allow_http, only_looks=True), secrets)
    except VaultpkiError:
        return _Before(old, None, secrets)


def _configuration(plan: JoinPlan) -> AgentConfig:
    join, old = plan.join, plan.old
    config = AgentConfig(
        cluster=join.cluster,
        prefix=join.prefix,
        node=join.node,
        pool=join.pool,
        addresses=join.addresses,
        ca_file=f"{plan.state}/{CA_FILE}" if join.ca_pem else None,
        root_sha256=join.root_sha256,
        auth=Auth("approle", role_id=join.role_id),
        directory=plan.directory,
        state=plan.state,
        namespace=join.namespace,
        layout=join.layout,
        folders=plan.folders,
        also_trust=join.also_trust,
        taken_over=_taken_over(plan),
        file=plan.file,
    )
    if old is None:
        return config
    return replace(
        config,
        owner=old.owner,
        certificates=old.certificates,
        hooks=old.hooks,
        hook_timeout=old.hook_timeout,
        poll=old.poll,
        windows=old.windows,
        metrics=old.metrics,
        metrics_hosts=old.metrics_hosts,
        also_trust=_pins(join, old),
        # What the owner wrote of a root to come.
        further_roots=tuple(pin for pin in old.further_roots if pin != join.root_sha256),
    )


def _taken_over(plan: JoinPlan) -> TakenOver | None:
    """Return the machine, if it is one of kubeadm's whose CAs the join file knows; what was decided before stays."""
    if plan.old is not None and plan.old.taken_over is not None:
        return replace(plan.old.taken_over, by_agent=plan.adopt or plan.old.taken_over.by_agent)
    return plan.machine if foreign_kubeadm_files.to_take_over(plan.join, plan.paths) else None


def _runs_here(config: AgentConfig) -> Callable[[str], bool]:
    """Return what tells whether a component is a static pod of a machine: kubeadm does not run every etcd."""
    folder = f"{config.taken_over.kubeconfigs}/manifests" if config.taken_over is not None else MANIFEST_FOLDER
    return lambda component: os.path.isfile(f"{folder}/{component}.yaml")


def _pins(join: Join, old: AgentConfig) -> dict[str, tuple[str, ...]]:
    """Return the SHA-256 of foreign CAs that the join file brings, and those that the owner of the node wrote."""
    both = ((ca, (*join.also_trust.get(ca, ()), *old.also_trust.get(ca, ()))) for ca in ISSUING_CAS)
    return {ca: tuple(dict.fromkeys(pins))[:MOST_PINS] for ca, pins in both if pins}


def join_settings(join: Join, *, allow_http: bool) -> Settings:
    """Return how a join file says to reach Vault; if that fails, only a new one helps."""
    ca = "the CA in the join file" if join.ca_pem else "the join file names no CA, and this machine's"
    new = f"and make a new join file ({enrolling(join)})"
    return replace(
        settings_of(join, join.ca_pem, allow_http=allow_http),
        ca_hint=f"{ca} did not sign it: whoever enrolled {join.node} must look at vault.ca_file in cluster.yaml, {new}",
        namespace_hint=f"whoever enrolled {join.node} must look at vault.namespace in cluster.yaml, {new}",
    )


def _locking(who: AgentConfig | Join) -> str:
    """Return the command that ends every credential of a node, listed or of a pool."""
    return f"`vaultpki lock {who.node}`"


def open_credential(
    config: AgentConfig, join: Join, settings: Settings, now: datetime
) -> tuple[str | None, Vault | None]:
    """Return the secret id of the join file and Vault logged in with it; None for both if that was done before.

    Raises JoinRefused if it is spent, expired, or of another node.
    """
    files, token = SecretIdFiles(config.credentials), digest(join.wrap_token)
    undo = Undo(config.credentials, [os.path.dirname(config.file)], files.join_note)
    joined = files.join_step()
    if joined is None or joined.token != token:
        joined = JoinStep(token, "new")
    secret, used = joined.secret, joined.stage != "new"
    try:
        if joined.stage in ("new", "opening"):
            vault = Vault(replace(settings, token=join.wrap_token))
            refuse_other_token(join, joined, vault, now)
            private_folder(config.credentials)
            files.write_join_step(JoinStep(token, "opening"))
            used = True
            secret = _unwrap(join, vault)
            files.write_join_step(JoinStep(token, "opened", secret))
        return secret, None if secret is None else _prove(config, join, Vault(settings), secret)
    except BaseException as error:
        # Once the token is used, its content is kept for another try, unless only another join file helps.
        if not used or isinstance(error, JoinRefused):
            undo()
        raise


def _refuse_other_cluster(join: Join, above: Roots, below: Mapping[str, Trust]) -> None:
    root = above.trusted[0]
    name = root.subject.common_name
    # A root from outside has a name of its owner's, and the CAs below it have the cluster's.
    if not named(root, ca_subject(join.cluster, ROOT)) and not any(trust.issuing for trust in below.values()):
        raise JoinRefused(
            f"the join file is for cluster {join.cluster}, and what Vault has at {join.prefix} is {name!r}. The file "
            f"was changed or mixed up. Tell whoever enrolled {join.node}, and ask for a new one"
        )


def refuse_other_token(join: Join, joined: JoinStep, vault: Vault, now: datetime) -> None:
    """Raise JoinRefused if the wrapping token is spent, late, or wraps something else; the token stays usable.

    `vault` has the wrapping token as its own; `joined` says how far an earlier join with it came.
    """
    new = f"ask for a new one ({enrolling(join)})"
    try:
        # The wrapping token alone, as the client's own: no other token is in the request. hvac has no lookup of one.
        origin = vault.write("sys/wrapping/lookup", {"token": join.wrap_token}).get("data") or {}
    except (Refused, Denied):
        if joined.stage == "opening":
            raise JoinRefused(
                "a join on this node was interrupted while it took its credential out of the join file. "
                "What was in it is lost (or somebody else was faster: then run "
                f"{_locking(join)}); {new}"
            ) from None
        if now >= join.expires:
            raise JoinRefused(f"the join file ended at {join.expires:%Y-%m-%dT%H:%M:%SZ}; {new}") from None
        raise JoinRefused(
            "the join file has been used already, and not by this node: somebody may have intercepted it. Run "
            f"{_locking(join)}, find out who had the file, and {new}"
        ) from None
    kind = "signer" if join.signer else "pooled" if join.pool else "listed"
    expected = f"auth/{join.prefix}/{kind}/role/{join.node}/secret-id"
    if origin.get("creation_path") != expected:
        raise JoinRefused(
            "the join file's token was not made for this node's secret id: the file was tampered with or mixed up. "
            f"Tell whoever enrolled the node, and {new}"
        )


def _unwrap(join: Join, vault: Vault) -> str:
    """Return the secret id that the wrapping token wraps, and use the token up."""
    new = f"ask for a new one ({enrolling(join)})"
    try:
        data = vault.sending(once=True).api.sys.unwrap().data
    except (Refused, Denied):
        raise JoinRefused(
            "the join file was used by somebody else at this moment: it may be intercepted; run "
            f"{_locking(join)}, and {new}"
        ) from None
    secret = data.get("secret_id")
    if not names.fits(secret, names.token):
        raise BadAnswer(f"the join file held no secret id; {new}")
    return secret


def _prove(config: AgentConfig, join: Join, vault: Vault, secret: str) -> Vault:
    """Return Vault logged in as the node of the join file, before anything of an earlier join is replaced."""
    try:
        node = vault.login(approle_login(config, vault, join.role_id, secret), who=("role_name", join.node))
        node.stored(f"{config.prefix}/config", own_record(config))
        return node
    except (Refused, Denied):
        raise JoinRefused(
            f"Vault rejects the credential in the join file for {join.node}. The node was unenrolled since, the file's "
            "role_id or pool was changed on its way, or, seldom, Vault lost the credential as it made it. Tell whoever "
            f"enrolled it, and ask for a new one ({enrolling(join)})"
        ) from None
