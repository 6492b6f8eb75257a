"""`vaultpki graph` as a person runs it: from cluster.yaml alone, and with a folder of nodes."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from helpers.drawn_scenes import problems
from helpers.node.handmade_files import NOW, World, made
from helpers.vault.applied_cluster import vaultpki
from vaultpki.show import expiries
from vaultpki.show.graph_layout import scene
from vaultpki.show.graph_model import Health, graph


@pytest.fixture
def world(tmp_path: Path) -> World:
    return made(tmp_path)


def states(world: World) -> dict[str, tuple[Health, str]]:
    found = expiries.of_folder(world.cluster, world.folder, NOW)
    assert found.problems == ()
    drawn = graph(world.cluster, NOW, expiries=found.rows, cas=found.ends, source=found.source)
    assert problems(scene(drawn)) == []
    assert {domain.until for domain in drawn.domains} == {f"until {NOW + timedelta(days=900):%Y-%m-%d}"}
    assert "files of 4 folders read on" in drawn.about
    return {pair.name: (pair.health, pair.until) for pair in drawn.pairs}


def test_a_folder_of_nodes_gives_colours_by_the_worst_of_each_row(world: World) -> None:
    found = states(world)
    assert {health for health, _ in found.values()} == {Health.VALID}
    world.lay(world.pki("w-7"), world.want("w-7", "kubelet"), life=(-timedelta(days=9), timedelta(hours=3)))
    world.lay(
        world.pki("worker-1"), world.want("worker-1", "kube-proxy"), life=(-timedelta(days=9), -timedelta(hours=3))
    )
    (world.pki("worker-1") / "kubelet-client.crt").unlink()
    (world.pki("cp-1") / "etcdserver.crt").write_text("nonsense")
    changed = states(world)
    assert changed["kubelet"][0] is Health.DUE and changed["kubelet"][1].startswith("overdue, until ")
    assert changed["kube-proxy"][0] is Health.EXPIRED
    assert changed["kubelet-client"][0] is Health.MISSING and changed["kubelet-client"][1].startswith("1 of 2 missing")
    assert changed["etcd-server"] == (Health.MISSING, "missing")
    assert {name for name in found if changed[name] != found[name]} == {
        *("kubelet", "kube-proxy", "kubelet-client", "etcd-server")
    }


def test_the_ending_of_the_name_decides_the_format(world: World) -> None:
    for name, begins in (("a.svg", "<!--"), ("a.mmd", "%%"), ("a.dot", "//"), ("a.gv", "//"), ("a", "<!--")):
        path = world.folder / name
        assert vaultpki("graph", "-f", world.file, "-o", path).stdout == f"wrote {path}\n"
        assert path.read_text().startswith(f"{begins} vaultpki graph")
    path = world.folder / "a.svg"
    vaultpki("graph", "-f", world.file, "-o", path, "--format", "dot", "--dir", world.folder)
    assert "until " in path.read_text()
    printed = vaultpki("graph", "-f", world.file).stdout
    assert ET.fromstring(printed).tag.endswith("svg")  # noqa: S314 - our own text


def test_no_other_file_is_overwritten(world: World) -> None:
    before = world.file.read_bytes()
    ran = vaultpki("graph", "-f", world.file, "-o", world.file, expect=1)
    assert ran.stderr == f"vaultpki: {str(world.file)!r} is no picture of vaultpki: choose another name with -o\n"
    assert world.file.read_bytes() == before
    link = world.folder / "link.svg"
    link.symlink_to(world.folder / "elsewhere.svg")
    assert "cannot be written" in vaultpki("graph", "-f", world.file, "-o", link, expect=1).stderr
    assert not (world.folder / "elsewhere.svg").exists()
    os.mkfifo(world.folder / "pipe.svg")
    assert "is no picture" in vaultpki("graph", "-f", world.file, "-o", world.folder / "pipe.svg", expect=1).stderr


def test_what_could_not_be_read_is_said(world: World) -> None:
    (world.folder / "nodes" / "w-8").symlink_to("/etc")
    ran = vaultpki("graph", "-f", world.file, "--dir", world.folder, "-o", world.folder / "a.svg", expect=3)
    assert "w-8: " in ran.stderr and "is a link that leads out of" in ran.stderr
    assert (world.folder / "a.svg").read_text().startswith("<!-- vaultpki graph -->")
    ran = vaultpki("graph", "-f", world.file, "--dir", world.folder / "nothing", expect=1)
    assert ran.stdout == ""
