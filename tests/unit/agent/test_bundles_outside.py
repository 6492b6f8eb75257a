"""Which roots a node reports that it holds, below a PKI outside: its anchor, and no CA above or below that."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.corporate_certificates import Corporate
from vaultpki.agent import bundles
from vaultpki.certificates import BUNDLES, ISSUING_CAS
from vaultpki.disk.folders import Folders
from vaultpki.disk.generations import File
from vaultpki.layout import TRUST_BUNDLES, bundle_of
from vaultpki.pki.facts import Facts
from vaultpki.places import PKI, Layout

CORP = Corporate()
CHAIN = tuple(each.facts for each in (CORP.issuing, CORP.lower, CORP.upper, CORP.root))


@pytest.mark.parametrize(("pin", "held"), [(CHAIN[3], CHAIN), (CHAIN[2], CHAIN), (CHAIN[1], CHAIN[:2])])
def test_the_anchor_alone_is_a_root(tmp_path: Path, pin: Facts, held: tuple[Facts, ...]) -> None:
    places = TRUST_BUNDLES[Layout.DOCUMENT]
    with Folders.open({PKI: str(tmp_path / "pki")}) as folders:
        files = {}
        for ca in ISSUING_CAS:
            for chain in (False, True):
                data = "".join(facts.pem for facts in (held if chain else held[:1])).encode()
                files[bundle_of(Layout.DOCUMENT, ca, chain=chain).file] = File(data, 0o644, -1, -1)
        folders.install(PKI, BUNDLES, files)
        trusted = frozenset({pin.fingerprint})
        assert bundles.installed_roots(folders, places, trusted) == trusted
        assert set(bundles.installed(folders, places).values()) == {frozenset({held[0].fingerprint})}
