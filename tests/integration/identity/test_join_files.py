"""Where `enroll` writes join files: looked at first, never over something else, and nothing of an earlier run is
believed that is not just what would be written now."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers.faults import unexpected_files
from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from vaultpki.errors import StoreError
from vaultpki.identity import enrol, join_files
from vaultpki.records.join_file import load_join


@pytest.fixture
def applier(cluster: AppliedCluster) -> Enroller:
    for node in ("cp-1", "worker-1"):
        enrolled_nodes.vacate(cluster, node)
    return Enroller(cluster, cluster.token())


def refused(enroller: Enroller, *arguments: str | Path, names: str | None = None) -> str:
    """What is said by an enrolment that must fail before anything is registered in Vault."""
    mark = enroller.cluster.server.audit_position()
    ran = enroller.enroll(*arguments, names=names, expect=1)
    assert ran.stdout == "" and ran.stderr.startswith("vaultpki: ") and ran.stderr.count("\n") == 1, ran.stderr
    assert enroller.cluster.server.writes(mark) == []
    return ran.stderr


def looked_at(path: Path) -> tuple[int, ...]:
    about = path.lstat()
    return about.st_ino, about.st_mode, about.st_size, about.st_mtime_ns, about.st_ctime_ns


# Where it is written


IN_THE_WAY: dict[str, unexpected_files.Put] = {
    "text": unexpected_files.text,
    "empty": unexpected_files.empty,
    "folder": unexpected_files.folder,
    "link": unexpected_files.link,
    "dangling": unexpected_files.dangling,
    "fifo": unexpected_files.fifo,
    "socket": unexpected_files.a_socket,
    "huge": unexpected_files.huge,
    "json": lambda path: path.write_text("{}"),
    "list": lambda path: path.write_text('["node"]'),
    "spec": lambda path: path.write_text('{"cluster": "prod", "prefix": "vaultpki/prod", "node": "w-1"}'),
}


@pytest.mark.on_node
@pytest.mark.parametrize("what", IN_THE_WAY)
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_what_is_no_join_file_is_not_overwritten(applier: Enroller, tmp_path: Path, what: str, many: bool) -> None:
    """Nor registered over: the first of many is not enrolled where the last one's file cannot be written."""
    path = tmp_path / "joins" / "w-1.json"
    path.parent.mkdir(mode=0o700)
    IN_THE_WAY[what](path)
    before = looked_at(path)
    if many:
        said = refused(applier, "-", "--pool", "autoscaled", "-o", path.parent, names="w-0\nw-1\n")
    else:
        said = refused(applier, "w-1", "--pool", "autoscaled", "-o", path)
    assert said == (
        f"vaultpki: {path}: this is not a join file, and only a join file of w-1 of {applier.cluster.name} is "
        "overwritten; name another place with -o, or move it away\n"
    )
    assert looked_at(path) == before and os.listdir(path.parent) == [path.name]
    assert applier.cluster.server.api("GET", f"auth/{applier.cluster.prefix}/pooled/role/w-0").status == 404


@pytest.mark.on_node
def test_the_join_file_of_another_node_is_not_overwritten(applier: Enroller, tmp_path: Path) -> None:
    file = applier.join_file("cp-1", tmp_path / "join.json")
    kept = file.read_bytes()
    said = refused(applier, "worker-1", "-o", file)
    assert f"{file}: this is the join file of cp-1 of {applier.cluster.name}, and only a join file of worker-1" in said
    theirs = enrolled_nodes.edited(file, tmp_path / "theirs.json", cluster="other")
    assert "this is the join file of cp-1 of other, and only" in refused(applier, "cp-1", "-o", theirs)
    assert file.read_bytes() == kept
    # Its own is replaced, whatever version or mode it has.
    enrolled_nodes.edited(file, file, version=9, more=1)
    enrolled_nodes.vacate(applier.cluster, "cp-1")
    applier.enroll("cp-1", "-o", file)
    enrolled_nodes.join(NodeFolder("cp-1", tmp_path / "node"), file)


@pytest.mark.on_node
def test_a_place_that_cannot_be_written_is_told_first(applier: Enroller, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for path, said in (
        (tmp_path / "none" / "join.json", f"{tmp_path}/none: it does not exist; create it or check the path"),
        (tmp_path / "file" / "join.json", f"{tmp_path}/file: a part of the path is a file or a symbolic link"),
        (tmp_path / "open" / "join.json", f"{tmp_path}/open: others may write to the folder"),
        (Path("/proc/join.json"), "/proc/join.json: "),
        (tmp_path / f"{'x' * 250}.json", "the name is too long"),
    ):
        assert said in refused(applier, "w-2", "--pool", "autoscaled", "-o", path)
    for folder, said in (
        (tmp_path / "file", f"{tmp_path}/file: a part of the path is a file"),
        (tmp_path / "open", f"{tmp_path}/open: others may write to the folder"),
    ):
        assert said in refused(applier, "--all", "-o", folder)
    assert applier.cluster.server.api("GET", f"auth/{applier.cluster.prefix}/pooled/role/w-2").status == 404


@pytest.mark.on_node
def test_a_full_disk_is_told_first(applier: Enroller, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir(mode=0o700)
    script = 'mount -t tmpfs -o size=64k,mode=700 none "$0" && exec "$@"'
    mark = applier.cluster.server.audit_position()
    for arguments in (["worker-1", "-o", f"{place}/join.json"], ["--all", "-o", str(place)]):
        ran = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, str(place), *applier.command, *arguments],
            env=applier.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert ran.returncode == 1 and "the disk is full; free some space and run again" in ran.stderr, ran.stderr
    assert applier.cluster.server.writes(mark) == []


def test_where_the_last_step_fails_the_join_file_is_kept_and_named(cluster: AppliedCluster, tmp_path: Path) -> None:
    model, vault = cluster.model, cluster.client()
    who, path = enrol.holder(model, "worker-1", None), tmp_path / "join.json"
    place = enrol.place(model, vault)

    def enroll_while_the_place_is_taken() -> None:
        with join_files.reserved(model, path, "worker-1") as put:
            path.mkdir()
            put(enrol.enroll(model, vault, "worker-1", who, place, wrap_ttl=300))

    with pytest.raises(StoreError, match=r"could not be put there \(Is a directory\); it is complete at") as told:
        enroll_while_the_place_is_taken()
    kept = Path(str(told.value).partition(" complete at ")[2].partition(", move")[0])
    assert enrolled_nodes.mode(kept) == 0o600
    enrolled_nodes.join(NodeFolder("worker-1", tmp_path / "node"), kept)
    # Nothing stays of an enrolment that Vault refused.
    kept.unlink()
    path.rmdir()
    with pytest.raises(RuntimeError), join_files.reserved(model, path, "worker-1"):
        raise RuntimeError
    assert [each.name for each in tmp_path.iterdir()] == ["node"]


# What is kept of an earlier run


def planted(file: Path, **fields: Any) -> None:
    enrolled_nodes.edited(file, file, **fields)


def written_anew(enroller: Enroller, joins: Path, nodes: int, *arguments: str) -> str:
    """What another run for all says once the credentials of those whose files are not kept have ended.

    Until then these nodes are left alone, and named: whoever has their credential is not known.
    """
    before = {path.name: path.read_bytes() for path in joins.iterdir()}
    ran = enroller.enroll("--all", "-o", joins, *arguments, expect=3)
    assert ran.stdout.startswith("wrote 0 join files"), ran.stdout
    assert "have a live credential and no join file here that can be kept" in ran.stderr, ran.stderr
    assert {path.name: path.read_bytes() for path in joins.iterdir()} == before
    left = [node for node in ("cp-1", "worker-1") if node in ran.stderr]
    assert len(left) == nodes, ran.stderr
    for node in left:
        enrolled_nodes.vacate(enroller.cluster, node)
    said = enroller.enroll("--all", "-o", joins, *arguments).stdout
    assert said.startswith(f"wrote {nodes} join files"), said
    return said


def stamped(seconds: float) -> str:
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


FIELDS: dict[str, Callable[[], dict[str, Any]]] = {
    "addresses": lambda: {"addresses": ["https://evil.example:8200"]},
    "more addresses": lambda: {"addresses": ["https://evil.example:8200", "https://vault.example:8200"]},
    "ca_pem": lambda: {"ca_pem": None},
    "other ca_pem": lambda: {"ca_pem": "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n"},
    "root_sha256": lambda: {"root_sha256": "4f" * 32},
    "prefix": lambda: {"namespace": "team1"},
    "pool": lambda: {"pool": "autoscaled"},
    "role_id": lambda: {"role_id": "00000000-0000-0000-0000-000000000000"},
    "wrap_token": lambda: {"wrap_token": "s.AAAAAAAAAAAAAAAAAAAAAAAA"},
    "expired": lambda: {"expires": stamped(-10)},
    "soon over": lambda: {"expires": stamped(300)},
    "too long": lambda: {"expires": stamped(1900)},
    "for ever": lambda: {"expires": "9999-12-31T23:59:59Z"},
    "version": lambda: {"version": 2},
    "more": lambda: {"more": 1},
}


# Told apart by other means each; all of them in conformance.
SOME = ("addresses", "root_sha256", "wrap_token", "expired")


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[] if what in SOME else [pytest.mark.conformance]) for what in FIELDS]
)
def test_a_planted_field_is_not_kept(applier: Enroller, tmp_path: Path, what: str) -> None:
    joins = tmp_path / "joins"
    applier.enroll("--all", "-o", joins)
    planted(joins / "worker-1.json", **FIELDS[what]())
    before = {path.name: path.read_bytes() for path in joins.iterdir()}
    said = written_anew(applier, joins, 1)
    assert said == f"wrote 1 join files to {joins}, 1 from an earlier run are still good\n"
    assert (joins / "cp-1.json").read_bytes() == before["cp-1.json"]
    fresh = load_join(joins / "worker-1.json")
    assert fresh.addresses == (applier.cluster.server.address,) and fresh.root_sha256 == applier.cluster.root_sha256
    assert fresh.wrap_token not in before["worker-1.json"].decode()
    enrolled_nodes.join(NodeFolder("worker-1", tmp_path / "node"), joins / "worker-1.json")


def test_the_token_must_be_of_this_nodes_secret_id(applier: Enroller, tmp_path: Path) -> None:
    cluster, joins = applier.cluster, tmp_path / "joins"
    applier.enroll("--all", "-o", joins)
    for path, body in (
        (f"auth/{cluster.prefix}/listed/role/cp-1/secret-id", {}),
        ("sys/wrapping/wrap", {"secret_id": "mine"}),
    ):
        planted(joins / "worker-1.json", wrap_token=enrolled_nodes.wrapped(cluster, path, body=body, ttl="5m"))
        written_anew(applier, joins, 1)
    # Of this node, but minted at another time than the file says.
    token = enrolled_nodes.wrapped(cluster, f"auth/{cluster.prefix}/listed/role/worker-1/secret-id", ttl="5m")
    planted(joins / "worker-1.json", wrap_token=token)
    written_anew(applier, joins, 1)
    assert applier.enroll("--all", "-o", joins).stdout.startswith("wrote 0 join files")


def test_another_life_is_not_kept(applier: Enroller, tmp_path: Path) -> None:
    joins = tmp_path / "joins"
    applier.enroll("--all", "-o", joins, "--wrap-ttl", "2h")
    assert applier.enroll("--all", "-o", joins, "--wrap-ttl", "2h").stdout.startswith("wrote 0 join files")
    written_anew(applier, joins, 2, "--wrap-ttl", "30m")


def hard_linked(path: Path) -> None:
    os.link(path, path.parent.parent / "another-name")


@pytest.mark.on_node
@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.chmod(0o644),
        lambda path: path.chmod(0o660),
        lambda path: path.chmod(0o4600),
        hard_linked,
        *([lambda path: os.chown(path, 65534, 65534)] if os.geteuid() == 0 else []),
    ],
    ids=["readable", "group", "setuid", "linked", *(["owner"] if os.geteuid() == 0 else [])],
)
def test_a_file_that_others_can_reach_is_not_kept(
    applier: Enroller, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    joins = tmp_path / "joins"
    applier.enroll("--all", "-o", joins)
    before = (joins / "worker-1.json").read_bytes()
    change(joins / "worker-1.json")
    written_anew(applier, joins, 1)
    about = (joins / "worker-1.json").stat()
    assert (about.st_uid, stat.S_IMODE(about.st_mode), about.st_nlink) == (os.geteuid(), 0o600, 1)
    assert (joins / "worker-1.json").read_bytes() != before


@pytest.mark.on_node
def test_a_link_is_never_followed(applier: Enroller, tmp_path: Path) -> None:
    joins = tmp_path / "joins"
    applier.enroll("--all", "-o", joins)
    (joins / "worker-1.json").rename(tmp_path / "elsewhere.json")
    (joins / "worker-1.json").symlink_to(tmp_path / "elsewhere.json")
    kept = (tmp_path / "elsewhere.json").read_bytes()
    assert "this is not a join file" in refused(applier, "--all", "-o", joins)
    assert (tmp_path / "elsewhere.json").read_bytes() == kept and json.loads(kept)["node"] == "worker-1"
