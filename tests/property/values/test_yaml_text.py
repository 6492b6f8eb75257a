"""Names that some YAML takes for a number, a boolean or nothing come back from all that is written as they were."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vaultpki import assets
from vaultpki.config import agent as agent_config
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError
from vaultpki.kubeadm import files
from vaultpki.model import AgentConfig, Auth, Cluster, FileOptions, Hook
from vaultpki.values import hosts, names, yaml_text

# yaml.org/type (bool, int, float, null, timestamp, merge, value), which PyYAML follows in part only. There a number may
# have several dots, as an address has: no parser takes one for a number.
_YAML_1_1: Final = (
    r"y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
    r"~|null|Null|NULL|",
    r"[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+",
    r"[-+]?([0-9][0-9_]*)?\.[0-9_]*([eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+\.[0-9_]*",
    r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    r"[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:.*",
    r"<<|=",
)
# YAML 1.2.2, section 10.3.2, and what Go's parsers add to it: exponents and numbers with underscores.
_YAML_1_2: Final = (
    r"null|Null|NULL|~|",
    r"true|True|TRUE|false|False|FALSE",
    r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?",
    r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN",
    r"[-+]?0b[01_]+|[-+]?[0-9][0-9_]*|[-+]?0o[0-7_]+",
)


class _Found:
    """Plain text of another type than text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"not text: {self.text}"


def _reader(patterns: tuple[str, ...]) -> type[yaml.SafeLoader]:
    class Reader(yaml.SafeLoader):
        def other(self, node: yaml.ScalarNode) -> object:
            # Numbers and booleans that are meant as such.
            plain = {"true": True, "false": False}
            return (
                plain[node.value]
                if node.value in plain
                else int(node.value)
                if node.value.isdecimal()
                else _Found(node.value)
            )

    Reader.yaml_implicit_resolvers = {}
    Reader.add_implicit_resolver("!other", re.compile(f"(?:{'|'.join(patterns)})\\Z"), None)
    Reader.add_constructor("!other", Reader.other)
    return Reader


READERS: Final = {"1.1": _reader(_YAML_1_1), "1.2": _reader(_YAML_1_2), "PyYAML": yaml.SafeLoader}


def read(text: str) -> list[list[Any]]:
    """The documents of a text, as each of the readers has them."""
    return [list(yaml.load_all(text, Loader=reader)) for reader in READERS.values()]


ODD = [
    *(
        "y",
        "n",
        "yes",
        "no",
        "on",
        "off",
        "true",
        "false",
        "null",
        "Y",
        "NO",
        "Null",
        "~",
        "",
        "=",
        "<<",
        "-",
        "?",
        "...",
    ),
    *(
        "1",
        "0",
        "007",
        "1e3",
        "1e+3",
        "0o17",
        "0x1f",
        "0b11",
        "1_000",
        "1.5",
        ".5",
        "5.",
        ".",
        "1.5e-3",
        ".inf",
        "-.inf",
    ),
    *(
        ".nan",
        "12:30",
        "12:30:45",
        "190:20:30.15",
        "2026-11-27",
        "2026-11-27t10:00:00z",
        "2026-1-2 1:02:03",
        "+1",
        "-1",
    ),
    *(
        "#a",
        "a: b",
        "a #b",
        "- a",
        "[a",
        "{a",
        "!a",
        "&a",
        "*a",
        "%a",
        "@a",
        "`a",
        "'a",
        '"a',
        "a\nb",
        " a",
        "a ",
        "\t",
    ),
    *("é", "\u2028", "\x85", "\ufeff", "x" * 2000, "a\\b", "1e3e", "0o18", "0x", "12:3a", "infinity", "nan", "None"),
]
TEXT = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
# As node names and cluster names can be.
NODES = ["y", "n", "on", "off", "null", "true", "no", "1", "007", "1e3", "1e-3", "0o17", "0x1f", "0b11", "12-30", "nan"]


def is_valid(check: Callable[[str], str]) -> Callable[[str], bool]:
    def valid(text: str) -> bool:
        try:
            return check(text) == text
        except SpecError:
            return False

    return valid


NODE = st.sampled_from(NODES) | st.from_regex(r"[0-9][0-9eoxb.-]{0,4}[0-9a-f]", fullmatch=True).filter(
    is_valid(hosts.node_name)
)
FOLDER = (st.sampled_from(ODD) | TEXT).filter(lambda text: is_valid(names.absolute_path)(f"/{text}"))
ARGUMENT = TEXT.filter(lambda text: "\0" not in text)


@settings(deadline=None, max_examples=60)
@given(
    st.recursive(
        TEXT | st.booleans() | st.integers(0, 99),
        lambda below: st.lists(below, max_size=4) | st.dictionaries(TEXT, below, max_size=4),
    )
)
def test_every_reader_reads_what_was_written(value: Any) -> None:
    for every in (True, False):
        for inline in (True, False):
            text = yaml_text.dump({"value": value}, every=every, inline=inline)
            assert read(text) == [[{"value": value}]] * 3, text


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    file = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    file.write_text(
        "cluster: prod\nlayout: kubeadm\napi_server: {endpoint: https://api.example.com, names: [api.example.com]}\n"
        "nodes:\n- {name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}\n"
        "- {name: w-1, roles: [worker], addresses: [10.0.0.12]}\n"
    )
    return load_cluster(file)


@settings(deadline=None, max_examples=60)
@given(NODE, NODE, FOLDER)
def test_what_kubeadm_is_given(cluster: Cluster, name: str, other: str, folder: str) -> None:
    assume(name != other)
    first, second = (replace(node, name=each) for node, each in zip(cluster.nodes, (name, other), strict=True))
    api = replace(cluster.api_server, names=(name, other), dns_domain=other)
    named = replace(cluster, name=other, nodes=(first, second), api_server=api)
    options = files.ConfigOptions(f"/srv/pki/{folder}", f"/srv/kubelet/{folder}", f"/srv/{folder}", version="1.36.3")
    for mode, node in (("init", first), ("join", second), ("upgrade", second)):
        for file, documents in files.made(named, node, mode, options).items():  # type: ignore[arg-type]
            text = files.as_text({file: documents}, options.folder)
            assert read(text) == [list(documents)] * 3, text


@settings(deadline=None, max_examples=60)
@given(NODE, NODE, FOLDER, st.lists(ARGUMENT, min_size=1, max_size=4))
def test_agent_yaml(name: str, other: str, folder: str, words: list[str]) -> None:
    config = AgentConfig(
        cluster=other,
        prefix=f"vaultpki/{other}",
        node=name,
        pool=other,
        addresses=("https://vault.example.com:8200", f"https://{name}.example.com"),
        ca_file=f"/srv/{folder}/ca.pem",
        root_sha256="1" * 61 + "e99",
        auth=Auth("approle", role_id="1e3"),
        directory=f"/srv/{folder}",
        state="/var/lib/vaultpki",
        owner="0:0",
        certificates={name: FileOptions("1:1", 0o600)},
        hooks={other: (Hook("command", argv=("true", *words)), Hook("systemd", name="1e3"))},
        metrics="127.0.0.1:9910",
        metrics_hosts=("y", name),
        namespace=name,
    )
    one, *others = read(agent_config.dump_agent(config))
    assert others == [one, one]
    [found] = one
    assert (found["node"], found["cluster"], found["pool"]) == (name, other, other)
    assert found["hooks"] == {other: [["true", *words], {"systemd": "1e3"}]} and found["certificates"].keys() == {name}
    assert found["root_sha256"] == config.root_sha256 and found["vault"]["addresses"] == list(config.addresses)
    assert (found["version"], found["metrics"]["hosts"]) == (1, ["y", name])


@settings(deadline=None, max_examples=60)
@given(TEXT.filter(lambda text: "\0" not in text), NODE)
def test_kubeconfigs_and_manifests(odd: str, name: str) -> None:
    paths = {"ca_file": f"/{odd}", "certificate": f"/{name}", "key": f"/{name}"}
    for text in (
        assets.kubeconfig(cluster=name, server=odd, user=odd, **paths),
        assets.embedded_kubeconfig(
            cluster=name, server=odd, user=odd, ca_pem=b"1", certificate_pem=b"\xd7", key_pem=b"\xd7\x9e"
        ),
    ):
        one, *others = read(text)
        assert others == [one, one]
        assert one[0]["clusters"][0]["name"] == name and one[0]["users"][0]["name"] == odd
    for template in ("cluster-admins.yaml", "kubelet-api-admin.yaml"):
        one, *others = read(assets.manifest(template, user=odd, group=odd))
        assert others == [one, one] and one[0]["subjects"][0]["name"] == odd


def test_the_readers_take_odd_names_for_something_else() -> None:
    """Else they would prove nothing."""
    for found, odd in ((0, "y"), (0, "12:30"), (1, "1e3"), (1, "0o17"), (0, "on"), (2, "null"), (2, "2026-11-27")):
        assert read(f"{odd}")[found] != [odd]
