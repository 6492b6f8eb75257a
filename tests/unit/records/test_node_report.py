"""What a report says of the components that read a bundle only when they start, written and read again."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from vaultpki.records import changes, node_report, service_account
from vaultpki.records.node_report import NodeReport, ReaderReport, Seen, TokenKeysReport
from vaultpki.redact import moment, stamp

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
SHA = "5f" * 32


def read(**said: object) -> NodeReport:
    found = node_report.read({"time": "2026-11-27T12:00:00Z", **said})
    assert found is not None
    return found


def again(said: NodeReport) -> NodeReport:
    """The same, written and read."""
    return read(**json.loads(json.dumps(node_report.to_json(said))))


def with_reader(entry: dict[str, object]) -> dict[str, ReaderReport]:
    return dict(read(readers={"etcd/etcd": entry}).readers)


@pytest.mark.parametrize(
    "one",
    [
        ReaderReport(NOW, frozenset({SHA}), running=True, healthy=True),
        ReaderReport(NOW, frozenset(), running=True, problem="/readyz answers 500"),
        ReaderReport(None, problem="no process of it runs"),
        ReaderReport(None, problem="no process of it runs", stopped=NOW),
    ],
)
def test_a_reader_is_read_as_it_was_written(one: ReaderReport) -> None:
    written = node_report.to_json(NodeReport(NOW, readers={"etcd/etcd": one}))
    assert set(written["readers"]["etcd/etcd"]) == {
        "started",
        "sha256",
        "running",
        "healthy",
        "problem",
        "stopped",
    }
    assert again(NodeReport(NOW, readers={"etcd/etcd": one})).readers == {"etcd/etcd": one}


def test_a_component_that_runs_is_not_stopped_and_an_agent_of_before_does_not_know() -> None:
    entry: dict[str, object] = {"started": None, "running": False, "healthy": False, "problem": "no process"}
    assert with_reader(entry)["etcd/etcd"].stopped is None
    odds: tuple[object, ...] = (True, "now", 7, {})
    for odd in odds:
        assert with_reader(entry | {"stopped": odd})["etcd/etcd"].stopped is None
    runs = {"started": "2026-05-01T12:00:00Z", "running": True, "healthy": True, "stopped": "2026-05-01T12:00:00Z"}
    assert with_reader({**runs})["etcd/etcd"].stopped is None


def test_versions_are_read_as_they_were_written() -> None:
    versions = {"kubelet": "v1.35.4", "kube-proxy": "v1.34.3-eks-1a2b3c4"}
    assert again(NodeReport(NOW, kubernetes=versions)).kubernetes == versions
    # Agents of before say nothing, and neither do those that see none.
    assert "kubernetes" not in node_report.to_json(NodeReport(NOW))
    assert read().kubernetes == {}


@pytest.mark.parametrize(
    "value",
    [
        None,
        "v1.35.4",
        ["kubelet"],
        {"kubelet": None},
        {"kubelet": 35},
        {"kubelet": "1.35.4"},
        {"kubelet": "v1.35.4\x1b[31m"},
        {"kubelet": {"version": "v1.35.4"}},
        {"another": "v1.35.4"},
        {"another\n": "v1.35.4"},
    ],
)
def test_what_is_no_version_of_a_component_is_left_out(value: object) -> None:
    assert read(kubernetes=value).kubernetes == {}


def test_a_report_of_an_earlier_version_says_nothing_of_processes() -> None:
    entry: dict[str, object] = {"started": "2026-11-27T12:00:00Z", "sha256": [SHA]}
    assert with_reader(entry) == {"etcd/etcd": ReaderReport(NOW, frozenset({SHA}))}


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"sha256": [SHA]},
        {"started": None},
        {"started": "yesterday", "running": True, "healthy": True},
        {"started": 7, "running": True, "healthy": True},
    ],
)
def test_what_is_no_start_is_no_reader(entry: dict[str, object]) -> None:
    assert with_reader(entry) == {}


@pytest.mark.parametrize("word", ["true", 1, None, [True]])
def test_only_true_says_that_a_component_runs_and_is_healthy(word: object) -> None:
    entry = {"started": "2026-11-27T12:00:00Z", "sha256": [SHA], "running": word, "healthy": word}
    found = with_reader(entry)["etcd/etcd"]
    assert not found.running and not found.healthy


def test_a_problem_is_printable_and_bounded() -> None:
    one = ReaderReport(None, problem="\x1b[2Jno\nprocess " + "x" * 900)
    written = node_report.to_json(NodeReport(NOW, readers={"etcd/etcd": one}))
    entry: dict[str, object] = {"started": None, "sha256": [], "running": False, "problem": one.problem}
    for said in (written["readers"]["etcd/etcd"]["problem"], with_reader(entry)["etcd/etcd"].problem):
        assert len(said) <= 300 and said.isprintable()


@pytest.mark.parametrize(
    ("poll", "look", "within"),
    [(300, 3600, 4200), (300, 0, 600), (0, 3600, 0), (86400, 3600, 2 * 86400 + 3600)],
)
def test_a_report_says_within_which_time_the_next_one_comes(poll: int, look: int, within: int) -> None:
    written = node_report.to_json(NodeReport(NOW, poll=poll, look=look))
    assert ("look" in written) is bool(look)
    found = read(**written)
    assert (found.poll, found.look, found.next_within) == (poll, look, within)


@pytest.mark.parametrize("look", [changes.LONGEST_LOOK + 1, 10**30, -1, 0.5, True, "3600", None, [3600]])
def test_no_report_says_that_the_next_one_comes_later_than_any_agent_writes_it(look: object) -> None:
    found = read(poll=300, look=look)
    assert (found.look, found.next_within) == (0, 600)


def test_a_time_is_read_as_it_was_written() -> None:
    when = datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC)
    assert moment(stamp(when)) == when


@pytest.mark.parametrize(
    "text",
    [
        *("2026-05-01T10:00:00", "2026-05-01 10:00:00Z", "20260501T100000Z", "2026-05-01T10:00:00+00:00"),
        *("2026-05-01T24:00:00Z", "2026-02-29T10:00:00Z", "2026-05-01T10:00:60Z", "0001-01-01T00:00:00Z"),
        *("2026-05-01T10:00:00Z\n", "2026-05-01T10:00:00.5Z", "\u0662026-05-01T10:00:00Z", "", 1, None, ["x"]),
    ],
)
def test_what_no_agent_writes_is_no_time(text: object) -> None:
    assert moment(text) is None


KEYS = TokenKeysReport(
    Seen(3, 4),
    own={1: "-----BEGIN CERTIFICATE-----\n", 2: "another"},
    union=frozenset({SHA, "6f" * 32}),
    signing=SHA,
    installed=NOW,
    loaded_union=frozenset({SHA}),
    loaded_signing=SHA,
    reader=ReaderReport(NOW, running=True, healthy=True),
    extends=False,
    longest=0,
    shared=SHA,
    shared_key="rsa-2048",
)


@pytest.mark.parametrize("keys", [KEYS, TokenKeysReport(Seen(0, 0)), replace(KEYS, loaded_union=frozenset())])
def test_token_keys_are_read_as_they_were_written(keys: TokenKeysReport) -> None:
    assert again(NodeReport(NOW, token_keys=keys)).token_keys == keys
    assert "token_keys" not in node_report.to_json(NodeReport(NOW))


def test_a_report_says_all_that_the_largest_union_has() -> None:
    """Else a cluster with many keys would wait for ever: what is left out counts as missing."""
    largest = frozenset(f"{number:064x}" for number in range(service_account.MOST_IN_UNION))
    keys = TokenKeysReport(Seen(3, 3), union=largest, loaded_union=largest)
    found = again(NodeReport(NOW, token_keys=keys)).token_keys
    assert found is not None and found.union == found.loaded_union == largest


def test_files_are_loaded_if_a_healthy_process_was_started_with_both() -> None:
    assert not KEYS.loaded
    loaded = replace(KEYS, loaded_union=KEYS.union)
    assert loaded.loaded
    assert not replace(loaded, loaded_signing="").loaded
    assert not replace(loaded, reader=ReaderReport(NOW, running=True, problem="it answers 500")).loaded
    assert not TokenKeysReport(Seen(0, 0)).loaded


def test_token_keys_count_for_a_node_that_has_the_row_alone() -> None:
    told = NodeReport(NOW, token_keys=KEYS)
    assert node_report.with_own_rows_only(told, {"service-account": "service-account"}).token_keys == KEYS
    assert node_report.with_own_rows_only(told, {"kubelet": "kubelet"}).token_keys is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("own", {"0": "x"}),
        ("own", {"1": 7}),
        ("own", {"1": "x" * 10_000}),
        ("own", ["x"]),
        ("union", ["no hash"]),
        ("signing", "no hash"),
        ("signing", [SHA]),
        ("loaded_union", {SHA: 1}),
        ("extends", "true"),
        ("longest", -1),
        ("longest", True),
        ("longest", 1 << 33),
        ("shared", "no hash"),
    ],
)
def test_what_a_false_report_says_of_token_keys_is_left_out(field: str, value: object) -> None:
    written = node_report.to_json(NodeReport(NOW, token_keys=TokenKeysReport(Seen(1, 1))))
    written["token_keys"][field] = value
    assert read(**written).token_keys == TokenKeysReport(Seen(1, 1))
