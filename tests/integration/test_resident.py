"""The agent that stays, through everything that may happen to it: signals, hooks, new specs, new CAs, liars, clocks.

Each story is a cluster and one or more real agents at the shortest TTL there is, on a real server. They take a minute,
most of which is waiting, so they are all told at the same time.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from residents import AT_ONCE, WORKER, leaf, leaves, resident, short_and_long
from servers import Server
from stories import changes, identities, process, troubles
from stories.stage import Stage

from vaultpki.certificates import pair_files


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
            assert hidden == {"lock", "owner", "bundles", *WORKER}
            assert len(list((seat.pki / ".vaultpki").iterdir())) == 2 + 2 * 4

    with ThreadPoolExecutor(nodes) as pool:
        for _ in pool.map(trials, range(1, nodes + 1)):
            pass


Story = Callable[[Stage], None]
STORIES: tuple[Story, ...] = (
    process.hooks,
    process.first_process,
    process.rereading,
    changes.applied,
    changes.polling,
    changes.another_ca,
    identities.two_agents,
    identities.two_nodes,
    identities.joining_again,
    identities.joining_unnoticed,
    troubles.liar,
    troubles.unwritable,
    troubles.clocks,
    troubles.no_vault,
    process.waiting_for_a_name,
    process.nobody_listens,
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
