"""`vaultpki report --dir` and `graph --dir` on folders of real nodes: they say what `status --dir` and `verify` say."""

from __future__ import annotations

from html import unescape

import pytest

from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory

pytestmark = pytest.mark.on_node

SPEC = """\
api_server: {endpoint: "https://api.example.com:6443", names: [api.example.com]}
nodes:
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
- {name: worker-2, roles: [worker], addresses: [10.0.0.22]}
"""


def test_a_hook_that_failed_beside_whole_pairs(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC)
    well = cluster.equip("worker-2")
    well.run()
    folder = well.folder.parent
    page, picture = folder.parent / "report.html", folder.parent / "a.svg"
    of_folder = ("-f", cluster.file, "--dir", folder)

    def views(expect: int) -> tuple[str, str]:
        """What the page says, and what the picture."""
        vaultpki("status", "--dir", folder, expect=expect)
        vaultpki("verify", *of_folder)
        said = vaultpki("report", *of_folder, "-o", page, expect=expect).stderr
        drawn = vaultpki("graph", *of_folder, "-o", picture, expect=expect).stderr
        assert said.splitlines()[:-1] == drawn.splitlines()[:-1]
        assert ("Nothing needs attention" in page.read_text()) == (expect == 0)
        return unescape(page.read_text()), unescape(picture.read_text())

    views(0)
    # The agent.yaml beside it is that of a node, and says nothing of an operator's files.
    operator = well.folder / "operator"
    vaultpki("issue", "admin", "-f", cluster.file, "--dir", operator, env=cluster.environment())
    assert vaultpki("graph", "-f", cluster.file, "--dir", operator).stderr == ""
    cluster.equip("worker-1", further='hooks: {kubelet: [["false"]]}\n').run(expect=3)
    text, drawn = views(3)
    assert "hooks failed: kubelet: run `vaultpki agent --once` on worker-1" in drawn
    assert "hooks failed: kubelet: run <code>vaultpki agent --once</code> on worker-1" in text
    assert "Hooks that are owed: kubelet." in text and '<span class="state is-warning">failing</span>' in text
