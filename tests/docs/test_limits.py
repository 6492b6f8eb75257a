"""What the pages say about how much is allowed: cluster.yaml and agent.yaml take exactly so much, and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import reference
from helpers import pages
from vaultpki.cli import vaultpki
from vaultpki.config.agent import load_agent
from vaultpki.config.cluster import load_cluster
from vaultpki.daemon import metrics_server
from vaultpki.errors import SpecError
from vaultpki.records import rotation

# Each gets a number, and returns a cluster.yaml that has so much of one thing.
_NODE = {"name": "n", "roles": ["control-plane", "etcd"], "addresses": ["10.0.0.1"]}
_OWN = {"kind": "client", "common_name": "a", "ca": "kubernetes", "roles": ["worker"]}


def _long(length: int, most: int = 63) -> str:
    """Return a name of so many characters, whose labels have at most `most`."""
    parts = ["x" * most] * (length // (most + 1))
    rest = length - len(".".join(parts)) - bool(parts)
    return ".".join([*parts, "x" * rest]) if rest > 0 else ".".join(parts)


def _node_of(*roles: str) -> Callable[[int], dict[str, Any]]:
    return lambda n: {"nodes": [_NODE, {"name": _long(n, 40), "roles": [*roles], "addresses": ["10.0.0.2"]}]}


def _certificates(number: int) -> dict[str, Any]:
    worker = {"name": "w", "roles": ["worker"], "addresses": ["10.0.0.2"]}
    of_the_table = 3
    own = {f"own-{n}": _OWN | {"common_name": f"own-{n}"} for n in range(number - of_the_table)}
    return {"nodes": [_NODE, worker], "certificates": own}


SPECS: dict[str, Callable[[int], dict[str, Any]]] = {
    "`cluster`": lambda n: {"cluster": "x" * n},
    "`prefix`": lambda n: {"prefix": _long(n).replace(".", "/")},
    "`vault.addresses`": lambda n: {"vault": {"addresses": [f"https://10.1.0.{i}:8200" for i in range(n)]}},
    "`nodes`": lambda n: {
        "nodes": [
            {"name": f"n-{i}", "roles": ["control-plane", "etcd"][: 2 if i < 3 else 1], "addresses": [_address(i)]}
            for i in range(n)
        ]
    },
    "`nodes[].name` of a `worker`, or of a node of a pool": _node_of("worker"),
    "`nodes[].name` with `etcd` and without `worker`": _node_of("control-plane", "etcd"),
    "`nodes[].name` of a `control-plane` alone": _node_of("control-plane"),
    "`nodes[].addresses`": lambda n: {"nodes": [_NODE | {"addresses": [f"10.0.0.{i + 1}" for i in range(n)]}]},
    "`pools`": lambda n: {
        "pools": [{"name": f"p{i}", "roles": ["worker"], "node_names": f"w{i}-*"} for i in range(n)],
    },
    "`certificates.OWN.common_name`": lambda n: {"certificates": {"own": _OWN | {"common_name": "x" * n}}},
    "`certificates.OWN.organization`": lambda n: {
        "certificates": {"own": _OWN | {"organization": [f"group-{i}" for i in range(n)]}}
    },
    "certificates of one node": _certificates,
}


def _address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def load(folder: Path, spec: dict[str, Any]) -> None:
    (folder / "cluster.yaml").write_text(json.dumps({"cluster": "prod", "nodes": [_NODE]} | spec))
    load_cluster(folder / "cluster.yaml")


def said() -> dict[str, int]:
    """The table of limits as the page shows it."""
    rows = pages.rows(pages.part("cluster-yaml", "Limits"))
    return {row[0]: int(row[1].split()[0].replace(",", "")) for row in rows}


def test_the_table_is_whole() -> None:
    assert said().keys() == SPECS.keys()


@pytest.mark.parametrize("what", SPECS)
def test_so_much_is_taken_and_no_more(tmp_path: Path, what: str) -> None:
    most = said()[what]
    load(tmp_path, SPECS[what](most))
    with pytest.raises(SpecError, match=r"most|room"):
        load(tmp_path, SPECS[what](most + 1))


def test_other_rows_of_the_page_say_the_same() -> None:
    limits = said()
    for table in pages.tables(pages.text("cluster-yaml")):
        for row in table[1:]:
            if table[0][:2] == ("key", "default") and row[0] in limits:
                numbers = re.findall(r"at most (\d+) characters|up to (\d+) `|1 to (\d+) IP", row[2])
                assert {int("".join(each)) for each in numbers} <= {limits[row[0]]}, row[0]
    (row,) = (row for table in pages.tables(pages.text("cluster-yaml")) for row in table if row[0] == "`nodes[].name`")
    names = [most for what, most in limits.items() if "nodes[].name" in what and "alone" not in what]
    assert [int(each) for each in re.findall(r"at most (\d+)", row[2])] == names


@pytest.mark.parametrize(
    ("key", "text"), [("hook_timeout", r"up to (\w+)"), ("poll", r"(\w+) to (\w+)$")], ids=["hook_timeout", "poll"]
)
def test_durations_of_the_agent_are_taken_to_their_ends(tmp_path: Path, key: str, text: str) -> None:
    (row,) = (row for table in pages.tables(pages.text("agent")) for row in table if row[0] == f"`{key}`")
    found = re.search(text, row[2])
    assert found
    agent = pages.file("agent", "agent.yaml")
    seconds = {"s": 1, "m": 60, "h": 3600}
    ends = [int(each[:-1]) * seconds[each[-1]] for each in found.groups()]
    beyond = [ends[-1] + 1, *([ends[0] - 1] if len(ends) > 1 else [])]
    for value, taken in (*((end, True) for end in ends), *((each, False) for each in beyond)):
        (tmp_path / "agent.yaml").write_text(re.sub(rf"^{key}: .*$", f"{key}: {value}s", agent, flags=re.MULTILINE))
        if taken:
            load_agent(tmp_path / "agent.yaml")
        else:
            with pytest.raises(SpecError, match=key):
                load_agent(tmp_path / "agent.yaml")


def test_a_join_file_lives_as_long_as_the_page_says() -> None:
    (hours,) = re.findall(r"`--wrap-ttl` changes that, up to (\d+) hours", pages.text("nodes"))
    done = CliRunner().invoke(vaultpki, ["enroll", "cp-1", "--wrap-ttl", f"{int(hours) * 3600 + 1}s", "-o", "-"])
    assert done.exit_code == 2 and f"at most {hours}h" in done.output


def test_other_numbers_are_those_of_the_code() -> None:
    ahead = f"{rotation.MOST_AHEAD:,}"
    for page in ("ca-accidents", "security"):
        assert set(re.findall(r"([\d,]+) (?:revisions )?above the (?:highest|lowest)", pages.text(page))) == {ahead}
    (request,) = re.findall(r"one request of at most (\d+) KiB", pages.text("monitoring"))
    assert int(request) * 1024 == metrics_server.MAX_REQUEST
    (connections,) = re.findall(r"is one of at most (\d+);", pages.text("monitoring"))
    assert int(connections) == metrics_server.MAX_CONNECTIONS


def test_the_home_page_lists_what_readme_lists() -> None:
    assert pages.rows(pages.part("index", "What it does")) == reference.tasks()
    readme = pages.rows(pages.part(pages.README, "What it does"))
    assert len(readme) > 20
    assert [row[:2] for row in readme] == [row[:2] for row in reference.tasks()]
