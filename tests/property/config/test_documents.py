"""Whatever stands in a file, it loads or is refused with one printable sentence."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from vaultpki.assets import starter
from vaultpki.config.agent import dump_agent, load_agent
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError
from vaultpki.model import AgentConfig, Hook
from vaultpki.values.durations import format_duration, parse_duration

_FOLDER = tempfile.TemporaryDirectory(prefix="vaultpki-test-")
_WORDS = st.sampled_from(
    ["cluster", "nodes", "pools", "ca", "key", "ttl", "certificates", "admin", "kubelet", "name", "roles", "addresses",
     "worker", "w-*", "10.0.0.1", "30d", "30", "no", "~", "[", "]", "{", "}", ": ", ", ", "\n", "\n  ", "- ", "&a ",
     "*a", "!!int ", "<<", '"', "'", "---\n", "%YAML 1.1\n", "? ", "| ", "> ", "#", "\\0", "\t", "\x1b", "\x85"]
)  # fmt: skip
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=70) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS | st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def refusal(call: Callable[[Any], object], value: object) -> SpecError | None:
    try:
        call(value)
    except SpecError as error:
        return error
    return None


def survives(content: bytes) -> None:
    path = Path(_FOLDER.name) / "spec.yaml"
    path.write_bytes(content)
    for load in (load_cluster, load_agent):
        error = refusal(load, path)
        if error is not None:
            assert str(error).isprintable()
            assert error.problem
            assert error.file == str(path)
            assert error.line is None or 1 <= error.line <= len(content) + 2


@given(st.binary(max_size=300))
@example(b'"\\ud800"')
@example(b"cluster: \xed\xa0\x80")
@example(b"%YAML 1." + b"9" * 5000 + b"\n---\na: b")
@example(b"\xef\xbb\xbf")
@settings(max_examples=150, deadline=None)
def test_any_bytes(content: bytes) -> None:
    survives(content)


@given(st.lists(_WORDS | st.text(max_size=5), max_size=30).map("".join))
@settings(max_examples=300, deadline=None)
def test_any_yaml_like_text(text: str) -> None:
    survives(text.encode("utf-8", "surrogatepass"))


@given(st.dictionaries(_WORDS, _VALUES, max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_values(values: dict[str, object]) -> None:
    import json

    survives(json.dumps({"cluster": "p", "api_server": {"endpoint": "https://127.0.0.1"}, **values}).encode())


@given(st.integers(0, len(starter())), st.integers(0, 40), st.text(max_size=8) | _WORDS)
@settings(max_examples=300, deadline=None)
def test_any_change_of_a_good_file(start: int, length: int, put: str) -> None:
    text = starter().replace("#:", "")
    survives((text[:start] + put + text[start + length :]).encode("utf-8", "surrogatepass"))


@given(st.integers(1, parse_duration("100y")))
def test_durations_round_trip(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.text(max_size=40) | st.from_regex(r"[0-9ywdhms.-]*"))
def test_any_duration_text(text: str) -> None:
    error = refusal(parse_duration, text)
    if error is None:
        assert 1 <= parse_duration(text) <= parse_duration("100y")
    else:
        assert str(error).isprintable()


WORDS = st.text(max_size=20).filter(lambda text: "\0" not in text)
COMMANDS = st.tuples(st.sampled_from(("true", "/bin/no", "~", "é")), st.lists(WORDS, max_size=3)).map(
    lambda parts: Hook("command", argv=(parts[0], *parts[1]))
)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
READY_MADE = st.builds(Hook, st.sampled_from(("systemd", "static_pod")), name=NAMES)


@given(st.lists(COMMANDS | READY_MADE, max_size=4, min_size=1), st.integers(1, 3600))
@settings(deadline=None)
def test_hooks_round_trip(hooks: list[Hook], timeout: int) -> None:
    path = Path(_FOLDER.name) / "agent.yaml"
    path.write_text(
        "cluster: p\nnode: n\nvault: {addresses: ['https://v']}\nauth: {method: approle, role_id: x}\n"
        f"root_sha256: '{'a' * 64}'\n"
    )
    config: AgentConfig = load_agent(path)
    from dataclasses import replace

    config = replace(config, hooks={"kubelet": tuple(hooks)}, hook_timeout=timeout)
    path.write_text(dump_agent(config))
    assert load_agent(path) == config
