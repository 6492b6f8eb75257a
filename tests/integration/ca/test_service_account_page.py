"""The page "Service-account keys" shows what its commands print, beside real agents of control-plane nodes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from helpers import pages
from helpers.node.agents_with_keys import SPEC, AgentsWithKeys
from helpers.page_runner import alike, found_in_order
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import vaultpki

PAGE = "service-account-keys"
OF_KUBERNETES = "vaultpki ca continue --kubeconfig admin.conf --wait"
"""The one command of the page that needs a cluster: tests/conformance/ca/test_kube_rotations.py."""


def test_each_command_prints_what_the_page_shows(clusters: ClusterFactory) -> None:
    cluster = clusters.applied(SPEC)
    env, folder = cluster.environment("applier"), cluster.folder
    commands = [each for block in pages.blocks(pages.text(PAGE)) for each in block.commands()]
    assert OF_KUBERNETES in [each.text for each in commands]
    with AgentsWithKeys.joined(cluster) as made:
        for each in commands:
            if each.text == OF_KUBERNETES:
                # The rotation goes back, so that a second node joins and is stolen. Commands have the server's time.
                made.now = datetime.now(UTC)
                assert made.advance(back=True).moved
                made.passes()
                made.join("cp-2")
                continue
            if not made.planes:
                # Five minutes later an agent ends the credential of before.
                made.now = datetime.now(UTC) + timedelta(seconds=400)
                made.equip("cp-1")
            elif "rotate" in each.text and "--emergency" not in each.text:
                made.start(made.planes["cp-1"])
            # Nobody is asked here, and no agent passes while a command waits.
            text = each.text.removesuffix(" --wait") + (
                " --yes" if "--emergency" in each.text or "admit" in each.text else ""
            )
            words = [str(folder / word) if word.endswith(".json") else word for word in text.split()[1:]]
            ran = vaultpki(*words, "-f", cluster.file, env=env, expect={0, 3})
            missing = found_in_order(list(alike("\n".join(each.shown), folder)), _printed(ran.stdout, folder))
            assert not each.shown or missing is None, f"{each.text} does not print {missing}\n{ran.stdout}"
    assert (folder / "jwks.json").exists()


def _printed(text: str, folder: Path) -> list[str]:
    # A page runs its commands where cluster.yaml is.
    return alike(text.replace(f" -f {folder}/cluster.yaml", "").replace(f"{folder}/", ""), folder)
