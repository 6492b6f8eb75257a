"""The digests that hooks of bundles go by: of the files that the components read which the hooks restart."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from helpers.example_agent import agent_config
from helpers.foreign_ca import ForeignCa
from helpers.root_certificates import NAME, Key
from vaultpki import readers
from vaultpki.agent import bundles, hook_schedule
from vaultpki.agent.bundles import BundleDigest
from vaultpki.agent.context import Context, PassOptions
from vaultpki.certificates import BUNDLES, ISSUING_CAS
from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import File
from vaultpki.layout import bundle_of
from vaultpki.node.state import AgentState, StateFile
from vaultpki.pki.facts import Facts
from vaultpki.places import PKI, Layout, inner_folders

FIRST, SECOND, ROOT, NEXT = (Key(f"{NAME} {number}").root().pem.encode() for number in range(4))

FOREIGN = ForeignCa()
NONE: Final[Mapping[str, Collection[Facts]]] = {}

CONFIG = agent_config(root_sha256="5f" * 32)


def written(
    folder: Path, layout: Layout, issuing: bytes, roots: bytes, foreign: Mapping[str, Collection[Facts]] = NONE
) -> dict[str, BundleDigest]:
    """Install the bundles of every CA, of these certificates, and return their digests."""
    paths = {PKI: str(folder / "pki"), **inner_folders(str(folder / "pki"))}
    with Folders.open(paths) as folders:
        files: dict[str, dict[str, File]] = {}
        for ca in ISSUING_CAS:
            for chain in (False, True):
                place = bundle_of(layout, ca, chain=chain)
                data = issuing + roots if chain else issuing
                files.setdefault(place.folder, {})[place.file] = File(data, 0o644, -1, -1)
        for name, each in files.items():
            folders.install(name, BUNDLES, each)
        return bundles.digests(folders, layout, foreign)


def former(data: bytes) -> str:
    """The digest in the layout document: of both files one after the other."""
    return sha256(data).hexdigest()[:32]


def changed(before: dict[str, BundleDigest], after: dict[str, BundleDigest]) -> set[str]:
    return {key for key in after if before[key].read != after[key].read}


@pytest.mark.parametrize("layout", Layout)
def test_another_root_concerns_only_what_reads_roots(tmp_path: Path, layout: Layout) -> None:
    """etcd and kube-apiserver read no root, and are not restarted for one."""
    before = written(tmp_path, layout, FIRST, ROOT)
    assert set(before) == set(readers.CA_OF_BUNDLE)
    assert changed(before, written(tmp_path, layout, FIRST, ROOT + NEXT)) == {"kubernetes-ca"}
    assert changed(before, written(tmp_path, layout, FIRST + SECOND, ROOT)) == set(readers.CA_OF_BUNDLE)


@pytest.mark.parametrize("layout", Layout)
def test_the_order_of_cas_concerns_nobody(tmp_path: Path, layout: Layout) -> None:
    before = written(tmp_path, layout, FIRST + SECOND, ROOT + NEXT)
    assert changed(before, written(tmp_path, layout, SECOND + FIRST, NEXT + ROOT)) == set()


def test_what_reads_roots_is_in_the_table() -> None:
    assert {key for key in readers.CA_OF_BUNDLE if readers.reads_roots(key)} == {"kubernetes-ca"}
    assert [each.component for each in readers.READERS if each.chain] == ["kube-controller-manager"]


@pytest.mark.parametrize("layout", Layout)
def test_a_foreign_ca_is_no_change_of_our_own(tmp_path: Path, layout: Layout) -> None:
    """By that the hooks know which restart a person gives the turn for."""
    foreign = dict.fromkeys(ISSUING_CAS, (FOREIGN.facts,))
    before = written(tmp_path, layout, FIRST, ROOT)
    after = written(tmp_path, layout, FIRST + FOREIGN.pem.encode(), ROOT, foreign)
    assert changed(before, after) == set(readers.CA_OF_BUNDLE)
    assert all(before[key].own == after[key].own == before[key].read for key in before)
    both = written(tmp_path, layout, FIRST + SECOND + FOREIGN.pem.encode(), ROOT, foreign)
    assert all(both[key].own != after[key].own for key in both)


def test_the_word_for_a_nodes_cas_is_that_of_the_release_before(tmp_path: Path) -> None:
    """`vaultpki nodes` compares it between nodes, some of which are not upgraded yet."""
    whole = former(FIRST + FIRST + ROOT)
    state = noted(tmp_path, written(tmp_path, Layout.DOCUMENT, FIRST, ROOT), AgentState())
    assert state.trust == sha256("-".join([whole] * len(readers.CA_OF_BUNDLE)).encode()).hexdigest()[:16]


def noted(folder: Path, held: dict[str, BundleDigest], before: AgentState) -> AgentState:
    state = StateFile(str(folder / "state"))
    state.value = before
    with Folders.open({PKI: str(folder / "pki")}) as folders:
        hook_schedule.note_trust(Context(CONFIG, PassOptions(()), folders, 5.0, state, None), held)
    return state.value
