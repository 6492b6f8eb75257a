"""Ways in which a server misbehaves, and what every request that cannot succeed promises."""

from __future__ import annotations

import gzip
import time
import traceback
import tracemalloc
from dataclasses import dataclass
from typing import Any

import pytest

from helpers.faults.hostile_server import Behaviour, Guest
from vaultpki.errors import VaultError
from vaultpki.vault import Request, Settings, Vault

TOKEN = "hvs.CANARYcanaryCANARYcanary01"
SECRET_ID = "5ec9e7aa-0000-4000-8000-canarycanary"
PATIENCE = 0.6
REQUEST_SECONDS = 0.8
# The patience with what the first answer ends, of which a busy machine may make a long one.
ANSWERED = 30.0
# A try under way when patience ends is given a second (client.py), and this machine may be busy.
BOUND = PATIENCE + max(REQUEST_SECONDS, 1.0) + ANSWERED
MEMORY = 12 << 20
# 200 MB of an answer, gzipped: a file of many parts is one (RFC 1952, 2.2).
BOMB = b"".join([gzip.compress(b'{"data":"'), gzip.compress(b"0" * (2 << 20)) * 100, gzip.compress(b'"}')])

READ = Request("GET", "sys/seal-status")
WRITE = Request("POST", "vaultpki/x/root/root/generate/internal", {"secret_id": SECRET_ID}, once=True)


def always(status: int, body: object, *headers: str) -> Behaviour:
    """The same answer to every request."""

    def behave(guest: Guest) -> None:
        while True:
            guest.request()
            guest.answer(status, body, *headers)

    return behave


def resets_at_once(guest: Guest) -> None:
    guest.reset()


def hangs(guest: Guest) -> None:
    guest.request()
    guest.wait()


def closes(guest: Guest) -> None:
    guest.wait(0)


def garbage(guest: Guest) -> None:
    guest.say(bytes(range(256)) * 16)
    guest.wait(0.3)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request ended with: how long it took, the bytes of memory at its peak, and the whole traceback."""

    error: BaseException
    seconds: float
    peak: int
    told: str


def outcome(vault: Vault, request: Request) -> Outcome:
    """What becomes of a request that cannot succeed, with everything a person or a log could see of it."""
    tracemalloc.start()
    begun = time.monotonic()
    try:
        answer = vault.call(request)
        _ = answer.data
    except VaultError as error:
        seconds = time.monotonic() - begun
        return Outcome(error, seconds, tracemalloc.get_traced_memory()[1], "".join(traceback.format_exception(error)))
    finally:
        tracemalloc.stop()
    raise AssertionError(f"it was taken for an answer: {answer}")


def client(*addresses: str, **settings: Any) -> Vault:
    """One with a token, and with little patience, or with so many `seconds`; all else is a setting."""
    patience = settings.pop("seconds", PATIENCE)
    known = Settings(addresses, token=TOKEN, **settings)
    return Vault(known, patience=patience, request_seconds=max(patience, REQUEST_SECONDS))


def fit(found: Outcome, caplog: pytest.LogCaptureFixture) -> None:
    """The promises that hold for every outcome."""
    assert found.seconds < BOUND
    assert found.peak < MEMORY
    said = str(found.error)
    assert said
    assert said.isprintable()
    assert len(said) < 600
    assert found.error.__suppress_context__ or found.error.__context__ is None
    for secret in (TOKEN, SECRET_ID):
        assert secret not in found.told
        assert secret not in caplog.text
