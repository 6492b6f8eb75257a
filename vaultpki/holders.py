"""Whose files lie in a folder: a node's, an operator's, or those of many nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from vaultpki import certificates
from vaultpki.checks import Holder
from vaultpki.errors import CertificateUnreadable, SpecError
from vaultpki.model import NODE, Certificate, Cluster, Node, Pool

OPERATOR: Final = "operator"

_NODE_USER: Final = "system:node:"


def find(cluster: Cluster, directory: Path) -> tuple[Holder, ...]:
    """The holders whose files lie in `directory`.

    It may be one node's or operator's folder of files, a folder of nodes (`NODE/pki` or `NODE`), or what `demo` leaves
    (`nodes/` and `operator/`). SpecError where nothing of this cluster lies there, or a folder is no node of it.
    """
    try:
        found = tuple(_find(cluster, directory))
    except OSError as error:
        raise SpecError(f"{directory} cannot be read ({error.strerror}): name another --dir") from None
    if not found:
        raise SpecError(
            f"{directory} holds no certificate files of {cluster.name}: name a node's or an operator's folder"
        )
    return found


def for_node(certificate: Certificate, node: str) -> Certificate:
    """A pool's certificate with the node's own name in the places left open for it."""
    subject = certificate.subject
    return replace(
        certificate,
        subject=replace(
            subject,
            common_name=subject.common_name.replace(NODE, node),
            dns=tuple(name.replace(NODE, node) for name in subject.dns),
        ),
    )


def _find(cluster: Cluster, directory: Path) -> Iterator[Holder]:
    if _held(cluster, directory):
        yield _one(cluster, directory)
        return
    if (directory / "nodes").is_dir():
        yield from _nodes(cluster, directory / "nodes")
        if _held(cluster, directory / OPERATOR):
            yield _one(cluster, directory / OPERATOR)
        return
    yield from _nodes(cluster, directory)


def _nodes(cluster: Cluster, directory: Path) -> Iterator[Holder]:
    for folder in sorted(directory.iterdir()):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        files = folder / "pki" if (folder / "pki").is_dir() else folder
        holder = _node(cluster, folder.name, files)
        if holder is not None:
            yield holder
        elif _held(cluster, files):
            yield _one(cluster, files)


def _held(cluster: Cluster, folder: Path) -> tuple[str, ...]:
    """The names of the rows of which any file lies in the folder."""
    return tuple(
        row.name
        for row in certificates.rows(cluster)
        if any((folder / name).exists() for name in certificates.pair_files(row.stem))
    )


def _one(cluster: Cluster, folder: Path) -> Holder:
    held = _held(cluster, folder)
    operators = tuple(row for row in certificates.rows(cluster) if row.operator and row.name in held)
    if len(operators) == len(held):
        wants = tuple(certificates.resolve(row, cluster, None) for row in operators)
        return Holder(OPERATOR, folder, wants, cluster.name)
    absolute = folder.absolute()
    for name in (absolute.parent.name if absolute.name == "pki" else absolute.name, *_named_inside(cluster, folder)):
        holder = _node(cluster, name, folder)
        if holder is not None:
            return holder
    raise SpecError(
        f"{folder} belongs to no node of {cluster.name}: add the node to the file, or name the folder NODE or NODE/pki",
        file=cluster.file,
        field="nodes",
    )


def _node(cluster: Cluster, name: str, folder: Path) -> Holder | None:
    who: Node | Pool | None = next((node for node in cluster.nodes if node.name == name), None)
    if who is None:
        who = next((pool for pool in cluster.pools if _takes(pool, name)), None)
    if who is None:
        return None
    resolved = (certificates.resolve(row, cluster, who) for row in certificates.node_rows(cluster, who))
    wants = tuple(for_node(certificate, name) for certificate in resolved)
    return Holder(name, folder, wants, cluster.name, _modes(folder))


def _takes(pool: Pool, name: str) -> bool:
    start = pool.node_names.removesuffix("*")
    return name.startswith(start) and len(name) > len(start)


def _named_inside(cluster: Cluster, folder: Path) -> Iterator[str]:
    from vaultpki import x509

    for row in certificates.rows(cluster):
        # Only these carry the node's name; etcd's CN is the name itself, a kubelet's has the prefix.
        if NODE not in row.common_name and NODE not in row.dns:
            continue
        try:
            leaf = x509.read_certificates((folder / certificates.pair_files(row.stem)[0]).read_bytes())[0]
        except (OSError, CertificateUnreadable):
            continue
        yield leaf.subject.common_name.removeprefix(_NODE_USER)
        yield from leaf.subject.dns


def _modes(folder: Path) -> dict[str, int]:
    """The modes that the node's own agent.yaml asks for, where it lies beside the folder as `demo` puts it."""
    path = folder.parent / "agent.yaml"
    if not path.is_file():
        return {}
    from vaultpki.config import load_agent

    options = load_agent(path, allow_http=True).certificates
    return {name: option.mode for name, option in options.items() if option.mode is not None}
