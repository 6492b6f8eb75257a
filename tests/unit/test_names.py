"""One meaning for each name: two classes do not share a name, nor two public constants with different values."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import vaultpki

ROOT = Path(vaultpki.__file__).parent


def modules() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(ROOT.rglob("*.py")):
        yield str(file.relative_to(ROOT)), ast.parse(file.read_text(encoding="utf-8"))


def test_no_two_classes_have_the_same_name() -> None:
    found = defaultdict(list)
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name.lstrip("_")].append(name)
    assert len(found) > 300
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_a_public_constant_has_one_value() -> None:
    """Type aliases too: `Kind` for two sets of words would be as unclear. Each procedure on nodes has a record."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name, tree in modules():
        for node in tree.body:
            if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                continue
            for target in [node.target] if isinstance(node, ast.AnnAssign) else node.targets:
                if isinstance(target, ast.Name) and target.id[0].isupper():
                    found[target.id][name] = ast.unparse(node.value)
    assert len(found) > 200
    del found["OWN_RECORD"]
    assert {name: values for name, values in found.items() if len(set(values.values())) > 1} == {}
