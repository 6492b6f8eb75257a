"""The agent that stays, through everything that may happen to it: signals, hooks, new specs, new CAs, liars, clocks.

Each story is a cluster and one or more real agents at the shortest TTL there is, on a real server. They take a minute,
most of which is waiting, so they are all told at the same time.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import residents
from applied import Seat, Site, environment, vaultpki
from hostile import Guest, serving
from residents import (
    AT_ONCE,
    POLL,
    WORKER,
    Resident,
    Watcher,
    faked,
    get,
    leaf,
    leaves,
    resident,
    short_and_long,
    signs,
)
from servers import Server, free_ports, wait_for

from vaultpki import brakes, memory, x509
from vaultpki.certificates import pair_files
from vaultpki.store import GRACE

# A pass, and the pause for watchers that may come before it.
PASS = GRACE + 15


@dataclass(frozen=True, slots=True)
class Stage:
    """A place of its own on the shared server for one story."""

    server: Server
    folder: Path

    def site(self, spec: str = residents.SPEC) -> Site:
        site = Site(self.server, self.folder / "site", f"t{secrets.token_hex(5)}")
        site.write(spec)
        site.apply()
        return site

    def seat(self, site: Site, node: str = "worker-1", further: str = "") -> Seat:
        return site.equip(node, further=f"poll: {POLL}s\n{further}")


def test_a_signal_ends_it_at_once_wherever_it_is(server: Server, tmp_path: Path) -> None:
    """While it signs, installs, waits for watchers or sleeps."""
    stage, nodes = Stage(server, tmp_path), 4
    listed = "".join(
        f"- {{name: worker-{n}, roles: [worker], addresses: [10.0.0.{20 + n}]}}\n" for n in range(3, nodes + 1)
    )
    site = stage.site(short_and_long("30s") + listed)
    chance = random.Random(20261124)  # noqa: S311 - instants, no secrets
    instants = [chance.uniform(0, 0.4) for _ in range(12)] + [chance.uniform(0.4, 4) for _ in range(12)]
    chance.shuffle(instants)

    def trials(node: int) -> None:
        seat = stage.seat(site, f"worker-{node}")
        for trial, instant in enumerate(instants[node - 1 :: nodes]):
            if trial % 2:
                # Signed anew, and the damaged ones wait for their watchers.
                for name in WORKER:
                    (seat.pki / f"{name}.crt").write_text("damaged")
            else:
                shutil.rmtree(seat.pki, ignore_errors=True)
            with resident(seat) as agent:
                agent.await_said("has started", 20, trial + 1)
                time.sleep(instant)
                took = agent.end(signal.SIGINT if trial == 2 else signal.SIGTERM)
                assert took < AT_ONCE, (instant, took)
            if trial % 2:
                continue
            for name in WORKER:
                found = [name_ for name_ in pair_files(name) if (seat.pki / name_).exists()]
                assert len(found) in (0, 3), found
                if found:
                    leaf(seat, name)
            assert seat.run().stderr == ""
            leaves(seat)
            hidden = {path.name.partition(".")[0] for path in (seat.pki / ".vaultpki").iterdir()}
            assert hidden == {"lock", "bundles", *WORKER}
            assert len(list((seat.pki / ".vaultpki").iterdir())) == 1 + 2 * 4

    with ThreadPoolExecutor(nodes) as pool:
        for _ in pool.map(trials, range(1, nodes + 1)):
            pass


def hooks(stage: Stage) -> None:
    """Hooks run once for each change, are owed over a kill, retried, and never keep a certificate waiting."""
    site = stage.site()
    log = stage.folder / "hooks"
    # The second time it is run, it works.
    fails_once = f"echo kubelet >> {log}; test $(grep -c kubelet {log}) -ge 2"
    # A process group: the shell, and what it started.
    hangs = f"echo $$ >> {stage.folder}/pids; sleep 1000 & echo $! >> {stage.folder}/pids; wait"
    seat = stage.seat(
        site,
        further="hook_timeout: 1h\nhooks:\n"
        f"  kubelet: [[sh, -c, {json.dumps(fails_once)}]]\n"
        f"  kubernetes-ca: [[sh, -c, 'sleep 3; test -s {seat_pki(stage, site)}/kube-proxy.pem && echo ca >> {log}']]\n",
    )
    with resident(seat) as agent:
        agent.await_issued()
        # Killed while the first hook runs: it is still owed, by the file that came.
        wait_for(lambda: memory.load(str(seat.state)).owed != {}, 10, lambda: "nothing owed")
        agent.process.kill()
        agent.process.wait()
    owed = set(memory.load(str(seat.state)).owed)
    assert owed == {"kubelet", "kubernetes-ca"}, owed
    with Watcher(seat).watching() as watched:
        with resident(seat) as agent:
            failed = agent.await_said("hook 1 of kubelet (sh) ended with exit code 1", 20)
            assert failed[0]["level"] == "warning"
            told = agent.status(expect=3)
            assert told["agent"]["hooks_owed"] == ["kubelet"], told["agent"]
            agent.await_said("ran the hooks of kubelet", 20)
            wait_for(lambda: agent_owed(agent) == [], 20, lambda: str(agent_owed(agent)))
            # A hook that hangs, written into agent.yaml while it runs.
            seat.configure(f"[[sh, -c, {json.dumps(fails_once)}]]", f"[[sh, -c, {json.dumps(hangs)}]]")
            agent.process.send_signal(signal.SIGHUP)
            agent.await_said("was read again", 5)
            wait_for((stage.folder / "pids").exists, 30, agent.log.read_text)
            time.sleep(20)
            pids = [int(pid) for pid in (stage.folder / "pids").read_text().split()]
            assert len(pids) == 2 and all(Path(f"/proc/{pid}").exists() for pid in pids)
            assert agent_owed(agent) == ["kubelet"]
            took = agent.end()
            assert took < AT_ONCE, took
            # SIGKILL is sent by then; a busy kernel takes its time.
            wait_for(lambda: not any(map(alive, pids)), 5, lambda: f"one of {pids} lives on")
        # Nothing waited for that hook.
        assert all(len(seen) >= 3 for seen in watched.serials.values()), watched.serials
    ran = log.read_text().split()
    # Of the trust nothing changed, so what the kill cut off ran once more, and then never again.
    assert ran.count("ca") <= 2 and ran[0] == "ca" and ran.count("kubelet") >= 2, ran


def seat_pki(stage: Stage, site: Site) -> Path:
    return site.folder / "nodes" / "worker-1" / "pki"


def agent_owed(agent: Resident) -> list[str]:
    return sorted(memory.load(str(agent.seat.state)).owed)


def alive(pid: int) -> bool:
    """Whether the process is there, and no zombie that waits for its parent."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def first_process(stage: Stage) -> None:
    """As the first process of a container, where the kernel gives a signal no default: SIGTERM ends it all the same."""
    site = stage.site()
    seat = stage.seat(site, further=f"hooks: {{kubelet: [[sh, -c, 'echo $$ > {stage.folder}/pid; sleep 1000']]}}\n")
    with resident(seat, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc") as agent:
        agent.await_issued()
        wait_for((stage.folder / "pid").exists, 10, agent.log.read_text)
        children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children")
        (first,) = children.read_text().split()
        os.kill(int(first), signal.SIGTERM)
        began = time.monotonic()
        assert agent.process.wait(10) == 0
        assert time.monotonic() - began < AT_ONCE


def rereading(stage: Stage) -> None:
    """SIGHUP reads agent.yaml again: poll, hooks, metrics; a file that is wrong is told, and the old one goes on."""
    site = stage.site()
    seat = stage.seat(site)
    one, other = free_ports(2)
    good = seat.config.read_text()

    def reread(text: str, said: str) -> None:
        before = len(agent.said(said))
        seat.config.write_text(text)
        agent.process.send_signal(signal.SIGHUP)
        agent.await_said(said, 5, before + 1)

    with resident(seat) as agent:
        agent.await_issued()
        reread(good.replace(f"poll: {POLL}s", "poll: soon"), "what was read before goes on")
        (told,) = agent.said("what was read before goes on")
        assert "poll" in told["message"] and "Traceback" not in told["message"], told
        reread(f"{good}metrics: 127.0.0.1:{one}\n", "was read again")
        wait_for(lambda: get(one, "healthz") == (200, "ok\n"), 10, lambda: str(get(one, "healthz")))
        figures = get(one, "metrics")[1]
        for name in WORKER:
            assert f'vaultpki_certificate_not_after_timestamp_seconds{{name="{name}"}}' in figures, figures
        reread(f"{good}metrics: 127.0.0.1:{other}\n", "was read again")
        wait_for(lambda: get(other, "livez")[0] == 200, 10, lambda: "the new port is silent")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", one), 1).close()
        reread(good, "was read again")
        wait_for(lambda: get(other, "livez")[0] == 0, 10, lambda: "the port is still open")
        # A restart with nothing to do shows every certificate all the same.
        assert agent.end() < AT_ONCE
    reread_text = f"{good}metrics: 127.0.0.1:{one}\n"
    seat.config.write_text(reread_text)
    with resident(seat) as agent:
        agent.await_said("has started", 20, 2)
        name = "vaultpki_certificate_not_after_timestamp_seconds"
        wait_for(lambda: get(one, "metrics")[1].count(name + "{") == 3, 10, lambda: get(one, "metrics")[1])


def applied(stage: Stage) -> None:
    """What is changed in cluster.yaml and applied is on the node within the poll interval; and a grant cut by hand."""
    base = short_and_long("60s", "kube-proxy")
    site = stage.site(base)
    seat = stage.seat(site)
    role = f"{site.prefix}/kubernetes/roles/kube-proxy"
    with resident(seat) as agent:
        agent.await_issued()
        before = leaves(seat)
        # Somebody cuts by hand what the role grants; apply would put it right.
        now = site.read(role)
        assert now["ttl"] == 60, now
        assert stage.server.api("POST", role, {**now, "ttl": 30, "max_ttl": 30}).status in (200, 204)
        since = stage.server.audit_position()

        text = base + "  kubelet: {extra_names: [kubelet.example.com]}\n" + OWN
        changed_at = change(site, text)
        # Vault sorts them.
        names = {"worker-1", "kubelet.example.com"}
        wait_for(lambda: set(leaf(seat, "kubelet").subject.dns) == names, POLL + PASS, str)
        wait_for((seat.pki / "monitoring.crt").exists, 2, lambda: "the new row did not come")
        assert leaf(seat, "monitoring").subject.common_name == "monitoring"
        assert leaf(seat, "kubelet-client") == before["kubelet-client"]
        assert time.time() - changed_at < POLL + PASS

        # apply has put the role right; the hand cuts again.
        assert stage.server.api("POST", role, {**now, "ttl": 30, "max_ttl": 30}).status in (200, 204)
        changed_at = change(site, base + "  kubelet-client: {ttl: 20d}\n")
        assert stage.server.api("POST", role, {**now, "ttl": 30, "max_ttl": 30}).status in (200, 204)

        def shorter() -> bool:
            found = leaf(seat, "kubelet-client")
            return found.not_after - found.not_before < timedelta(days=21)

        wait_for(shorter, POLL + PASS, lambda: "the shorter TTL did not come")
        wait_for(lambda: not (seat.pki / "monitoring.crt").is_symlink(), 2, lambda: "the row that went is still there")
        wait_for(lambda: leaf(seat, "kubelet").subject.dns == ("worker-1",), 2, lambda: "the name that went is there")
        # Three lives of the certificate that was cut, of which the first may be held back for half of what is left.
        agent.await_said("renewed kube-proxy", 80, 3)
        assert agent.end() < AT_ONCE
    asked = signs(stage.server, site.prefix, since)
    lives = (time.time() - changed_at + 60) / 15
    assert 3 <= asked.count("kube-proxy") <= lives, asked
    assert (asked.count("kubelet"), asked.count("kubelet-client"), asked.count("monitoring")) == (2, 1, 1), asked
    short = agent.said("granted only")
    assert len(short) == 1 and "kube-proxy" in short[0]["message"] and short[0]["granted"] <= 30, short
    # What would end sooner than the one in use is not taken, and that is told once, with the date.
    wrong = [event["event"] for event in agent.events() if event["level"] != "info"]
    assert wrong in ([], ["failed", "deadline"]), agent.log.read_text()


OWN = """\
  monitoring: {kind: client, common_name: monitoring, ca: kubernetes, roles: [worker]}
"""


def change(site: Site, text: str) -> float:
    site.write(text)
    site.apply()
    return time.time()


def polling(stage: Stage) -> None:
    """A pass that a hook called for before its time asks Vault nothing, and puts off nothing."""
    poll = 2 * POLL
    # Long enough for the pause for watchers, and over before the pass that follows would ask again.
    further = f"hooks: {{kubelet: [[sleep, '{0.6 * poll}']]}}\n"
    seat = stage.seat(stage.site(short_and_long("30s")), further=further)
    seat.configure(f"poll: {POLL}s", f"poll: {poll}s")
    with residents.proxy(stage.server) as between:
        seat.configure(stage.server.address, between.address)

        def asked() -> list[float]:
            return [when for when, _, path in between.asked if path.endswith("/config/data/cluster")]

        with resident(seat) as agent:
            agent.await_said("ran the hooks of kubelet", 40)
            wait_for(lambda: len(asked()) >= 2, 2 * poll, agent.log.read_text)
            assert agent.end() < AT_ONCE
    assert asked()[1] - asked()[0] < 1.25 * poll, asked()


def another_ca(stage: Stage) -> None:
    """A second issuing CA: bundles hold both, the new one first, before any leaf of it; the old one goes last."""
    site = stage.site(short_and_long("30s", "kube-proxy"))
    seat = stage.seat(site)
    mount, root = f"{site.prefix}/kubernetes", f"{site.prefix}/root"
    server = stage.server

    def bundle(name: str = "kubernetes-ca.crt") -> list[str]:
        return [facts.fingerprint for facts in x509.read_certificates((seat.pki / name).read_bytes())]

    # A leaf is read before the bundle, so a bundle that came in time holds its issuer.
    strangers: list[str] = []

    class Believer(Watcher):
        def look(self) -> None:
            signers = {
                stem: x509.read_certificates((seat.pki / f"{stem}.crt").read_bytes())[1].fingerprint
                for stem in ("kube-proxy", "kubelet-client")
            }
            known = bundle()
            strangers.extend(stem for stem, signer in signers.items() if signer not in known)
            Watcher.look(self)

    with resident(seat) as agent:
        agent.await_issued()
        (old,) = bundle()
        before = leaf(seat, "kubelet-client")
        old_id = site.read(f"{mount}/config/issuers")["default"]
        with Believer(seat, pause=0.02).watching() as watched:
            made = server.api(
                "POST",
                f"{mount}/intermediate/generate/internal",
                {"common_name": "second", "key_type": "ec", "key_bits": 256},
            )
            body = {"csr": made.data["csr"], "ttl": "8760h", "max_path_length": 0, "not_before_duration": "10m"}
            signed = server.api("POST", f"{root}/root/sign-intermediate", {**body, "common_name": "second"})
            pem = signed.data["certificate"]
            new = x509.fingerprint(pem.encode())
            taken = server.api("POST", f"{mount}/intermediate/set-signed", {"certificate": pem}).data
            (new_id,) = taken["imported_issuers"]
            assert server.api("POST", f"{mount}/config/issuers", {"default": new_id}).status == 200
            wait_for(lambda: bundle() == [new, old], POLL + PASS, lambda: f"{new} {old}: {bundle()}")
            assert bundle("kubernetes-ca-chain.crt")[:2] == [new, old] and len(bundle("kubernetes-ca-chain.crt")) == 3
            wait_for(lambda: issuer(seat, "kube-proxy") == new, 30, lambda: "nothing was signed by the new CA")
            # What is not due stays as it is: the old CA is still one.
            assert leaf(seat, "kubelet-client") == before
            since = server.audit_position()
            assert server.api("DELETE", f"{mount}/issuer/{old_id}").status in (200, 204)
            wait_for(lambda: issuer(seat, "kubelet-client") == new, POLL + PASS, lambda: "a leaf of the old CA is left")
            wait_for(lambda: bundle() == [new], 2, lambda: str(bundle()))
        assert strangers == [] and watched.looks > 100
        assert signs(server, site.prefix, since).count("kubelet-client") == 1
        assert agent.end() < AT_ONCE


def issuer(seat: Seat, stem: str) -> str:
    return x509.read_certificates((seat.pki / f"{stem}.crt").read_bytes())[1].fingerprint


def two_agents(stage: Stage) -> None:
    """Two agents of one node on one directory: whole pairs, in time, and not twice as many signings."""
    site = stage.site()
    seat = stage.seat(site)
    since = stage.server.audit_position()
    began = time.time()
    with resident(seat) as one, resident(seat, log=seat.folder / "second.log") as other:
        wait_for(lambda: all((seat.pki / f"{stem}.pem").exists() for stem in WORKER), 20, one.log.read_text)
        with Watcher(seat).watching() as watched:
            time.sleep(40)
        assert one.process.poll() is None and other.process.poll() is None
        assert one.end() < AT_ONCE and other.end() < AT_ONCE
    assert all(len(seen) >= 2 for seen in watched.serials.values()), watched.serials
    asked = signs(stage.server, site.prefix, since)
    for name in WORKER:
        assert asked.count(name) <= 2 + (time.time() - began) / 15, asked


def two_nodes(stage: Stage) -> None:
    """Agents of two nodes that somebody sent to one directory: a person's mistake, and no loop of signings."""
    site = stage.site(short_and_long("30s"))
    seats = [stage.seat(site, node) for node in ("worker-1", "worker-2")]
    seats[1].configure(str(seats[1].pki), str(seats[0].pki))
    since = stage.server.audit_position()
    with resident(seats[0]) as one, resident(seats[1]) as other:
        one.await_said("kubelet", 30)
        other.await_said("kubelet", 30)
        time.sleep(30)
        assert one.process.poll() is None and other.process.poll() is None
        leaves(seats[0])
        assert one.end() < AT_ONCE and other.end() < AT_ONCE
    asked = signs(stage.server, site.prefix, since)
    assert max(asked.count(name) for name in WORKER) <= 2 * (brakes.AT_ONCE + 3), asked


def joining_again(stage: Stage) -> None:
    """A credential that Vault takes no more: one clear state, one sentence, few logins; a join heals it as it runs."""
    site = stage.site()
    (port,) = free_ports(1)
    seat = stage.seat(site, further=f"metrics: 127.0.0.1:{port}\n")
    role = f"auth/{site.prefix}/listed/role/worker-1"
    with resident(seat) as agent:
        agent.await_issued()
        role_id = site.read(f"{role}/role-id")["role_id"]
        # All its secret ids go, and its role id with them.
        assert stage.server.api("DELETE", role).status == 204
        since = stage.server.audit_position()
        told = agent.await_said("does not take this node's credential", 40)
        assert "vaultpki agent --join" in told[0]["message"], told
        state = agent.status(expect=3)
        assert state["agent"]["state"] == "needs-join" and state["vault"]["reachable"], state
        wait_for(lambda: 'vaultpki_agent_state{state="needs-join"} 1.0' in get(port, "metrics")[1], 5, str)
        assert "vaultpki_vault_reachable 1.0" in get(port, "metrics")[1]
        wait_for(lambda: leaf(seat, "kubelet").not_after < datetime.now(UTC), 40, lambda: "still good")
        logins = [path for _, path in stage.server.requests(since) if path == f"auth/{site.prefix}/listed/login"]
        # Vault locks out who comes five times within 15 minutes, and the new join file's login with it.
        assert len(logins) <= 3, logins
        site.apply()
        enrol = vaultpki(
            *("enroll", "-f", site.file, "worker-1", "-o", stage.folder / "join.json"), env=stage.server.environment()
        )
        assert enrol.returncode == 0
        vaultpki("agent", "-c", seat.config, "--join", stage.folder / "join.json", "--once")
        wait_for(lambda: agent.said("well again") != [], POLL, agent.log.read_text)
        with Watcher(seat).watching():
            time.sleep(20)
        assert agent.status(expect=0)["agent"]["state"] == "ok"
        assert len(agent.said("does not take this node's credential")) == 1, agent.log.read_text()
        assert agent.process.poll() is None and agent.end() < AT_ONCE
    assert role_id


def joining_unnoticed(stage: Stage) -> None:
    """A node that is unenrolled and joins again between two looks of its agent: that one goes on by the new role id."""
    pool = 'pools:\n- {name: autoscaled, roles: [worker], node_names: "w-*"}\n'
    site = stage.site(short_and_long("2m", "kube-proxy") + pool)
    seat = site.equip("w-1", pool="autoscaled", further="poll: 1h\n")
    join_file = stage.folder / "join.json"
    with resident(seat) as agent:
        agent.await_issued()
        for words in (("unenroll",), ("enroll", "--pool", "autoscaled", "-o", join_file)):
            vaultpki(*words, "-f", site.file, "w-1", env=stage.server.environment())
        vaultpki("agent", "-c", seat.config, "--join", join_file, "--once")
        # It asks for nothing until the first certificate is due.
        assert not agent.said("does not take this node's credential"), agent.log.read_text()
        agent.await_said("renewed kube-proxy", 90)
        assert agent.status(expect=0)["agent"]["state"] == "ok"
        assert agent.process.poll() is None and agent.end() < AT_ONCE


def liar(stage: Stage) -> None:
    """A Vault whose every signing is somebody else's, and an agent that is killed all the time: few are asked for."""
    site = stage.site(short_and_long("30s"))
    seat = stage.seat(site)
    foreign: dict[str, Any] = {}

    def swapped(method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The first certificate that was signed for a role, again and again: of another key, as a mirror would do."""
        if "/sign/" in path and status == 200:
            return status, foreign.setdefault(path, body)
        return status, body

    with residents.proxy(stage.server, swapped) as between:
        seat.configure(stage.server.address, between.address)
        seat.run()
        good = leaves(seat)
        # Wanted again, though the ones that lie there are good.
        site.write(short_and_long("30s") + "certificates:\n  kubelet: {extra_names: [kubelet.example.com]}\n")
        site.apply()
        seat.age()
        start = len(between.asked)
        until = time.monotonic() + 45
        starts = 0
        while time.monotonic() < until or starts <= 15:
            with resident(seat) as agent:
                starts += 1
                time.sleep(1)
                agent.process.kill()
        asked = sum("/sign/kubelet" in path for _, _, path in between.asked[start:])
        assert 1 <= asked <= brakes.AT_ONCE + 4, (starts, asked)
        assert leaves(seat) == good
        # Once it is honest, a pause is all there is to wait for.
        between.alter = residents.honest
        with resident(seat) as agent:
            wait_for(
                lambda: "kubelet.example.com" in leaf(seat, "kubelet").subject.dns, 40, agent.log.read_text, pause=0.5
            )


def unwritable(stage: Stage) -> None:
    """While the directory or the state cannot be written nothing is signed; and then all goes on."""
    for which in ("pki", "state"):
        site = Stage(stage.server, stage.folder / which).site()
        seat = stage.seat(site)
        seat.run()
        place = seat.folder / which
        script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
        since = stage.server.audit_position()
        with resident(
            seat, "unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", str(place)
        ) as agent:
            agent.await_said("read-only", 30)
            time.sleep(8)
            assert agent.process.poll() is None
            assert agent.end() < AT_ONCE
        assert signs(stage.server, site.prefix, since) == []
        assert len(agent.said("read-only")) <= 2, agent.log.read_text()
        leaves(seat)
        with resident(seat) as agent:
            agent.await_said("renewed kubelet", 20)


def clocks(stage: Stage) -> None:
    """A clock set back by an hour and by a day: nothing is signed, and it is told; set right, all goes on."""
    site = stage.site()
    seat = stage.seat(site)
    env, set_clock = faked(stage.folder)

    def set_right(times: int) -> None:
        set_clock("+0s")
        agent.process.send_signal(signal.SIGHUP)
        agent.await_said("well again", POLL + PASS, times)
        assert all(found.not_after > datetime.now(UTC) for found in leaves(seat).values())

    set_clock("+0s")
    # Once its offset has changed, libfaketime has sleep(3) fail, as no kernel does: the pause for watchers is cut off.
    with resident(seat, env=env, foreign="OSError in vaultpki.store") as agent:
        agent.await_issued()
        for number, to in enumerate(("-1h", "-1d"), 1):
            set_clock(to)
            agent.await_said("behind Vault's; set it right", POLL + PASS, number)
            since = stage.server.audit_position()
            time.sleep(POLL + 2)
            assert signs(stage.server, site.prefix, since) == []
            set_right(number)
        assert len(agent.said("behind Vault's")) == 2, agent.log.read_text()
        # Ahead, every certificate seems to have ended, and what Vault signs then too.
        since = stage.server.audit_position()
        set_clock("+1d")
        agent.await_said("ahead of Vault's; set it right", POLL + PASS)
        time.sleep(POLL)
        assert len(signs(stage.server, site.prefix, since)) <= 3 * brakes.AT_ONCE
        set_right(3)
        assert agent.end() < AT_ONCE


LIES: tuple[object, ...] = (
    b"<html>please log in</html>",
    {"errors": ["internal error"]},
    {"auth": {"client_token": "hvs.nothing"}},
    {"data": {"keys": ["x"] * 1000}},
    {},
)


def no_vault(stage: Stage) -> None:
    """Something else answers, and all that it says is wrong: good pairs stay, and it is asked now and then only."""
    answers = itertools.cycle((status, body) for body in LIES for status in (200, 500, 403))

    def lie(guest: Guest) -> None:
        while True:
            guest.request()
            status, body = next(answers)
            guest.answer(status, body)

    seat = stage.seat(stage.site())
    seat.run()
    before = leaves(seat)
    honest = seat.config.read_text()
    with serving(lie) as other:
        seat.configure(stage.server.address, other.address)
        with resident(seat) as agent:
            time.sleep(2 * POLL + 15)
            assert leaves(seat) == before
            asked = other.heard.count(b"HTTP/1.1\r\n")
            assert 2 <= asked <= 150, asked
            assert agent.said("the first certificate here ends at")
            seat.config.write_text(honest)
            agent.process.send_signal(signal.SIGHUP)
            agent.await_said("renewed kubelet", POLL + PASS)
            assert agent.end() < AT_ONCE


@contextmanager
def silent_names(folder: Path) -> Iterator[tuple[str, ...]]:
    """What to run a command behind so that every look-up of a name waits: a name server that never answers."""
    file = folder / "resolv.conf"
    file.write_text("nameserver 127.0.0.153\noptions timeout:30\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.153", 53))
        script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
        yield ("unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", str(file))
        listener.settimeout(1)
        # It was asked.
        assert listener.recv(512)


def waiting_for_a_name(stage: Stage) -> None:
    """A signal ends it while the name of its Vault is looked up, which no thread can be woken from."""
    seat = stage.seat(stage.site())
    seat.configure(stage.server.address, "https://vault.example:8200")
    with silent_names(stage.folder) as behind, resident(seat, *behind) as agent:
        agent.await_said("has started", 20)
        time.sleep(1)
        assert agent.end() < AT_ONCE
    assert not (seat.pki / "kubelet.crt").exists()


def nobody_listens(stage: Stage) -> None:
    """Its output goes to a pipe that is full and that nobody reads: it renews all the same, and a signal ends it."""
    seat = stage.seat(stage.site())
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b"." * 65536)
        os.set_blocking(writing, True)
        process = subprocess.Popen(
            residents.command(seat), env=environment(), stdin=subprocess.DEVNULL, stdout=writing, stderr=writing
        )
        try:
            wait_for((seat.pki / "kubelet.pem").exists, 20, lambda: "nothing was issued")
            first = leaf(seat, "kubelet")
            wait_for(lambda: leaf(seat, "kubelet") != first, 30, lambda: "nothing was renewed")
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert process.wait(10) == 0
            assert time.monotonic() - began < AT_ONCE
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(reading)
        os.close(writing)


Story = Callable[[Stage], None]
STORIES: tuple[Story, ...] = (
    hooks,
    first_process,
    rereading,
    applied,
    polling,
    another_ca,
    two_agents,
    two_nodes,
    joining_again,
    joining_unnoticed,
    liar,
    unwritable,
    clocks,
    no_vault,
    waiting_for_a_name,
    nobody_listens,
)


@pytest.fixture(scope="module")
def told(
    server: Server, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[Story, Future[None]]]:
    chosen = [story for story in STORIES if any(f"-{story.__name__}]" in item.name for item in request.session.items)]
    with ThreadPoolExecutor(len(chosen)) as pool:
        yield {story: pool.submit(story, Stage(server, tmp_path_factory.mktemp(story.__name__))) for story in chosen}


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_story(story: Story, told: dict[Story, Future[None]]) -> None:
    told[story].result()
