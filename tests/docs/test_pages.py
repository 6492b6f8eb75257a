"""The pages say only what is so, and say all of it: commands, options, keys, exit codes, metrics, messages, files."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import trustme
import yaml
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import reference
from helpers import pages
from unit.test_imports import ORDER
from vaultpki import assets, certificates, layout
from vaultpki.cli import vaultpki
from vaultpki.config.agent import AGENT, load_agent
from vaultpki.config.cluster import load_cluster
from vaultpki.config.cluster_schema import schema
from vaultpki.config.hooks import plain_hooks
from vaultpki.errors import TemplateError
from vaultpki.findings.catalogue import CATALOGUE, NodeState
from vaultpki.join import hooks
from vaultpki.model import NodeRole
from vaultpki.places import ETCD, SCHEDULER, Layout
from vaultpki.signer import requests_api
from vaultpki.values.durations import format_duration

PAGES = (pages.README, *pages.names())
SOURCES = {page: pages.text(page) for page in PAGES}
EVERYTHING = "\n".join(SOURCES.values())
BLOCKS = [block for source in SOURCES.values() for block in pages.blocks(source)]
CONSOLE = [command.text for block in BLOCKS for command in block.commands()]
SPANS = pages.code_spans(EVERYTHING)
COMMANDS = reference.commands()
PACKAGE = pages.CHECKOUT / "vaultpki"
# What ends one command of a shell line and begins another.
SHELL = {"|", ">", "||", "&&", ";"}


def invocations(text: str) -> list[list[str]]:
    """The words after `vaultpki` of each call of it in a shell line; none where the text only names a thing of ours."""
    found: list[list[str]] = []
    words = shlex.split(text)
    for at, word in enumerate(words):
        if word == "vaultpki" and (at == 0 or words[at - 1] in SHELL or "=" in words[at - 1]):
            end = next((i for i, later in enumerate(words[at:], at) if later in SHELL), len(words))
            found.append(words[at + 1 : end])
    return found


def called(words: list[str]) -> tuple[str, list[str]]:
    """The command that the words after `vaultpki` call, and its own words; a command of a group has two."""
    two = " ".join(words[:2])
    return (two, words[2:]) if two in COMMANDS else (words[0], words[1:])


def options(name: str) -> set[str]:
    found = [each for each in COMMANDS[name].params if isinstance(each, click.Option) and not each.hidden]
    return {word for option in found for word in option.opts} | {"--help"}


# Commands


def test_every_page_is_in_the_menu() -> None:
    assert {path.stem for path in pages.DOCS.glob("*.md")} == set(pages.names())


def test_generated_parts_are_as_the_code_has_them() -> None:
    stale = [page for page, source in SOURCES.items() if reference.written(source) != source]
    assert stale == [], "run `make docs`, which writes the generated parts anew"


@pytest.mark.parametrize("name", reference.PICTURES)
def test_generated_pictures_are_as_the_code_has_them(name: str) -> None:
    drawn = (pages.DOCS / name).read_text(encoding="utf-8")
    assert drawn == reference.PICTURES[name](), "run `make docs`, which writes the generated parts anew"
    assert f"]({name})" in EVERYTHING


@pytest.mark.parametrize("part", reference.PARTS)
def test_every_generated_part_is_on_a_page(part: str) -> None:
    assert EVERYTHING.count(f"<!-- begin {part}: written by docs/reference.py -->") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_in_the_reference(name: str) -> None:
    _, found, rest = SOURCES["reference"].partition(f"\n### vaultpki {name}\n")
    assert found
    said = rest.partition("\n## ")[0].partition("\n### ")[0]
    shown = {word.strip(",") for row in pages.rows(said) for word in row[0].strip("`").split()}
    assert options(name) - {"--help"} <= shown


def test_every_command_is_used_or_explained_on_a_page_for_people() -> None:
    said = [*CONSOLE, *(span for span in SPANS if span.startswith("vaultpki "))]
    assert {called(words)[0] for text in said for words in invocations(text) if words} == set(COMMANDS) | {"-V"}


@pytest.mark.parametrize("text", sorted({*CONSOLE, *(span for span in SPANS if span.startswith("vaultpki "))}))
def test_every_option_exists(text: str) -> None:
    for words in invocations(text):
        if words[:1] == ["-V"]:
            continue
        name, rest = called(words)
        used = {word.partition("=")[0] for word in rest if word.startswith("-") and word != "-"}
        assert used <= options(name), f"{name} takes {sorted(options(name))}"


def test_options_named_alone_exist() -> None:
    ours = set().union(*map(options, COMMANDS))
    foreign = {flag.partition("=")[0] for name in pages.components() for flag in pages.flags(name, "")}
    # Kubernetes' and etcd's own, which the prose names and the flags above it do not show.
    foreign |= {
        "--authentication-config",
        "--authorization-config",
        "--bind-address",
        "--client-crl-file",
        "--cluster-signing-key-file",
        "--config",
        "--controllers",
        "--hostname-override",
        "--kubelet-insecure-tls",
        "--listen-client-http-urls",
        "--listen-client-urls",
        "--listen-metrics-urls",
        "--service-account-extend-token-expiration",
        "--service-account-issuer",
        "--service-account-jwks-uri",
        "--service-account-max-token-expiration",
        "--secure-port",
        "--service-account-key-file",
        "--service-account-private-key-file",
        "--service-account-signing-key-file",
        "--tls-curve-preferences",
        "--tls-sni-cert-key",
        "--ttl",
        "--upload-certs",
        "--use-service-account-credentials",
        "--version",
    }
    foreign |= {"--find-links", "--no-index", "--only-binary", "--require-hashes"}  # pip's
    others = (
        "systemctl ",
        "journalctl ",
        "crictl ",
        "faketime ",
        "openssl ",
        "step certificate sign ",
        "curl ",
        "env ",
        "fuser ",
        "gpg ",
        "bao ",
        "chmod ",
        "uv ",
        "apt-get ",
        "dpkg ",
        "vaultpki ",
    )
    generated = re.sub(r"<!-- begin .*?<!-- end ", "", EVERYTHING, flags=re.DOTALL)
    spans = [span for span in pages.code_spans(generated) if not span.startswith(others)]
    named = {word for span in spans for word in span.split() if re.fullmatch(r"--?[a-z][a-z-]*", word)}
    assert named <= ours | foreign


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_parses(name: str) -> None:
    shown = CliRunner().invoke(vaultpki, [*name.split(), "--help"], terminal_width=200)
    assert shown.exit_code == 0
    _, _, after = shown.output.partition("Example:\n")
    examples = [line.strip() for line in after.partition("\n\n")[0].splitlines()]
    assert examples
    for example in examples:
        calls = invocations(example)
        assert calls, example
        for words in calls:
            assert called(words)[0] == name, example
            COMMANDS[name].make_context(name, called(words)[1], resilient_parsing=False)


@pytest.mark.parametrize("target", sorted({word for word in SPANS if re.fullmatch(r"make [a-z]+", word)}))
def test_every_target_exists(target: str) -> None:
    makefile = (pages.CHECKOUT / "Makefile").read_text()
    assert re.search(rf"^{target.removeprefix('make ')}:", makefile, re.MULTILINE)


def test_every_target_is_in_the_reference() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (pages.CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    said = {row[0].strip("`") for row in pages.rows(pages.part("reference", "Make targets of the source"))}
    assert {f"make {target}" for target in phony.split()} - {"make venv"} == said


# Exit codes


def test_every_exit_code_is_in_the_reference() -> None:
    said = {row[0] for row in pages.rows(pages.part("reference", "Exit codes"))}
    assert said == {str(code) for code in exit_codes()}


def exit_codes() -> set[int]:
    """The numbers that functions of the command line return, and that errors bring."""
    found = {click.UsageError.exit_code}
    for path in (PACKAGE / "errors.py", *(PACKAGE / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and isinstance(node.returns, ast.Name) and node.returns.id == "int":
                returned = [each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value]
                found |= {number for value in returned for number in _results(value)}
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == "exit_code" for target in node.targets
            ):
                found |= set(_results(node.value))
    return found


def _results(node: ast.expr) -> Iterator[int]:
    """The numbers that an expression may give."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _results(node.body)
        yield from _results(node.orelse)


# States of nodes


def test_every_state_and_reason_of_a_node_is_documented() -> None:
    tables = pages.tables(pages.part("operations", "See all nodes"))
    assert [row[0].strip("`") for row in tables[0][1:]] == [state.value for state in NodeState]
    kinds = {kind.name for kind in CATALOGUE if kind.state not in (None, NodeState.OK)}
    (said,) = re.findall(r"`message` the same in words, or null: (.*?)\.\n", pages.text("reference"), re.DOTALL)
    assert kinds == set(re.findall(r"`([a-z-]+)`", said))


# Keys of the two files


def keys(part: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key that a JSON schema declares, as a page writes it, and its part of the schema."""
    for name, below in part.get("properties", {}).items():
        yield f"{path}{name}", below
        if "patternProperties" in below:
            for named in (*below.get("properties", {}).values(), *below["patternProperties"].values()):
                yield from keys(named, f"{path}{name}.NAME.")
        elif below.get("type") == "array":
            yield from keys(below["items"], f"{path}{name}[].")
        else:
            for each in (below, *below.get("anyOf", ())):
                yield from keys(each, f"{path}{name}.")


def documented(page: str) -> dict[str, str]:
    """The keys in the tables of a page, and what it says is their default."""
    found = [row for table in pages.tables(SOURCES[page]) if table[0][:2] == ("key", "default") for row in table[1:]]
    return {row[0].strip("`").replace(".OWN.", ".NAME."): row[1].strip("`") for row in found}


@pytest.mark.parametrize(("page", "declared"), [("cluster-yaml", schema()), ("agent", AGENT.schema())])
def test_every_key_has_a_row_and_its_default_and_nothing_else_has(page: str, declared: dict[str, Any]) -> None:
    said = documented(page)
    assert said.keys() <= {path for path, _ in keys(declared)}
    for path, found in keys(declared):
        if found.keys() & {"properties", "patternProperties"}:
            # What is below it has rows of its own.
            continue
        assert path in said, f"{page}.md has no row for {path}"
        if "default" in found:
            assert json.dumps(found["default"]).strip('"') == said[path], path


# Examples


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {block.language for block in BLOCKS} == {"console", "yaml", "text", "json", "ini", "promql"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """cluster.yaml and agent.yaml as the pages show them, and the files that they name."""
    for name in ("vault-ca.crt", "new-ca.crt", "old-ca.crt", "old-etcd-ca.crt", "corp-root.pem"):
        trustme.CA().cert_pem.write_to_path(tmp_path / name)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "issuer-keys.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "audit.yaml.tmpl").write_text(pages.file("cluster-yaml", "audit.yaml.tmpl"))
    (tmp_path / "cluster.yaml").write_text(pages.file("quickstart", "cluster.yaml"))
    (tmp_path / "agent.yaml").write_text(pages.file("agent", "agent.yaml"))
    return tmp_path


def test_whole_files_load(folder: Path) -> None:
    assert [node.name for node in load_cluster(folder / "cluster.yaml").nodes] == ["cp-1", "worker-1"]
    assert load_agent(folder / "agent.yaml").node == "cp-1"


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.text.startswith("# in ")], ids=lambda b: b.text[:60]
)
def test_parts_of_files_load(block: pages.Block, folder: Path) -> None:
    name = block.text.splitlines()[0].removeprefix("# in ")
    whole = yaml.safe_load((folder / name).read_text()) | yaml.safe_load(block.text)
    (folder / name).write_text(yaml.safe_dump(whole))
    load: dict[str, Callable[[Path], object]] = {"cluster.yaml": load_cluster, "agent.yaml": load_agent}
    assert load[name](folder / name)


def test_the_hooks_to_copy_are_those_that_a_join_writes() -> None:
    part = pages.part("kubeadm", "Hooks that restart static pods")
    shown = [yaml.safe_load(block.text) for block in pages.blocks(part) if block.language == "yaml"]
    with_etcd = frozenset({NodeRole.CONTROL_PLANE, NodeRole.ETCD, NodeRole.WORKER})
    timeout = format_duration(hooks.HOOK_TIMEOUT)
    assert shown == [
        {"hooks": plain_hooks(hooks.static_pods(roles, Layout.KUBEADM, token_keys=True)), "hook_timeout": timeout}
        for roles in (with_etcd, with_etcd - {NodeRole.ETCD})
    ]


def test_an_agent_that_joins_by_token_loads(folder: Path) -> None:
    (found,) = (block.text for block in BLOCKS if block.text.startswith("# agent.yaml of a pool with jwt\n"))
    (folder / "agent.yaml").write_text(found)
    assert load_agent(folder / "agent.yaml").pool == "cloud"


def test_the_template_renders_as_the_page_says(folder: Path) -> None:
    said = dict(re.findall(r"^\| `\$\{(\w+)\}` \|.*: `([^`]+)` \|$", SOURCES["cluster-yaml"], re.MULTILINE))
    text = (folder / "audit.yaml.tmpl").read_text()
    assert yaml.safe_load(assets.user_file(text, name="audit", **said)) == {
        "node": "cp-1",
        "server": "https://api.example.com:6443",
        "trust": "/etc/kubernetes/pki/kubernetes-ca-chain.crt",
        "price": "5 $",
    }
    with pytest.raises(TemplateError, match=f"there are: {', '.join(sorted(said))}$"):
        assets.user_file("${nobody}", name="audit", **said)


def test_the_other_examples_are_what_they_say() -> None:
    for block in BLOCKS:
        if block.language == "yaml":
            assert yaml.safe_load(block.text)
        if block.language == "json":
            assert json.loads(block.text)
        if block.language == "ini":
            parser = configparser.ConfigParser(delimiters="=")
            parser.read_string(block.text)
            assert set(parser.sections()) <= {"Unit", "Service", "Timer", "Install"}


def test_the_unit_that_writes_metrics_runs_a_command_that_there_is() -> None:
    """Its timer and its line for cron run the same."""
    commands = re.findall(r"\bvaultpki nodes (.+ --metrics /.+)$", SOURCES["monitoring"], re.MULTILINE)
    assert len(commands) == 2 and len(set(commands)) == 1
    options = COMMANDS["nodes"].make_context("nodes", commands[0].split()).params
    assert options["metrics"].suffix == ".prom" and str(options["file"]) == "/etc/vaultpki/nodes/cluster.yaml"


# Files, metrics, messages, rooms


def test_files_named_on_pages_are_those_of_the_table() -> None:
    known = {
        bundle(ca) for ca in certificates.ISSUING_CAS for bundle in (certificates.bundle, certificates.chain_bundle)
    }
    for row in certificates.TABLE:
        known |= {*certificates.pair_files(row.stem), row.kubeconfig or ""}
        known |= {*certificates.pair_files(row.kubeadm.stem)} if row.kubeadm else set()
    known |= {each.file for each in layout.TRUST_BUNDLES[Layout.KUBEADM]} | {
        ETCD,
        SCHEDULER,
        "sa.key",
        "sa.pub",
        "sa-1.crt",
    }
    # Keys of CAs that kubeadm makes, which a cluster that is taken over still has.
    known |= {"ca.key", "front-proxy-ca.key"}
    # A folder for files of an etcd that others run.
    known.add("external-etcd")
    named = set(re.findall(r"/etc/kubernetes/pki/([\w-][\w.-]*)", EVERYTHING))
    assert len(named) > 20
    assert named <= known


def test_components_are_pointed_at_every_pair_and_kubeconfig() -> None:
    rows = certificates.laid_out(Layout.DOCUMENT)
    files = {certificates.pair_files(row.stem)[0] for row in rows if not (row.kubeconfig or row.operator)}
    files |= {row.kubeconfig for row in rows if row.kubeconfig and not row.operator}
    said = {word for component in pages.components() for flag in pages.flags(component, "") for word in flag.split("/")}
    said |= {
        word
        for name in ("kubelet", "kube-proxy")
        for word in re.findall(r"[\w.-]+", str(pages.configuration(name, "")))
    }
    assert files <= said


def test_metrics_and_alerts_that_pages_name_exist() -> None:
    parts = (
        pages.part("monitoring", name) for name in ("Metrics", "The signer's metrics", "What Vault knows of every node")
    )
    metrics = {row[0].strip("`") for part in parts for row in pages.rows(part)}
    # The name of the Debian package has a version there.
    assert set(re.findall(r"\bvaultpki_[a-z]\w*", EVERYTHING)) <= metrics
    alerts = set(re.findall(r"alert: (\w+)", assets.text("templates", "alerts.yaml")))
    reasons = {requests_api.REFUSED}
    assert set(re.findall(r"\bVaultpki[A-Z]\w+", EVERYTHING)) == alerts | reasons
    assert set(re.findall(r"^### (Vaultpki\w+)$", SOURCES["alerts"], re.MULTILINE)) == alerts


@cache
def messages() -> tuple[str, ...]:
    """Every text in the package's source, with `...` for what is filled in."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (each.value if isinstance(each, ast.Constant) else "..." for each in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return tuple(found)


# The system's own words.
ERRNO = {"No space left on device", "Read-only file system"}


def explained() -> list[str]:
    """The messages in the tables of "Troubleshooting by message"."""
    cells = [row[0] for row in pages.rows(pages.part("operations", "Troubleshooting by message"))]
    return [span for cell in cells for span in pages.code_spans(cell) if len(span) > 3]


@pytest.mark.parametrize("message", sorted({*explained()} - ERRNO))
def test_messages_that_are_explained_exist(message: str) -> None:
    pieces = [re.escape(piece) for piece in message.split("...")]
    assert any(re.search(".*".join(pieces), text, re.DOTALL) for text in messages())


def test_the_rooms_are_those_of_the_package() -> None:
    spans = pages.code_spans("\n".join(f"| {row[0]}" for row in pages.rows(pages.part("how-it-works", "The rooms"))))
    there = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert there <= set(spans)
    for name in spans:
        assert (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file(), name
    assert [*spans, "__main__"] == [*ORDER]


def test_files_to_open_exist() -> None:
    # In each table, wherever they stand: paths end so, and names of files on a node do not.
    named = [span for span in pages.code_spans(pages.text("how-it-works")) if span.endswith(".py")]
    assert len(named) > 100
    for name in named:
        assert (PACKAGE / name).is_file(), name
