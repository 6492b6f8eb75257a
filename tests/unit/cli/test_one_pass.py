"""Who makes the pass that a person asks for: the agent that stays, or the command itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from helpers.example_agent import agent_config
from vaultpki.agent.context import Outcome
from vaultpki.cli import one_pass
from vaultpki.cli import vaultpki as program
from vaultpki.daemon import resident
from vaultpki.daemon.resident import Pull, Pulled
from vaultpki.errors import AgentNotReached
from vaultpki.host.hooks import Owed
from vaultpki.host.log import Event
from vaultpki.node.state import AgentState

RENEWED = Event("renewed", "renewed kubelet")
IDLE = Outcome(due=datetime(2027, 1, 1, tzinfo=UTC))
FAILED = AgentState(owed={"kubelet": Owed(0.0, 1, error="hook 1 of kubelet (false) failed")})
OWED = "hook 1 of kubelet (false) failed; the hooks of kubelet are still owed, and the next run tries them again"
Ask = Callable[..., Result]


def asked(pulled: Pulled, after: AgentState | None = None, before: AgentState | None = None) -> Pull:
    return Pull(7, pulled, before or AgentState(), after or AgentState())


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """Runs the command where an agent stays that did this, or where there is none; its own pass has this outcome."""

    def run(done: Pull | None, *words: str, own: Outcome | None = None, command: str = "agent") -> Result:
        def pull(*_: object, **__: object) -> Pull:
            if done is None:
                raise AgentNotReached("none")
            return done

        def own_pass(*_: object, **__: object) -> Outcome:
            assert own is not None, "the command has made a pass of its own"
            return own

        monkeypatch.setattr(resident, "pull", pull)
        monkeypatch.setattr(one_pass, "_own_pass", own_pass)
        monkeypatch.setattr("vaultpki.config.agent.load_agent", lambda *_, **__: agent_config())
        return CliRunner().invoke(program, [command, *words], standalone_mode=False)

    return run


@pytest.mark.parametrize(
    ("done", "code", "said"),
    [
        (asked(Pulled(0.0)), 0, ["the agent asked Vault; nothing was to be done"]),
        (asked(Pulled(0.0, (RENEWED,))), 0, ["renewed kubelet"]),
        (
            asked(Pulled(0.0, (RENEWED,), hooks=frozenset({"kubelet"}))),
            0,
            ["renewed kubelet", "the hooks of kubelet are done"],
        ),
        (asked(Pulled(0.0, (RENEWED,), {"kube-proxy": "no"})), 1, ["renewed kubelet", "vaultpki: kube-proxy: no"]),
        (
            asked(Pulled(0.0, (RENEWED,), hooks=frozenset({"kubelet"})), FAILED),
            3,
            ["renewed kubelet", f"vaultpki: {OWED}"],
        ),
        # It waits for the node's turn.
        (
            asked(Pulled(0.0, (Event("turn", "the hooks of kubelet wait"),)), AgentState(owed={"kubelet": Owed(0.0)})),
            3,
            ["the hooks of kubelet wait"],
        ),
    ],
)
def test_an_agent_that_stays_makes_the_pass(ask: Ask, done: Pull, code: int, said: list[str]) -> None:
    ran = ask(done, "--once")
    assert (ran.return_value, ran.output.splitlines()) == (code, said)
    events = [json.loads(line)["message"] for line in ask(done, "--once", "--log-format", "json").output.splitlines()]
    assert events == [each.removeprefix("vaultpki: ") for each in said]


def test_without_one_the_command_makes_it(ask: Ask) -> None:
    assert ask(None, "--once", own=IDLE).output == "nothing to do until 2027-01-01T00:00:00Z\n"


@pytest.mark.parametrize("option", ["--if-due", "--prune"])
def test_a_timer_and_who_prunes_ask_no_other_agent(ask: Ask, option: str) -> None:
    assert ask(asked(Pulled(0.0)), "--once", option, own=IDLE).output.startswith("nothing to do until ")


def test_hooks_that_it_leaves_are_run_by_the_command(ask: Ask) -> None:
    """As they are without it: what waits for a person, and what was mended and waits for the end of a pause."""
    turn, hook = Event("turn", "the hooks of etcd-ca wait"), Event("hook", "ran the hooks of kubelet")
    done = asked(Pulled(0.0, (RENEWED, turn, hook), {"kube-proxy": "no"}), FAILED, FAILED)
    ran = ask(done, "--once", own=Outcome(events=(hook,)))
    assert (ran.return_value, ran.output.splitlines()) == (0, ["renewed kubelet", "ran the hooks of kubelet"])


def test_the_former_name_works_is_hidden_and_names_the_new_one(ask: Ask) -> None:
    old = "vaultpki: `pull` is an old spelling, which the next release no longer knows; use `vaultpki agent --once`\n"
    done = asked(Pulled(0.0, (RENEWED,)))
    ran = ask(done, command="pull")
    assert (ran.stdout, ran.stderr, ran.return_value) == ("renewed kubelet\n", old, 0)
    ran = ask(done, "--json", command="pull")
    assert ran.stderr == old and json.loads(ran.stdout)["events"][0]["event"] == "renewed"
    ran = ask(None, command="pull")
    assert isinstance(ran.exception, AgentNotReached) and ran.stderr == old
    assert "pull" not in CliRunner().invoke(program, ["--help"]).output
