"""What would make a join fail on the machine is found before the join file is used, and nothing is left behind."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.faults.small_disks import private_disk
from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Desk
from helpers.vault.applied_cluster import Seat, Site, environment, vaultpki
from helpers.vault.servers import Server


@pytest.fixture(scope="module")
def site(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return enrolled_nodes.site(server, tmp_path_factory.mktemp("checks"), f"j{os.urandom(4).hex()}")


@pytest.fixture
def seat(tmp_path: Path) -> Seat:
    return Seat("w-1", tmp_path / "node")


@pytest.fixture
def file(site: Site, tmp_path: Path) -> Path:
    enrolled_nodes.vacate(site, "w-1")
    return Desk(site, site.token()).join_file("w-1", tmp_path / "join.json", pool="autoscaled")


def of_another(site: Site, seat: Seat, tmp_path: Path) -> str:
    """The directory of another node of the same cluster."""
    other = Seat("w-2", tmp_path / "w-2")
    enrolled_nodes.vacate(site, "w-2")
    enrolled_nodes.join(other, Desk(site, site.token()).join_file("w-2", tmp_path / "w-2.json", pool="autoscaled"))
    seat.folder.mkdir()
    other.pki.rename(seat.pki)
    return f"{seat.pki}: this directory belongs to node w-2 of cluster {site.name}, and not to node w-1"


def open_to_others(site: Site, seat: Seat, tmp_path: Path) -> str:
    seat.pki.mkdir(parents=True)
    seat.pki.chmod(0o777)
    return f"{seat.pki}: "


def a_file_for_a_directory(site: Site, seat: Seat, tmp_path: Path) -> str:
    seat.folder.mkdir()
    seat.pki.write_text("a file")
    return f"{seat.pki}: "


def a_link_for_a_directory(site: Site, seat: Seat, tmp_path: Path) -> str:
    seat.folder.mkdir()
    seat.pki.symlink_to(tmp_path)
    return f"{seat.pki}: "


def a_link_for_the_state(site: Site, seat: Seat, tmp_path: Path) -> str:
    seat.folder.mkdir()
    seat.state.symlink_to(tmp_path)
    return f"{seat.state}: "


def a_file_for_the_hidden_folder(site: Site, seat: Seat, tmp_path: Path) -> str:
    seat.pki.mkdir(parents=True)
    (seat.pki / ".vaultpki").write_text("a file")
    return f"{seat.pki}/.vaultpki: "


def no_place_for_agent_yaml(site: Site, seat: Seat, tmp_path: Path) -> str:
    seat.folder.write_text("a file")
    return f"{seat.folder}: "


SPOILT: tuple[Callable[[Site, Seat, Path], str], ...] = (
    of_another,
    open_to_others,
    a_file_for_a_directory,
    a_link_for_a_directory,
    a_link_for_the_state,
    a_file_for_the_hidden_folder,
    no_place_for_agent_yaml,
)


def tree(path: Path) -> dict[str, tuple[int, int]]:
    """Inode and mode of all that is there."""
    found = [path, *path.rglob("*")] if path.exists() else []
    return {str(each): (each.lstat().st_ino, each.lstat().st_mode) for each in found}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_nothing_is_used_up_and_nothing_is_left(
    site: Site, seat: Seat, file: Path, tmp_path: Path, spoil: Callable[[Site, Seat, Path], str]
) -> None:
    said, since = spoil(site, seat, tmp_path), site.server.audit_position()
    before = tree(seat.folder)
    examined = vaultpki("doctor", "-c", seat.config, "--join", file, "--dir", seat.pki, "--json", expect=3)
    failed = [each["detail"] for each in json.loads(examined.stdout)["checks"] if each["verdict"] == "failed"]
    assert any(detail.startswith(said) for detail in failed), examined
    assert tree(seat.folder) == before
    since = site.server.audit_position()
    ran = enrolled_nodes.join(seat, file, expect=1)
    assert ran.stdout == "" and ran.stderr.startswith(f"vaultpki: {said}") and ran.stderr.count("\n") == 1, ran
    assert site.server.requests(since) == []
    assert tree(seat.folder) == before
    # The same join file serves once that is mended.
    enrolled_nodes.join(Seat("w-1", tmp_path / "elsewhere"), file)


def test_folders_lie_apart(site: Site, seat: Seat, file: Path) -> None:
    for directory, said in (
        (seat.folder, f"the agent's own folder {seat.state} would lie in {seat.folder}, which static pods mount"),
        (seat.state / "pki", f"{seat.state}/pki would lie in the agent's own folder {seat.state}, which nobody else"),
        (seat.folder / "x/../state", f"{seat.folder}/x/../state"),
    ):
        ran = vaultpki("agent", "-c", seat.config, "--join", file, "--dir", directory, "--once", expect=1)
        assert said in ran.stderr and not seat.folder.exists(), ran
    enrolled_nodes.join(seat, file)


def test_an_owner_that_this_machine_lacks(site: Site, seat: Seat, file: Path, tmp_path: Path) -> None:
    enrolled_nodes.join(seat, file)
    text = seat.config.read_text()
    enrolled_nodes.vacate(site, "w-1")
    fresh = Desk(site, site.token()).join_file("w-1", tmp_path / "fresh.json", pool="autoscaled")
    for further in ("owner: nobody-here:root\n", "certificates: {kubelet: {owner: 'root:nobody-here'}}\n"):
        seat.config.write_text(text + further)
        before = seat.snapshot()
        ran = enrolled_nodes.join(seat, fresh, expect=1)
        assert "this machine has no such user or group; create it or change agent.yaml" in ran.stderr, ran
        assert {name: about[2:] for name, about in seat.snapshot().items()} == {
            name: about[2:] for name, about in before.items()
        }
    seat.config.write_text(text)
    enrolled_nodes.join(seat, fresh)


def test_a_user_who_may_not_look(site: Site, seat: Seat, file: Path) -> None:
    """One sentence, and no fault of ours, where agent.yaml lies in a folder that this user may not enter."""
    enrolled_nodes.join(seat, file)
    before = seat.snapshot()
    seat.folder.chmod(0)
    try:
        behind = () if os.geteuid() else ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
        ran = vaultpki(*enrolled_nodes.joining(seat, file), expect=1, behind=behind)
    finally:
        seat.folder.chmod(0o755)
    assert ran.stderr == f"vaultpki: {seat.config}: permission denied; run as its owner or as root\n"
    assert seat.snapshot() == before


@pytest.mark.parametrize("where", ["state", "pki", "agent.yaml"])
def test_no_room_and_no_writing(site: Site, tmp_path: Path, where: str) -> None:
    """A disk that is full, and one that is read-only, under each of the three places."""
    enrolled_nodes.vacate(site, "w-1")
    file = Desk(site, site.token()).join_file("w-1", tmp_path / "join.json", pool="autoscaled")
    disk_folder = tmp_path / "disk"
    places = {name: tmp_path / "node" / name for name in ("state", "pki", "agent.yaml")} | {where: disk_folder / where}
    seat_config = places["agent.yaml"]
    if where == "state":
        # The state folder lies beside agent.yaml, which stands on the same small disk then.
        seat_config = disk_folder / "agent.yaml"
    arguments = ["agent", "-c", str(seat_config), "--join", str(file), "--dir", str(places["pki"]), "--once"]
    with private_disk(disk_folder, "size=2m,mode=0755") as disk:
        command = [sys.executable, "-m", "vaultpki", *arguments]
        since = site.server.audit_position()
        disk.fill(leaving=4)
        full = disk.run(command, environment())
        assert full.returncode == 1 and "the disk is full; free some space and run again" in full.stderr, full
        disk.empty()
        disk.remount("ro")
        closed = disk.run(command, environment())
        assert closed.returncode == 1 and "read-only" in closed.stderr, closed
        assert site.server.requests(since) == []
        assert list(disk.seen(disk_folder).iterdir()) == [] and not (tmp_path / "node").exists()
        disk.remount("rw")
        done = disk.run(command, environment())
        assert done.returncode == 0, done
