"""What a node trusts and takes after a recovery: each leaf stays with the CA that signed it, and nothing is dropped."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from helpers import ca_certificates
from vaultpki.errors import SpecError
from vaultpki.pki.facts import Facts, Trust
from vaultpki.pki.succession import RotationView, acceptable, default_signs, trust_during_rotation
from vaultpki.records import rotation as rotation_record
from vaultpki.records.rotation import CaRef, Kept, RotationRecord, State

NOW = datetime(2027, 1, 1, tzinfo=UTC)
ROOT = ca_certificates.root("prod root CA")


def issuing(number: int) -> Facts:
    suffix = f" {number}" if number > 1 else ""
    return ca_certificates.ca(f"prod etcd CA{suffix}", key=f"etcd-{number}", signer="prod root CA")


ONE, TWO, THREE = issuing(1), issuing(2), issuing(3)
KNOWN = Trust(ROOT, (THREE, TWO, ONE), (THREE, TWO, ONE), signers=(THREE, TWO, ONE))
RECORD = RotationRecord(
    "etcd",
    State.RETRUSTING,
    9,
    NOW,
    CaRef("etcd-1", sha256=ONE.fingerprint),
    CaRef("etcd-2", sha256=TWO.fingerprint),
    kept=Kept.OLD,
)


def after(record: RotationRecord, default: Facts) -> Trust:
    shown = {ONE.fingerprint, TWO.fingerprint}
    return trust_during_rotation(
        KNOWN, RotationView(record, shown=shown, held={THREE.fingerprint}, default=default.fingerprint), NOW
    )


@pytest.mark.parametrize("kept", Kept)
@pytest.mark.parametrize("default", [ONE, TWO])
def test_each_leaf_stays_with_its_ca(kept: Kept, default: Facts) -> None:
    trust = after(replace(RECORD, kept=kept), default)
    for issuer in (ONE, TWO):
        fit = acceptable(trust, issuer)
        assert fit == (issuer,)
        assert default_signs(trust, default.fingerprint, fit) == (issuer is default)
    assert trust.outgoing == {} and trust.serving is None
    # Nobody knows whether all trust the CA that signs.
    assert acceptable(trust, None) == ()


def test_a_ca_that_the_record_does_not_name_stays_trusted() -> None:
    assert set(after(RECORD, ONE).issuing) == {ONE, TWO, THREE}
    plain = after(replace(RECORD, kept=None), ONE)
    assert set(plain.issuing) == {ONE, TWO} and acceptable(plain, None) == (TWO,)


def test_the_next_step_ends_it() -> None:
    for state in (State.SWITCHED, State.RETURNING):
        assert RECORD.moved(state, NOW).kept is None
    assert RECORD.changed(turn="n-1").kept is Kept.OLD
    assert RECORD.leaf is RECORD.old and replace(RECORD, kept=Kept.NEW).leaf is RECORD.new


def test_the_record_says_so_only_where_it_is_so() -> None:
    stored = rotation_record.to_json(RECORD)
    assert stored["version"] == 1 and rotation_record.read(stored, "etcd", where="r") == RECORD
    assert "kept" not in rotation_record.to_json(replace(RECORD, kept=None))
    for change in ({"kept": "both"}, {"kept": 1}, {"state": "switched"}):
        with pytest.raises(SpecError):
            rotation_record.read({**stored, **change}, "etcd", where="r")


def test_an_agent_of_before_keeps_its_leaf_too() -> None:
    """It takes the record for re-trusting, whose leaves are the new CA's, and the old one is the default."""
    trust = after(replace(RECORD, kept=None), ONE)
    assert not default_signs(trust, ONE.fingerprint, acceptable(trust, ONE))
