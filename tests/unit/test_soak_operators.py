"""What the soak of operators takes for trusted."""

from __future__ import annotations

import pytest

from helpers.root_certificates import Key
from soak.operators import trusted

ROOT, OLD, NEW = Key("prod root CA"), Key("prod etcd CA"), Key("prod etcd CA")
LEAF = OLD.certify(Key("m-1"))
CAS = {"old": ROOT.certify(OLD, path=0), "renewed": Key("prod root CA").certify(OLD, path=0)}
CAS["new"] = ROOT.certify(NEW, path=0)


@pytest.mark.parametrize(
    ("cas", "well"), [(["old"], True), (["new", "old"], True), (["new", "renewed"], True), (["new"], False)]
)
def test_a_leaf_has_to_be_of_a_ca_in_the_bundle(cas: list[str], *, well: bool) -> None:
    assert trusted(LEAF.pem.encode(), "".join(CAS[each].pem for each in cas).encode()) is well
