"""Give a node that joins the hooks that restart its static pods, from the table of what reads which CA at start."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from vaultpki.host.log import Event
from vaultpki.model import AgentConfig, Hook, NodeRole
from vaultpki.places import Layout
from vaultpki.readers import CA_OF_BUNDLE, KUBECONFIG_SERVERS, server_readers, start_only
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
from vaultpki.values.durations import format_duration

# kube-apiserver takes up to a minute to end and begin anew, and a member of etcd that is far behind some minutes.
HOOK_TIMEOUT: Final = 240


@dataclass(frozen=True, slots=True)
class Added:
    """What was added to agent.yaml, by the keys of hooks, and the keys whose hooks the node's owner had written before.

    `timeout` is `hook_timeout` in seconds as it is now.
    """

    hooks: Mapping[str, tuple[Hook, ...]]
    kept: tuple[str, ...]
    timeout: int


def static_pods(
    roles: Collection[NodeRole], layout: Layout, *, token_keys: bool = False
) -> dict[str, tuple[Hook, ...]]:
    """Return the hooks of a node of these roles whose components are static pods, by the keys of hooks.

    With `token_keys` the node has service-account keys of its own, which are read at the start too.
    """
    found = {}
    for key, ca in CA_OF_BUNDLE.items():
        components = dict.fromkeys(reader.component for reader in start_only(ca, roles, layout))
        if components:
            found[key] = tuple(Hook("static_pod", name=component) for component in components)
    # The kubelet runs static pods, and is none.
    if clients := server_readers({NodeRole.CONTROL_PLANE}.intersection(roles), layout):
        found[KUBECONFIG_SERVERS] = tuple(Hook("static_pod", name=each) for each in clients)
    if token_keys:
        # The controller manager signs the Secrets with tokens, and reads sa.key only when it starts too.
        signers = ("kube-apiserver", "kube-controller-manager")
        found[SERVICE_ACCOUNT_KEYS] = tuple(Hook("static_pod", name=each) for each in signers)
    return found


def add(
    config: AgentConfig,
    roles: Collection[NodeRole],
    *,
    token_keys: bool = False,
    runs: Callable[[str], bool] | None = None,
) -> tuple[AgentConfig, Added]:
    """Return the configuration with the hooks of `static_pods` for keys that have none, and what was added.

    `runs` tells whether a component is a static pod of this machine; None if all will be.
    """
    every = static_pods(roles, config.layout, token_keys=token_keys)
    there = {key: tuple(each for each in found if runs is None or runs(each.name)) for key, found in every.items()}
    wanted = {key: found for key, found in there.items() if found}
    hooks = {key: each for key, each in wanted.items() if not config.hooks.get(key)}
    kept = tuple(key for key in wanted if key not in hooks)
    timeout = max(config.hook_timeout, HOOK_TIMEOUT) if hooks else config.hook_timeout
    return replace(config, hooks={**config.hooks, **hooks}, hook_timeout=timeout), Added(hooks, kept, timeout)


def events(added: Added) -> Iterator[Event]:
    """Yield what was added, for people and programs."""
    timeout = format_duration(added.timeout)
    for key, hooks in added.hooks.items():
        pods = " and ".join(hook.name for hook in hooks)
        done = f"a hook restarts the static pod {pods} and waits up to {timeout} for it"
        if len(hooks) > 1:
            done = f"hooks restart the static pods {pods} and wait up to {timeout} for each"
        fields = {"hook": key, "static_pods": ",".join(hook.name for hook in hooks)}
        what = "the server in kubeconfigs" if key == KUBECONFIG_SERVERS else key
        yield Event("hook-added", f"when {what} changes, {done}", fields=fields)
    for key in added.kept:
        yield Event("hook-kept", f"agent.yaml has hooks of {key} already; they stay", fields={"hook": key})
    if not added.hooks and not added.kept:
        text = "this node gets no hooks: it has no static pod that reads a CA or a server only when it starts"
        yield Event("hook-none", text)
