"""README.md: its commands run on a server of their own, it stays short, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from helpers import page_runner, pages
from helpers.pages import CHECKOUT
from helpers.vault import operator_tokens
from helpers.vault.servers import Server

INSTEAD: dict[str, str | None] = {
    # Its target sets up a virtual environment (which .ci/run proves from a clean clone) and runs this.
    "make demo": "vaultpki demo --dir vaultpki-demo",
    # The steps of .ci/run, beside this one or around it, and one that measures.
    "make test": None,
    "make check": None,
    "make conformance": None,
    "make bench": None,
    # test_commands.py names what stands for these.
    "apt-get install --yes python3-venv openssl": None,
    "python3 -m venv /opt/vaultpki": None,
    "/opt/vaultpki/bin/pip install .": None,
    "ln -s /opt/vaultpki/bin/vaultpki /usr/local/bin/vaultpki": None,
    # Operator and node are one machine here.
    "scp cp-1.json root@cp-1:": None,
    # There need be no systemd here.
    "vaultpki join cp-1.json --unit": "vaultpki join cp-1.json",
    # Nor a person who looks at the key.
    "vaultpki admit --wait": "vaultpki admit --wait --yes",
}


def test_every_command_runs_and_prints_what_is_shown(own_server: Server, tmp_path: Path) -> None:
    environment = page_runner.equip(tmp_path, own_server)
    environment |= {
        "VAULT_ADDR": own_server.address,
        "VAULT_CACERT": str(own_server.ca_file),
        # The cluster of the example has this name.
        "VAULT_TOKEN": operator_tokens.token(own_server, "vaultpki/prod", "applier"),
    }
    ran = page_runner.run(pages.text(pages.README), own_server, tmp_path, environment, INSTEAD)
    page_runner.refuse_other_output(ran, tmp_path)


def test_no_exception_is_left_over() -> None:
    assert INSTEAD.keys() <= {
        each.text for block in pages.blocks(pages.text(pages.README)) for each in block.commands()
    }


def test_make_demo_runs_the_demo() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--always-make", "demo"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.rstrip().endswith("bin/vaultpki demo")


def test_it_stays_short() -> None:
    assert len(pages.text(pages.README).encode()) <= 8 * 1024


def test_it_installs_as_the_quick_start_does() -> None:
    short, long = (pages.blocks(pages.part(page, "Install"))[0] for page in (pages.README, "quickstart"))
    assert short == long


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (CHECKOUT / name).read_text())
    assert links
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (CHECKOUT / path).read_text()
        assert not anchor or anchor in map(slug, re.findall(r"^#+ (.+)$", target, re.MULTILINE)), link


def slug(heading: str) -> str:
    """Return the anchor that zensical and Git hosts give a heading."""
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
