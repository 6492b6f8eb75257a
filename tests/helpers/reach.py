"""Which tests can reach a change, told from the sources alone: what each file imports, and which files it names.

- An import counts wherever it stands, also inside a function, and with it each `__init__` above the module.
- A string that names a module counts as its import, as a program in a string does; one that ends in a dot
  (`"vaultpki.cli."`) as that of all modules below. Docstrings count for nothing.
- A test reaches the conftests of its folders, and what these import. What a conftest imports for its fixtures alone is
  reached by the tests that ask for one of its fixtures.
- What a test starts as a process of its own is not followed: most tests with a server run commands, and each change of
  the product would run them all.
- A file is also reached by those that name it: by its path or the end of it, or a pattern such as `*.py`. One that is
  no Python, also by those that name a folder above it or its ending: `"docs"`, `".md"`. Of the product only files that
  look beside themselves (`__file__`) name any.
- One that is no Python and that nothing names is reached by all, and so is `pyproject.toml`.
- A deleted file is reached by what still imports or names it; what does no longer was changed with it.
- A test that imports nothing of ours, or asks git for all files, is reached by every change.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

# Where Python looks for a module, as `pythonpath` in pyproject.toml says.
FOLDERS: Final = ("", "tests/", "docs/")
SETTINGS: Final = "pyproject.toml"
EVERY_FILE: Final = "ls-files"

_MODULE: Final = re.compile(r"\bvaultpki(?:\.\w+)+\.?")
_IMPORTED: Final = re.compile(r"\bfrom (vaultpki[\w.]*) import ([\w, ]+)")


@dataclass(frozen=True)
class Source:
    """What a Python file says, as far as it leads to others.

    `named` has its strings that could name a file; `for_fixtures` is what it imports for `fixtures`, its own, alone.
    """

    imports: frozenset[str]
    named: frozenset[str]
    beside_itself: bool
    asked: frozenset[str]
    fixtures: frozenset[str]
    for_fixtures: frozenset[str]


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield each dotted name that a source imports, wherever in it, and what it is called there.

    For `from a import b` both a and a.b. Raises AssertionError for a relative import.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.asname or alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, "write imports in full"
            for alias in node.names:
                yield node.module, alias.asname or alias.name
                yield f"{node.module}.{alias.name}", alias.asname or alias.name


def read(text: str) -> Source:
    """Return what the text of a Python file says."""
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    strings = {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    }
    fixtures = [node for node in tree.body if isinstance(node, ast.FunctionDef) and _is_fixture(node)]
    others = [each for node in tree.body if node not in fixtures for each in ast.walk(node)]
    used = {node.id for node in others if isinstance(node, ast.Name)}
    modules = {name for string in strings for name in _MODULE.findall(string)}
    for package, names in (found for string in strings for found in _IMPORTED.findall(string)):
        modules |= {f"{package}.{name.strip()}" for name in names.split(",")}
    imported = list(imports(tree))
    return Source(
        imports=frozenset(name for name, _ in imported) | modules,
        named=frozenset(string for string in strings if string and not set(string) & {" ", "\n"}),
        beside_itself=any(isinstance(node, ast.Name) and node.id == "__file__" for node in nodes),
        asked=frozenset(_asked(nodes)),
        fixtures=frozenset(node.name for node in fixtures),
        for_fixtures=frozenset(name for name, local in imported if local not in used) - modules,
    )


def _is_fixture(node: ast.FunctionDef) -> bool:
    """Return whether a function is a fixture that has to be asked for."""
    decorators = " ".join(map(ast.unparse, node.decorator_list))
    return "pytest.fixture" in decorators and "autouse" not in decorators


def _asked(nodes: Collection[ast.AST]) -> Iterator[str]:
    """Yield the names of the fixtures that tests and fixtures ask for."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and (node.name.startswith("test_") or _is_fixture(node)):
            yield from (each.arg for each in (*node.args.args, *node.args.kwonlyargs))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("usefixtures", "getfixturevalue")):
            yield from (
                each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
            )


def is_test(path: str) -> bool:
    """Return whether pytest takes a file for one with tests."""
    return path.startswith("tests/") and PurePosixPath(path).match("test_*.py")


def reached(sources: Mapping[str, Source], changed: Collection[str]) -> set[str]:
    """Return the files with tests that can reach a change.

    `sources` has every Python file of a checkout by its path there, `changed` the paths of files of any kind that are
    new, other ones or deleted.
    """
    tests = {path for path in sources if is_test(path)}
    known = {*sources, *changed}
    above: dict[str, set[str]] = {path: set() for path in known}
    for path in sources:
        for below in leads_to(path, sources, known):
            above[below].add(path)
    for path in changed:
        naming = {each for each, source in sources.items() if _names(each, source, path)}
        if path == SETTINGS or not (naming or path.endswith(".py")):
            return tests
        above[path] |= naming
    found, left = set(changed), list(changed)
    while left:
        new = above[left.pop()] - found
        found |= new
        left += new
    for path in tests if changed else ():
        source = sources[path]
        if EVERY_FILE in source.named or not any(_files(name, known) for name in source.imports):
            found.add(path)
    return tests & found


def leads_to(path: str, sources: Mapping[str, Source], known: Collection[str]) -> set[str]:
    """Return the files that one reaches in one step."""
    source, place = sources[path], PurePosixPath(path)
    names, found = set(source.imports), set[str]()
    if place.name == "conftest.py":
        names -= source.for_fixtures
    if is_test(path):
        asked = source.asked
        for conftest in (str(folder / "conftest.py") for folder in place.parents):
            if conftest in known:
                found.add(conftest)
            if conftest in sources and sources[conftest].fixtures & asked:
                names |= sources[conftest].for_fixtures
                asked |= sources[conftest].asked
    return found.union(*(_files(name, known) for name in names)) & set(known)


def _files(name: str, known: Collection[str]) -> set[str]:
    """Return the file of a module and each `__init__` above it; for a name that ends in a dot, all modules below."""
    path = PurePosixPath(*name.split("."))
    if name.endswith("."):
        return {each for each in known if each.startswith(f"{path}/") and each.endswith(".py")}
    ends = [f"{path}.py", *(str(each / "__init__.py") for each in (path, *path.parents[:-1]))]
    return {each for folder in FOLDERS for end in ends if (each := folder + end) in known}


def _names(path: str, source: Source, changed: str) -> bool:
    """Return whether a source names a file, by one of its strings."""
    if path.startswith("vaultpki/") and not source.beside_itself:
        return False
    place = PurePosixPath(changed)
    folders = set() if place.suffix == ".py" else {*place.parts[:-1]} - {"tests"}
    for string in source.named:
        last = string.rpartition("/")[2]
        if "*" in last:
            found = bool(last.strip("*")) and fnmatchcase(place.name, last)
        elif string == place.suffix:
            found = string != ".py"
        else:
            found = f"/{changed}".endswith(f"/{string}") or not folders.isdisjoint(string.split("/"))
        if found:
            return True
    return False
