"""Templates of cluster.yaml: where they may lie, what may stand in them, and what is said of foreign syntax."""

from __future__ import annotations

import os
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultpki import assets
from vaultpki.config import templates
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError, TemplateError
from vaultpki.model import Cluster

SPEC = """\
cluster: prod
nodes: [{name: w-1, roles: [worker], addresses: [10.0.0.21]}]
api_server: {names: [api.example.com], endpoint: "https://api.example.com"}
templates:
  audit:
    file: audit.yaml
    template: TEMPLATE
    roles: [worker]
"""
# A token as Vault's and OpenBao's look, and a key: they open nothing.
TOKEN = "hvs.CAESIJdrmCp4HxF0AHwYk4Gsb0p"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----\n"


def load(folder: Path, template: str, text: str | None = None) -> Cluster:
    if text is not None:
        (folder / template).parent.mkdir(parents=True, exist_ok=True)
        (folder / template).write_text(text)
    (folder / "cluster.yaml").write_text(SPEC.replace("TEMPLATE", template))
    return load_cluster(folder / "cluster.yaml")


def refused(folder: Path, template: str, text: str | None = None) -> str:
    with pytest.raises(SpecError) as caught:
        load(folder, template, text)
    error = caught.value
    assert (error.file, error.line, error.field) == (f"{folder}/cluster.yaml", 7, "templates.audit.template")
    assert "\n" not in str(error)
    return error.problem


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder of cluster.yaml, beside which lies what no node may ever read."""
    (tmp_path / "secret").write_text("hunter2\n")
    (tmp_path / "own-too").mkdir()
    (tmp_path / "own-too" / "secret").write_text("hunter2\n")
    folder = tmp_path / "own"
    folder.mkdir()
    return folder


ESCAPES: dict[str, Callable[[Path], str]] = {
    "absolute": lambda own: f"{own.parent}/secret",
    "above": lambda own: "../secret",
    "above and back": lambda own: f"../{own.name}/../secret",
    "a folder whose name begins alike": lambda own: "../own-too/secret",
    "a link": lambda own: linked(own / "a.tmpl", own.parent / "secret").name,
    "a link to a link": lambda own: linked(own / "b.tmpl", linked(own / "a.tmpl", own.parent / "secret")).name,
    "below a linked folder": lambda own: f"{linked(own / 'sub', own.parent).name}/secret",
    "the process's own": lambda own: "/proc/self/environ",
}


def linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("way", ESCAPES)
def test_a_template_outside_the_folder_is_refused(way: str, own: Path) -> None:
    problem = refused(own, ESCAPES[way](own))
    assert f"the file is outside {own}: copy it into that folder" in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize("template", ["a.tmpl", "sub/a.tmpl", "sub/../a.tmpl", "./a.tmpl"])
def test_a_template_below_the_folder_is_taken(template: str, own: Path) -> None:
    (own / "sub").mkdir()
    assert load(own, template, "x").templates[0].text == "x"
    assert load(own, f"{own}/{template}").templates[0].text == "x"


def test_links_that_stay_in_the_folder_are_followed(own: Path) -> None:
    """As a ConfigMap's volume has them."""
    (own / "..1").mkdir()
    (own / "..1" / "a.tmpl").write_text("x")
    linked(own / "..data", Path("..1"))
    linked(own / "a.tmpl", Path("..data/a.tmpl"))
    assert load(own, "a.tmpl").templates[0].text == "x"
    other = linked(own.parent / "other", own)
    assert load(other, "a.tmpl").templates[0].text == "x"


def test_what_is_no_file_is_refused_at_once(own: Path) -> None:
    os.mkfifo(own / "fifo")
    assert "a FIFO, a socket or a device" in refused(own, "fifo")
    (own / "folder").mkdir()
    assert "folder" in refused(own, "folder")
    assert "a FIFO, a socket or a device" in refused(own, "/dev/zero")


@pytest.mark.parametrize("secret", [TOKEN, KEY, f"token: {TOKEN}\n", "s.AbCdEfGhIjKlMnOpQrStUvWx"])
def test_a_template_with_a_secret_is_refused_and_not_shown(secret: str, own: Path) -> None:
    problem = refused(own, "a.tmpl", secret)
    assert "contains a token or a private key" in problem
    assert secret.strip() not in problem and "MIIE" not in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ok\n${nmae}\n", "line 2: there is no value named nmae; there are: cluster, directory, endpoint, node"),
        ("$nmae\n", "line 1: there is no value named nmae"),
        ("a\nb $ c\n", 'line 2: "$ " is not a placeholder; write ${name} or ${name.json}, and $$ for a dollar'),
        ("root:$6$hunter2", 'line 1: "$6" is not a placeholder'),
        ("${node.__class__}", 'line 1: "${node.__class__}" is not a placeholder'),
        ("${node:-x}", "is not a placeholder"),
        ("$", "line 1: "),
    ],
)
def test_what_no_node_could_fill_in_is_refused(text: str, said: str, own: Path) -> None:
    problem = refused(own, "a.tmpl", text)
    assert problem.startswith("template audit, line ") and said in problem, problem
    assert "hunter2" not in problem


def test_what_grows_too_large_on_a_node_is_refused(own: Path) -> None:
    host = ".".join(["a" * 60] * 4)
    (own / "a.tmpl").write_text("${endpoint}" * 5900)
    (own / "cluster.yaml").write_text(SPEC.replace("TEMPLATE", "a.tmpl").replace("api.example.com", host))
    with pytest.raises(SpecError, match="the output is larger than 256 KiB"):
        load_cluster(own / "cluster.yaml")


VALUES = {"cluster": "prod", "endpoint": "https://api:6443", "directory": "/pki", "node": "w-1"}


@given(
    st.lists(
        st.sampled_from(
            ("$", "$$", "${node}", "$node", "${", "}", "{", "node", "NODE", "${NODE}", "_", ".json", "-", " ", "\n",
             "\u00e9", "${cluster}", "$cluster_x", "$endpoint.", "{{ node }}", "${node", "${ node}", "\u017f")
        ),
        max_size=8,
    ).map("".join)
)  # fmt: skip
def test_a_users_template_is_what_the_standard_library_takes_it_for(text: str) -> None:
    expected: str | None
    try:
        expected = string.Template(text).substitute(VALUES)
    except (KeyError, ValueError):
        expected = None
    found: str | None
    try:
        found = assets.user_file(text, name="t", **VALUES)
    except TemplateError:
        found = None
    assert found == expected


def test_a_value_for_yaml_and_json_is_the_one_thing_more() -> None:
    assert assets.user_file("${node.json} $node.json", name="t", **VALUES) == '"w-1" w-1.json'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\n{{ node }}\n", "line 2 of the template has {{, which is copied unchanged"),
        ("{% if x %}", "line 1 of the template has {%, which is copied unchanged"),
        ("{ {a} } ${node}", None),
    ],
)
def test_another_programs_syntax_is_warned_of(text: str, said: str | None, own: Path) -> None:
    warnings = templates.warnings(load(own, "a.tmpl", text))
    assert len(warnings) == (said is not None)
    for warning in warnings:
        assert warning.startswith(f"{own}/cluster.yaml: templates.audit.template: ") and str(said) in warning
        assert "\n" not in warning and "${node}" in warning
