"""What `vaultpki init` writes plans and applies without an edit, and `apply --pin` works on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.vault import operator_tokens
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.servers import Server


@pytest.mark.parametrize("layout", ["kubeadm", "document"])
def test_the_file_of_init_is_applied_and_pinned(server: Server, tmp_path: Path, layout: str) -> None:
    name, spec = f"init-{layout}", tmp_path / "cluster.yaml"
    nodes = ("--node", "cp-1=10.0.0.11", "--node", "worker-1=10.0.0.21")
    vaultpki("init", "-o", spec, "--layout", layout, "--cluster", name, *nodes)
    env = server.environment(operator_tokens.token(server, f"vaultpki/{name}", "applier", spec=spec))
    assert f"cluster {name}" in vaultpki("plan", "-f", spec, env=env).stdout
    before = spec.read_text().splitlines()
    ran = vaultpki("apply", "-f", spec, "--yes", env=env)
    assert f"  vaultpki apply -f {spec} --pin" in ran.stdout.splitlines()
    assert "Root CA SHA-256" not in vaultpki("apply", "-f", spec, "--yes", env=env).stdout
    assert "Wrote the SHA-256" in vaultpki("apply", "-f", spec, "--yes", "--pin", env=env).stdout
    after = spec.read_text().splitlines()
    (new,) = [line for line in after if line not in before]
    assert new.startswith("  root_sha256: ") and [line for line in after if line != new] == before
    assert "Nothing to change." in vaultpki("plan", "-f", spec, env=env).stdout
