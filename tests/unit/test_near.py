"""`make near`: each rule of tests/helpers/reach.py on a small tree, and the script in a checkout with real commits."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from helpers import reach

TREE = {
    "vaultpki/__init__.py": "",
    "vaultpki/assets.py": "from pathlib import Path\nFOLDER = Path(__file__).parent / 'policies'",
    "vaultpki/cli/__init__.py": "import importlib\ndef get(name): importlib.import_module(f'vaultpki.cli.{name}')",
    "vaultpki/cli/plan.py": "from vaultpki.pki import facts",
    "vaultpki/pki/__init__.py": "",
    "vaultpki/pki/facts.py": '"""Not what vaultpki.assets is."""',
    "tests/conftest.py": "import pytest\nfrom helpers import process, clock\nNOW = clock\n"
    "@pytest.fixture\ndef ran(base): return process",
    "tests/helpers/__init__.py": "",
    "tests/helpers/clock.py": "",
    "tests/helpers/process.py": "from vaultpki.cli import main\nCOMMAND = ['python', '-m', 'vaultpki']",
    "tests/helpers/pages.py": "PAGES = __file__, 'docs'",
    "tests/integration/conftest.py": "import pytest\nfrom helpers import pages\n"
    "@pytest.fixture\ndef both(ran): return pages",
    "tests/integration/test_both.py": "from vaultpki.pki import facts\ndef test_it(both): pass",
    "tests/integration/test_ran.py": "import vaultpki\ndef test_it(ran): pass",
    "tests/unit/test_facts.py": "def test_it():\n    from vaultpki.pki.facts import Facts",
    "tests/unit/test_alone.py": "import json",
    "tests/unit/test_policy.py": "import vaultpki.assets",
    "tests/unit/test_program.py": "import vaultpki\nPROGRAM = 'from vaultpki.pki import facts'",
    "tests/unit/test_sources.py": "import vaultpki\nfound = vaultpki.path.rglob('*.py')",
}
OTHERS = {"both", "facts", "policy", "program", "ran"}


SOURCES = {path: reach.read(text) for path, text in TREE.items()}


@pytest.mark.parametrize(
    ("changed", "tests"),
    [
        ("vaultpki/pki/facts.py", {"facts", "program", "both", "ran"}),
        ("vaultpki/pki/__init__.py", {"facts", "program", "both", "ran"}),
        ("vaultpki/cli/__init__.py", {"both", "ran"}),
        ("vaultpki/cli/plan.py", {"both", "ran"}),
        ("vaultpki/cli/gone.py", {"both", "ran"}),
        ("vaultpki/assets.py", {"policy"}),
        ("policies/agent.hcl", {"policy"}),
        ("docs/ca.md", {"both"}),
        ("tests/helpers/pages.py", {"both"}),
        ("tests/helpers/process.py", {"both", "ran"}),
        ("tests/integration/conftest.py", {"both", "ran"}),
        ("tests/helpers/clock.py", OTHERS),
        ("tests/unit/test_facts.py", {"facts"}),
        ("tests/unit/test_gone.py", set[str]()),
        ("pyproject.toml", OTHERS),
        ("unnamed.txt", OTHERS),
    ],
)
def test_what_a_change_is_reached_by(changed: str, tests: set[str]) -> None:
    found = {Path(path).stem.removeprefix("test_") for path in reach.reached(SOURCES, [changed])}
    assert found & OTHERS == tests


def test_a_test_that_imports_nothing_of_ours_is_always_reached_and_one_with_a_pattern_by_what_fits() -> None:
    assert reach.reached(SOURCES, ["docs/ca.md"]) == {"tests/integration/test_both.py", "tests/unit/test_alone.py"}
    assert reach.reached(SOURCES, ["packages/new.py"]) == {"tests/unit/test_alone.py", "tests/unit/test_sources.py"}
    assert reach.reached(SOURCES, []) == set()


def test_the_script_compares_with_the_commit_where_the_branch_began(tmp_path: Path) -> None:
    script, rules = Path(__file__).parents[1] / "setup/near", Path(reach.__file__)

    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True)

    def near(*words: str) -> set[str]:
        told = subprocess.run([tmp_path / "tests/setup/near", *words], capture_output=True, text=True, check=True)
        assert "near: " in told.stderr and "`make test`" in told.stderr
        return {Path(path).stem.removeprefix("test_") for path in told.stdout.split()}

    for path, text in TREE.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "tests/setup").mkdir()
    shutil.copy(script, tmp_path / "tests/setup/near")
    shutil.copy(rules, tmp_path / "tests/helpers/reach.py")
    # Python keeps what it compiles of the rules beside them.
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    git("init", "--initial-branch", "main")
    git("add", ".")
    git("commit", "-m", "first")
    assert near() == set()
    (tmp_path / "vaultpki/assets.py").write_text("")
    assert near() == {"alone", "sources", "policy"}
    git("checkout", "-b", "work")
    git("commit", "--all", "-m", "second")
    (tmp_path / "tests/unit/test_new.py").write_text("import vaultpki")
    (tmp_path / "tests/helpers/pages.py").unlink()
    assert near() == {"alone", "sources", "policy", "new", "both"}
    assert near("HEAD") == {"alone", "sources", "new", "both"}
    refused = subprocess.run([tmp_path / "tests/setup/near", "no-such"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "SINCE" in refused.stderr
