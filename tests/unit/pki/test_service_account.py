"""Which certificates are keys for tokens: those that Vault gave to a control-plane node, and no others."""

from __future__ import annotations

from datetime import timedelta

import pytest

from helpers.ca_certificates import BEGUN, ca, root
from helpers.token_key_certificates import OWN, token_key
from vaultpki.pki.facts import Facts
from vaultpki.pki.service_account import KeyName, TokenKeys, key_name, token_keys, why_no_key

ROOT = root("prod")
NAME, OTHER = "prod service-account CA", "prod kubernetes CA"
ISSUING = ca(NAME, key=NAME, signer="prod root CA", serial=2)
KUBERNETES = ca(OTHER, key=OTHER, signer="prod root CA", serial=3)
STRANGER = ca("x service-account CA", key="x service-account CA", signer="x root CA", serial=4)
SERVER, CLIENT = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"
NODES = ("cp-1", "cp-2")
FIRST, SECOND, NEXT = (token_key(name, signer=NAME) for name in ("sa:cp-1:1", "sa:cp-2:1", "sa:cp-1:2"))


def keys(*offered: Facts, known: dict[str, int] | None = None, said: dict[str, int] | None = None) -> TokenKeys:
    return token_keys(offered, (ISSUING,), (ROOT,), NODES, known or {}, said or {})


def test_the_union_has_every_key_of_every_node_in_one_order() -> None:
    found = keys(SECOND, NEXT, FIRST)
    assert found.certificates == (FIRST, NEXT, SECOND) == keys(FIRST, SECOND, NEXT).certificates
    assert found.text == FIRST.pem + NEXT.pem + SECOND.pem
    assert not found.refused
    assert keys(FIRST, FIRST).certificates == (FIRST,)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        pytest.param(token_key("sa:cp-1:1", signer=OTHER), "was not signed", id="another CA of the cluster"),
        pytest.param(token_key("sa:cp-1:1", signer="x service-account CA"), "was not signed", id="a stranger's CA"),
        pytest.param(token_key("sa:cp-1:1", signer="sa:cp-1:1"), "was not signed", id="self-signed"),
        pytest.param(token_key("sa:cp-1:1", signer=NAME, usages=()), "extended key usage", id="no usage: every usage"),
        pytest.param(token_key("sa:cp-1:1", signer=NAME, usages=(*OWN, CLIENT)), "extended key usage", id="a client"),
        pytest.param(token_key("sa:cp-1:1", signer=NAME, usages=(SERVER,)), "extended key usage", id="a server"),
        pytest.param(token_key("sa:cp-1:1", signer=NAME, dns=("cp-1",)), "more names", id="a SAN"),
        pytest.param(token_key("sa:cp-1:1", signer=NAME, is_ca=True), "is a CA", id="a CA"),
        pytest.param(token_key("sa:cp-1:1", signer=NAME, ed=True), "signs no tokens", id="ed25519"),
        pytest.param(token_key("cp-1", signer=NAME), "its name", id="no number"),
        pytest.param(token_key("sa:cp-1:0", signer=NAME), "its name", id="number 0"),
        pytest.param(token_key("sa:cp-1:01", signer=NAME), "its name", id="a number with a zero before"),
        pytest.param(token_key("sa:CP-1:1", signer=NAME), "its name", id="capital letters"),
        pytest.param(token_key("sa:worker-1:1", signer=NAME), "no control-plane node", id="a worker"),
        pytest.param(token_key("sa:cp-3:1", signer=NAME), "no control-plane node", id="an unknown node"),
        pytest.param(ISSUING, "is a CA", id="the issuing CA itself"),
    ],
)
def test_what_a_writer_of_records_may_try(facts: Facts, why: str) -> None:
    found = keys(FIRST, facts)
    assert found.certificates == (FIRST,)
    ((refused, said),) = found.refused
    assert refused == facts and why in said


def test_a_ca_below_another_root_certifies_nothing() -> None:
    facts = token_key("sa:cp-1:1", signer="x service-account CA")
    assert "was not signed" in (why_no_key(facts, (STRANGER,), (ROOT,)) or "")
    # A mount of another domain is none of this one's CAs; its CA alone would do.
    assert why_no_key(token_key("sa:cp-1:1", signer=OTHER), (KUBERNETES,), (ROOT,)) is None


def test_an_expired_certificate_stays_until_the_record_removes_it() -> None:
    ended = token_key("sa:cp-2:1", signer=NAME, begun=BEGUN - timedelta(days=400), days=1)
    assert keys(FIRST, ended).certificates == (FIRST, ended)
    assert keys(FIRST).certificates == (FIRST,)


def test_a_retired_key_does_not_come_back() -> None:
    retired = keys(NEXT, SECOND, said={"cp-1": 2})
    assert retired.lowest == {"cp-1": 2}
    again = keys(FIRST, NEXT, SECOND, known=dict(retired.lowest), said={"cp-1": 1})
    assert again.certificates == (NEXT, SECOND)
    assert [why for _, why in again.refused] == ["key 1 of cp-1 was retired"]
    assert again.lowest == {"cp-1": 2}


def test_the_keys_of_a_removed_node_do_not_come_back_and_its_successor_has_the_next_number() -> None:
    removed = keys(FIRST, SECOND, said={"cp-2": 2})
    assert removed.certificates == (FIRST,) and removed.lowest == {"cp-2": 2}
    assert keys(FIRST, SECOND, known=dict(removed.lowest)).certificates == (FIRST,)
    # Also where the record has no certificate of it any more, but it counted until then.
    gone = token_keys((FIRST,), (ISSUING,), (ROOT,), NODES, {}, {"cp-2": 2}, (FIRST, SECOND))
    assert gone.certificates == (FIRST,) and gone.lowest == {"cp-2": 2}
    new = token_key("sa:cp-2:2", signer=NAME)
    assert keys(FIRST, new, known=dict(removed.lowest)).certificates == (FIRST, new)


def test_a_forged_number_does_not_end_keys_that_are_still_to_be_made() -> None:
    found = keys(FIRST, SECOND, said={"cp-1": 10_000, "cp-2": 1, "cp-9": 7})
    assert found.lowest == {"cp-1": 2, "cp-2": 1, "cp-9": 1}
    # Nor does a number that goes on to grow, pass by pass, without certificates.
    assert keys(SECOND, known={"cp-1": 2}, said={"cp-1": 10_000}).lowest == {"cp-1": 2}


def test_names() -> None:
    assert key_name("sa:cp-1.example.com:12") == KeyName("cp-1.example.com", 12)
    for text in (
        "sa:cp-1",
        "sa::1",
        "sa:cp-1:",
        "sa:cp-1:1\n",
        "sa:a:b:1",
        "SA:cp-1:1",
        "sa:cp-1:123456789",
        "x:cp-1:1",
    ):
        assert key_name(text) is None, text
