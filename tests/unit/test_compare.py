"""The comparison of two checkouts: what is random goes, what has a meaning stays, and a change of it is seen."""

from __future__ import annotations

import json

import trustme

from compare.__main__ import Deliberate
from compare.normal import Block, Normaliser, differences

PEM = trustme.CA(organization_name="x").issue_cert("api.internal", "10.0.0.1", common_name="kube-apiserver")


def test_a_learned_secret_is_replaced_wherever_it_stands() -> None:
    normaliser = Normaliser()
    normaliser.learn({"auth": {"client_token": "s.token", "accessor": "abc"}, "data": {"role_id": "11-22"}})
    normaliser.learn({"vaultpki/demo/listed/": {"accessor": "auth_approle_1234"}})
    said = normaliser.value({"path": "role/11-22", "token": "s.token", "template": "{{auth_approle_1234}}"})
    assert said == {
        "path": "role/<role_id>",
        "token": "<client_token>",
        "template": "{{<accessor of vaultpki/demo/listed/>}}",
    }


def test_what_is_random_is_replaced_and_what_is_not_stays() -> None:
    text = "2026-05-01T12:00:00.5Z 1777000000 3f2b8a10-0000-4000-8000-1234567890ab kubelet.0123456789abcdef"
    assert Normaliser().text(text) == "<time> <seconds> <uuid> kubelet.<16 digits>"
    assert Normaliser().text("0a:" * 19 + "0b " + "ab" * 32) == "<hex> <hex>"
    text = "it expires on 2036-11-25 01:24Z, in 3649 days"
    assert Normaliser().text(text) == "it expires on <minute>, in 3649 days"
    assert Normaliser().value({"moment": {"uptime": 31667.42}}) == {"moment": {"uptime": "<seconds>"}}
    kept = {"ttl": 2592000, "address": "fd00::11", "mode": "0640", "port": 6443, "no": None, "yes": True}
    assert Normaliser().value(kept) == kept


def test_a_certificate_becomes_its_meaning_wherever_it_stands() -> None:
    pem = PEM.cert_chain_pems[0].bytes().decode()
    normaliser = Normaliser()
    normaliser.learn({"certificate": pem})
    (line,) = normaliser.lines(pem.encode())
    assert line.startswith("<certificate CN=kube-apiserver")
    assert "DNSName(value='api.internal'), IPAddress(value=10.0.0.1)" in line
    assert "serverAuth" in line
    assert normaliser.text(json.dumps(pem)) == f'"{line}\n"'


def test_no_key_is_left() -> None:
    assert "KEY-----" not in Normaliser().text(PEM.private_key_pem.bytes().decode())


def test_json_in_a_text_is_compared_by_its_values() -> None:
    one, other = ('{"a": 1, "b": 2}', '{"b":2,"a":1}')
    assert Normaliser().value({"policy": one}) == Normaliser().value({"policy": other})
    assert Normaliser().value({"policy": one}) != Normaliser().value({"policy": '{"a": 1}'})


def test_a_changed_field_a_further_request_and_a_missing_file_are_seen() -> None:
    role, report = ("POST /v1/pki/roles/x", ("ttl: 1", "max_ttl: 2")), ("POST /v1/reports/x", ("-> 200",))
    before: list[Block] = [role, report, ("state/joined", ("100600 0:0",))]
    after: list[Block] = [(role[0], ("ttl: 1", "max_ttl: 3")), report, report]
    assert differences(before, before) == []
    assert differences(before, list(reversed(before))) == []
    assert differences(before, after) == [
        ("POST /v1/pki/roles/x", (" ttl: 1", "-max_ttl: 2", "+max_ttl: 3")),
        ("POST /v1/reports/x", ("+ all of it", "+ -> 200")),
        ("state/joined", ("- all of it", "- 100600 0:0")),
    ]


def test_a_deliberate_difference_covers_its_own_lines_alone() -> None:
    meant = Deliberate("apply.*", "requests", "POST .*/roles/.*", r"[-+]max_ttl: \d", "a reason")
    assert meant.covers(
        "apply of a change", "requests", "POST /v1/pki/roles/x", (" ttl: 1", "-max_ttl: 2", "+max_ttl: 3")
    )
    assert not meant.covers("apply", "requests", "POST /v1/pki/roles/x", ("-max_ttl: 2", "+max_ttl: 3", "+ttl: 1"))
    assert not meant.covers("apply", "tree", "POST /v1/pki/roles/x", ("-max_ttl: 2",))
    assert not meant.covers("destroy", "requests", "POST /v1/pki/roles/x", ("-max_ttl: 2",))
