"""`vaultpki report --from-vault`: the reports of all nodes, the CAs, and the rotation that is under way."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest

from helpers.node.reporting_nodes import shown
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import vaultpki
from helpers.vault.rotations import Rotation, rotation_of
from vaultpki.records.node_report import CertificateReport
from vaultpki.records.rotation import State

pytestmark = pytest.mark.on_node


@pytest.fixture
def rotation(clusters: ClusterFactory) -> Rotation:
    return rotation_of(clusters)


def page(rotation: Rotation, *, expect: int = 3) -> tuple[str, str]:
    """The page, and what was printed beside it."""
    cluster = rotation.cluster
    file = cluster.file.parent / "report.html"
    words = ("report", "-f", cluster.file, "--from-vault", "-o", file)
    done = vaultpki(*words, env=cluster.environment("viewer"), expect=expect)
    return unescape(file.read_text()), done.stderr


def test_nodes_cas_and_the_rotation_are_on_it(rotation: Rotation) -> None:
    text, said = page(rotation, expect=0)
    assert "No CA is being rotated." in text and "Nothing was verified" in text
    assert "Nothing needs attention" in text and said == ""
    assert re.findall(r'<details data-node="([\w-]+)"', text) == ["cp-1", "etcd-2"]
    assert "Last report: " in text and "agent 0.2.0" in text
    for domain in ("root", "kubernetes", "kubelet", "etcd", "front-proxy"):
        (facts,) = shown(rotation.cluster, domain).values()
        assert facts.fingerprint in text, domain
    assert "etcd-1" in text

    rotation.reach(State.PUBLISHED)
    text, said = page(rotation, expect=0)
    assert said.startswith("rotation of etcd, published since ")
    lines = text.partition('id="rotation"')[2]
    assert "etcd is published since" in lines and "nodes learn to trust etcd-2 beside etcd-1" in lines
    assert "vaultpki ca continue" in lines
    assert "<strong>rotation: published</strong>" in text
    banner = text.partition('class="banner"')[2].partition("</section>")[0]
    assert "CA etcd is being rotated: published <span>since " in banner
    assert "It waits for cp-1, etcd-2: " in banner


def test_what_a_rollback_leaves_is_said(rotation: Rotation) -> None:
    rotation.reach(State.PUBLISHED)
    rotation.reported()
    assert rotation.abort().moved
    # Processes hold the CA that is deleted until they were restarted.
    text, said = page(rotation, expect=0)
    assert said.startswith("rotation of etcd, steady since ") and "vaultpki ca abort" in said
    lines = text.partition('id="rotation"')[2]
    assert "may still accept certificates of etcd-2" in lines and "<code>vaultpki ca abort -f " in lines
    assert "No CA is being rotated" not in text


def test_a_node_that_says_nothing_or_failed_is_named(rotation: Rotation) -> None:
    cluster = rotation.cluster
    assert cluster.server.api("DELETE", cluster.report_path("etcd-2", data="metadata")).status == 204
    failed = replace(rotation.nodes[0].report(rotation.now, 0), failures=("<b>Vault is sealed</b>\x1b[31m",))
    rotation.nodes[0].write(failed)
    text, said = page(rotation)
    assert "etcd-2: never reported: run `systemctl status vaultpki-agent` on etcd-2" in said.splitlines()
    assert "cp-1: failed: <b>Vault is sealed</b>?[31m: run `vaultpki doctor` on cp-1" in said.splitlines()
    assert said.splitlines()[-1].startswith("vaultpki: 1 thing needs attention; see above")
    raw = (cluster.file.parent / "report.html").read_text()
    assert "failed: &lt;b&gt;Vault is sealed&lt;/b&gt;?[31m" in raw
    assert "This node has never reported." in text
    block = text.partition('<details data-node="etcd-2"')[2].partition("</details>")[0]
    assert set(re.findall(r'<tr data-state="(\w+)"', block)) == {"unknown"}


def test_page_and_picture_say_what_nodes_says(rotation: Rotation) -> None:
    cluster, first, second = rotation.cluster, *rotation.nodes
    env = cluster.environment("viewer")

    def same(*findings: str) -> str:
        """Ask all three, and return the page."""
        expect = 3 if findings else 0
        document = json.loads(vaultpki("nodes", "-f", cluster.file, "--json", env=env, expect=expect).stdout)
        whole = [*document["findings"], *(each for node in document["nodes"] for each in node["findings"])]
        found = [each for each in whole if each["severity"] != "info"]
        assert sorted(each["name"] for each in found) == sorted(findings)
        text, said = page(rotation, expect=expect)
        drawn = vaultpki("graph", "-f", cluster.file, "--from-vault", env=env, expect=expect)
        assert ("Nothing needs attention" in text) == (not findings)
        assert drawn.stderr.splitlines()[:-1] == said.splitlines()[:-1]
        for each in found:
            assert f"<code>{each['command']}</code>" in text, each
            # That of like nodes stands once.
            of_any = re.sub(" (cp-1|etcd-2)(?=[ .])", " NODE", each["command"])
            assert each["command"] in said or of_any in said, each
            assert each["command"] in unescape(drawn.stdout) or of_any in unescape(drawn.stdout), each
        return text

    same()
    now = datetime.now(UTC)
    long_ago = replace(first.report(now - timedelta(days=3), 0), poll=300, owed=("etcd-ca",), failed=("etcd-ca",))
    first.write(long_ago)
    text = same("silent", "hook-failed")
    assert "3d ago, agent 0.2.0. 1 live credential. Hooks that are owed: etcd-ca." in text
    assert '<span class="state is-warning">silent</span>' in text
    first.passed(now)

    # Twelve minutes before its end.
    well = second.report(now, 0)
    ends = now + timedelta(minutes=12)
    late = CertificateReport("etcd", "ok", ends, not_before=ends - timedelta(days=30), renew_after=ends - timedelta(9))
    second.write(replace(well, certificates={**well.certificates, "etcd-server": late}))
    text = same("overdue")
    assert re.search(r"in 1[12] minutes", text)
    second.passed(now)

    logins = f"auth/{cluster.prefix}/listed/role/etcd-2/secret-id"
    for _ in range(3):
        assert cluster.server.api("POST", logins).status == 200
    same("many-credentials")

    for node in ("cp-1", "etcd-2"):
        vaultpki("lock", node, "-f", cluster.file, env=cluster.environment())
    text = same("no-credential", "no-credential", "no-live-credential")
    assert "<b>cp-1, etcd-2 (2 nodes)</b>" in text


def test_a_stranger_that_can_log_in_hides_no_node(rotation: Rotation) -> None:
    cluster = rotation.cluster
    path = f"auth/{cluster.prefix}/listed/role/gone"
    assert cluster.server.api("POST", path, {"token_policies": ["default"]}).status == 204
    text, said = page(rotation)
    assert "gone can log in" in said and "gone can log in" in text
    assert re.findall(r'<details data-node="([\w-]+)"', text) == ["cp-1", "etcd-2"]
