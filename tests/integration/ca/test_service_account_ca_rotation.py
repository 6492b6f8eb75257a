"""The rotation of the CA `service-account`: keys stay, their certificates are of the next CA, no token is refused."""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Callable, Collection, Mapping

import pytest

from helpers.node.agents_with_keys import SPEC, AgentsWithKeys
from helpers.sentences import commands as asked
from helpers.vault.applied_cluster import vaultpki
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.snapshots import Snapshot
from vaultpki.agent import readers_seen, run
from vaultpki.ca import commands, recover
from vaultpki.ca.run import Step
from vaultpki.config.agent import load_agent
from vaultpki.errors import Attention, StateConflict
from vaultpki.host import stopped
from vaultpki.host.processes import Process
from vaultpki.model import AgentConfig
from vaultpki.node.assignment import Assignment
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.procedures import ON_NODES
from vaultpki.provision.rotation_records import read_records
from vaultpki.records.rotation import Method, State
from vaultpki.records.service_account import KEYS_RECORD, Departure
from vaultpki.rotation.confirmations import NOTHING_CONFIRMED, Confirmations

DOMAIN = "service-account"
ONWARD = (State.PUBLISHED, State.SWITCHED, State.RETIRED, State.DONE)


def begin(made: AgentsWithKeys, domain: str = DOMAIN, method: Method = Method.NEW_KEY) -> None:
    commands.rotate(made.cluster.model, made.vault, domain, method, 0, made.now)


def state(made: AgentsWithKeys, domain: str = DOMAIN) -> State:
    record = read_records(made.cluster.model, made.vault)[domain].record
    assert record is not None
    return record.state


def step(made: AgentsWithKeys, said: Confirmations = NOTHING_CONFIRMED, *, back: bool = False) -> Step:
    """What `ca continue` does: it takes in the certificates of keys, and then a step."""
    made.advance()
    return commands.advance(made.cluster.model, made.vault, made.now, said, back=back)


def moved(made: AgentsWithKeys, to: State, *, back: bool = False) -> Step:
    for _ in range(16):
        done = step(made, back=back)
        made.check()
        if done.moved:
            assert done.record.state is to, done
            made.passes()
            return done
        made.later(61)
        made.passes()
    raise AssertionError(done.gate)


def issuers(made: AgentsWithKeys) -> Mapping[str, Facts]:
    cluster = made.cluster
    listed = cluster.server.api("LIST", f"{cluster.prefix}/{DOMAIN}/issuers").data
    found = {}
    for id_, about in listed["key_info"].items():
        pem = cluster.server.api("GET", f"{cluster.prefix}/{DOMAIN}/issuer/{id_}").data["certificate"]
        found[about["issuer_name"]] = x509.readable(pem)[0]
    return found


def unions(made: AgentsWithKeys) -> list[tuple[Facts, ...]]:
    return [x509.read_certificates((plane.node.pki / "sa.pub").read_bytes()) for plane in made.planes.values()]


def quiet_passes(made: AgentsWithKeys, *failures: str) -> None:
    """A pass of every agent, in which just these fail."""
    for plane in made.planes.values():
        plane.node.age(1e7)
        options = run.PassOptions(ON_NODES, settle=False, share=0.0)
        assert [*run.run(load_agent(plane.node.config), options, clock=made.now.timestamp()).failures] == [*failures]


def of_one_ca(made: AgentsWithKeys, name: str, *names: str) -> None:
    """The CA is the only one there, and signs all that every node has: by default the first keys of two nodes."""
    ((found, ca),) = issuers(made).items()
    assert found == name
    for union in unions(made):
        assert [each.subject.common_name for each in union] == [*(names or ("sa:cp-1:1", "sa:cp-2:1"))]
        assert all(x509.signed_by(each, ca) for each in union)


def led(made: AgentsWithKeys, *states: State, back: bool = False) -> None:
    for wanted in states:
        moved(made, wanted, back=back)


def test_a_whole_rotation(clusters: ClusterFactory) -> None:
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        before = {name: plane.signs() for name, plane in made.planes.items()}
        begin(made)
        made.passes()
        for wanted in ONWARD[:2]:
            moved(made, wanted)
            made.settled()
        # The gate holds until every union has certificates of the next CA, also in memory.
        waiting = step(made)
        assert not waiting.moved and waiting.gate is not None and waiting.gate.waiting
        moved(made, State.RETIRED)
        made.settled()
        # Back from there, and to the end the next time.
        led(made, State.RETRUSTING, State.RETURNING, State.STEADY, back=True)
        made.settled()
        of_one_ca(made, "service-account-1")
        begin(made)
        made.passes()
        led(made, *ONWARD)
        made.settled()
        of_one_ca(made, "service-account-3")
        # A renewal with the same key certifies no key anew.
        held = unions(made)
        begin(made, method=Method.SAME_KEY)
        made.passes()
        led(made, *ONWARD)
        assert set(issuers(made)) == {"service-account-3r2"} and unions(made) == held
        made.settled()
        # A stolen CA is distrusted at once, and no token is refused.
        begin(made, method=Method.EMERGENCY)
        assert state(made) is State.RETIRED
        made.passes()
        moved(made, State.DONE)
        of_one_ca(made, "service-account-4")
        assert {name: plane.signs() for name, plane in made.planes.items()} == before
        # A node that joins afterwards takes all of them.
        made.join("cp-3")
        assert made.planes["cp-3"].union() == ["sa:cp-1:1", "sa:cp-2:1", "sa:cp-3:1"]
        made.settled()


def test_an_abort_takes_in_what_it_waits_for_itself(clusters: ClusterFactory) -> None:
    """So `ca abort --wait` goes the whole way; nobody runs `ca continue` meanwhile."""
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        begin(made)
        made.passes()
        led(made, *ONWARD[:2])
        moved(made, State.RETURNING, back=True)
        made.passes()
        (name,) = {name for name, facts in issuers(made).items() if name == "service-account-1"}
        ran = vaultpki("ca", "abort", "-f", made.cluster.file, env=made.cluster.environment("applier"), expect={0, 3})
        assert "Traceback" not in ran.stderr
        for keys in made.record.nodes.values():
            ((_, pem),) = keys.certificates.items()
            assert x509.signed_by(x509.readable(pem)[0], issuers(made)[name]), ran.stdout


def test_the_root_takes_it_along(clusters: ClusterFactory) -> None:
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        before = unions(made)
        begin(made, "root")
        made.passes()
        for wanted in ONWARD:
            answered(made, wanted)
        assert state(made) is State.DONE and set(issuers(made)) == {"service-account-1r2"}
        assert unions(made) == before
        made.settled()
        # The next keys are certified below the new root.
        made.begin()
        made.passes()
        made.advance()
        assert all(len(each.certificates) == 2 for each in made.record.nodes.values())


def restart_those_named(made: AgentsWithKeys, done: Step) -> None:
    """Do what a person is asked to do for an API server that its agent sees."""
    for each in done.gate.waiting if done.gate is not None else ():
        if "restart kube-apiserver there" in each.reason:
            made.planes[each.node].load()
            made.planes[each.node].server.restart()


def answered(made: AgentsWithKeys, to: State, *, back: bool = False) -> set[str]:
    """Take a step as `ca continue` or `ca abort` does, with the words that it asks for, and return those."""
    words, said = set[str](), Confirmations()
    for _ in range(40):
        made.advance(restarted=said.restarted)
        done = commands.advance(made.cluster.model, made.vault, made.now, said, back=back)
        made.check()
        if done.moved:
            assert done.record.state is to, done
            made.passes()
            return words
        found = [each for one in (done.gate.waiting if done.gate else ()) for _, each in asked(one.reason)]
        said = Confirmations(
            restarted=tuple(word for each in found for word in each.get("restarted", ())),
            checked=tuple(word for each in found for word in each.get("checked", ())),
        )
        words |= {*said.restarted, *said.checked}
        restart_those_named(made, done)
        for plane in (
            made.planes[word.partition("/")[0]] for word in said.restarted if word.endswith("/kube-apiserver")
        ):
            plane.load()
            plane.server.restart()
        made.later(61)
        made.passes()
    raise AssertionError(done.gate)


@pytest.mark.parametrize("domain", [DOMAIN, "root"])
def test_it_goes_forward_and_back_while_an_api_server_was_not_started_or_is_not_seen(
    clusters: ClusterFactory, monkeypatch: pytest.MonkeyPatch, domain: str
) -> None:
    """One that is stopped holds nothing; for one that its agent cannot see a person speaks, in each state."""
    look = readers_seen._running

    def blind(config: AgentConfig, components: Collection[str]) -> dict[str, tuple[Process, ...]]:
        return look(config, components) if config.node != "cp-2" else dict.fromkeys(components, ())

    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        # It has joined, and may start; nobody has started it.
        three = made.equip("cp-3")
        while "cp-3" not in made.admitted():
            made.advance()
            made.passes()
            made.later(61)
        assert not three.running
        monkeypatch.setattr(readers_seen, "_running", blind)
        sees = stopped.is_stopped
        # The nodes' addresses are those of this machine.
        monkeypatch.setattr(stopped, "_local", lambda _: map(ipaddress.ip_address, ("10.0.0.11", "10.0.0.13")))
        monkeypatch.setattr(readers_seen, "_stopped", lambda component, wanted: not_blind(component, wanted, sees))
        made.passes()
        begin(made, domain)
        made.passes()
        words = set[str]()
        for wanted in ONWARD[:3]:
            words |= answered(made, wanted)
        for wanted in (State.RETRUSTING, State.RETURNING, State.STEADY):
            words |= answered(made, wanted, back=True)
        assert "cp-2/kube-apiserver" in words and not any(each.startswith("cp-3/kube-apiserver") for each in words)
        begin(made, domain)
        made.passes()
        for wanted in ONWARD:
            answered(made, wanted)


def not_blind(component: str, wanted: Assignment, sees: Callable[..., bool]) -> bool:
    """What an agent that sees processes finds; that of cp-2, by its own address, sees none."""
    addresses = {each for one in wanted.certificates for each in one.subject.ips}
    return "10.0.0.12" not in addresses and sees(component, addresses, ())


@pytest.mark.on_node
def test_another_type_of_key_does_not_keep_it_up(clusters: ClusterFactory) -> None:
    """Vault certifies keys of one type: those in use keep theirs until they are rotated."""
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        other = SPEC + "certificates: {service-account: {key: ec-p384}}\n"
        before = {name: plane.signs() for name, plane in made.planes.items()}
        begin(made)
        made.passes()
        moved(made, State.PUBLISHED)
        made.cluster.write(other)
        for command in ("apply", "plan"):
            made.cluster.refused("has to certify the key of cp-1, cp-2 again, which is ec-p256", command=command)
        made.cluster.write(SPEC)
        moved(made, State.STEADY, back=True)
        made.cluster.write(other)
        made.cluster.apply()
        made.passes()
        assert {name: plane.signs() for name, plane in made.planes.items()} == before
        made.settled()
        with pytest.raises(
            StateConflict, match=r"the key of cp-1, cp-2 is ec-p256.*rotate service-account-keys` first"
        ):
            begin(made)
        # After a theft of that CA nobody waits, and it says what each node lacks.
        begin(made, method=Method.EMERGENCY)
        quiet_passes(made, "service-account-1")
        waiting = step(made).gate
        assert waiting is not None and any("its key is ec-p256" in each.reason for each in waiting.waiting)
        made.cluster.write(SPEC)
        made.cluster.apply()
        made.passes()
        moved(made, State.DONE)
        of_one_ca(made, "service-account-3")


@pytest.mark.on_node
def test_what_is_wrong_with_keys_stops_no_other_ca(clusters: ClusterFactory) -> None:
    """Whoever writes records can spoil that of the keys, and a node can say that it has read a newer one."""
    with AgentsWithKeys.joined(clusters.applied(SPEC)) as made:
        begin(made, "etcd")
        path = f"{made.cluster.prefix}/config/data/{KEYS_RECORD}"
        assert made.cluster.server.api("POST", path, {"data": {"state": "strange"}}).status == 200
        file, env = made.cluster.file, made.cluster.environment("applier")
        ran = vaultpki("ca", "continue", "-f", file, env=env, expect={0, 3})
        assert "service-account keys: " in ran.stderr and "etcd is published" in ran.stdout
        assert state(made, "etcd") is State.PUBLISHED


@pytest.mark.on_node
def test_a_node_that_was_installed_anew_is_taken_in_while_a_ca_is_rotated(clusters: ClusterFactory) -> None:
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        begin(made, "etcd")
        shutil.rmtree(made.planes["cp-2"].node.pki)
        made.passes()
        words = ("ca", "continue", "-f", made.cluster.file)
        env = made.cluster.environment("applier")
        ran = vaultpki(*words, env=env, expect={0, 3})
        assert "service-account keys: cp-2 reports another key" in ran.stderr and "--replaced cp-2" in ran.stderr
        assert not made.record.departed
        ran = vaultpki(*words, "--token-life", "1h", "--yes", env=env, expect=2)
        assert "--token-life is for a rotation of service-account-keys" in ran.stderr
        vaultpki(*words, "--replaced", "cp-2", env=env, expect={0, 3})
        assert [each.why for each in made.record.departed] == [Departure.REPLACED]


@pytest.mark.on_node
def test_a_server_that_was_set_back_is_recovered(clusters: ClusterFactory) -> None:
    with AgentsWithKeys.standing(clusters, "cp-1", "cp-2") as made:
        begin(made)
        made.passes()
        moved(made, State.PUBLISHED)
        snapshot = Snapshot.of(made.cluster, [DOMAIN])
        moved(made, State.SWITCHED)
        held = unions(made)
        snapshot.restore()
        quiet_passes(made, "service-account rotation")
        assert unions(made) == held
        with pytest.raises(Attention, match="ca recover service-account"):
            commands.advance(made.cluster.model, made.vault, made.now, back=False)
        record = recover.recover(recover.propose(made.cluster.model, made.vault, DOMAIN, (), made.now))
        assert record.state is State.RETRUSTING
        made.passes()
        for wanted in ONWARD[1:]:
            moved(made, wanted)
        of_one_ca(made, "service-account-2")
        made.settled()
