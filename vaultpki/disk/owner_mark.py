"""Mark whose a certificate directory is: the cluster, the node and the pinned root.

    DIR/.vaultpki/owner.json   {"version": 1, "cluster": "prod", "node": "cp-1", "root_sha256": "4f1c..."}

`node` is null in an operator's folder. As long as files lie there, every other agent and operator refuses the
directory. Files without a mark are adopted only if their bundles hold the pinned root.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field

from vaultpki.certificates import BUNDLES, ISSUING_CAS, chain_bundle
from vaultpki.disk import files
from vaultpki.disk.generations import OWNER_MARK, Generations
from vaultpki.disk.store import Directory
from vaultpki.errors import CertificateUnreadable, StoreError
from vaultpki.model import VERSION, AgentConfig
from vaultpki.places import HIDDEN_FOLDER
from vaultpki.values import hosts, json_object, names


@dataclass(frozen=True, slots=True)
class DirectoryOwner:
    """Whose files a directory holds. `node` is None for an operator; `root_sha256` is the pin in lower-case hex.

    `others` are further roots of the same owner: those that followed it or came before it.
    """

    cluster: str
    node: str | None
    root_sha256: str
    others: frozenset[str] = field(default=frozenset(), compare=False)

    def text(self, other: DirectoryOwner | None = None) -> str:
        """Return how a message names it, told apart from the `other` one."""
        who = f"{'an operator' if self.node is None else f'node {self.node}'} of cluster {self.cluster}"
        same = other is not None and (self.cluster, self.node) == (other.cluster, other.node)
        return f"{who} with the root {self.root_sha256}" if same else who


def holder_of(config: AgentConfig) -> DirectoryOwner:
    """Return the owner that this agent.yaml describes."""
    return DirectoryOwner(config.cluster, config.node, config.root_sha256)


def refuse_foreign(path: str, holder: DirectoryOwner) -> None:
    """Raise StoreError if the directory `path` belongs to another owner, or others could replace it; reads only."""
    files.refuse_unsafe_way(path)
    if not files.exists(path):
        return
    with Directory.open(path, create=False, write=False) as directory:
        _refuse_other(directory, holder)


def claim(directory: Directory, holder: DirectoryOwner) -> None:
    """Mark a directory that is open for writing as `holder`'s; StoreError if it belongs to another owner.

    Call this before anything in it is changed. Writes nothing if the mark is there already.
    """
    _refuse_other(directory, holder)
    if _read(directory) != holder:
        mark = {"version": VERSION, "cluster": holder.cluster, "node": holder.node, "root_sha256": holder.root_sha256}
        directory.write_mark(json.dumps(mark).encode())


def _refuse_other(directory: Generations, holder: DirectoryOwner) -> None:
    known = _read(directory)
    # A mark without files protects nothing: it may come from a mistake in agent.yaml that was mended since.
    if known == holder or not directory.file_sets():
        return
    same = known is not None and (known.cluster, known.node) == (holder.cluster, holder.node)
    # The root was rotated since: what the owner trusts now is in the bundles that it wrote.
    if same and known and (known.root_sha256 in holder.others or _shows(directory, holder.root_sha256)):
        return
    if known is not None:
        whose = f"belongs to {known.text(holder)}, and not to {holder.text(known)}"
    elif not any(_shows(directory, root) for root in (holder.root_sha256, *holder.others)):
        whose = f"holds certificates of another root than the one of {holder.text()}, {holder.root_sha256}"
    else:
        return
    other = "choose another directory"
    if known is not None and same and holder.node is not None:
        other = (
            f"if this node goes over to that root, join by a file that names the former one: all in use stays "
            f"(`vaultpki enroll {holder.node} --former-root {known.root_sha256}`). Else {other}"
        )
    raise StoreError(f"{directory.path}: this directory {whose}; {other}")


def _read(directory: Generations) -> DirectoryOwner | None:
    """Read the mark; None if there is none that can be read. StoreError for a newer version."""
    value = json_object.parse(directory.mark() or b"") or {}
    version, cluster, node, pin = (value.get(name) for name in ("version", "cluster", "node", "root_sha256"))
    if isinstance(version, int) and version > VERSION:
        raise StoreError(
            f"{directory.path}/{HIDDEN_FOLDER}/{OWNER_MARK}: it is of version {version} and this vaultpki speaks "
            f"{VERSION}; install the newer vaultpki"
        )
    if not names.fits(cluster, names.cluster_name) or not names.fits(pin, names.sha256) or "node" not in value:
        return None
    return DirectoryOwner(cluster, node, pin) if node is None or names.fits(node, hosts.node_name) else None


def _shows(directory: Generations, root_sha256: str) -> bool:
    """Return whether there are readable bundles with a root, and all of them hold the pinned one."""
    from vaultpki.pki import x509

    found = []
    stored = directory.read(BUNDLES, [chain_bundle(ca) for ca in ISSUING_CAS])
    for each in stored.values():
        with contextlib.suppress(CertificateUnreadable):
            if each.data:
                found.append(root_sha256 in [facts.fingerprint for facts in x509.read_certificates(each.data)])
    return bool(found) and all(found)
