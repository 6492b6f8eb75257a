"""`vaultpki graph` as a person runs it: from cluster.yaml alone, and with a folder of nodes."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from helpers.drawn_scenes import problems
from helpers.node.handmade_files import NOW, HandmadeFiles, made
from helpers.vault.applied_cluster import vaultpki
from vaultpki.graph.content import Health, graph
from vaultpki.graph.placement import scene
from vaultpki.procedures import ON_NODES
from vaultpki.show import expiries


@pytest.fixture
def files(tmp_path: Path) -> HandmadeFiles:
    return made(tmp_path)


def states(files: HandmadeFiles) -> dict[str, tuple[Health, str]]:
    found = expiries.of_folder(files.cluster, files.folder, NOW, ON_NODES)
    assert not [notice for notice in found.notices if notice.part == "checks"]
    drawn = graph(files.cluster, NOW, expiries=found.rows, cas=found.ends, source=found.source)
    assert problems(scene(drawn)) == []
    assert {domain.until for domain in drawn.domains} == {f"until {NOW + timedelta(days=900):%Y-%m-%d}"}
    assert "files of 4 folders read on" in drawn.about
    return {pair.name: (pair.health, pair.until) for pair in drawn.pairs}


def test_a_folder_of_nodes_gives_colours_by_the_worst_of_each_row(files: HandmadeFiles) -> None:
    found = states(files)
    assert {health for health, _ in found.values()} == {Health.VALID}
    files.lay(files.pki("w-7"), files.want("w-7", "kubelet"), life=(-timedelta(days=9), timedelta(hours=3)))
    files.lay(
        files.pki("worker-1"), files.want("worker-1", "kube-proxy"), life=(-timedelta(days=9), -timedelta(hours=3))
    )
    (files.pki("worker-1") / "kubelet-client.crt").unlink()
    (files.pki("cp-1") / "etcdserver.crt").write_text("nonsense")
    changed = states(files)
    assert changed["kubelet"][0] is Health.DUE and changed["kubelet"][1].startswith("overdue, until ")
    assert changed["kube-proxy"][0] is Health.EXPIRED
    assert changed["kubelet-client"][0] is Health.MISSING and changed["kubelet-client"][1].startswith("1 of 2 missing")
    assert changed["etcd-server"] == (Health.BROKEN, "broken")
    assert {name for name in found if changed[name] != found[name]} == {
        *("kubelet", "kube-proxy", "kubelet-client", "etcd-server")
    }


def test_the_ending_of_the_name_decides_the_format(files: HandmadeFiles) -> None:
    for name, begins in (("a.svg", "<!--"), ("a.mmd", "%%"), ("a.dot", "//"), ("a.gv", "//"), ("a", "<!--")):
        path = files.folder / name
        assert vaultpki("graph", "-f", files.file, "-o", path).stdout == f"wrote {path}\n"
        assert path.read_text().startswith(f"{begins} vaultpki graph")
    path = files.folder / "a.svg"
    vaultpki("graph", "-f", files.file, "-o", path, "--format", "dot", "--dir", files.folder)
    assert "until " in path.read_text()
    printed = vaultpki("graph", "-f", files.file).stdout
    assert ET.fromstring(printed).tag.endswith("svg")  # noqa: S314 - our own text


@pytest.mark.parametrize("name", ["x.png", "x.SVG", "x.svg.gz", "cluster.yaml"])
def test_an_ending_of_another_format_is_refused(files: HandmadeFiles, name: str) -> None:
    before = files.file.read_bytes()
    ran = vaultpki("graph", "-f", files.file, "-o", files.folder / name, expect=2)
    ending = Path(name).suffix
    assert f"vaultpki draws no '{ending}'; end the name in .svg, .mmd, .mermaid, .dot, .gv, or name the format" in (
        " ".join(ran.stderr.split())
    )
    assert files.file.read_bytes() == before and not (files.folder / "x.png").exists()


def test_no_other_file_is_overwritten(files: HandmadeFiles) -> None:
    before = files.file.read_bytes()
    ran = vaultpki("graph", "-f", files.file, "-o", files.file, "--format", "svg", expect=1)
    assert ran.stderr == f"vaultpki: {str(files.file)!r} is not a picture of vaultpki: choose another name with -o\n"
    assert files.file.read_bytes() == before
    link = files.folder / "link.svg"
    link.symlink_to(files.folder / "elsewhere.svg")
    assert "cannot be written" in vaultpki("graph", "-f", files.file, "-o", link, expect=1).stderr
    assert not (files.folder / "elsewhere.svg").exists()
    os.mkfifo(files.folder / "pipe.svg")
    assert "is not a picture" in vaultpki("graph", "-f", files.file, "-o", files.folder / "pipe.svg", expect=1).stderr


def test_what_could_not_be_read_is_said(files: HandmadeFiles) -> None:
    (files.folder / "nodes" / "w-8").symlink_to("/etc")
    ran = vaultpki("graph", "-f", files.file, "--dir", files.folder, "-o", files.folder / "a.svg", expect=3)
    assert "w-8: " in ran.stderr and "is a link that leads out of" in ran.stderr
    assert (files.folder / "a.svg").read_text().startswith("<!-- vaultpki graph -->")
    ran = vaultpki("graph", "-f", files.file, "--dir", files.folder / "nothing", expect=1)
    assert ran.stdout == ""
