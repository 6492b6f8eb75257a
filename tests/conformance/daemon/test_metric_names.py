"""What an agent and `nodes --metrics` show, before Prometheus' own checker and a real node_exporter."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import example_metrics
from helpers import example_cluster
from helpers.node.resident_agent import get
from helpers.promtool import promtool
from helpers.vault.servers import free_ports, wait_for

pytestmark = pytest.mark.conformance

TEXTS = {
    "an agent": lambda folder: example_metrics.agent(),
    "what Vault knows": lambda folder: example_metrics.fleet(example_cluster.load(folder, example_cluster.WITH_POOL)),
}


@pytest.mark.parametrize("whose", TEXTS)
def test_prometheus_has_nothing_to_say_of_names_and_help(whose: str, tmp_path: Path) -> None:
    assert promtool("check", "metrics", given=TEXTS[whose](tmp_path)) == ""


def test_node_exporter_reads_the_file(tmp_path: Path) -> None:
    (port,), text = free_ports(1), TEXTS["what Vault knows"](tmp_path)
    (tmp_path / "read").mkdir()
    (tmp_path / "read/vaultpki-prod.prom").write_text(text)
    # A second cluster beside it.
    (tmp_path / "read/vaultpki-test.prom").write_text(text.replace('cluster="prod"', 'cluster="test"'))
    words = ["--collector.disable-defaults", "--collector.textfile", f"--web.listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen(
        ["prometheus-node-exporter", *words, f"--collector.textfile.directory={tmp_path / 'read'}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: get(port, "metrics")[0] == 200, 20, lambda: "node_exporter does not answer")
        shown = get(port, "metrics")[1].splitlines()
    finally:
        process.kill()
        process.wait()
    assert "node_textfile_scrape_error 0" in shown
    for cluster in ("prod", "test"):
        assert f'vaultpki_fleet_node_state{{cluster="{cluster}",node="cp-1",pool="",state="expired"}} 1' in shown
