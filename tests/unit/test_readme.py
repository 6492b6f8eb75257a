"""README.md says only what is so: its table, commands, options, files and examples."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

import click
import pytest
import readme
import trustme
import yaml
from click.testing import CliRunner

from vaultpki import assets, certificates
from vaultpki.cli import vaultpki
from vaultpki.config import load_agent, load_cluster
from vaultpki.errors import TemplateError

COMMANDS = vaultpki.list_commands(click.Context(vaultpki))
CONSOLE = [command.text for block in readme.blocks() if block.language == "console" for command in block.commands()]
# What ends one command of a shell line and begins another.
SHELL = {"|", ">", "||", "&&", ";"}


def invocations(text: str) -> list[list[str]]:
    """The words after `vaultpki` of each call of it in a shell line; none where the text only names a thing of ours."""
    found: list[list[str]] = []
    words = shlex.split(text)
    for at, word in enumerate(words):
        if word == "vaultpki" and (at == 0 or words[at - 1] in SHELL):
            end = next((i for i, later in enumerate(words[at:], at) if later in SHELL), len(words))
            found.append(words[at + 1 : end])
    return found


def command(name: str) -> click.Command:
    found = vaultpki.get_command(click.Context(vaultpki), name)
    assert found is not None, f"vaultpki has no command {name}"
    return found


def options(name: str) -> set[str]:
    return {option for parameter in command(name).params for option in parameter.opts} | {"--help"}


def written(language: str, first_line: str) -> str:
    (text,) = (b.text for b in readme.blocks() if b.language == language and b.text.startswith(first_line + "\n"))
    return text


def test_the_table_is_the_table() -> None:
    assert readme.with_table(readme.text()) == readme.text(), "run tests/readme.py, which writes README.md's table anew"


def test_the_table_has_every_row_and_file() -> None:
    lines = readme.table().splitlines()[2:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == [row.name for row in certificates.TABLE]
    for line, row in zip(lines, certificates.TABLE, strict=True):
        assert set(certificates.pair_files(row.stem)[:2]) <= set(line.split())


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {block.language for block in readme.blocks()} == {"console", "yaml", "text", "json", "ini"}


def test_every_command_is_explained() -> None:
    shown = {words[0] for text in [*CONSOLE, *readme.code_spans()] for words in invocations(text) if words}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize("text", sorted({*CONSOLE, *(s for s in readme.code_spans() if s.startswith("vaultpki "))}))
def test_every_option_exists(text: str) -> None:
    for words in invocations(text):
        used = {word.partition("=")[0] for word in words[1:] if word.startswith("-") and word != "-"}
        assert used <= options(words[0]), f"{words[0]} takes {sorted(options(words[0]))}"


def test_options_named_alone_exist() -> None:
    ours = set().union(*map(options, COMMANDS))
    foreign = {
        flag.partition("=")[0] for block in readme.blocks() if block.language == "text" for flag in block.text.split()
    }
    # Kubernetes' and etcd's own, which the prose names and the flags above it do not show.
    foreign |= {
        "--client-crl-file",
        "--cluster-signing-key-file",
        "--config",
        "--hostname-override",
        "--kubelet-insecure-tls",
        "--service-account-key-file",
        "--service-account-private-key-file",
        "--service-account-signing-key-file",
    }
    spans = [span for span in readme.code_spans() if not span.startswith(("systemctl ", "journalctl "))]
    named = {word for span in spans for word in span.split() if re.fullmatch(r"--?[a-z][a-z-]*", word)}
    assert named <= ours | foreign


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_parses(name: str) -> None:
    shown = CliRunner().invoke(vaultpki, [name, "--help"], terminal_width=200)
    assert shown.exit_code == 0
    _, _, after = shown.output.partition("Example:\n")
    examples = [line.strip() for line in after.partition("\n\n")[0].splitlines()]
    assert examples
    for example in examples:
        calls = invocations(example)
        assert calls, example
        for words in calls:
            assert words[0] == name, example
            command(name).make_context(name, words[1:], resilient_parsing=False)


@pytest.mark.parametrize("span", [word for word in readme.code_spans() if word.startswith("make ")])
def test_every_target_exists(span: str) -> None:
    makefile = (readme.CHECKOUT / "Makefile").read_text()
    assert re.search(rf"^{span.removeprefix('make ')}:", makefile, re.MULTILINE)


def test_files_named_in_flags_are_those_of_the_table() -> None:
    known = {
        bundle(ca) for ca in certificates.ISSUING_CAS for bundle in (certificates.bundle, certificates.chain_bundle)
    }
    for row in certificates.TABLE:
        known |= {*certificates.pair_files(row.stem), row.kubeconfig or ""}
    named = set(re.findall(r"/etc/kubernetes/pki/([\w.-]+)", readme.text()))
    assert len(named) > 20
    assert named <= known


def test_components_are_pointed_at_every_pair_and_kubeconfig() -> None:
    files = {certificates.pair_files(row.stem)[0] for row in certificates.TABLE if not (row.kubeconfig or row.operator)}
    files |= {row.kubeconfig for row in certificates.TABLE if row.kubeconfig and not row.operator}
    said = {
        word for component in readme.components() for flag in readme.flags(component, "") for word in flag.split("/")
    }
    said |= {
        word
        for name in ("kubelet", "kube-proxy")
        for word in re.findall(r"[\w.-]+", str(readme.configuration(name, "")))
    }
    assert files <= said


def test_the_example_of_cluster_yaml_loads(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "vault-ca.crt")
    (tmp_path / "cluster.yaml").write_text(written("yaml", "# cluster.yaml"))
    cluster = load_cluster(tmp_path / "cluster.yaml")
    assert [node.name for node in cluster.nodes] == ["cp-1", "worker-1"]


def test_the_example_of_templates_renders(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "vault-ca.crt")
    (tmp_path / "audit.yaml.tmpl").write_text(written("text", "# audit.yaml.tmpl"))
    spec = written("yaml", "# cluster.yaml") + written("yaml", "# templates in cluster.yaml")
    (tmp_path / "cluster.yaml").write_text(spec)
    (template,) = load_cluster(tmp_path / "cluster.yaml").templates
    # What the page says that each value becomes.
    said = dict(re.findall(r"^\| `\$\{(\w+)\}` \|.*: `([^`]+)` \|$", readme.text(), re.MULTILINE))
    assert yaml.safe_load(assets.user_file(template.text, name="audit", **said)) == {
        "node": "cp-1",
        "server": "https://api.example.com:6443",
        "trust": "/etc/kubernetes/pki/kubernetes-ca-chain.crt",
        "price": "5 $",
    }
    with pytest.raises(TemplateError, match=f"there are: {', '.join(sorted(said))}$"):
        assets.user_file("${nobody}", name="audit", **said)


def test_the_example_of_agent_yaml_loads(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text(written("yaml", "# agent.yaml"))
    assert load_agent(tmp_path / "agent.yaml").node == "cp-1"


def test_the_example_of_hooks_loads(tmp_path: Path) -> None:
    agent = written("yaml", "# agent.yaml").partition("hooks:")[0]
    (tmp_path / "agent.yaml").write_text(agent + written("yaml", "# hooks in agent.yaml"))
    assert set(load_agent(tmp_path / "agent.yaml").hooks) == {"etcd-ca", "kubelet", "kube-apiserver"}


def test_the_other_examples_are_what_they_say() -> None:
    for block in readme.blocks():
        if block.language == "yaml":
            assert yaml.safe_load(block.text)
        if block.language == "json":
            found = set(json.loads(block.text))
            plan = {"changes", "impact", "rotation_needed", "unmanaged", "dangers", "requests"}
            assert found in (plan, {"time", "level", "event", "message"})
        if block.language == "ini":
            parser = configparser.ConfigParser(delimiters="=")
            parser.read_string(block.text)
            assert parser.sections() == ["Service"]
