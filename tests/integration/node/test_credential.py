"""The node's own credential: traded, kept, rolled, and never lost to a cut except within the unwrapping itself."""

from __future__ import annotations

import functools
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.faults import hostile_server
from helpers.faults.hostile_server import Guest
from helpers.faults.kill_points import NEVER, died
from helpers.node import enrolled_nodes, resident_agent
from helpers.node.enrolled_nodes import Enroller
from helpers.node.passes import passed, passed_well
from helpers.vault.applied_cluster import AppliedCluster, NodeFolder
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.servers import write_tls
from vaultpki.config.agent import load_agent
from vaultpki.disk.files import write_private
from vaultpki.errors import SpecError, VaultpkiError
from vaultpki.identity import enrol
from vaultpki.join import enter
from vaultpki.join.checks import JoinPlan
from vaultpki.model import AgentConfig
from vaultpki.node import credential
from vaultpki.node.secret_id import SecretIdFiles
from vaultpki.records.join_file import dump_join, load_join

FILES = r"secret-id|joined|agent\.yaml|vault-ca\.pem"
DAY = 86400
WEEK = 7 * DAY
# A new one is trusted after five minutes.
SETTLED = 300


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(enrolled_nodes.SPEC)


@pytest.fixture
def name() -> str:
    return f"w-{os.urandom(4).hex()}"


@pytest.fixture
def node(cluster: AppliedCluster, name: str, tmp_path: Path) -> NodeFolder:
    """A pooled node that has joined."""
    made = NodeFolder(name, tmp_path / "node")
    joined(made, unspent_file(cluster, made, tmp_path / "join.json"))
    passed_well(made)
    return made


def joined(node: NodeFolder, file: Path) -> AgentConfig:
    """A join without its first pass."""
    plan = JoinPlan(load_join(file), None, str(node.config), str(node.pki), str(node.state))
    return enter.join(plan, datetime.now(UTC), allow_http=False).config


def passed_again(node: NodeFolder, *force: str) -> None:
    outcome = passed(node, *force)
    assert not outcome.failures, outcome.failures


def secret(node: NodeFolder) -> str:
    return (node.state / "secret-id").read_text()


def roll(node: NodeFolder, now: float, *, force: bool = False) -> bool:
    config = load_agent(node.config)
    return credential.roll(config, credential.login(config), now, force=force)


def test_what_the_join_file_held_is_traded_at_once(cluster: AppliedCluster, node: NodeFolder) -> None:
    known = enrolled_nodes.accessors(cluster, node.name, "pooled")
    assert len(known) == 1
    found = cluster.server.api(
        "POST", f"auth/{cluster.prefix}/pooled/role/{node.name}/secret-id/lookup", {"secret_id": secret(node)}
    )
    assert found.data["secret_id_accessor"] == known[0] and found.data["secret_id_num_uses"] == 0
    # Twice the longest leaf of 30 days.
    assert found.data["secret_id_ttl"] == 60 * DAY
    memory = json.loads((node.state / "secret-id.json").read_text())
    assert memory["ttl"] == 60 * DAY and abs(memory["minted"] - time.time()) < 60
    assert enrolled_nodes.mode(node.state / "secret-id") == 0o600 and not (node.state / "secret-id.old").exists()
    assert json.loads((node.state / "joined").read_text())["secret_id"] is None


@pytest.mark.on_node
def test_the_ca_file_of_agent_yaml(node: NodeFolder, tmp_path: Path) -> None:
    file = node.state / "vault-ca.pem"
    ca_pem = file.read_text()
    file.write_text(f"# F\u0151tan\u00fas\u00edtv\u00e1ny\n{ca_pem}", encoding="utf-8")
    credential.login(load_agent(node.config))
    for content, said in ((None, "no such file"), ("hello", "no whole PEM certificate")):
        file.unlink()
        if content:
            file.write_text(content)
        with pytest.raises(SpecError, match=f"{file}: .*{said}") as caught:
            credential.login(load_agent(node.config))
        assert (caught.value.file, caught.value.field) == (str(node.config), "vault.ca_file")
        file.touch()
    # One that does not fit is named.
    (tmp_path / "tls").mkdir()
    file.write_text(write_tls(tmp_path / "tls").read_text())
    node.age()
    said = node.run(expect=1).stderr
    assert (
        f"; the CA in {file} (vault.ca_file in {node.config}) did not sign it: compare the two, or join with a new"
        in said
    )
    assert f"(`vaultpki enroll {node.name} --pool autoscaled`)" in said and "VAULT_CACERT" not in said
    node.configure(f"\n  ca_file: {file}", "")
    said = node.run(expect=1).stderr
    assert (
        f"; this machine's CAs did not sign it: write the file of the one that did as vault.ca_file into {node.config}"
        in said
    )


def test_it_is_rolled_from_a_third_of_its_life_on(cluster: AppliedCluster, node: NodeFolder) -> None:
    minted = json.loads((node.state / "secret-id.json").read_text())["minted"]
    first = secret(node)
    assert not roll(node, minted + 20 * DAY - 1) and secret(node) == first
    assert roll(node, minted + 25 * DAY) and secret(node) != first
    assert not roll(node, minted + 25 * DAY + SETTLED - 1)
    assert len(enrolled_nodes.accessors(cluster, node.name, "pooled")) == 2
    assert not roll(node, minted + 25 * DAY + SETTLED) and not (node.state / "secret-id.old").exists()
    role_id = load_agent(node.config).auth.role_id or ""
    assert enrolled_nodes.login(cluster, "pooled", role_id, first) is None
    assert enrolled_nodes.login(cluster, "pooled", role_id, secret(node)) is not None
    assert len(enrolled_nodes.accessors(cluster, node.name, "pooled")) == 1
    passed_well(node)


def test_a_new_one_that_the_server_loses_locks_nobody_out(cluster: AppliedCluster, node: NodeFolder) -> None:
    """Servers do that where they tidy up in the moment in which it is minted."""
    first = secret(node)
    assert roll(node, time.time() + 25 * DAY)
    role = f"auth/{cluster.prefix}/pooled/role/{node.name}"
    gone = secret(node)
    assert cluster.server.api("POST", f"{role}/secret-id/destroy", {"secret_id": gone}).status == 204
    passed_again(node, "*")
    # That took the first one up again, and had the next made.
    second = secret(node)
    assert second not in (gone, first)
    # Which the server may lose as well.
    passed_again(node, "*")
    assert secret(node) == second and len(enrolled_nodes.accessors(cluster, node.name, "pooled")) == 2
    assert not roll(node, time.time() + SETTLED)
    assert secret(node) == second and len(enrolled_nodes.accessors(cluster, node.name, "pooled")) == 1


def test_a_first_one_that_the_server_loses_keeps_no_node_from_joining(
    cluster: AppliedCluster, applier: Enroller, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The join file's own is kept until the server has accepted the one that the node minted."""
    node, role = NodeFolder(name, tmp_path / "node"), f"auth/{cluster.prefix}/pooled/role/{name}"
    file = applier.join_file(name, tmp_path / "join.json", pool="autoscaled")
    lost: list[str] = []
    keep = SecretIdFiles.replace

    def lose(files: SecretIdFiles, new: str) -> None:
        keep(files, new)
        # The first is what the join file held.
        if files.previous() is not None:
            lost.append(new)
            assert cluster.server.api("POST", f"{role}/secret-id/destroy", {"secret_id": new}).status == 204

    with monkeypatch.context() as patched:
        patched.setattr(SecretIdFiles, "replace", lose)
        joined(node, file)
    assert [secret(node)] == lost
    passed_well(node)
    assert secret(node) not in lost
    assert not roll(node, time.time() + SETTLED)
    assert len(enrolled_nodes.accessors(cluster, name, "pooled")) == 1
    passed_well(node)


@pytest.mark.on_node
@pytest.mark.parametrize("shift", [-10 * 365 * DAY, -3600, 10 * 365 * DAY], ids=["decade-back", "hour-back", "ahead"])
def test_a_clock_that_jumps_does_not_roll_in_a_loop(cluster: AppliedCluster, node: NodeFolder, shift: int) -> None:
    now = time.time()
    rolled = [roll(node, now + shift + minute * 60) for minute in range(5)]
    assert rolled[1:] == [False] * 4
    back = [roll(node, now + minute * 60) for minute in range(7)]
    assert back[1:] == [False] * 6
    assert len(enrolled_nodes.accessors(cluster, node.name, "pooled")) == 1


@pytest.mark.on_node
def test_nodes_that_joined_together_roll_at_different_times(cluster: AppliedCluster, name: str, tmp_path: Path) -> None:
    """Each by its own name and the time at which its secret id was minted: of 12 nodes a few at once, and not all."""
    rolled = []
    for number in range(12):
        node = cluster.equip(f"{name}-{number}", pool="autoscaled", folder=tmp_path / str(number))
        rolled.append(roll(node, time.time() + WEEK * 3 / 8))
    assert 1 <= sum(rolled) <= 11


def test_one_put_there_by_hand_is_rolled_by_its_age(cluster: AppliedCluster, name: str, tmp_path: Path) -> None:
    node = cluster.equip(name, pool="autoscaled", folder=tmp_path / "node")
    now = time.time()
    assert not roll(node, now + WEEK / 3 - 60)
    late = now + WEEK * 5 / 12 + 60
    assert roll(node, late) and not roll(node, late + SETTLED)
    assert len(enrolled_nodes.accessors(cluster, name, "pooled")) == 1


def test_the_new_one_is_kept_before_the_old_one_is_destroyed(cluster: AppliedCluster, node: NodeFolder) -> None:
    """Vault is looked at in the moment of the cut: both are taken."""
    first, config = secret(node), load_agent(node.config)
    now = time.time() + 30 * DAY
    # The login, the making, and the keeping.
    # Each that died after it had asked is an answer that was lost, and the next one would wait.
    tries = (died(lambda: roll(node, now, force=True), at, files=FILES) and secret(node) != first for at in range(40))
    assert any(tries)
    second = secret(node)
    settled = lambda: roll(node, now + SETTLED)  # noqa: E731
    # Right before the destruction.
    at = 0
    while died(settled, at, files=FILES) and enrolled_nodes.login(cluster, "pooled", str(config.auth.role_id), first):
        at += 1
        assert enrolled_nodes.login(cluster, "pooled", str(config.auth.role_id), second) is not None
    assert at and secret(node) == second
    assert enrolled_nodes.login(cluster, "pooled", str(config.auth.role_id), first) is None


WRONG: tuple[tuple[int, object], ...] = (
    (200, "<html>Welcome</html>"),
    (404, "<html>Not Found</html>"),
    (400, {"errors": ["invalid role or secret ID"]}),
    (403, {"errors": ["permission denied"]}),
    (404, {"errors": ["no handler for route"]}),
    (404, {"message": "Not Found"}),
)


@pytest.mark.on_node
def test_a_wrong_address_keeps_no_node_from_the_right_one(cluster: AppliedCluster, node: NodeFolder) -> None:
    """A whole pass, its signings among it; whatever is answered there."""
    text = node.config.read_text()
    for status, body in WRONG:

        def wrong(guest: Guest, status: int = status, body: object = body) -> None:
            while True:
                guest.request()
                guest.answer(status, body)

        with hostile_server.serving(wrong) as other:
            node.configure(cluster.server.address, f"{other.address}', '{cluster.server.address}")
            before = resident_agent.leaves(node)
            passed_again(node, "*")
            assert other.guests
        node.config.write_text(text)
        assert all(resident_agent.leaf(node, stem).serial != old.serial for stem, old in before.items()), body


def lost(cluster: AppliedCluster, node: NodeFolder) -> int:
    """Live secret ids beside the one that the node has."""
    return len(enrolled_nodes.accessors(cluster, node.name, "pooled")) - 1


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(2, id="sample", marks=pytest.mark.sample),
        pytest.param(1, id="each", marks=pytest.mark.conformance),
    ],
)
def test_a_join_cut_anywhere_goes_on(cluster: AppliedCluster, tmp_path: Path, step: int) -> None:
    """Before and after each request that does something and each change of the agent's own files; the sample: after."""
    within, at = [], step - 1
    while True:
        node = NodeFolder(f"w-cut-{at}", tmp_path / str(at))
        file = unspent_file(cluster, node, tmp_path / f"{at}.json")
        again = functools.partial(joined, node, file)
        if not died(again, at, files=FILES):
            break
        if stage(node) == "opening" and spent(cluster, file):
            within.append(at)
            said = enrolled_nodes.join(node, file, expect=1).stderr
            assert "was interrupted while it took its credential out of the join file" in said
            assert f"run `vaultpki lock {node.name}`" in said
            assert f"ask for a new one (`vaultpki enroll {node.name} --pool autoscaled`)" in said
            unspent_file(cluster, node, file)
        # What a machine does by itself: just the agent. What a person does: the same join again.
        if at // step % 2 and node.config.exists() and (node.state / "secret-id").exists():
            passed_well(node)
        assert not died(again, NEVER)
        credential.login(load_agent(node.config))
        # The one that a cut left between its making and its keeping, and what was in a join file that is lost.
        assert lost(cluster, node) <= 1, at
        at += step
    # From the unwrapping's answer until that is kept, and nowhere else: two cuts, one after the other.
    assert len(within) == 2 // step and within[-1] - within[0] < 2 and at > 14, (within, at)


def stage(node: NodeFolder) -> str | None:
    path = node.state / "joined"
    found: str | None = json.loads(path.read_text())["stage"] if path.exists() else None
    return found


def unspent_file(cluster: AppliedCluster, node: NodeFolder, path: Path) -> Path:
    """A join file without a process of its own, in place of whatever the node had."""
    model, vault = cluster.model, cluster.client()
    who, where = enrol.holder(model, node.name, "autoscaled"), enrol.place(model, vault)
    join = enrol.enroll(model, vault, node.name, who, where, wrap_ttl=300, replace=True, wait=0)
    write_private(str(path), dump_join(join).encode())
    return path


def spent(cluster: AppliedCluster, file: Path) -> bool:
    token = json.loads(file.read_text())["wrap_token"]
    return cluster.server.api("POST", "sys/wrapping/lookup", {"token": token}, token=token).status != 200


@pytest.mark.on_node
def test_a_roll_cut_anywhere_never_locks_out(cluster: AppliedCluster, node: NodeFolder) -> None:
    """On one node, one cut after the other: it can always log in, and no cut leaves more than one secret id behind."""
    at = left = 0
    while True:
        # A year further each time, so that a roll is due.
        now = time.time() + (at + 1) * 365 * DAY
        both = lambda: (roll(node, now), roll(node, now + SETTLED))  # noqa: B023, E731
        cut = died(both, at, files=FILES)
        credential.login(load_agent(node.config))
        roll(node, now + 2 * SETTLED)
        credential.login(load_agent(node.config))
        after = lost(cluster, node)
        assert after <= left + 1, at
        left = after
        if not cut:
            break
        at += 1
    # Only between the making, the unwrapping and the keeping of a new one is anything left behind, to end by its TTL.
    assert at > 12 and left == 6, (at, left)


@pytest.mark.on_node
@pytest.mark.parametrize("call", ["rename", "fsync", "unlink", "write"])
def test_a_disk_that_fails_never_locks_out(
    cluster: AppliedCluster, applier: Enroller, name: str, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of the credential fails once, in a join and in a roll; the process lives and tells it."""
    real = getattr(os, call)
    for which in range(12):
        node = NodeFolder(f"{name}-{which}", tmp_path / str(which))
        file = unspent_file(cluster, node, tmp_path / f"{which}.json")
        node.folder.mkdir()
        with monkeypatch.context() as patch:
            count = iter(range(1000))

            def failing(*arguments: object, **options: object) -> object:
                if next(count) == which:  # noqa: B023
                    raise OSError(28, "No space left on device")
                return real(*arguments, **options)

            patch.setattr(os, call, failing)
            failed = joined_and_rolled(node, file)
        config = load_agent(node.config) if node.config.exists() else None
        if config is None or not (node.state / "secret-id").exists():
            if spent(cluster, file) and stage(node) == "opening":
                file = unspent_file(cluster, node, tmp_path / f"{which}-again.json")
            joined_and_rolled(node, file)
        credential.login(load_agent(node.config))
        if not failed:
            break
    assert which > 1 or call == "unlink"


def joined_and_rolled(node: NodeFolder, file: Path) -> bool:
    """Whether it failed, which a person is told in one sentence."""
    try:
        config = joined(node, file)
        credential.roll(config, credential.login(config), time.time())
    except VaultpkiError as error:
        said = str(error)
    else:
        return False
    assert "the disk is full; free some space and run again" in said
    return True


def test_a_credential_that_is_gone_or_refused_is_told(cluster: AppliedCluster, node: NodeFolder) -> None:
    kept = secret(node)
    (node.state / "secret-id").unlink()
    node.age()
    said = node.run(expect=1).stderr
    assert "secret-id is missing, so this node cannot prove who it is; join with a new join file" in said
    write(node.state / "secret-id", "00000000-0000-0000-0000-000000000000")
    said = node.run(expect=1).stderr
    assert "Vault rejects this node's credential; join with a new join file" in said and node.name in said
    write(node.state / "secret-id", kept)
    node.run()


def test_a_stranger_with_its_role_id_cannot_lock_it_out(cluster: AppliedCluster, node: NodeFolder) -> None:
    config = load_agent(node.config)
    guess = {"role_id": config.auth.role_id, "secret_id": "00000000-0000-4000-8000-000000000000"}
    for _ in range(8):
        assert cluster.server.api("POST", f"auth/{credential.mount(config)}/login", guess, token="").status == 400
    credential.login(config)


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode)
    path.write_text(text)


def test_a_token_in_a_file_serves_too(cluster: AppliedCluster, node: NodeFolder, tmp_path: Path) -> None:
    """As of a `bao agent` that somebody runs already: a token of these mounts, in a file of the node's own."""
    config = load_agent(node.config)
    token = enrolled_nodes.login(cluster, "pooled", str(config.auth.role_id), secret(node))
    assert token is not None
    path = tmp_path / "token"
    write(path, token + "\n")
    for line in node.config.read_text().splitlines():
        if line.startswith("auth:"):
            node.configure(line, f"auth: {{method: token_file, path: {path}}}")
    before = secret(node)
    (node.pki / "kubelet.crt").unlink()
    node.age()
    outcome = passed(node, asks=False)
    assert outcome.renewed == ("kubelet",) and not outcome.failures
    # That token's own renewal is not ours.
    assert secret(node) == before
    node.age()
    path.chmod(0o640)
    assert f"{path}: others may read it; `chmod 600` it" in node.run(expect=1).stderr
    write(path, "")
    assert f"{path} holds no token" in node.run(expect=1).stderr
    write(path, "s.x\r\ny: z")
    assert f"{path} holds no token" in node.run(expect=1).stderr
    path.unlink()
    assert f"{path} is missing, so this node cannot prove who it is" in node.run(expect=1).stderr
    write(path, cluster.server.token)
    (node.pki / "kubelet.crt").unlink()
    # No node's token: not even root gets a node's name.
    assert node.run(expect=1).stderr.startswith("vaultpki: kubelet: Vault refuses")
