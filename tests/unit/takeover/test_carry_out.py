"""A machine of kubeadm's is led through every state and back: files, flags, and what each process was started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.kube.kubeadm_objects import authority
from helpers.kube.taken_over_machine import TakenOverMachine
from vaultpki.errors import Attention, Busy, StateConflict
from vaultpki.node.state import AgentState
from vaultpki.procedures import adoption
from vaultpki.records.adoption import AdoptionState as S
from vaultpki.takeover import carry_out

PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
TRUST = {
    S.PREPARED: {"old"},
    S.PUBLISHED: {"old", "new"},
    S.SWITCHED: {"old", "new"},
    S.CLOSED: {"old", "new"},
    S.RETIRED: {"new"},
    S.DONE: {"new"},
    S.RETRUSTING: {"old", "new"},
    S.RETURNING: {"old", "new"},
}
SHOWS = {state: "new" if state in (S.SWITCHED, S.CLOSED, S.RETIRED, S.DONE, S.RETRUSTING) else "old" for state in S}
SIGNS = {S.PREPARED, S.PUBLISHED, S.SWITCHED, S.RETURNING}
ONWARD = (S.PREPARED, S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED)


@pytest.fixture
def machine(tmp_path: Path) -> TakenOverMachine:
    return TakenOverMachine(tmp_path)


def ended_cas(machine: TakenOverMachine) -> Mapping[str, tuple[str, ...]]:
    return adoption.standing(machine.config, None, AgentState()).ended_cas


def holds(machine: TakenOverMachine, state: S) -> None:
    """Every process was started with what the state asks, and the signer and the kubelet are as it says."""
    seen = machine.processes
    components = PLANE if machine.plane else ("kubelet",)
    assert {each: seen.trust(each) for each in components} == dict.fromkeys(components, TRUST[state]), state
    assert {each: seen.shows(each) for each in components} == dict.fromkeys(components, SHOWS[state]), state
    assert all(not seen.problem(each) for each in components), state
    if machine.plane:
        words = seen.words("kube-controller-manager")
        assert bool(words["cluster-signing-key-file"]) == (state in SIGNS), state
        if state in SIGNS:
            text = seen.load()["kube-controller-manager"]["read"]["cluster-signing-cert-file"]
            assert text == machine.old["kubernetes"].pem
        verifies = "kubelet-certificate-authority" in seen.words("kube-apiserver")
        assert verifies == (state in (S.RETIRED, S.DONE)), state
    assert seen.words("kubelet")["rotate"] == str(SHOWS[state] == "old"), state
    keys = (Path(machine.where.directory) / "ca.key").exists()
    assert keys == (machine.plane and SHOWS[state] == "old"), state


@pytest.mark.parametrize("name", ["cp-1", "w-1"])
def test_a_machine_goes_all_the_way(tmp_path: Path, name: str) -> None:
    machine = TakenOverMachine(tmp_path, name)
    for state in (*ONWARD, S.DONE):
        machine.go(state)
        holds(machine, state)
        machine.agent_pass(state)
        assert carry_out.left(machine.run(state)) == [], state
        if machine.plane:
            assert (Path(machine.where.directory) / "encryption.yaml").exists(), state
    # Nothing of the old CAs is left on the disk.
    old = {each.pem[:300] for each in machine.old.values()} | {each.key_pem for each in machine.old.values()}
    for path in machine.root.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name not in ("sa.key", "processes.json"):
            text = path.read_text()
            assert not [each for each in old if each in text], path
    names = {path.name for path in Path(machine.where.kubeconfigs).glob("*.conf")}
    assert names == (
        {"scheduler.conf", "controller-manager.conf", "kubelet.conf"} if machine.plane else {"kubelet.conf"}
    )


def test_links_and_closed_folders_of_the_users_own_stay(machine: TakenOverMachine) -> None:
    """A flag may name a link, and without it kube-apiserver would not start; a closed folder keeps others out."""
    pki = Path(machine.where.directory)
    (pki / "own").mkdir(mode=0o700)
    (pki / "own/oidc.crt").write_text("a file\n")
    (pki / "oidc.crt").symlink_to("own/oidc.crt")
    (pki / "linked").symlink_to("own")
    before = machine.snapshot()
    back = (S.RETRUSTING, S.RETURNING, S.PREPARED)
    for state in (*ONWARD, *back):
        machine.go(state)
        assert (pki / "oidc.crt").read_text() == (pki / "linked/oidc.crt").read_text() == "a file\n", state
        assert (pki / "own").stat().st_mode & 0o777 == 0o700, state
    machine.go(None)
    assert machine.snapshot() == before


def test_a_kubeconfig_that_a_person_has_put_there_stays_at_the_end(machine: TakenOverMachine) -> None:
    for state in ONWARD:
        machine.go(state)
    own = Path(machine.where.kubeconfigs) / "admin.conf"
    text = own.read_text()
    own.write_text(f"{text[: text.index('users:')]}users: [{{name: u, user: {{token: s3cret}}}}]\n")
    text = own.read_text()
    assert not [line for line in carry_out.lines(machine.run(S.DONE)) if "/admin.conf: removed" in line]
    machine.go(S.DONE)
    assert own.read_text() == text and not own.with_name("super-admin.conf").exists()


def give_own_signer(machine: TakenOverMachine, folder: Path) -> None:
    """Have CSRs signed by a copy of the CA in a folder of its own, as the inventory tells people to."""
    pki = machine.where.directory
    for suffix, text in (("crt", machine.old["kubernetes"].pem), ("key", machine.old["kubernetes"].key_pem)):
        (folder / f"ca.{suffix}").write_text(text)
    manager = machine.root / "etc/kubernetes/manifests/kube-controller-manager.yaml"
    text = manager.read_text()
    for flag, name in (("signing-key-file", "ca.key"), ("signing-cert-file", "ca.crt")):
        text = text.replace(f"{flag}={pki}/{name}", f"{flag}={folder}/{name}")
    manager.write_text(text)
    machine.processes.boot()


def test_a_signer_with_files_of_its_own_keeps_them(
    machine: TakenOverMachine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    own = tmp_path_factory.mktemp("signing")
    give_own_signer(machine, own)
    before, started = machine.snapshot(), machine.processes.load()
    machine.go(S.PREPARED)
    assert machine.processes.load() == started
    for state in (S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETURNING, S.PREPARED):
        machine.go(state)
        wanted = f"{own}/ca.key" if state in SIGNS else ""
        assert machine.processes.words("kube-controller-manager")["cluster-signing-key-file"] == wanted, state
    machine.go(None)
    assert machine.snapshot() == before


def test_copies_of_old_keys_under_other_names_go_at_the_end_alone(
    machine: TakenOverMachine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pki, own = Path(machine.where.directory), tmp_path_factory.mktemp("signing")
    copies = [pki / "ca.key.old", pki / "backup/front-proxy-ca.key", own / "ca.key"]
    copies[1].parent.mkdir()
    give_own_signer(machine, own)
    for path, ca in zip(copies, ("etcd", "front-proxy"), strict=False):
        path.write_text(machine.old[ca].key_pem)
    for state in ONWARD:
        machine.go(state)
        assert all(path.exists() for path in copies), state
    assert str(copies[2]) in "".join(carry_out.lines(machine.run(S.DONE)))
    assert not ended_cas(machine)
    machine.go(S.DONE, kept="in the safe")
    assert all(path.exists() for path in copies)
    assert ended_cas(machine) == machine.config.also_trust
    machine.go(S.DONE)
    assert ended_cas(machine) == machine.config.also_trust
    assert not any(path.exists() for path in copies)
    # It signs tokens too here, and kube-apiserver reads it.
    assert (pki / "sa.key").exists() and carry_out.left(machine.run(S.DONE)) == []


@pytest.mark.parametrize("name", ["cp-1", "w-1"])
@pytest.mark.parametrize("turned", [S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED])
def test_from_every_state_it_comes_back_to_the_byte(tmp_path: Path, name: str, turned: S) -> None:
    machine = TakenOverMachine(tmp_path, name)
    before = machine.snapshot()
    for state in ONWARD[: ONWARD.index(turned) + 1]:
        machine.go(state)
    back = {S.PUBLISHED: (), S.RETIRED: (S.RETRUSTING, S.RETURNING)}.get(turned, (S.RETURNING,))
    for state in (*back, S.PREPARED):
        machine.go(state)
        holds(machine, state)
    machine.go(None)
    assert machine.snapshot() == before
    assert carry_out.left(machine.run(None)) == []
    assert not list((machine.state).glob("takeover/*"))


@pytest.mark.parametrize("name", ["cp-1", "w-1"])
@pytest.mark.parametrize("begun", [S.PUBLISHED, S.PREPARED])
def test_one_that_joined_while_all_trusted_both_goes_back_to_the_old_ca_alone(
    tmp_path: Path, name: str, begun: S
) -> None:
    machine = TakenOverMachine(tmp_path, name)
    before = machine.snapshot()
    machine.join_by_both()
    assert machine.snapshot() != before
    for state in (S.PUBLISHED, S.SWITCHED, S.RETURNING) if begun is S.PUBLISHED else ():
        machine.go(state)
        holds(machine, state)
    machine.go(S.PREPARED)
    holds(machine, S.PREPARED)
    machine.go(None)
    contents = {path: each[0] for path, each in machine.snapshot().items()}
    assert contents == {path: each[0] for path, each in before.items()}


def test_it_can_turn_round_and_go_on(machine: TakenOverMachine) -> None:
    for state in (S.PUBLISHED, S.SWITCHED, S.RETURNING, S.SWITCHED, S.CLOSED, S.RETIRED, S.RETRUSTING, S.SWITCHED):
        machine.go(state)
        holds(machine, state)


def test_the_copy_for_the_signer_comes_before_any_bundle(machine: TakenOverMachine) -> None:
    machine.agent_pass(S.PUBLISHED)
    names = [step.what for step in carry_out.left(machine.run(S.PUBLISHED))]
    assert names.index("sign CSRs by that copy") < names.index(f"exchange {machine.where.directory}")


def test_nothing_is_restarted_twice(machine: TakenOverMachine) -> None:
    machine.go(S.PUBLISHED)
    before = machine.processes.load()
    machine.go(S.PUBLISHED)
    assert machine.processes.load() == before
    machine.go(S.SWITCHED)
    before = machine.processes.load()
    machine.go(S.CLOSED)
    after = machine.processes.load()
    assert {each for each in after if after[each] != before[each]} == {"kube-controller-manager"}


def test_what_is_shown_before_names_every_restart(machine: TakenOverMachine) -> None:
    """etcd's manifest stays as it is in most states: it is restarted for what lies in the folder then."""
    for state in (S.PREPARED, S.PUBLISHED, S.SWITCHED, S.CLOSED, S.RETIRED, S.RETRUSTING, S.RETURNING, S.PREPARED):
        machine.agent_pass(state)
        lines = list(carry_out.lines(machine.run(state)))
        shown = {line.split()[0] for line in lines if " is restarted, and healthy before " in line}
        shown |= {"kubelet"} if "restart kubelet" in " ".join(lines) else set()
        before = machine.processes.load()
        carry_out.carry_out(machine.run(state))
        after = machine.processes.load()
        assert shown == {each for each in after if after[each] != before[each]}, state
        assert list(carry_out.lines(machine.run(state))) == []


def test_another_machines_turn_is_waited_for(machine: TakenOverMachine) -> None:
    machine.agent_pass(S.PUBLISHED)
    before = machine.snapshot()
    run = machine.run(S.PUBLISHED)
    record = replace(machine.record(S.PUBLISHED), turn="cp-2")
    waiting = replace(run, turn=False, assignment=machine.assignment(record))
    with pytest.raises(Attention, match="it is the turn of cp-2"):
        carry_out.carry_out(waiting)
    assert machine.snapshot() == before


@pytest.mark.parametrize(
    ("state", "command"), [(S.SWITCHED, "continue"), (S.RETURNING, "abort"), (S.PREPARED, "abort")]
)
def test_who_waits_for_a_turn_is_told_the_command_that_gives_it(
    machine: TakenOverMachine, state: S, command: str
) -> None:
    """In prepared and returning `adopt continue` leads onward again, and gives no turn."""
    machine.go(S.PUBLISHED)
    if state is S.RETURNING:
        machine.go(S.SWITCHED)
    machine.agent_pass(state)
    nobodys = machine.assignment(replace(machine.record(state), turn=""))
    with pytest.raises(
        Attention, match=f"no machine has its turn yet; `vaultpki adopt {command} --kubeconfig FILE` gives"
    ):
        carry_out.carry_out(replace(machine.run(state), turn=False, assignment=nobodys))


def test_a_lock_that_others_hold_stops_nobody_who_has_nothing_to_do(
    machine: TakenOverMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carry_out, "_LOCK_WAIT", 0.1)
    machine.go(S.PUBLISHED)
    machine.agent_pass(S.SWITCHED)
    with carry_out.locked(machine.config, 0.0):
        assert not carry_out.carry_out(machine.run(S.PUBLISHED))
        with pytest.raises(Busy, match="the agent is at work on this machine"):
            carry_out.carry_out(machine.run(S.SWITCHED))
    # What is not noted yet is something to do.
    machine.run(None).journal.save(reached=S.PREPARED)
    with carry_out.locked(machine.config, 0.0), pytest.raises(Busy):
        carry_out.carry_out(machine.run(S.PUBLISHED))


def test_in_prepared_the_controller_manager_alone_is_restarted_and_once_without_a_turn(
    machine: TakenOverMachine,
) -> None:
    machine.agent_pass(S.PREPARED)
    run = replace(machine.run(S.PREPARED), turn=False)
    before = machine.processes.load()
    told = [step.restarts for step in carry_out.left(run) if step.restarts]
    assert told == ["kube-controller-manager"]
    carry_out.carry_out(run)
    after = machine.processes.load()
    assert {each for each in after if after[each] != before[each]} == {"kube-controller-manager"}
    holds(machine, S.PREPARED)
    assert carry_out.left(machine.run(S.PREPARED)) == []


def test_without_the_agents_pairs_nothing_is_exchanged(machine: TakenOverMachine) -> None:
    with pytest.raises(StateConflict, match="run `vaultpki agent --once`"):
        carry_out.carry_out(machine.run(S.PUBLISHED))
    machine.go(S.PUBLISHED)
    own = Path(machine.where.aside) / "agent"
    (own / "etcd/server.crt").unlink()
    with pytest.raises(StateConflict, match=r"etcd/server\.crt is missing"):
        carry_out.carry_out(machine.run(S.SWITCHED))
    holds(machine, S.PUBLISHED)


def test_pods_get_every_ca_above_the_new_one(machine: TakenOverMachine) -> None:
    """Below a root from outside there are CAs between, and OpenSSL takes no chain that does not end at the root."""
    above = authority("Corp Policy CA", "ECDSA-P256", number=5).pem + machine.root_ca.pem
    machine.root_ca = SimpleNamespace(pem=above)  # type: ignore[assignment]
    machine.go(S.PUBLISHED)
    held = Path(machine.where.directory, "ca-chain.crt").read_text()
    assert held == machine.old["kubernetes"].pem + machine.new["kubernetes"].pem + above
    machine.go(S.SWITCHED)
    held = Path(machine.where.directory, "ca-chain.crt").read_text()
    assert above in held and machine.old["kubernetes"].pem in held
