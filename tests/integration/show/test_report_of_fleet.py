"""`vaultpki report --from-vault` and `graph --from-vault`: reports of all nodes, CAs, and a rotation under way."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest

from helpers.drawn_scenes import problems
from helpers.node.reporting_nodes import shown
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import vaultpki
from helpers.vault.rotations import Rotation, rotation_of
from vaultpki.ca import fleet
from vaultpki.findings.cluster import judge
from vaultpki.graph.content import Graph, Health, graph
from vaultpki.graph.placement import scene
from vaultpki.procedures.in_cluster import IN_CLUSTER
from vaultpki.records.node_report import CertificateReport
from vaultpki.records.rotation import State
from vaultpki.show.fleet import inventory

pytestmark = pytest.mark.on_node


@pytest.fixture(scope="module")
def steady(shared_clusters: ClusterFactory) -> Rotation:
    """Nodes of which no CA is rotated; each test but the last leaves them as it found them."""
    return rotation_of(shared_clusters)


def page(rotation: Rotation, *, expect: int = 3) -> tuple[str, str]:
    """The page, and what was printed beside it."""
    cluster = rotation.cluster
    file = cluster.file.parent / "report.html"
    words = ("report", "-f", cluster.file, "--from-vault", "-o", file)
    done = vaultpki(*words, env=cluster.environment("viewer"), expect=expect)
    return unescape(file.read_text()), done.stderr


def drawn(rotation: Rotation) -> Graph:
    cluster = rotation.cluster.model
    read = fleet.read(cluster, rotation.vault, rotation.now, rotation.now)
    found = inventory(read, judge(read, IN_CLUSTER))
    made = graph(
        cluster, rotation.now, expiries=found.rows, cas=found.ends, rotations=found.rotations, source=found.source
    )
    assert problems(scene(made)) == []
    return made


def test_nodes_cas_and_the_rotation_are_on_it(clusters: ClusterFactory) -> None:
    rotation = rotation_of(clusters)
    text, said = page(rotation, expect=0)
    assert "No CA is being rotated." in text and "Nothing was verified" in text
    assert "Nothing needs attention" in text and said == ""
    assert re.findall(r'<details data-node="([\w-]+)"', text) == ["cp-1", "etcd-2"]
    assert "Last report: " in text and "agent 0.3.0" in text
    for domain in ("root", "kubernetes", "kubelet", "etcd", "front-proxy"):
        (facts,) = shown(rotation.cluster, domain).values()
        assert facts.fingerprint in text, domain
    assert "etcd-1" in text
    first = drawn(rotation)
    pairs = {pair.name: pair for pair in first.pairs}
    ends = f"until {rotation.now + timedelta(days=30):%Y-%m-%d}"
    assert pairs["etcd-server"].health is Health.VALID and pairs["etcd-server"].until.startswith(ends)
    # These nodes report the pairs of one CA only.
    assert (pairs["kube-apiserver"].health, pairs["kube-apiserver"].until) == (Health.UNKNOWN, "")
    assert pairs["admin"].health is Health.UNKNOWN
    assert "reports of 2 nodes read on" in first.about
    assert [domain.rotation for domain in first.domains] == [""] * 4
    assert {domain.health for domain in (*first.domains, first.root)} == {Health.VALID}

    rotation.reach(State.PUBLISHED)
    text, said = page(rotation, expect=0)
    assert said.startswith("rotation of etcd, published since ")
    lines = text.partition('id="rotation"')[2]
    assert "etcd is published since" in lines and "nodes learn to trust key 2 of the CA etcd beside key 1" in lines
    assert "vaultpki ca continue" in lines
    assert "<strong>rotation: published</strong>" in text
    banner = text.partition('class="banner"')[2].partition("</section>")[0]
    assert "CA etcd is being rotated: published <span>since " in banner
    assert "It waits for cp-1, etcd-2: " in banner
    assert {domain.ca: domain.rotation for domain in drawn(rotation).domains}["etcd"] == "published"

    # What a rollback leaves: processes hold the CA that is deleted until they were restarted.
    rotation.reported()
    assert rotation.abort().moved
    text, said = page(rotation, expect=0)
    assert said.startswith("rotation of etcd, steady since ") and "vaultpki ca abort" in said
    lines = text.partition('id="rotation"')[2]
    assert "may still accept certificates of key 2 of the CA etcd" in lines and "<code>vaultpki ca abort -f " in lines
    assert "No CA is being rotated" not in text

    worse = replace(rotation.nodes[1].report(rotation.now, rotation.record.revision))
    late = {"etcd-server": CertificateReport("etcd", "due", rotation.now + timedelta(days=1))}
    rotation.nodes[1].write(replace(worse, certificates={**worse.certificates, **late}))
    assert {pair.name: pair.health for pair in drawn(rotation).pairs}["etcd-server"] is Health.DUE


def test_a_node_that_says_nothing_or_failed_is_named(steady: Rotation) -> None:
    cluster = steady.cluster
    assert cluster.server.api("DELETE", cluster.report_path("etcd-2", data="metadata")).status == 204
    never = "etcd-2: never reported: run `systemctl status vaultpki-agent` on etcd-2"
    file = cluster.file.parent / "fleet.svg"
    ran = vaultpki("graph", "-f", cluster.file, "--from-vault", "-o", file, env=cluster.environment("viewer"))
    assert ran.stderr == f"{never}\n" and "reports of 1 node read on" in file.read_text()
    both = ("--from-vault", "--dir", cluster.file.parent)
    assert "choose one of" in vaultpki("graph", "-f", cluster.file, *both, expect=2).stderr

    failed = replace(steady.nodes[0].report(steady.now, 0), failures=("<b>Vault is sealed</b>\x1b[31m",))
    steady.nodes[0].write(failed)
    text, said = page(steady)
    assert never in said.splitlines()
    assert "cp-1: failed: <b>Vault is sealed</b>?[31m: run `vaultpki agent --once` on cp-1" in said.splitlines()
    assert said.splitlines()[-1].startswith("vaultpki: 1 thing needs attention; see above")
    raw = (cluster.file.parent / "report.html").read_text()
    assert "failed: &lt;b&gt;Vault is sealed&lt;/b&gt;?[31m" in raw
    assert "This node has never reported." in text
    block = text.partition('<details data-node="etcd-2"')[2].partition("</details>")[0]
    assert set(re.findall(r'<tr data-state="(\w+)"', block)) == {"unknown"}
    for node in steady.nodes:
        node.passed(datetime.now(UTC))


def test_a_stranger_that_can_log_in_hides_no_node(steady: Rotation) -> None:
    cluster = steady.cluster
    path = f"auth/{cluster.prefix}/listed/role/gone"
    assert cluster.server.api("POST", path, {"token_policies": ["default"]}).status == 204
    text, said = page(steady)
    assert "gone can log in" in said and "gone can log in" in text
    assert re.findall(r'<details data-node="([\w-]+)"', text) == ["cp-1", "etcd-2"]
    assert cluster.server.api("DELETE", path).status == 204


def test_page_and_picture_say_what_nodes_says(steady: Rotation) -> None:
    cluster, first, second = steady.cluster, *steady.nodes
    env = cluster.environment("viewer")

    def same(*findings: str) -> str:
        """Ask all three, and return the page."""
        expect = 3 if findings else 0
        document = json.loads(vaultpki("nodes", "-f", cluster.file, "--json", env=env, expect=expect).stdout)
        whole = [*document["findings"], *(each for node in document["nodes"] for each in node["findings"])]
        found = [each for each in whole if each["severity"] != "info"]
        assert sorted(each["name"] for each in found) == sorted(findings)
        text, said = page(steady, expect=expect)
        picture = vaultpki("graph", "-f", cluster.file, "--from-vault", env=env, expect=expect)
        assert ("Nothing needs attention" in text) == (not findings)
        assert picture.stderr.splitlines()[:-1] == said.splitlines()[:-1]
        for each in found:
            assert f"<code>{each['command']}</code>" in text, each
            # That of like nodes stands once.
            of_any = re.sub(" (cp-1|etcd-2)(?=[ .])", " NODE", each["command"])
            assert each["command"] in said or of_any in said, each
            assert each["command"] in unescape(picture.stdout) or of_any in unescape(picture.stdout), each
        return text

    same()
    now = datetime.now(UTC)
    long_ago = replace(first.report(now - timedelta(days=3), 0), poll=300, owed=("etcd-ca",), failed=("etcd-ca",))
    first.write(long_ago)
    text = same("silent", "hook-failed")
    assert "3d ago, agent 0.3.0. 1 live credential. Hooks that are owed: etcd-ca." in text
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
    text = same("locked", "locked", "no-live-credential")
    assert "<b>cp-1, etcd-2 (2 nodes)</b>" in text
