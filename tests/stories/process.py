"""Signals, hooks, agent.yaml read again, and what a process is given or denied by its machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import residents
from applied import Site, environment
from residents import AT_ONCE, POLL, WORKER, Resident, Watcher, get, leaf, resident
from servers import free_ports, wait_for
from stories.stage import Stage

from vaultpki import memory


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
