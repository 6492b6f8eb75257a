"""Writes the text of a new cluster.yaml: the commented example with the values of one cluster; pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from vaultpki import assets
from vaultpki.errors import SpecError
from vaultpki.model import NodeRole
from vaultpki.places import Layout
from vaultpki.values import hosts, names
from vaultpki.values.yaml_edit import written

SYNTAX: Final = "NAME=ADDRESS[:ROLES]"
"""How a node is written in one word."""

_NODES: Final = (
    "  - {name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}\n"
    "  - {name: worker-1, roles: [worker], addresses: [10.0.0.21]}\n"
)
_ENDPOINT: Final = "https://api.example.com:6443"
_EXTERNAL: Final = (
    "  root: external                  # your own root signs, offline or elsewhere: `ca csr`, `ca import`\n"
    "  {:31} # the certificate of that root and all CAs between, beside this file\n"
)


@dataclass(frozen=True, slots=True)
class NewNode:
    """A node of the new cluster. No roles: those that its place in the list gives it."""

    name: str
    address: str
    roles: frozenset[NodeRole] = frozenset()


@dataclass(frozen=True, slots=True)
class StarterAnswers:
    """What is known of the new cluster; None, or no node: the example's value.

    `api` is `https://HOST:PORT`. `root_file` is the file of a root from outside.
    """

    cluster: str | None = None
    layout: Layout | None = None
    nodes: tuple[NewNode, ...] = ()
    api: str | None = None
    root: Literal["vault", "external"] = "vault"
    root_file: str = "corp-root.pem"


def node(text: str) -> NewNode:
    """Return the node that `NAME=ADDRESS[:ROLES]` describes; raise SpecError."""
    name, equals, rest = text.partition("=")
    # An IPv6 address has colons too, and no group of it has a letter beyond f, as every role has.
    address, colon, roles = rest.rpartition(":")
    if not colon or not set(roles.lower()) - set("0123456789abcdef."):
        address, roles = rest, ""
    if not equals or not address:
        raise SpecError(f"{names.quoted(text)} is not {SYNTAX}: write cp-1=10.0.0.11:control-plane,etcd")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    return NewNode(
        hosts.node_name(name),
        hosts.node_address(address),
        frozenset(_role(each.strip()) for each in roles.split(",")) if roles else frozenset(),
    )


def api(text: str) -> str:
    """Return `https://HOST:PORT` of an API server that is named by its host, with or without port; raise SpecError."""
    host = text.removeprefix("https://").removesuffix("/")
    url = hosts.endpoint(f"https://{hosts.in_url(host) if hosts.is_address(host) else host}")
    return url if re.search(r":\d+$", url) else f"{url}:6443"


def filled(answers: StarterAnswers) -> str:
    """Return a cluster.yaml with these values, and the example's where there are none."""
    text = assets.starter()
    if answers.cluster is not None:
        text = _put(text, "cluster: prod       ", f"cluster: {written(answers.cluster)}       ")
        text = _put(text, "#:prefix: vaultpki/prod ", f"#:prefix: vaultpki/{answers.cluster} ")
    if answers.layout is not None:
        text = _put(text, "#:layout: document", f"layout: {answers.layout.value}")
    if answers.layout is Layout.KUBEADM:
        # kubeadm fixes the names of these files.
        text = _put(text, "#:    file: kube-apiserver          # without extension\n", "")
    nodes = _with_roles(answers.nodes)
    if nodes:
        text = _put(text, _NODES, "".join(map(_line, nodes)))
    endpoint = filled_endpoint(answers)
    if endpoint != _ENDPOINT:
        host = hosts.url_host(endpoint)
        named, addressed = ([], [host]) if hosts.is_address(host) else ([host], [])
        text = _put(text, f"{_ENDPOINT} ", f"{endpoint} ")
        text = _put(text, f"{'names: [api.example.com]':34}", f"{_list('names', named):33} ")
        text = _put(text, f"{'addresses: [10.0.0.10]':34}", f"{_list('addresses', addressed):33} ")
    if answers.root == "external":
        start, end = text.index("  root_ttl: 10y"), text.index("  issuing_ttl:")
        text = f"{text[:start]}{_EXTERNAL.format(f'root_file: {written(answers.root_file)}')}{text[end:]}"
        start, end = text.index("  # root: external"), text.index("  # subject: ")
        text = text[:start] + text[end:]
    return text


def filled_endpoint(answers: StarterAnswers) -> str:
    """Return the URL of the API server: as it was answered, else at the first control plane, else the example's."""
    if answers.api is not None:
        return answers.api
    nodes = _with_roles(answers.nodes)
    found = next((each.address for each in nodes if NodeRole.CONTROL_PLANE in each.roles), None)
    return _ENDPOINT if found is None else f"https://{hosts.in_url(found)}:6443"


def _with_roles(nodes: tuple[NewNode, ...]) -> tuple[NewNode, ...]:
    """Return the nodes with all of their roles: a control plane runs pods too, and somebody runs etcd.

    Without any role given the first node is the control plane, and the others are workers.
    """
    if nodes and not any(each.roles for each in nodes):
        nodes = (replace(nodes[0], roles=frozenset({NodeRole.CONTROL_PLANE})), *nodes[1:])
    no_etcd = not any(NodeRole.ETCD in each.roles for each in nodes)
    made = []
    for each in nodes:
        roles = set(each.roles) or {NodeRole.WORKER}
        if NodeRole.CONTROL_PLANE in roles:
            roles |= {NodeRole.WORKER, NodeRole.ETCD} if no_etcd else {NodeRole.WORKER}
        made.append(replace(each, roles=frozenset(roles)))
    return tuple(made)


def _line(node: NewNode) -> str:
    roles = ", ".join(role.value for role in NodeRole if role in node.roles)
    return f"  - {{name: {written(node.name)}, roles: [{roles}], {_list('addresses', [node.address])}}}\n"


def _list(key: str, values: list[str]) -> str:
    """Return a list of names and addresses; an IPv6 address in quotes, since it has colons."""
    return f"{key}: [{', '.join(json.dumps(each) if ':' in each else each for each in values)}]"


def _role(text: str) -> NodeRole:
    if text not in [role.value for role in NodeRole]:
        known = ", ".join(role.value for role in NodeRole)
        raise SpecError(f"{names.quoted(text)} is no role: the roles are {known}")
    return NodeRole(text)


def _put(text: str, old: str, new: str) -> str:
    """Return the text with `new` in the one place of `old`."""
    before, found, after = text.partition(old)
    if not found or old in after:
        raise AssertionError(f"{old!r} is not once in the example")
    return f"{before}{new}{after}"
