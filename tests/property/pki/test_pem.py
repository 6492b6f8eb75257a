"""Reading PEM: the same language as a regular expression that says it in one line, and work that grows with length."""

from __future__ import annotations

import base64
import contextlib
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vaultpki.config import jwt
from vaultpki.errors import VaultpkiError
from vaultpki.pki import keys, x509
from vaultpki.provision.plan import Observed, plan
from vaultpki.values import pem

BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
BODY = base64.b64encode(b"\x30\x03\x02\x01\x01").decode()

# What is wanted, as it is shortest to write; on some texts its work grows with the third power of their length.
WHOLE = re.compile(rf"{BEGIN}\s+([A-Za-z0-9+/=][A-Za-z0-9+/=\s]*?)\s*{END}")

PIECES = st.sampled_from([BEGIN, END, BEGIN[:-1], "-----", "\n", "\r\n", " ", "\t", "A", BODY, "=", "x y", "ä", "\x0b"])


def wanted(text: str) -> list[str]:
    """The bodies by the expression; none unless every block is whole."""
    found = [match[1].strip() for match in WHOLE.finditer(text)]
    # Two beginnings may share dashes.
    return found if len(found) == len(re.findall(f"(?={BEGIN})", text)) else []


@settings(max_examples=600, deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join))
@example(f"{BEGIN[:-1]}{BEGIN}\nA{END}")
def test_whole_blocks_and_nothing_else_are_found(text: str) -> None:
    assert pem.pem_bodies(text, "CERTIFICATE") == wanted(text)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["\n", "# a comment\n", f"{BEGIN}\n{BODY}\n{END}\n", f"{BEGIN} {BODY} {END}"]), min_size=1)
)
def test_whole_blocks_pass_with_text_around_them(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert pem.pem_bodies(text, "CERTIFICATE") == wanted(text) == [BODY] * text.count(BEGIN)
    if BEGIN in text:
        assert pem.pem_certificates(text) == f"{BEGIN}\n{BODY}\n{END}\n" * text.count(BEGIN)


READERS: dict[str, Callable[[str], object]] = {
    "certificates of a file": pem.pem_certificates,
    "public keys of a file": jwt._public_keys,
    "certificates and nothing else": lambda text: x509.read_certificates(text.encode()),
    "a private key": lambda text: keys.read_key(text.encode()),
    "a duration of the server's": lambda text: plan(
        {("c", "n"): {"expiry": "1h"}}, Observed({("c", "n"): {"expiry": text}})
    ),
}
KEY = "-----BEGIN PUBLIC KEY-----"
# Each is its first part, then its second one as often as fits into a size, then its third.
TEXTS = {
    "newlines": ("", "\n", ""),
    "newlines in a block": (BEGIN, "\n", ""),
    "newlines in a block, and a dash": (BEGIN, "\n", "-"),
    "letters in a block": (f"{BEGIN}\n", "A", ""),
    "letters and newlines in a block": (f"{BEGIN}\n", "A\n", ""),
    "newlines behind a block": (f"{BEGIN}\n{BODY}\n{END}", "\n", "x"),
    "blanks behind a block": (f"{BEGIN}\n{BODY}\n{END}", " ", "x"),
    "beginnings": ("", f"{BEGIN}\n", ""),
    "ends": (BEGIN, f"\n{END}", ""),
    "newlines in a key": (KEY, "\n", ""),
    "digits": ("", "1", ""),
    "digits and a letter": ("", "1", "x"),
    "seconds and a letter": ("", "1s", "x"),
}


def fastest(read: Callable[[str], object], text: str) -> float:
    """Seconds, the least of three, since others share the processors."""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        with contextlib.suppress(VaultpkiError):
            read(text)
        took.append(time.perf_counter() - began)
    return min(took)


@pytest.mark.parametrize("shape", TEXTS)
@pytest.mark.parametrize("reader", READERS)
def test_sixteen_times_the_text_is_no_more_than_linear_work(reader: str, shape: str) -> None:
    """Work that grew with the square of the length would be 256 times as much, and with its third power 4,096 times."""
    read, (head, part, tail) = READERS[reader], TEXTS[shape]
    short, long = (f"{head}{part * (size // len(part))}{tail}" for size in (250, 4_000))
    # Two milliseconds for what a call costs whatever it reads.
    assert fastest(read, long) < 64 * fastest(read, short) + 0.002
