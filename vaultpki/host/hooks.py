"""Decide which hooks are owed after a file has changed, and when they are tried again; pure.

Hooks belong to keys: the name of a certificate, or of a bundle such as `etcd-ca`. They are owed as long as the digest
of the file on disk differs from the one that they last ran for. So nothing is recorded before they run, no kill loses
them, and a hook that a kill interrupted runs again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from vaultpki.host.boot_time import Moment
from vaultpki.kubernetes_versions import PAIR_OF_KUBELET, oldest
from vaultpki.model import AgentConfig, Hook, NodeRole
from vaultpki.places import Layout
from vaultpki.readers import (
    CA_OF_BUNDLE,
    KUBECONFIG_SERVERS,
    once_start_only,
    readers_of,
    server_readers,
    start_only,
)
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS

_OLD_PAIR = (
    "kubelet changed: restart kubelet on this node before its former certificate expires, because {version} goes on "
    "presenting that to callers by address, such as kube-apiserver"
)
_KEYS_CHANGED = (
    f"{SERVICE_ACCOUNT_KEYS} changed: restart kube-apiserver on this node when `vaultpki ca status` says that it has "
    "the turn, because sa.key and sa.pub are read only at start"
)
_FIRST_RETRY, _LAST_RETRY = 5.0, 600.0

Hooks = Mapping[str, tuple[Hook, ...]]


@dataclass(frozen=True, slots=True)
class Owed:
    """Hooks of one key that have not run yet, or failed: since when, and when they are tried next (Unix seconds).

    `attempts` counts the runs that failed, and `error` is the sentence about the last one.
    """

    since: float
    attempts: int = 0
    not_before: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A run of the hooks of `key` for the change to `digest`, each for at most `timeout` seconds.

    `attempts` runs have failed before; `directory` is the one of agent.yaml, and `folders` are all with certificates.
    `installed` is a moment after the newest file of the key was installed, or None where that is not known.
    """

    key: str
    digest: str
    hooks: tuple[Hook, ...]
    attempts: int
    directory: str
    timeout: float
    folders: tuple[str, ...] = ()
    installed: Moment | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a job: `error` is a sentence that names the hook, or ""; `attempts` includes this run."""

    key: str
    digest: str
    ok: bool
    error: str
    attempts: int


def owed(live: Mapping[str, str], done: Mapping[str, str], hooks: Hooks) -> tuple[str, ...]:
    """Return the keys whose hooks must run, bundles first.

    `live` has the digest of each key's file on disk, `done` the digests that hooks have run for.
    """
    keys = [key for key in live if hooks.get(key) and done.get(key) != live[key]]
    return tuple(sorted(keys, key=rank))


def settled(live: Mapping[str, str], done: Mapping[str, str], hooks: Hooks) -> dict[str, str]:
    """Return `done` without the keys that are gone; a key without hooks counts as done.

    So a hook that is added to agent.yaml runs at the next change.
    """
    kept = {key: done.get(key) if hooks.get(key) else digest for key, digest in live.items()}
    return {key: digest for key, digest in kept.items() if digest is not None}


def pending(keys: Iterable[str], before: Mapping[str, Owed], now: float) -> dict[str, Owed]:
    """Return the state of the keys that are owed: new ones since `now`, the others as `before`."""
    return {key: before.get(key) or Owed(since=now) for key in keys}


def failed(before: Owed, error: str, now: float, jitter: float) -> Owed:
    """Return the state after one more run that failed; `jitter`, in [0, 1), spreads the retries of many nodes."""
    pause = min(_FIRST_RETRY * 2.0 ** min(before.attempts, 16), _LAST_RETRY)
    not_before = now + pause * (0.75 + jitter / 4)
    return replace(before, attempts=before.attempts + 1, not_before=not_before, error=error)


def ready(owing: Mapping[str, Owed], now: float) -> tuple[str, ...]:
    """Return the keys to try now. A time further off than any pause means that the clock was set back."""
    return tuple(key for key, each in owing.items() if not now < each.not_before <= now + _LAST_RETRY)


def jobs(
    config: AgentConfig,
    keys: Iterable[str],
    live: Mapping[str, str],
    owing: Mapping[str, Owed],
    installed: Mapping[str, Moment] = MappingProxyType({}),
) -> tuple[Job, ...]:
    """Return a job for each of the keys; `installed` says when the newest file of a key was installed."""
    failures = {key: each.attempts for key, each in owing.items()}
    return tuple(
        Job(
            key,
            live[key],
            config.hooks[key],
            failures.get(key, 0),
            config.directory,
            config.hook_timeout,
            tuple(config.paths.values()),
            installed.get(key),
        )
        for key in keys
    )


def unknown(config: AgentConfig, names: Collection[str]) -> tuple[str, ...]:
    """Return the keys of agent.yaml's hooks that are not a certificate or bundle of this node, which `names` lists."""
    return tuple(key for key in config.hooks if key not in names)


def advice(
    key: str,
    roles: Collection[NodeRole],
    layout: Layout = Layout.DOCUMENT,
    versions: Mapping[str, int] = MappingProxyType({}),
) -> str | None:
    """Return what a person must restart on a node of these roles after `key`, which has no hooks, changed; or None.

    `versions` are the minor versions of Kubernetes 1 that components of the node have, where they are known.
    """
    if key == SERVICE_ACCOUNT_KEYS:
        return _KEYS_CHANGED
    if key == KUBECONFIG_SERVERS:
        named = _listed([*server_readers(roles, layout)])
        return f"the server in kubeconfigs changed: restart {named} on this node, which read it only at start"
    ca = CA_OF_BUNDLE.get(key)
    if ca is None:
        keeps = key == "kubelet" and versions.get("kubelet", PAIR_OF_KUBELET) < PAIR_OF_KUBELET
        return _OLD_PAIR.format(version=oldest(["kubelet"], versions)) if keeps else None
    found = start_only(ca, roles, layout, versions)
    never = [each.component for each in found]
    version, once = once_start_only(readers_of(ca, roles, layout), versions)
    older = [component for component in once if component not in never]
    said = []
    if never:
        kinds = {NodeRole.CONTROL_PLANE: "control-plane node", NodeRole.ETCD: "etcd member"}
        one = next((kind for role, kind in kinds.items() if role in roles), "node")
        always = any(each.follows is None for each in found)
        why = "this file is read only at start" if always else f"{oldest(never, versions)} reads it only at start"
        said.append(f"restart {_listed(never)} on this node, one {one} at a time, because {why}")
    if older:
        said.append(f"on Kubernetes before 1.{version}, restart {_listed(older)}")
    return f"{key} changed: {'; '.join(said)}" if said else None


def _listed(words: list[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def rank(key: str) -> bool:
    """Return what puts bundles first: a component restarted for a new leaf must not still have the old CAs."""
    return key not in CA_OF_BUNDLE
