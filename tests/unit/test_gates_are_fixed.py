"""Nothing that ships shortens a gate: its times are constants, and the program reads few variables, none for that.

Tests of real clusters change one constant from outside (`helpers/kube/quick`), in the module as it is loaded.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from helpers.kube.quick import sitecustomize
from helpers.product import CHECKOUT, QUICK

PACKAGE = CHECKOUT / "vaultpki"
TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}

# What gates wait for, in seconds, where each is said.
TIMES = {
    "CLIENT_LOOK": "certificates.py",
    "SKEW": "certificates.py",
    "SETTLE": "rotation/reasons.py",
    "LONGEST_LOOK_AGAIN": "rotation/adoption_reasons.py",
    "JOIN": "adopt/gates.py",
    "FINISH_AFTER": "takeover/consent.py",
}
VARIABLES = {
    "cli/__init__.py": {"NO_COLOR"},
    "cli/common.py": {"KUBECONFIG", "VAULTPKI_FILE"},
    "cli/move.py": {"VAULTPKI_MOVE_TOKEN"},
    "host/hook_runner.py": {"HOME", "LANG"},
    "host/log.py": {"JOURNAL_STREAM"},
    "host/openssl.py": {"PATH"},
    "host/systemd.py": {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"},
    "vault/settings.py": {
        "ADDR",
        "CACERT",
        "CLIENT_CERT",
        "CLIENT_KEY",
        "HOME",
        "NAMESPACE",
        "TLS_SERVER_NAME",
        "TOKEN",
    },
}


def fixed(value: ast.expr) -> bool:
    """Whether an expression is made of numbers and of other constants alone."""
    names = (ast.Constant, ast.BinOp, ast.Mult, ast.Add, ast.Load)
    return all(
        isinstance(node, names) or (isinstance(node, ast.Name) and re.fullmatch("_?[A-Z_]+", node.id))
        for node in ast.walk(value)
    )


@pytest.mark.parametrize("name", TIMES)
def test_what_a_gate_waits_for_is_one_constant(name: str) -> None:
    bound = []
    for place, tree in TREES.items():
        for node in ast.walk(tree):
            stored = isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store)
            if stored and name in (getattr(node, "id", ""), getattr(node, "attr", "")):
                bound.append(place)
    assert bound == [TIMES[name]]
    lines = [node for node in TREES[TIMES[name]].body if isinstance(node, ast.AnnAssign)]
    (line,) = (node for node in lines if isinstance(node.target, ast.Name) and node.target.id == name)
    assert ast.unparse(line.annotation) == "Final" and line.value is not None and fixed(line.value)


def test_the_program_reads_few_variables_of_its_environment() -> None:
    read = {}
    for place, tree in TREES.items():
        named = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if named & {"os.environ", "os.environb", "os.getenv"}:
            calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
            first = [call.args[0] for call in calls if re.search(r"(get|pop|getenv|setting)$", ast.unparse(call.func))]
            words = [each.value for each in first if isinstance(each, ast.Constant)]
            read[place] = {word for word in words if isinstance(word, str) and word.isupper()}
        assert not {"sys.path", "builtins.__dict__", "sys.meta_path"} & named, place
    assert read == VARIABLES


# How tests change it


def looks(path: str) -> str:
    program = "from vaultpki import certificates as c, readers as r; print({row.reload for row in c.TABLE + r.READERS})"
    ran = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


def test_tests_change_it_in_the_table_and_in_readers_and_leave_nothing_behind() -> None:
    assert looks(f"{QUICK}:{CHECKOUT}") == "{0, 15}"
    assert looks(str(CHECKOUT)) == "{0, 300}"


def test_where_the_line_is_another_one_nothing_starts() -> None:
    source = (PACKAGE / "certificates.py").read_text()
    assert sitecustomize.changed(source) != source
    for other in (source.replace("CLIENT_LOOK: Final = 5", "CLIENT_LOOK: Final = 6"), source + sitecustomize.LINE):
        with pytest.raises(ImportError, match="tests change one"):
            sitecustomize.changed(other)
