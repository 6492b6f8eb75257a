"""One line for each stage of an apply, and what stands there when it stops."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from helpers.example_cluster import WITH_POOL, load
from vaultpki.provision.desired import desired
from vaultpki.provision.plan import STAGES, Observed, plan
from vaultpki.records.server_facts import ServerFacts
from vaultpki.show.stages import kind_of, stage_line, stopped_lines


def test_each_stage_of_a_first_apply_and_where_it_stops(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    changes = plan(desired(cluster, ServerFacts()), Observed()).changes
    planned = Counter(kind_of(cluster, change) for change in changes)
    lines = [stage_line(name, planned, planned) for name in STAGES if any(kind[0] == name for kind in planned)]
    assert lines == [
        "mount of the root CA: 1 of 1 written",
        "mounts: 7 of 7 written (5 mounts, 2 auth mounts)",
        "root CA: 1 of 1 made",
        "settings of the mounts: 20 of 20 written",
        "issuing CAs: 4 of 4 made",
        (
            "roles, policies and records: 28 of 28 written (15 roles, 8 policies, 1 setting, 1 record of a pool, 3 "
            "records of nodes)"
        ),
        "AppRoles of nodes: 3 of 3 written",
    ]
    made = Counter(planned)
    made["rules", "policy"] = 2
    made["rules", "nodes"] = made["nodes", "approle"] = 0
    assert " ".join(line.text.strip() for line in stopped_lines(made, planned, 5)) == (
        "Stopped: 57 of 69 changes were made. Not all is done of: roles, policies and records: 19 of 28 written (15 "
        "roles, 2 of 8 policies, 1 setting, 1 record of a pool, 0 of 3 records of nodes) AppRoles of nodes: 0 of 3 "
        "written Run the same apply again: it looks at what is there and goes on with the rest."
    )
    last = stopped_lines(made, planned, 5, saved=True)[-1]
    assert last.text == "Save a new plan, which has the rest: this one is refused from now on."


def test_a_stage_of_one_kind_is_named_by_it() -> None:
    one = {("rules", "nodes"): 300, ("cleanup", "policy"): 1}
    assert stage_line("rules", one, one) == "records of nodes: 300 of 300 written"
    assert stage_line("cleanup", {}, one) == "policies: 0 of 1 removed"
