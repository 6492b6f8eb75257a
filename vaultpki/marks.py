"""Whose a certificate directory is: a mark in it names the cluster, the node and the pinned root.

    DIR/.vaultpki/owner.json   {"version": 1, "cluster": "prod", "node": "cp-1", "root_sha256": "4f1c..."}

`node` is null in an operator's folder. An agent or operator of anybody else refuses the directory, as long as files lie
there. Files without a mark are adopted only where their bundles show the pinned root.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Final

from vaultpki import files
from vaultpki.certificates import BUNDLES, ISSUING_CAS, chain_bundle
from vaultpki.errors import CertificateUnreadable, StoreError
from vaultpki.generations import HIDDEN, MARK
from vaultpki.model import VERSION
from vaultpki.store import Directory
from vaultpki.values import dataclass

if TYPE_CHECKING:
    from vaultpki.generations import Generations
    from vaultpki.model import AgentConfig

_WORD: Final = re.compile(r"[\x21-\x7e]{1,253}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose files a directory holds. `node` is None for an operator; `root_sha256` is the pin in lower-case hex."""

    cluster: str
    node: str | None
    root_sha256: str

    def text(self, other: Holder | None = None) -> str:
        """How a message names it, beside the `other` one."""
        who = f"{'an operator' if self.node is None else f'node {self.node}'} of cluster {self.cluster}"
        same = other is not None and (self.cluster, self.node) == (other.cluster, other.node)
        return f"{who} with the root {self.root_sha256}" if same else who


def holder_of(config: AgentConfig) -> Holder:
    """Whose the directory of this agent.yaml is."""
    return Holder(config.cluster, config.node, config.root_sha256)


def refuse_foreign(path: str, holder: Holder) -> None:
    """StoreError where the directory `path` is anybody else's, or lies where others could exchange it.

    Reads only. A directory that does not exist is nobody's.
    """
    files.refuse_unsafe_way(path)
    if not files.there(path):
        return
    with Directory.open(path, create=False, write=False) as directory:
        _refuse_other(directory, holder)


def claim(directory: Directory, holder: Holder) -> None:
    """Marks a directory that is open for writing as `holder`'s; StoreError where it is anybody else's.

    To be called before anything in it is changed. Writes nothing where the mark is there already.
    """
    _refuse_other(directory, holder)
    if _read(directory) != holder:
        value = {
            "version": VERSION,
            "cluster": holder.cluster,
            "node": holder.node,
            "root_sha256": holder.root_sha256,
        }
        directory.write_mark(json.dumps(value).encode())


def _refuse_other(directory: Generations, holder: Holder) -> None:
    known = _read(directory)
    # A mark alone holds nothing: it may be of an agent.yaml with a mistake in it, which was mended since.
    if known == holder or not directory.units():
        return
    if known is not None:
        whose = f"belongs to {known.text(holder)}, and not to {holder.text(known)}"
    elif not _shows(directory, holder.root_sha256):
        whose = f"holds certificates of another root than the one of {holder.text()}, {holder.root_sha256}"
    else:
        return
    raise StoreError(
        f"{directory.path}: this directory {whose}; choose another directory, or, if nothing uses its files any more, "
        f"remove {directory.path}/{HIDDEN} and run again"
    )


def _read(directory: Generations) -> Holder | None:
    """What the mark says; None where there is none, or none that can be read. StoreError for a newer one."""
    raw = directory.mark()
    if raw is None:
        return None
    try:
        value = json.loads(raw)
        version, cluster, node, pin = (value[name] for name in ("version", "cluster", "node", "root_sha256"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if isinstance(version, int) and version > VERSION:
        raise StoreError(
            f"{directory.path}/{HIDDEN}/{MARK}: it is of version {version} and this vaultpki speaks {VERSION}; "
            "install the newer vaultpki"
        )
    if not _fits(_WORD, cluster) or not _fits(_SHA256, pin) or not (node is None or _fits(_WORD, node)):
        return None
    return Holder(cluster, node, pin)


def _fits(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _shows(directory: Generations, root_sha256: str) -> bool:
    """Whether every bundle with a root that can be read holds the pinned one, and there is such a bundle."""
    from vaultpki import x509

    found = []
    stored = directory.read(BUNDLES, [chain_bundle(ca) for ca in ISSUING_CAS])
    for each in stored.values():
        with contextlib.suppress(CertificateUnreadable):
            if each.data:
                found.append(root_sha256 in [facts.fingerprint for facts in x509.read_certificates(each.data)])
    return bool(found) and all(found)
