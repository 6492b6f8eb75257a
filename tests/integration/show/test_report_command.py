"""`vaultpki report --dir` as a person runs it: real files, what `verify` finds in them, and the page."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from html import unescape
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from helpers.node.handmade_files import World, made
from helpers.vault.applied_cluster import Ran, vaultpki

ROW = re.compile(r'<tr data-state="(\w+)".*?<th scope="row">([\w-]+)</th><td>([^<]*)</td><td>([^<]*)</td>')


@pytest.fixture
def world(tmp_path: Path) -> World:
    return made(tmp_path)


def ran(world: World, *words: str | Path, expect: int = 0) -> Ran:
    return vaultpki("report", "-f", world.file, "--dir", world.folder, "-o", page_of(world), *words, expect=expect)


def page_of(world: World) -> Path:
    return world.folder / "report.html"


def states(world: World) -> dict[tuple[str, str], tuple[str, str, str]]:
    """The state, component and CA of each certificate on the page, by its holder and name."""
    found = {}
    for block in page_of(world).read_text().split('<details data-node="')[1:]:
        holder = block.partition('"')[0]
        for state, name, component, ca in ROW.findall(block):
            found[holder, name] = (state, component, ca)
    return found


def test_every_certificate_of_every_folder_is_on_the_page(world: World) -> None:
    assert ran(world).stdout == f"wrote {page_of(world)}\n"
    found = states(world)
    assert {state for state, _, _ in found.values()} == {"valid"}
    assert {holder for holder, _ in found} == {"cp-1", "worker-1", "w-7", "operator"}
    assert found["cp-1", "kube-apiserver-etcd"] == ("valid", "kube-apiserver", "etcd")
    assert {name for holder, name in found if holder == "w-7"} == {"kubelet", "kubelet-client", "kube-proxy"}
    text = page_of(world).read_text()
    assert "Nothing needs attention" in text and "all as they should be" in text
    for authority in (world.root, *world.issuing.values()):
        assert authority.certificate.fingerprint(hashes.SHA256()).hex() in text
    assert "root CA of prod, until " in text


def test_what_is_wrong_is_on_the_page_and_on_the_terminal(world: World) -> None:
    gone = (-timedelta(days=9), -timedelta(hours=3))
    world.lay(world.pki("worker-1"), world.want("worker-1", "kube-proxy"), life=gone)
    (world.pki("w-7") / "kubelet.crt").unlink()
    # A pair of another CA: it is whole and in date, and only a handshake tells.
    stolen = world.pki("cp-1") / "front-proxy-client.crt"
    stolen.write_bytes((world.pki("cp-1") / "kube-apiserver-etcd.crt").read_bytes())
    done = ran(world, expect=3)
    said = done.stderr.splitlines()
    assert "kube-proxy: expired on worker-1" in said and "kubelet: missing on w-7" in said
    assert any(re.fullmatch(r"\d+ of \d+ checks failed", line) for line in said)
    assert said[-1] == f"vaultpki: {len(said) - 1} things need attention; see above, and {page_of(world)}"
    found = states(world)
    assert found["worker-1", "kube-proxy"][0] == "expired" and found["w-7", "kubelet"][0] == "missing"
    text = unescape(page_of(world).read_text())
    for line in said[:-1]:
        assert f"<span>{line}</span>" in text
    assert "cp-1/front-proxy-client" in text.partition("<h3>Failures</h3>")[2]
    assert 'class="met-wrong"' in text


def test_a_folder_that_is_not_read_is_said(world: World) -> None:
    (world.folder / "nodes" / "w-8").symlink_to("/etc")
    said = ran(world, expect=3).stderr
    assert "w-8: " in said and "is a link that leads out of" in said
    assert page_of(world).is_file()
    page_of(world).unlink()
    vaultpki("report", "-f", world.file, "--dir", world.folder / "none", "-o", page_of(world), expect=1)
    assert not page_of(world).exists()


def test_its_own_page_is_replaced_in_one_step_and_no_other_file(world: World) -> None:
    ran(world)
    page = page_of(world)
    assert page.stat().st_mode & 0o777 == 0o644
    old, before = page.open("rb"), page.stat().st_ino
    ran(world)
    # Who reads the old one reads it whole.
    with old:
        assert old.read().endswith(b"</html>\n")
    assert page.stat().st_ino != before
    assert sorted(each.name for each in world.folder.iterdir()) == ["cluster.yaml", "nodes", "operator", "report.html"]

    spec = world.file.read_bytes()
    said = ran(world, "-o", world.file, expect=1).stderr
    assert said == f"vaultpki: {str(world.file)!r} is no report of vaultpki: choose another name with -o\n"
    assert world.file.read_bytes() == spec
    vaultpki("graph", "-f", world.file, "-o", world.folder / "a.svg")
    assert "is no report" in ran(world, "-o", world.folder / "a.svg", expect=1).stderr
    link = world.folder / "link.html"
    link.symlink_to(page)
    assert "cannot be written" in ran(world, "-o", link, expect=1).stderr
    os.mkfifo(world.folder / "pipe.html")
    assert "is no report" in ran(world, "-o", world.folder / "pipe.html", expect=1).stderr
    assert "cannot be written" in ran(world, "-o", world.folder / "nowhere/a.html", expect=1).stderr


def test_what_to_read_must_be_chosen(world: World) -> None:
    words = ("report", "-f", world.file, "-o", page_of(world))
    for more in ((), ("--from-vault", "--dir", world.folder)):
        assert "choose one of --dir DIR, for files, and --from-vault" in vaultpki(*words, *more, expect=2).stderr
    assert "-o" in vaultpki("report", "-f", world.file, "--dir", world.folder, expect=2).stderr
