"""Control planes that join, are killed, leave, and are switched off in the soak of service-account keys."""

from __future__ import annotations

import json
import time
from typing import Final

from helpers.kube import components, own_keys
from helpers.kube.components import API_PORT
from helpers.kube.key_operator import Task
from helpers.kube.kube_cluster import KubeNode
from helpers.kube.restarts import API_SERVER
from helpers.node import enrolled_nodes
from helpers.vault import applied_cluster
from helpers.vault.applied_cluster import NodeFolder
from soak.keys.cluster import SoakedKeys
from soak.keys.shape import LATER
from soak.printed import say
from vaultpki.model import NodeRole
from vaultpki.records.service_account import KeyRecord

_KILLED_SECONDS: Final = 25.0


def joins(run: SoakedKeys, name: str) -> Task:
    """A control plane joins: its agent makes its key, and its API server starts once the record lets it."""
    kubernetes, restarts = run.kubernetes, run.operator.restarts
    run.planes[name] = LATER[name]
    run.apply()
    folder = NodeFolder(name, kubernetes.folder / "agents" / name)
    folder.folder.mkdir(parents=True)
    node = KubeNode(name, frozenset({NodeRole.CONTROL_PLANE}), folder, kubernetes.lan.machines[name])
    enroller = enrolled_nodes.Enroller(kubernetes.cluster, kubernetes.cluster.token())
    file = enroller.join_file(name, folder.folder / "join.json")
    applied_cluster.vaultpki(*enrolled_nodes.joining(folder, file), behind=node.machine.behind)
    folder.configure("poll: 5m\n", "poll: 10s\n")
    restarts.configure(node)
    restarts.serve(node)
    # Known from now on; nobody is sent there before it is ready.
    restarts.away.add((node.address, API_PORT))
    kubernetes.nodes = {**kubernetes.nodes, name: node}
    kubernetes.name_api_server(kubernetes.control_plane)
    kubernetes.resident(name)
    say(f"{name} has joined, and waits")
    while name not in own_keys.admitted(kubernetes) or _waits(node):
        yield
    _start(run, node)
    say(f"the API server of {name} has started")


def killed(run: SoakedKeys, name: str) -> Task:
    """A node's API server and agent are killed while another node has the turn; nothing goes on without it."""
    while (record := run.record) is None or record.turn in ("", name):
        yield
    node, agent = run.kubernetes.nodes[name], run.kubernetes.agents[name]
    run.operator.restarts.away.add((node.address, API_PORT))
    agent.kill()
    node.machine.processes[API_SERVER].kill()
    say(f"{name} was killed while {record.turn} has the turn")
    until = time.monotonic() + _KILLED_SECONDS
    while time.monotonic() < until:
        assert run.state is record.state, f"{run.state} without {name}"
        yield
    node.machine.processes[API_SERVER].start()
    run.await_ready(node)
    agent.start()
    say(f"{name} is back")


def remove(run: SoakedKeys, *names: str) -> None:
    """Control planes leave: their machines are switched off, and cluster.yaml has them no more."""
    for name in names:
        switch_off(run, name)
        del run.planes[name]
    run.apply()

    def noted(record: KeyRecord) -> bool:
        return set(names) <= {each.node for each in record.departed} and not set(names) & set(record.nodes)

    run.lead(noted)


def switch_off(run: SoakedKeys, name: str) -> None:
    """Nobody is sent to a machine any more, and nothing runs there."""
    node = run.kubernetes.nodes[name]
    run.operator.restarts.away.add((node.address, API_PORT))
    run.kubernetes.nodes = {each: one for each, one in run.kubernetes.nodes.items() if each != name}
    run.kubernetes.agents.pop(name).kill()
    for process in node.machine.processes.values():
        process.kill()


def _start(run: SoakedKeys, node: KubeNode) -> None:
    kubernetes, keys = run.kubernetes, own_keys.of(node)
    programs, machine, pki = kubernetes.programs, node.machine, node.pki
    members = [each.address for each in kubernetes.members]
    machine.start(API_SERVER, *components.kube_apiserver(programs, machine, pki, members, keys, by_name=True))
    run.await_ready(node)
    manager = "kube-controller-manager"
    machine.start(manager, *components.kube_controller_manager(programs, machine, pki, keys))
    machine.start("kube-scheduler", *components.kube_scheduler(programs, pki))


def _waits(node: KubeNode) -> bool:
    """Whether a node's agent has not read yet that its API server may start."""
    state = json.loads((node.node.state / "agent.json").read_text())
    return bool(state.get("not_admitted"))
