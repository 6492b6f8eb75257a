"""The comparison of two checkouts: what is random goes, what has a meaning stays, and a change of it is seen."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest
import trustme

from compare.__main__ import ROOT, Deliberate, chosen, report
from compare.life import WAITS, Transcript, shortened, split, written
from compare.normal import Block, Normaliser, differences
from compare.situations import LIVES

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


def test_what_only_one_side_did_is_a_difference(capsys: pytest.CaptureFixture[str]) -> None:
    one: Transcript = {
        "ca/steady: ca status": {"exit": [("exit code", ("0",))], "text": [("stdout", ("All is well.",))]}
    }
    other: Transcript = {**one, "ca/steady: ca continue": {"exit": [("exit code", ("3",))]}}
    assert report(one, one, text=True) == 0
    assert report(one, other, text=True) == report(other, one, text=True) == 1
    assert "=== ca/steady: ca continue: exit" in capsys.readouterr().out


def test_a_word_for_people_is_compared_unless_it_is_left_out() -> None:
    one: Transcript = {"ca/steady: ca status": {"text": [("stdout", ("All is well.",))]}}
    other: Transcript = {"ca/steady: ca status": {"text": [("stdout", ("All is good.",))]}}
    assert report(one, other, text=True) == 1
    assert report(one, other, text=False) == 0


def test_the_list_has_sixty_situations_and_each_life_its_own_names() -> None:
    assert sum(len(life.situations) for life in LIVES.values()) >= 60
    assert all(name == life.name for name, life in LIVES.items())
    for life in LIVES.values():
        for commands in (*life.situations.values(), life.views):
            assert list(split(commands)), life.name


def test_lives_and_situations_are_chosen_by_name() -> None:
    assert chosen([]) == dict.fromkeys(LIVES, "")
    assert chosen(["root/retired", "keys"]) == {"root": "retired", "keys": ""}
    for wrong in ("rot", "root/retried"):
        with pytest.raises(ValueError, match="there is no situation"):
            chosen([wrong])


def test_commands_of_a_line_and_their_codes() -> None:
    assert list(split("plan;\n  ca continue => 3")) == ["plan", "ca continue => 3"]
    assert list(split("plan; ca continue => 3; PASS", "any")) == ["plan => any", "ca continue => 3", "PASS"]
    assert written(["enroll", "cp-1", "-o", "joins/cp-1.json"]) == "joins" and written(["plan"]) == ""


def test_waits_are_shortened_wherever_they_are_defined(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (first, seconds), *others = WAITS.items()
    (tmp_path / "one.py").write_text(f"A = 1\n{first}: Final = 5 * 60\nB = {first}\n")
    (tmp_path / "inner/two.py").write_text("".join(f"{name}: Final = 5 * 60\n" for name, _ in others))
    assert shortened(tmp_path) == []
    assert (tmp_path / "one.py").read_text() == f"A = 1\n{first}: Final = {seconds}\nB = {first}\n"
    assert "5 * 60" not in (tmp_path / "inner/two.py").read_text()
    (tmp_path / "one.py").write_text("")
    assert shortened(tmp_path) == [first]


def test_this_checkout_has_all_of_them(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "vaultpki", tmp_path / "vaultpki")
    assert shortened(tmp_path) == []


def test_how_long_ago_and_generations_of_cas_are_replaced() -> None:
    row = "cp-1  listed  worker  ok  in 29d  99%{}s ago  0.3.0  {}      0       1"
    said = {Normaliser().text(row.format(*each)) for each in (("     4", "ac23d67e"), ("    12", "31207493"))}
    assert said == {"cp-1  listed  worker  ok  in 29d  99% <while> ago  0.3.0  <8 digits>      0       1"}
    assert Normaliser().text("it waits 4m50s more") == Normaliser().text("it waits 9s more")
    assert Normaliser().value({"cas": "31207493", "ttl": 31536000}) == {"cas": "<8 digits>", "ttl": 31536000}


def test_a_learned_value_is_replaced_as_a_whole_word_and_a_place_anywhere() -> None:
    normaliser = Normaliser({"s.abcdef": "<token>", "/srv/x": "<folder>", "127.0.0.1:5": "<server>"})
    assert normaliser.text("aliases.abcdef s.abcdef s.abcdefg") == "aliases.abcdef <token> s.abcdefg"
    assert normaliser.text("/srv/x/pki http://127.0.0.1:5/v1") == "<folder>/pki http://<server>/v1"


def test_a_set_of_cas_has_no_order_and_other_lists_keep_theirs() -> None:
    normaliser = Normaliser(owners={"a" * 64: "<fingerprint of CA 2>", "b" * 64: "<fingerprint of CA 1>"})
    assert normaliser.value(["a" * 64, "b" * 64]) == normaliser.value(["b" * 64, "a" * 64])
    assert normaliser.value(["x", "a" * 64]) != normaliser.value(["a" * 64, "x"])


def test_what_is_chance_in_a_cluster_and_in_its_keys_is_replaced() -> None:
    made = Normaliser()
    pem = PEM.cert_chain_pems[0].bytes().decode()
    encoded = base64.b64encode(pem.encode()).decode()
    assert made.text(f"certificate-authority-data: {encoded}") == f"certificate-authority-data: {made.text(pem)}"
    jwk = {"kty": "EC", "kid": "vJD4pn1FInrQlLITHfYw1shT1GVzKihAzll8PjFvORU", "x": "eHE9", "y": "kkHQ"}
    assert made.value(jwk) == {"kty": "EC", "kid": "<kid>", "x": "<x>", "y": "<y>"}
    assert made.value({"x": "eHE9"}) == {"x": "eHE9"}
    marks = [f"key:{'a1' * 32}", "c3" * 32]
    assert made.value(marks) == made.value(marks[::-1]) == ["<hex>", "key:<hex>"]
    assert made.text("https://127.0.0.1:43559/x of 127.0.0.1:8200") == "https://127.0.0.1:<port>/x of 127.0.0.1:8200"


def test_what_is_left_of_the_life_of_a_root_is_rounded_and_other_lifetimes_are_not() -> None:
    assert Normaliser().value({"ttl": 315359873}) == Normaliser().value({"ttl": 315359691}) == {"ttl": 315360000}
    assert Normaliser().value({"ttl": 63072001}) == {"ttl": 63072001}
