"""Which kubeconfigs stay as they are when a record changes: never those of another pair's that can be made again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.example_agent import agent_config
from helpers.sample_certificates import LEAF
from vaultpki.agent import bundles
from vaultpki.certificates import BUNDLES, ISSUING_CAS
from vaultpki.disk.folders import Folders
from vaultpki.issue.bundles_and_kubeconfigs import names_pair
from vaultpki.issue.issuers import Issuers
from vaultpki.issue.rotations import Rotations
from vaultpki.model import Certificate, KeyType, NodeRole, Subject, Usage, UserTemplate
from vaultpki.node.assignment import Assignment, SurplusPair
from vaultpki.pki.facts import EKU, Trust
from vaultpki.places import PKI

WORKER = frozenset({NodeRole.WORKER})
URL = "https://api.example.com:6443"
Install = Callable[..., dict[str, str]]


def row(name: str, kubeconfig: str, file: str = "") -> Certificate:
    ca, subject = "kubernetes", Subject(name)
    return Certificate(
        name, Usage.CLIENT, subject, ca, ca, name, 60, KeyType.EC_P256, file or name, f"{kubeconfig}.conf"
    )


def surplus(*names: str) -> tuple[SurplusPair, ...]:
    leaf = replace(LEAF, usages=EKU[Usage.CLIENT])
    return tuple(SurplusPair(name, "kubernetes", PKI, name, replace(leaf, subject=Subject(name))) for name in names)


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Installs what a record says on one worker; returns the pair that each kubeconfig names then."""
    with Folders.open({PKI: str(tmp_path / "pki")}) as folders:
        config, trust = agent_config(directory=folders.path), dict.fromkeys(ISSUING_CAS, Trust(LEAF, (), ()))

        def installed(
            *rows: Certificate,
            left: tuple[SurplusPair, ...] = (),
            templates: Sequence[UserTemplate] = (),
            waiting: Collection[str] = (),
            prune: bool = False,
        ) -> dict[str, str]:
            issuers, rotations = Issuers({}, ()), Rotations()
            spec = Assignment(0.0, URL, URL, WORKER, rows, tuple(templates), issuers, {}, rotations, surplus=left)
            assert not bundles.install(config, folders, spec, trust, waiting, prune=prune).failures
            stored = folders.read(PKI, BUNDLES, folders.file_sets()[PKI, BUNDLES])
            stems = {*(each.stem for each in rows), *(each.stem for each in left)}
            return {
                name.removesuffix(".conf"): stem
                for name, file in stored.items()
                for stem in stems
                if names_pair(file.data or b"", folders.path, stem)
            }

        assert installed(row("a", "a"), row("b", "b")) == {"a": "a", "b": "b"}
        yield installed


def test_a_kubeconfig_of_a_wanted_pair_is_written_anew(install: Install) -> None:
    assert install(row("a", "b"), row("b", "a")) == {"a": "b", "b": "a"}
    # One name that moves on, and one that nobody has any more.
    assert install(row("a", "a"), row("b", "c")) == {"a": "a", "b": "a", "c": "b"}


def test_the_kubeconfig_of_a_surplus_pair_is_taken_by_nobody(install: Install) -> None:
    taken, b = row("new", "a"), row("b", "b")
    assert install(taken, b, left=surplus("a")) == {"a": "a", "b": "b"}
    # Nor where a wanted certificate has left it for another file.
    assert install(row("a", "c", "moved"), row("b", "a"), left=surplus("a")) == {"a": "a", "b": "b", "c": "moved"}
    assert install(taken, b, left=surplus("a"), prune=True) == {"a": "new", "b": "b"}


def test_pairs_that_wait_for_each_other_keep_their_kubeconfigs(install: Install) -> None:
    left, kept = surplus("a", "b"), {"a": "a", "b": "b"}
    assert install(row("a", "a", "b"), row("b", "b", "a"), left=left, waiting=("a", "b")) == kept
    assert install(row("a", "b", "b"), row("b", "a", "a"), left=left, waiting=("a", "b")) == kept
    # A person's word gives their places up; now they are signed.
    assert install(row("a", "a", "b"), row("b", "b", "a")) == {"a": "b", "b": "a"}


@pytest.mark.parametrize("name", ["a", "renamed"])
def test_the_kubeconfig_of_a_certificate_follows_it_to_another_file(install: Install, name: str) -> None:
    moved = replace(row(name, "a", "moved"), subject=Subject("a"))
    assert install(moved, row("b", "b"), left=surplus("a"), waiting=(name,)) == {"a": "a", "b": "b"}
    assert install(moved, row("b", "b"), left=surplus("a")) == {"a": "moved", "b": "b"}
    # What cannot be read is of whom it was.
    unread = tuple(replace(pair, leaf=None) for pair in surplus("a"))
    kept = "moved" if name == "a" else "a"
    install(row("a", "a"), row("b", "b"))
    assert install(moved, row("b", "b"), left=unread) == {"a": kept, "b": "b"}


def test_a_template_that_is_a_kubeconfig_is_filled_in_at_every_pass(install: Install) -> None:
    text = 'client-certificate: "$directory/a.crt"\nclient-key: "$directory/a.key"\n'
    template = UserTemplate("own", "own.conf", text, WORKER)
    for _ in range(2):
        assert install(row("a", "a"), row("b", "b"), templates=[template]) == {"a": "a", "b": "b", "own": "a"}
