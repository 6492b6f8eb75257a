"""Who asks Vault at once, and who only when something is due: `--once`, `--if-due`, SIGHUP and `pull`; and `status`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from helpers.node.resident_agent import leaf, resident, short_and_long
from helpers.vault.applied_cluster import Seat, Site, standing, vaultpki
from helpers.vault.servers import Server, wait_for
from vaultpki.agent import state

FURTHER = "certificates:\n  kubelet: {{extra_names: [{name}]}}\n"
QUIET = "poll: 24h\n"


@pytest.fixture
def site(server: Server, tmp_path: Path, cluster_name: str) -> Site:
    return standing(server, tmp_path / "site", cluster_name, short_and_long("30d"))


def apply(site: Site, name: str) -> None:
    site.write(short_and_long("30d") + FURTHER.format(name=name))
    site.apply()


def dns(seat: Seat) -> tuple[str, ...]:
    return leaf(seat, "kubelet").subject.dns


def test_once_asks_and_if_due_does_not(site: Site) -> None:
    seat = site.equip("worker-1", further=QUIET)
    seat.run()
    apply(site, "a.example.com")
    since = site.server.audit_position()
    assert seat.run().stdout.startswith("nothing to do until ")
    assert site.server.requests(since) == []
    assert "renewed kubelet" in vaultpki("agent", "-c", seat.config, "--once").stdout
    assert "a.example.com" in dns(seat)
    said = vaultpki("agent", "-c", seat.config, "--if-due", expect=2).stderr
    assert "--if-due is for --once" in said


def test_status_says_when_vault_was_asked(site: Site) -> None:
    seat = site.equip("worker-1", further=QUIET)
    command = ("status", "-c", seat.config, "--offline")
    found = json.loads(vaultpki(*command, "--json", expect=3).stdout)["vault"]
    assert found == {"reachable": None, "error": None, "asked": None, "answered": None}
    seat.run()
    found = json.loads(vaultpki(*command, "--json").stdout)["vault"]
    assert found["asked"] == found["answered"] is not None
    assert f"the agent last asked Vault at {found['asked']}" in vaultpki(*command).stdout.splitlines()
    seat.configure(site.server.address, "https://127.0.0.1:9")
    time.sleep(1.1)
    vaultpki("agent", "-c", seat.config, "--once", expect=1)
    later = json.loads(vaultpki(*command, "--json", expect=3).stdout)["vault"]
    assert later["answered"] == found["answered"] < later["asked"]
    assert f"and last had an answer at {found['answered']}" in vaultpki(*command, expect=3).stdout


def test_pull_and_sighup_make_a_resident_agent_ask_at_once(site: Site) -> None:
    seat = site.equip("worker-1", further=QUIET)
    with resident(seat) as agent:
        agent.await_issued()
        apply(site, "a.example.com")
        assert "renewed kubelet" in vaultpki("pull", "-c", seat.config).stdout
        assert "a.example.com" in dns(seat)
        assert "asked Vault; nothing was to be done" in vaultpki("pull", "-c", seat.config).stdout
        found = json.loads(vaultpki("pull", "-c", seat.config, "--json").stdout)
        assert found == {"pid": agent.process.pid, "events": [], "failures": {}, "ok": True}
        apply(site, "b.example.com")
        agent.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "b.example.com" in dns(seat), 30, agent.log.read_text)
        # What is wrong with agent.yaml is told, and the pass is made by what was read before.
        text = seat.config.read_text()
        seat.configure(QUIET, "pole: 24h\n")
        refused = vaultpki("pull", "-c", seat.config, expect=1).stderr
        assert "pole" in refused
        seat.config.write_text(text + "hooks: {kubelet: [['false']]}\n")
        apply(site, "c.example.com")
        vaultpki("pull", "-c", seat.config, expect={0, 3})
        wait_for(lambda: any(each.attempts for each in state.load(str(seat.state)).owed.values()), 20, str)
        assert "hook 1 of kubelet (false) failed" in vaultpki("pull", "-c", seat.config, expect=3).stderr
        agent.end()
    said = vaultpki("pull", "-c", seat.config, expect=1).stderr
    assert "no resident agent of" in said and "--once" in said


def test_pull_signals_no_other_process(site: Site) -> None:
    """Neither one that has the agent's number by now, nor one that a note names with a start of its own."""
    seat = site.equip("worker-1", further=QUIET)
    with resident(seat) as agent:
        agent.await_issued()
        agent.process.kill()
        agent.process.wait()
    note = seat.state / "resident.json"
    with subprocess.Popen(["sleep", "60"]) as other:
        value = json.loads(note.read_text())
        for pid in (other.pid, os.getpid(), 1, 2**22):
            note.write_text(json.dumps({**value, "pid": pid}))
            assert re.search("no resident agent of", vaultpki("pull", "-c", seat.config, expect=1).stderr)
        for garbage in ("", "{", "[]", '{"version": 1, "pid": true, "started": -1}'):
            note.write_text(garbage)
            assert "no resident agent of" in vaultpki("pull", "-c", seat.config, expect=1).stderr
        assert other.poll() is None
        other.kill()
