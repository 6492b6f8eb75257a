"""A bundle stays while nothing of its CA is trusted, and one that cannot be read is not replaced."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from helpers.root_certificates import NAME, NOW, Key
from vaultpki.certificates import BUNDLES, ISSUING_CAS, ca_subject
from vaultpki.disk.folders import Folders
from vaultpki.issue.bundles_and_kubeconfigs import Site, bundle_files, keep_bundles
from vaultpki.issue.signing import FileOwner
from vaultpki.layout import TRUST_BUNDLES
from vaultpki.pki.chains import trust_below
from vaultpki.pki.facts import Trust
from vaultpki.places import PKI, Layout

ROOT = Key(NAME)
PLACES = TRUST_BUNDLES[Layout.DOCUMENT]


def trust(ca: str) -> Trust:
    name = ca_subject("prod", ca)
    return trust_below([ROOT.certify(Key(name), path=0).pem.encode()], (ROOT.root(),), NOW, name=name)


def test_a_bundle_stays_while_nothing_of_its_ca_is_trusted(tmp_path: Path) -> None:
    whole = {ca: trust(ca) for ca in ISSUING_CAS}
    with Folders.open({PKI: str(tmp_path / "pki")}) as folders:
        site = Site("prod", "https://api", Layout.DOCUMENT, folders.paths, FileOwner(os.getuid(), os.getgid()))
        first = bundle_files(site, PLACES, whole)
        assert keep_bundles(site, folders, first, PLACES) == {}
        folders.install(PKI, BUNDLES, first[PKI])
        empty = {ca: replace(each, issuing=(), live=()) for ca, each in whole.items()}
        for left in (empty, {**whole, "etcd": empty["etcd"]}):
            files = bundle_files(site, PLACES, left)
            assert keep_bundles(site, folders, files, PLACES) == {}
            assert files == first
            assert not folders.install(PKI, BUNDLES, files[PKI])
        # One that is there and is not a file of ours any more cannot be kept, so the set is not replaced.
        held = (tmp_path / "pki" / "etcd-ca.crt").resolve()
        held.unlink()
        held.mkdir()
        assert set(keep_bundles(site, folders, bundle_files(site, PLACES, empty), PLACES)) == {PKI}
