"""A real Prometheus: it runs on a configuration that a test gives it, and answers queries."""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from helpers.node.resident_agent import get
from helpers.vault.servers import free_ports
from vaultpki.host.systemd import recipe


@contextlib.contextmanager
def prometheus(folder: Path, *jobs: Mapping[str, Any]) -> Iterator[int]:
    """A Prometheus that scrapes these jobs (`scrape_configs`) each second, with our rules, and its port."""
    (port,) = free_ports(1)
    config, rules = folder / "prometheus.yml", folder / "alerts.yaml"
    rules.write_text(recipe("alerts.yaml").replace("interval: 2m", "interval: 1s"))
    every = {"scrape_interval": "1s"}
    config.write_text(yaml.safe_dump({"global": every, "rule_files": [str(rules)], "scrape_configs": [*jobs]}))
    words = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    words.append(f"--web.listen-address=127.0.0.1:{port}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *words], stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def answer(port: int, expression: str) -> list[dict[str, Any]]:
    """The samples that a query gives now; fails with what Prometheus says of it."""
    said = get(port, f"api/v1/query?{urllib.parse.urlencode({'query': expression})}")
    assert said[0] == 200, (expression, said)
    found: list[dict[str, Any]] = json.loads(said[1])["data"]["result"]
    return found
