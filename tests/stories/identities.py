"""Two agents where one should be, and identities that end and begin anew."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from applied import vaultpki
from residents import AT_ONCE, POLL, WORKER, Watcher, get, leaf, leaves, resident, short_and_long, signs
from servers import free_ports, wait_for
from stories.stage import Stage

from vaultpki import brakes


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
        new = "`vaultpki enroll -f cluster.yaml worker-1`"
        assert f"({new}, then `vaultpki agent -c {seat.config} --join join.json` here)" in told[0]["message"], told
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
