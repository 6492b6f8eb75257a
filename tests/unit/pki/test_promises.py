"""What the rules on certificates promise at the edge of their cases."""

from __future__ import annotations

from datetime import timedelta

import pytest

from helpers.corporate_certificates import NOW, Ca, Corporate
from vaultpki.pki.chains import trust_below
from vaultpki.pki.ways_up import MOST_ABOVE, Ends, ways_up
from vaultpki.values import der
from vaultpki.values.windows import parse, within

OURS, PARKED = Corporate(), Corporate()


def test_a_ca_below_a_parked_root_is_neither_trusted_nor_reported() -> None:
    """Such a root is known and waits: an alert about a CA below it would send people after their own rotation."""
    shown = [each.facts for corp in (OURS, PARKED) for each in (corp.upper, corp.lower)]
    pems = [corp.issuing.facts.pem.encode() for corp in (OURS, PARKED)]
    trust = trust_below(
        pems, (OURS.root.facts,), NOW, name=OURS.name, parked=(PARKED.root.facts,), shown=shown, root_name="own"
    )
    assert trust.issuing == (OURS.issuing.facts,) and trust.untrusted == ()
    unknown = trust_below(pems, (OURS.root.facts,), NOW, name=OURS.name, shown=shown, root_name="own")
    assert [each.fingerprint for each in unknown.untrusted] == [PARKED.issuing.facts.fingerprint]


def test_a_certificate_of_version_1_is_refused() -> None:
    """Go ignores the extensions of one, which say whether it is a CA and what it may sign."""
    _, whole = next(der.elements(OURS.root.facts.der))
    signed, algorithm, signature = der.elements(whole)
    fields = list(der.elements(signed[1]))[1:]
    first = b"".join(der.element(tag, content) for tag, content in fields)
    others = b"".join(der.element(*each) for each in (algorithm, signature))
    with pytest.raises(ValueError, match="not of version 3"):
        der.refuse_odd(der.element(0x30, der.element(0x30, first) + others))


def test_of_several_windows_the_next_one_counts() -> None:
    """Whatever order agent.yaml has them in, and though some do not open on a day."""
    windows = [parse(each) for each in ("mon 02:00-03:00", "sun 02:00-03:00", "sat 04:00-05:00")]
    # A Friday at noon.
    end = NOW + timedelta(days=7)
    for order in (windows, windows[::-1], [windows[1], windows[2], windows[0]]):
        assert within(order, NOW, end, 0.0, NOW) == NOW.replace(hour=4) + timedelta(days=1)


def test_as_many_cas_as_are_allowed_may_be_above_another() -> None:
    cas = [Ca("Root")]
    for number in range(9):
        cas.append(Ca(f"CA {number}", cas[-1]))
    known, root = [each.facts for each in cas], cas[0].facts
    (way,) = ways_up(known[8], known, root)
    assert way.ends is Ends.AT_ROOT and way.above == tuple(known[7::-1]) and len(way.above) == MOST_ABOVE
    (way,) = ways_up(known[9], known, root)
    assert way.ends is Ends.TOO_LONG and len(way.above) == MOST_ABOVE
