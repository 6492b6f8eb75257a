"""Rules 1 to 11: what a stranger's request must be before anybody looks at what it asks for."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import hostile_requests as hostile
from helpers.hostile_requests import BMP, CN, IA5, NUMERIC, OU, PRINTABLE, T61, UTF8, O, name, pem, request_der, subject
from vaultpki.errors import RequestRefused
from vaultpki.pki.csr import CsrContent, read_request
from vaultpki.values.der import element

GOOD = hostile.simple("system:node:w-1", ["system:nodes"])
NAMES = subject([[name(O, "dev")], [name(CN, "a")]])


def refused(request: bytes) -> tuple[str, str]:
    with pytest.raises(RequestRefused) as caught:
        read_request(request)
    assert str(caught.value).isprintable() and len(str(caught.value).split()) <= 25
    return caught.value.rule, str(caught.value)


def named(*groups: list[hostile.Name]) -> bytes:
    return pem(request_der(subject(groups)))


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa-2048", "rsa-3072", "rsa-4096"])
@pytest.mark.parametrize("hashed", ["sha256", "sha384", "sha512"])
def test_what_is_read(kind: str, hashed: str) -> None:
    asked = read_request(hostile.simple("system:node:w-1", ["system:nodes"], kind=kind, hashed=hashed))
    assert (asked.common_name, asked.organization) == ("system:node:w-1", ("system:nodes",))
    assert not asked.alternative and not asked.extensions and not asked.ca
    assert len(asked.public_key) > 90


def test_what_it_asks_for_is_told_by_kind() -> None:
    extensions = [
        hostile.alternative((0x82, b"w-1"), (0x87, bytes([10, 0, 0, 1])), (0x87, bytes(15) + b"\1"), (0x81, b"a@b")),
        hostile.extension(hostile.KEY_USAGE, b"\x03\x02\x05\xa0", critical=True),
        hostile.extension("1.2.3.4", b"\x05\x00"),
        hostile.basic(ca=True),
    ]
    asked = read_request(hostile.simple("a", [], extensions))
    assert (asked.alternative, asked.dns, asked.ips, asked.other_names) == (True, ("w-1",), ("10.0.0.1", "::1"), 1)
    assert asked.extensions == {hostile.KEY_USAGE, "1.2.3.4", hostile.BASIC}
    assert asked.ca


def test_names_of_all_sorts_that_are_no_address_or_dns_name_are_counted() -> None:
    others = [(0x81, b"a@b"), (0x86, b"spiffe://a/b"), (0x88, b"\x2a\x03"), (0xA4, subject([[name(CN, "a")]]))]
    assert read_request(hostile.simple("a", [], [hostile.alternative(*others)])).other_names == 4


@pytest.mark.parametrize("network", [bytes([10, 0, 0, 0, 255, 0, 0, 0]), bytes(16) + b"\xff" * 16])
def test_a_network_is_no_address(network: bytes) -> None:
    made = hostile.simple("a", [], [hostile.alternative((0x87, network))])
    with contextlib.suppress(RequestRefused):
        asked = read_request(made)
        assert (asked.ips, asked.other_names) == ((), 1)


def test_an_empty_list_of_names_is_one() -> None:
    asked = read_request(hostile.simple("a", [], [hostile.alternative()]))
    assert (asked.alternative, asked.dns, asked.ips) == (True, (), ())


def test_what_is_no_extension_is_told_too() -> None:
    password = hostile.attribute(hostile.CHALLENGE, element(UTF8, b"x"))
    assert read_request(pem(request_der(NAMES, attributes=[password]))).extensions == {hostile.CHALLENGE}
    microsofts = hostile.attribute(hostile.MICROSOFTS, element(hostile.SEQUENCE, hostile.alternative((0x82, b"evil"))))
    assert read_request(pem(request_der(NAMES, attributes=[microsofts]))).extensions == {hostile.MICROSOFTS}


def test_two_lists_of_extensions_are_no_way_around() -> None:
    """Whatever another parser would take from the second one."""
    both = [
        hostile.attribute(hostile.EXTENSION_REQUEST, element(hostile.SEQUENCE, each))
        for each in (hostile.extension("1.2.3.4", b"\x05\x00"), hostile.basic(ca=True))
    ]
    with contextlib.suppress(RequestRefused):
        assert hostile.EXTENSION_REQUEST in read_request(pem(request_der(NAMES, attributes=both))).extensions


def test_rule_1_longer_than_16_kib() -> None:
    assert refused(b"x" * 20_000) == ("1", "the request is longer than 16 KiB")
    many = hostile.alternative(*hostile.dns(*(f"w-{each}.example.com" for each in range(900))))
    assert refused(hostile.simple("a", [], [many]))[0] == "1"
    assert refused(b"x" * 16_384)[0] == "2" and refused(b"x" * 16_385)[0] == "1"


BODY = GOOD.split(b"-----")[2]


@pytest.mark.parametrize(
    "request_pem",
    [
        b"",
        b"\n" + GOOD,
        b" " + GOOD,
        GOOD + b" ",
        GOOD + b"x",
        b"text before\n" + GOOD,
        GOOD + b"text after\n",
        GOOD + GOOD,
        GOOD + hostile.simple("system:masters"),
        GOOD.replace(b"REQUEST-----\n", b"REQUEST-----\nProc-Type: 4,ENCRYPTED\n\n", 1),
        GOOD.replace(b"REQUEST-----\n", b"REQUEST-----\nX-Note: a\n\n", 1),
        GOOD.replace(b"CERTIFICATE REQUEST", b"NEW CERTIFICATE REQUEST"),
        GOOD.replace(b"CERTIFICATE REQUEST", b"CERTIFICATE"),
        GOOD.replace(b"-----END", b"----END"),
        GOOD.replace(b"-----BEGIN", b"-----BEGIN "),
        GOOD.replace(b"\n", b"\r"),
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b"\n", b"\0\n", 1),
        BODY,
        base64.b64decode(BODY),
        b"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
        GOOD.replace(b"M", b"M ", 1),
        GOOD.replace(b"M", b"_", 1),
    ],
)
def test_rule_2_exactly_one_block(request_pem: bytes) -> None:
    assert refused(request_pem) == ("2", "the request is not exactly one PEM block")


@pytest.mark.parametrize("ending", [b"", b"\n", b"\n\n"])
def test_new_lines_at_the_end_make_no_difference(ending: bytes) -> None:
    assert read_request(GOOD.rstrip() + ending) == read_request(GOOD)
    assert read_request(GOOD.rstrip().replace(b"\n", b"\r\n") + ending) == read_request(GOOD)


GOOD_DER = request_der(NAMES)


@pytest.mark.parametrize(
    "der",
    [
        b"\x00",
        b"\x30\x00",
        b"\x30\x80",
        GOOD_DER[:-1],
        GOOD_DER + b"\x00",
        GOOD_DER.replace(b"\x02\x01\x00", b"\x02\x01\x05", 1),
        request_der(NAMES, version=b"\x02"),
        request_der(NAMES, [hostile.extension(hostile.SAN, b"\xff")]),
        request_der(NAMES, [hostile.extension(hostile.BASIC, b"")]),
        request_der(NAMES, [hostile.alternative((0x87, b"\x0a\x00\x00"))]),
        request_der(NAMES, [hostile.alternative((0x82, b"a")), hostile.alternative((0x82, b"b"))]),
        request_der(subject([[name(CN, b"\xff\xfe")]])),
        request_der(subject([[(CN, BMP, b"\0")]])),
        request_der(subject([[(CN, PRINTABLE, b"a@b")]])),
        request_der(NAMES, attributes=[hostile.attribute(hostile.CHALLENGE)]),
        request_der(NAMES, attributes=[hostile.attribute(hostile.CHALLENGE, element(UTF8, b"a"), element(UTF8, b"b"))]),
    ],
)
def test_rule_3_cannot_be_read(der: bytes) -> None:
    assert refused(pem(der)) == ("3", "the request cannot be read")


def test_rule_3_wrong_base64() -> None:
    assert refused(GOOD.replace(b"=", b"") if b"=" in GOOD else GOOD.replace(b"M", b"=", 1))[0] == "3"


@pytest.mark.parametrize(
    ("kind", "hashed"), [("p256", "sha1"), ("p256", "sha224"), ("rsa-2048", "sha1"), ("rsa-2048", "md5")]
)
def test_rule_4_an_old_hash(kind: str, hashed: str) -> None:
    """The API server takes SHA-1."""
    try:
        request = hostile.simple("a", kind=kind, hashed=hashed)
    except Exception:  # noqa: BLE001 - some builds of OpenSSL sign nothing with it
        pytest.skip(f"OpenSSL here signs nothing with {hashed}")
    assert refused(request) == ("4", "the request is signed with an old hash")


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa-2048"])
def test_rule_5_the_signature_is_wrong(kind: str) -> None:
    assert refused(pem(request_der(NAMES, kind=kind, spoil=True))) == ("5", "the signature of the request is wrong")


def test_rule_5_the_signature_of_another_kind_of_key() -> None:
    other = request_der(NAMES, kind="rsa-2048")
    mixed = GOOD_DER.replace(hostile.oid("1.2.840.10045.4.3.2"), hostile.oid("1.2.840.10045.4.3.3"))
    assert refused(pem(mixed))[0] == "5"
    assert refused(pem(other[:-1] + bytes([other[-1] ^ 1])))[0] == "5"


@pytest.mark.parametrize("kind", ["p224", "p521", "k1", "ed25519", "rsa-1024", "rsa3", "dsa", "rsa-2040"])
def test_rule_6_another_key(kind: str) -> None:
    assert refused(hostile.simple("a", kind=kind)) == (
        "6",
        "the key is neither P-256, P-384 nor RSA of 2048 to 4096 bits",
    )


@pytest.mark.parametrize(
    "groups",
    [
        [[name(CN, "a"), name(O, "dev")]],
        [[name(CN, "a"), name(CN, "b")]],
        [[name(O, "a"), name(O, "b")], [name(CN, "a")]],
        [[name(CN, "a")], [name(OU, "a"), name(O, "b")]],
    ],
)
def test_rule_7_a_group_of_several_names(groups: list[list[hostile.Name]]) -> None:
    assert refused(named(*groups)) == ("7", "the subject has a group of several names")


@pytest.mark.parametrize(
    "other",
    [
        name(OU, "a"),
        name(hostile.EMAIL, "a@b", IA5),
        name(hostile.SERIAL, "1", PRINTABLE),
        name(hostile.UID, "system:masters"),
        name("2.5.4.6", "DE", PRINTABLE),
        name("1.2.3.4", "a"),
        name("2.5.4.97", "a"),
    ],
)
def test_rule_8_more_than_o_and_cn(other: hostile.Name) -> None:
    assert refused(named([other], [name(CN, "a")])) == ("8", "the subject has more than O and CN")
    assert refused(named([name(CN, "a")], [other]))[0] == "8"


@pytest.mark.parametrize("groups", [[], [[name(O, "dev")]], [[name(CN, "a")], [name(CN, "b")]], [[name(CN, "a")]] * 2])
def test_rule_9_exactly_one_cn(groups: list[list[hostile.Name]]) -> None:
    assert refused(named(*groups)) == ("9", "the subject has not exactly one CN")


REFUSED_NAMES = [
    "a b", " a", "a ", "a,b", 'a"b', "a\\b", "a*", "*", "a\0", "\0", "a\nb", "a\r", "a\tb", "\x1b[2J", "\x7f", "\x80",
    "ä", "\u200ba", "a\u200d", "\u202ea", "\ufeffa", "a\u00a0b", "\uff41", "\u0430", "😀", "a" * 65,
    "system:node:w-9,system:node:cp-1",
]  # fmt: skip


@pytest.mark.parametrize("value", REFUSED_NAMES)
def test_rule_10_a_character_that_is_not_signed(value: str) -> None:
    expected = ("10", "a name has a character that we do not sign")
    assert refused(named([name(CN, value)])) == expected
    assert refused(named([name(O, value)], [name(CN, "a")])) == expected


def test_rule_10_an_empty_name() -> None:
    """cryptography reads no empty name in some versions."""
    assert refused(named([name(CN, "")]))[0] in ("3", "10")
    assert refused(named([name(O, "")], [name(CN, "a")]))[0] in ("3", "10")


@pytest.mark.parametrize(
    "value", [(CN, BMP, "a".encode("utf-16-be")), (CN, T61, b"a"), (CN, IA5, b"a"), (CN, NUMERIC, b"1")]
)
def test_rule_10_another_encoding(value: hostile.Name) -> None:
    """Libraries read them differently (Go refuses some)."""
    assert refused(named([value]))[0] in ("3", "10")


@pytest.mark.parametrize(
    "value", ["a", "a" * 64, "!", "~", "[x]", "a@b", "a+b", "a/b", "{}", "O=x", "a;b", "<a>", "'", "#"]
)
def test_other_printable_characters_are_names(value: str) -> None:
    assert read_request(named([name(CN, value)])).common_name == value


def test_rule_11_an_o_twice() -> None:
    twice = named([name(O, "dev")], [name(O, "a")], [name(O, "dev")], [name(CN, "a")])
    assert refused(twice) == ("11", "an O stands twice")


def test_the_first_rule_counts() -> None:
    everything = subject([[name(O, "a b"), name(O, "c")], [name(OU, "x")]])
    assert refused(pem(request_der(everything, kind="p521", spoil=True)))[0] == "5"
    assert refused(pem(request_der(everything, kind="p521")))[0] == "6"
    assert refused(pem(request_der(everything)))[0] == "7"


def either(data: bytes) -> None:
    with contextlib.suppress(RequestRefused):
        assert isinstance(read_request(data), CsrContent)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_a_request_or_a_rule(data: bytes) -> None:
    either(data)
    either(pem(data))
    either(b"-----BEGIN CERTIFICATE REQUEST-----\n" + data + b"\n-----END CERTIFICATE REQUEST-----\n")


RICH = request_der(
    NAMES, [hostile.alternative((0x82, b"w-1"), (0x87, bytes(4))), hostile.basic(ca=False)], kind="rsa-2048"
)


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from([GOOD_DER, RICH]),
    st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), max_size=4),
    st.integers(0, 4),
)
def test_any_change_of_a_request_gives_a_request_or_a_rule(der: bytes, edits: list[tuple[int, int]], cut: int) -> None:
    out = bytearray(der)
    for place, value in edits:
        out[place % len(out)] = value
    either(pem(bytes(out[: len(out) - cut])))
