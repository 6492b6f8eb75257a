"""What a line of the agent's log is, whatever an event holds and whatever has become of the stream."""

from __future__ import annotations

import io
import json
import os
import re
import threading
from pathlib import Path

import pytest

from vaultpki.host.log import Event, Format, Level, writer

TOKEN = "hvs." + "CAESIJ" * 5
KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA\n-----END EC PRIVATE KEY-----"
BOTH = pytest.mark.parametrize("form", ["text", "json"])

HOSTILE = [
    "one\ntwo",
    "one\r\ntwo\n\n",
    "bell \a, escape \x1b[31m, NUL \0, backspace \b",
    "line separators \u2028 \u2029 \x85 \v \f",
    "half a pair \udcff and a right-to-left mark \u202e",
    "",
    "é" * 20_000,
    "\U0001f600" * 20_000,
    '"\\' * 20_000,
]


def line(event: Event, form: Format) -> str:
    stream = io.StringIO()
    writer(form, stream)(event)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("level", "said"), [("info", "issued x\n"), ("warning", "vaultpki: issued x\n"), ("error", "vaultpki: issued x\n")]
)
def test_text_is_the_sentence(level: Level, said: str) -> None:
    assert line(Event("renewed", "issued x", level, {"name": "x"}), "text") == said


@pytest.mark.parametrize(
    ("level", "priority"), [("info", "<6>"), ("warning", "<4>vaultpki: "), ("error", "<3>vaultpki: ")]
)
def test_the_journal_is_told_the_priority(
    level: Level, priority: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        about = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{about.st_dev}:{about.st_ino}")
        writer("text", stream)(Event("e", "said", level))
        stream.seek(0)
        assert stream.read() == f"{priority}said\n"


def test_a_stream_that_is_not_the_journal_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    with (tmp_path / "file").open("w+") as stream:
        writer("text", stream)(Event("e", "said", "error"))
        stream.seek(0)
        assert stream.read() == "vaultpki: said\n"
    assert line(Event("e", "said", "error"), "text") == "vaultpki: said\n"


def test_json_has_what_a_program_asks_for() -> None:
    fields: dict[str, str | int | float | bool] = {"name": "kubelet", "granted": 60, "left": 1.5, "forced": True}
    said = json.loads(line(Event("renewed", "issued kubelet", fields=fields), "json"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", said.pop("time"))
    assert said == {"level": "info", "event": "renewed", "message": "issued kubelet", **fields}
    assert list(json.loads(line(Event("e", "m", fields={"a": 1}), "json"))) == [
        "time",
        "level",
        "event",
        "message",
        "a",
    ]


def test_json_knows_no_infinity_and_no_field_in_place_of_its_own() -> None:
    event = Event("e", "m", fields={"level": "debug", "message": "other", "never": float("inf"), "nan": float("nan")})
    said = json.loads(line(event, "json"), parse_constant=pytest.fail)
    assert (said["level"], said["message"], said["never"], said["nan"]) == ("info", "m", None, None)


@BOTH
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_one_event_is_one_line_that_one_write_takes(form: Format, text: str) -> None:
    said = line(Event(text, text, "error", {text: text, "b": text, **dict.fromkeys(map(str, range(500)), 1)}), form)
    assert said.endswith("\n")
    assert said[:-1].isprintable() and said.splitlines() == [said[:-1]]
    assert len(said.encode()) <= 4096
    if form == "json":
        assert json.loads(said)["level"] == "error"


@BOTH
@pytest.mark.parametrize("secret", [TOKEN, "s." + "x" * 24, "hvb." + "y_-1" * 40, KEY, KEY.replace("\n", "\\n")])
def test_no_secret_gets_into_a_line(form: Format, secret: str) -> None:
    long = "x" * 250 + " " + secret
    said = line(Event(secret, f"Vault said {secret}", fields={"why": secret, secret: 1, "long": long}), form)
    for part in (secret, secret[:16], "MHcCAQEEIA", json.dumps(secret)[1:-1]):
        assert part not in said
    assert "(hidden)" in said


@BOTH
def test_a_reader_that_has_gone_does_no_harm(form: Format) -> None:
    reader, end = os.pipe()
    os.close(reader)
    stream = os.fdopen(end, "w")
    write = writer(form, stream)
    for _ in range(1000):
        write(Event("e", "x" * 1000))
    # What could not be written is still in the buffer, and closing tries again.
    with pytest.raises(BrokenPipeError):
        stream.close()


@BOTH
def test_a_full_disk_a_closed_stream_and_none_at_all_do_no_harm(form: Format) -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails too
    writer(form, full)(Event("e", "said"))
    with pytest.raises(OSError, match="No space left"):
        full.close()
    writer(form, full)(Event("e", "said"))
    writer(form, None)(Event("e", "said"))


@BOTH
def test_a_stream_that_knows_only_ascii(form: Format) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    writer(form, stream)(Event("e", "Zürich"))
    said = raw.getvalue().decode("ascii")
    assert json.loads(said)["message"] == "Zürich" if form == "json" else said == "Z\\xfcrich\n"


@BOTH
def test_lines_of_several_threads_stay_whole(form: Format, tmp_path: Path) -> None:
    file = tmp_path / "log"
    with file.open("w") as stream:
        write = writer(form, stream)

        def tell(name: str) -> None:
            for _ in range(300):
                write(Event("e", name * 2000))

        threads = [threading.Thread(target=tell, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    said = file.read_text().splitlines()
    messages = [json.loads(each)["message"] if form == "json" else each for each in said]
    assert sorted(messages) == sorted(name * 2000 for name in "abcd" for _ in range(300))


@BOTH
def test_a_reader_that_reads_nothing_holds_nobody_up(form: Format) -> None:
    reader, end = os.pipe()
    with os.fdopen(end, "w") as stream:
        write = writer(form, stream)
        for _ in range(100):
            write(Event("e", "x" * 3000))
        said = os.read(reader, 1 << 20)
        os.close(reader)
    # What was written before the pipe was full is whole.
    assert said.endswith(b"\n") and 1 < said.count(b"\n") < 100
