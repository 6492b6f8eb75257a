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
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder, Ran
from vaultpki.errors import StoreError
from vaultpki.identity import enrol, join_files
from vaultpki.records.join_file import load_join


@pytest.fixture
def somebody(cluster: AppliedCluster) -> Enroller:
    """An applier who enrols nobody in the end."""
    return Enroller(cluster, cluster.token())


@pytest.fixture
def applier(cluster: AppliedCluster) -> Enroller:
    """One for whom no listed node has a credential."""
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
def test_what_is_no_join_file_is_not_overwritten(somebody: Enroller, tmp_path: Path, what: str) -> None:
    """Nor registered over: the first of many is not enrolled where the last one's file cannot be written."""
    path = tmp_path / "joins" / "w-1.json"
    path.parent.mkdir(mode=0o700)
    IN_THE_WAY[what](path)
    before = looked_at(path)
    said = [refused(somebody, "w-1", "--pool", "autoscaled", "-o", path)]
    if what in ("text", "link"):
        said.append(refused(somebody, "-", "--pool", "autoscaled", "-o", path.parent, names="w-0\nw-1\n"))
    expected = (
        f"vaultpki: {path}: this is not a join file, and only a join file of w-1 of {somebody.cluster.name} is "
        "overwritten; name another place with -o, or move it away\n"
    )
    assert set(said) == {expected} and looked_at(path) == before and os.listdir(path.parent) == [path.name]
    assert somebody.cluster.server.api("GET", f"auth/{somebody.cluster.prefix}/pooled/role/w-0").status == 404


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


@pytest.mark.on_node
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


def stamped(seconds: float) -> str:
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


FIELDS: dict[str, dict[str, Any]] = {
    "addresses": {"addresses": ["https://evil.example:8200"]},
    "more addresses": {"addresses": ["https://evil.example:8200", "https://vault.example:8200"]},
    "ca_pem": {"ca_pem": None},
    "other ca_pem": {"ca_pem": "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n"},
    "root_sha256": {"root_sha256": "4f" * 32},
    "prefix": {"namespace": "team1"},
    "pool": {"pool": "batch"},
    "role_id": {"role_id": "00000000-0000-0000-0000-000000000000"},
    "wrap_token": {"wrap_token": "s.AAAAAAAAAAAAAAAAAAAAAAAA"},
    "expired": {"expires": -10},
    "soon over": {"expires": 300},
    "too long": {"expires": 1900},
    "for ever": {"expires": "9999-12-31T23:59:59Z"},
    "version": {"version": 2},
    "more": {"more": 1},
}
# What makes a file one that others can reach.
REACHED: dict[str, Callable[[Path], object]] = {
    "readable": lambda path: path.chmod(0o644),
    "group": lambda path: path.chmod(0o660),
    "setuid": lambda path: path.chmod(0o4600),
    "linked": lambda path: os.link(path, path.parent.parent / "another-name"),
    **({"owner": lambda path: os.chown(path, 65534, 65534)} if os.geteuid() == 0 else {}),
}


def tokens(cluster: AppliedCluster) -> dict[str, str]:
    """Wrapping tokens that are not of the secret id of just this file, by the name of the node that gets each."""
    role = f"auth/{cluster.prefix}/pooled/role"
    return {
        "w-of-another": enrolled_nodes.wrapped(cluster, f"{role}/w-kept/secret-id", ttl="5m"),
        "w-of-anything": enrolled_nodes.wrapped(cluster, "sys/wrapping/wrap", body={"secret_id": "mine"}, ttl="5m"),
        # Of this node, but minted at another time than the file says.
        "w-minted-later": enrolled_nodes.wrapped(cluster, f"{role}/w-minted-later/secret-id", ttl="5m"),
    }


def test_only_what_is_just_as_it_would_be_written_is_kept(somebody: Enroller, tmp_path: Path) -> None:
    """Until the credentials of the other nodes have ended these are left alone, and named: who has them is unknown."""
    cluster, joins = somebody.cluster, tmp_path / "joins"
    fields = {f"w-{what.replace(' ', '-').replace('_', '-')}": value for what, value in FIELDS.items()}
    reached = {f"w-{what}": change for what, change in REACHED.items()}
    spoilt = [*fields, *reached, "w-of-another", "w-of-anything", "w-minted-later"]
    names = "".join(f"{name}\n" for name in (*spoilt, "w-kept"))

    def enroll(expect: int = 0) -> Ran:
        return somebody.enroll("-", "--pool", "autoscaled", "-o", joins, names=names, expect=expect)

    assert enroll().stdout == f"wrote {len(spoilt) + 1} join files to {joins}\n"
    for name, value in fields.items():
        expires = value.get("expires")
        more = {"expires": stamped(expires)} if isinstance(expires, int) else {}
        enrolled_nodes.edited(joins / f"{name}.json", joins / f"{name}.json", **{**value, **more})
    for name, change in reached.items():
        change(joins / f"{name}.json")
    for name, token in tokens(cluster).items():
        enrolled_nodes.edited(joins / f"{name}.json", joins / f"{name}.json", wrap_token=token)
    before = {path.stem: path.read_bytes() for path in joins.iterdir()}
    ran = enroll(expect=3)
    assert ran.stdout == f"wrote 0 join files to {joins}, 1 from an earlier run are still good\n"
    assert "have a live credential and no join file here that can be kept" in ran.stderr, ran.stderr
    assert {path.stem: path.read_bytes() for path in joins.iterdir()} == before
    for name in spoilt:
        enrolled_nodes.vacate(cluster, name)
    said = enroll().stdout
    assert said == f"wrote {len(spoilt)} join files to {joins}, 1 from an earlier run are still good\n"
    assert (joins / "w-kept.json").read_bytes() == before["w-kept"]
    for name in spoilt:
        file = joins / f"{name}.json"
        about, fresh = file.stat(), load_join(file)
        assert (about.st_uid, stat.S_IMODE(about.st_mode), about.st_nlink) == (os.geteuid(), 0o600, 1), name
        assert fresh.addresses == (cluster.server.address,) and fresh.root_sha256 == cluster.root_sha256
        assert fresh.wrap_token not in before[name].decode()
    assert enroll().stdout.startswith("wrote 0 join files")
    enrolled_nodes.join(NodeFolder("w-addresses", tmp_path / "node"), joins / "w-addresses.json")


@pytest.mark.on_node
def test_another_life_is_not_kept(applier: Enroller, tmp_path: Path) -> None:
    joins = tmp_path / "joins"
    applier.enroll("--all", "-o", joins, "--wrap-ttl", "2h")
    assert applier.enroll("--all", "-o", joins, "--wrap-ttl", "2h").stdout.startswith("wrote 0 join files")
    said = applier.enroll("--all", "-o", joins, "--wrap-ttl", "30m", expect=3).stderr
    assert all(node in said for node in ("cp-1", "worker-1")), said


@pytest.mark.on_node
def test_a_link_is_never_followed(applier: Enroller, tmp_path: Path) -> None:
    joins = tmp_path / "joins"
    applier.enroll("--all", "-o", joins)
    (joins / "worker-1.json").rename(tmp_path / "elsewhere.json")
    (joins / "worker-1.json").symlink_to(tmp_path / "elsewhere.json")
    kept = (tmp_path / "elsewhere.json").read_bytes()
    assert "this is not a join file" in refused(applier, "--all", "-o", joins)
    assert (tmp_path / "elsewhere.json").read_bytes() == kept and json.loads(kept)["node"] == "worker-1"
