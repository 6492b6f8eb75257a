"""A node that goes over to another root keeps its folders: no advice removes what is in use, no CA leaves unasked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from helpers.node.enrolled_nodes import SPEC, Enroller, join, joining
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.plan_commands import AuditedCluster
from helpers.vault.servers import Server
from vaultpki.pki import x509

NODE = "worker-1"


def fingerprints(file: Path) -> set[str]:
    return {facts.fingerprint for facts in x509.read_certificates(file.read_bytes())}


def trusting(cluster: AppliedCluster, node: NodeFolder) -> None:
    """cluster.yaml names the CAs that the node's bundles hold, as the message asks for, and is applied."""
    cas = [path.name.removesuffix("-ca.crt") for path in node.pki.glob("*-ca.crt")]
    for ca in cas:
        (cluster.folder / f"old-{ca}.crt").write_bytes((node.pki / f"{ca}-ca.crt").read_bytes())
    cluster.write(f"{SPEC}ca: {{also_trust: {{{', '.join(f'{ca}: [old-{ca}.crt]' for ca in sorted(cas))}}}}}\n")
    cluster.apply()


def state(cluster: AppliedCluster) -> str:
    """What `nodes` says of the node."""
    ran = vaultpki("nodes", "-f", cluster.file, "--json", env=cluster.environment("viewer"), expect={0, 3})
    (found,) = [each["state"] for each in json.loads(ran.stdout)["nodes"] if each["node"] == NODE]
    return str(found)


@pytest.mark.on_node
def test_a_node_goes_over_in_place(clusters: ClusterFactory, own_server: Server, tmp_path: Path) -> None:
    old, node = clusters.applied(SPEC), NodeFolder(NODE, tmp_path / "node")
    new = AuditedCluster(own_server, tmp_path / "new", old.name)
    new.write(SPEC)
    new.apply()
    join(node, Enroller(old, old.token()).join_file(NODE, tmp_path / "old.json"))
    assert state(old) == "ok"
    before, cas = fingerprints(node.pki / "kubelet.crt"), fingerprints(node.pki / "kubelet-ca.crt")

    enroller = Enroller(new, new.token())
    kept = node.snapshot(memory=False)
    plain = enroller.join_file(NODE, tmp_path / "plain.json")
    said = vaultpki(*joining(node, plain), expect=1).stderr
    command = re.search(r"`vaultpki (enroll [^`]*)`", said)
    assert (
        command is not None and old.root_sha256 in said and "remove" not in said and node.snapshot(memory=False) == kept
    )
    words = [*command[1].split(), "-f", str(new.file)]
    into = tmp_path / "join.json"
    enroller.run(*words, "--replace", "-o", into)
    said = vaultpki(*joining(node, into), expect=1).stderr
    assert "`ca.also_trust` of cluster.yaml" in said and cas & set(re.findall("[0-9a-f]{64}", said)), said
    assert node.snapshot(memory=False) == kept
    trusting(new, node)
    enroller.run(*words, "--replace", "-o", into)
    assert json.loads(into.read_text())["former_root_sha256"] == old.root_sha256
    assert "could not be ended" not in join(node, into).stdout
    held = fingerprints(node.pki / "kubelet-ca.crt")
    assert cas < held and not fingerprints(node.pki / "kubelet.crt") & before
    assert json.loads((node.pki / ".vaultpki/owner.json").read_bytes())["root_sha256"] == new.root_sha256
    assert (state(old), state(new)) == ("needs-join", "ok")
    # The folders are the new root's from now on, and CAs of before leave once cluster.yaml does without them.
    new.write(SPEC)
    new.apply()
    node.age()
    vaultpki("agent", "-c", node.config, "--once")
    assert fingerprints(node.pki / "kubelet-ca.crt") == held - cas


def test_nobody_goes_over_by_another_cluster_s_mark(clusters: ClusterFactory, tmp_path: Path) -> None:
    """A former root opens the folders of the same node of the same cluster, and no others."""
    one, two = clusters.applied(SPEC), clusters.applied(SPEC)
    node = one.equip(NODE, folder=tmp_path / "node")
    node.run()
    into = tmp_path / "join.json"
    Enroller(two, two.token()).enroll(NODE, "--former-root", one.root_sha256, "-o", into)
    other = NodeFolder(NODE, tmp_path / "other")
    kept = node.snapshot(memory=False)
    said = vaultpki("join", "-c", other.config, into, "--dir", node.pki, expect=1).stderr
    assert f"node {NODE} of cluster {one.name}" in said and said.endswith("; choose another directory\n")
    assert node.snapshot(memory=False) == kept
