"""The alert rules over weeks: what an agent that died has shown is remembered; a node that was removed is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.alert_stories import Agent, Fires, Samples, check, finding, series, told, vault

pytestmark = pytest.mark.conformance


def on(node: str, **labels: str) -> dict[str, str]:
    return {"cluster": "prod", "node": node, **labels}


def gone(node: str) -> Fires:
    return "VaultpkiAgentGone", on(node)


def soon(node: str, name: str = "kubelet") -> Fires:
    return "VaultpkiCertificateExpiresSoon", on(node, name=name)


def expired(node: str, name: str = "kubelet") -> Fires:
    return "VaultpkiCertificateExpired", on(node, name=name)


def well(node: str, *spans: tuple[float, float], instance: str = "", job: str = "vaultpki") -> Samples:
    """An agent whose certificate lives for longer than any story."""
    agent = Agent(node, spans, instance, job=job)
    return {**agent.samples(), **agent.certificate("kubelet", 100)}


def test_an_agent_that_died_is_remembered_until_its_certificate_has_expired(tmp_path: Path) -> None:
    died = Agent("w-1", [(0, 3)])
    # The certificate that was renewed before is none any more; of another the end is far.
    first, second = Agent("w-1", [(0, 2)]), Agent("w-1", [(2, 3)])
    samples = {**died.samples(), **died.certificate("kube-proxy", 90), **well("w-2", (0, 20))}
    for key, value in first.certificate("kubelet", 4).items():
        new = second.certificate("kubelet", 12)[key]
        samples[key] = f"{value} {new.partition(' ')[2]}"
    check(
        tmp_path,
        samples,
        {
            2.9: [],
            3: [],
            3.1: [gone("w-1")],
            6.9: [gone("w-1")],
            7.1: [gone("w-1"), soon("w-1")],
            11.9: [gone("w-1"), soon("w-1")],
            12: [gone("w-1"), soon("w-1"), expired("w-1")],
            17.9: [gone("w-1"), soon("w-1"), expired("w-1")],
            # As long as Prometheus keeps data by default.
            18.1: [],
        },
    )


def test_an_agent_that_comes_back_ends_its_alerts_also_at_another_address(tmp_path: Path) -> None:
    died, back = Agent("w-1", [(0, 1)], "10.0.0.1:9910"), Agent("w-1", [(6, 9)], "10.0.0.9:9910", job="pods")
    samples = {
        **died.samples(),
        **died.certificate("kubelet", 5, life=12),
        **back.samples(),
        **back.certificate("kubelet", 40),
    }
    moments = {
        0.9: [],
        5.5: [gone("w-1"), soon("w-1"), expired("w-1")],
        6: [],
        8.9: [],
        # The new address is what died now, and the certificate that it had.
        9.1: [gone("w-1")],
    }
    check(tmp_path, samples | well("w-2", (0, 10)), moments)


def test_a_pod_that_moves_and_a_second_prometheus_job_raise_nothing(tmp_path: Path) -> None:
    moved = [Agent("w-1", [(day, day + 1)], f"10.0.0.{day}:9910") for day in range(5)]
    samples: Samples = {}
    for agent in moved:
        samples |= agent.samples() | agent.certificate("kubelet", 100)
    samples |= well("w-2", (0, 5)) | well("w-2", (0, 3), job="other")
    check(tmp_path, samples, {0.5: [], 2: [], 4.9: [], 5: [], 5.1: [gone("w-1"), gone("w-2")]})


def test_a_certificate_that_a_living_node_has_no_longer_is_forgotten(tmp_path: Path) -> None:
    node, before = Agent("w-1", [(0, 9)]), Agent("w-1", [(0, 2)])
    samples = {**node.samples(), **node.certificate("kubelet", 100), **before.certificate("extra", 4, life=6)}
    # Also once its agent has died.
    check(tmp_path, samples, {2.5: [], 5: [], 8.9: [], 9.3: [gone("w-1")], 15: [gone("w-1")]})


def test_a_gap_of_prometheus_forgets_no_dead_agent_and_accuses_no_other(tmp_path: Path) -> None:
    died = Agent("w-1", [(0, 2)])
    samples = {**died.samples(), **died.certificate("kubelet", 10), **well("w-2", (0, 4), (5, 12))}
    moments = {
        3.9: [gone("w-1")],
        # The first samples after the restart.
        5: [gone("w-1")],
        9.9: [gone("w-1"), soon("w-1")],
        10.1: [gone("w-1"), soon("w-1"), expired("w-1")],
    }
    check(tmp_path, samples, moments)


def test_a_node_that_vault_has_no_longer_is_forgotten_and_stays_so(tmp_path: Path) -> None:
    removed, dead = Agent("w-1", [(0, 2), (12, 14)]), Agent("w-2", [(0, 2)])
    samples = {**removed.samples(), **removed.certificate("kubelet", 6), **well("w-3", (0, 20))}
    samples |= dead.samples() | dead.certificate("kubelet", 6)
    # It is removed on the third day, and comes back on the twelfth; on two days nobody reads Vault.
    samples |= vault(
        [(0, 8), (10, 20)], {"w-1": [(0, 3), (11, 20)], "w-2": [(0, 8), (10, 20)], "w-3": [(0, 8), (10, 20)]}
    )
    dead_for_long = [gone("w-2"), soon("w-2"), expired("w-2")]
    check(
        tmp_path,
        samples,
        {
            2.9: [gone("w-1"), gone("w-2"), soon("w-1"), soon("w-2")],
            3.1: [gone("w-2"), soon("w-2")],
            7.9: dead_for_long,
            9: [*dead_for_long, ("VaultpkiVaultDataOld", {"cluster": "prod"})],
            10.9: dead_for_long,
            # Enrolled again, and its agent does not run yet.
            11.2: [*dead_for_long, ("VaultpkiNodeNotWatched", on("w-1"))],
            13.9: [*dead_for_long, soon("w-1"), expired("w-1")],
            14.1: [*dead_for_long, gone("w-1"), soon("w-1"), expired("w-1")],
            # Beyond the memory of the rules there is what Vault knows.
            17.2: [gone("w-1"), soon("w-1"), expired("w-1"), ("VaultpkiNodeNotWatched", on("w-2"))],
        },
    )


def test_a_list_that_is_older_than_the_node_or_not_complete_removes_nothing(tmp_path: Path) -> None:
    samples = well("w-1", (0, 3)) | well("w-2", (0, 9))
    old = series("vaultpki_fleet_written_timestamp_seconds", {"job": "node", "cluster": "prod"}, 86400, [(0, 4)])
    partial = series("vaultpki_fleet_written_timestamp_seconds", {"job": "node", "cluster": "prod"}, "now", [(4, 9)])
    (key,) = old
    samples[key] = f"{old[key]} {partial[key].partition(' ')[2]}"
    samples |= finding("not-read", [(4, 8)])
    unread = ("VaultpkiNotRead", {"cluster": "prod", "finding": "not-read"})
    moments = {
        3.5: [gone("w-1"), ("VaultpkiVaultDataOld", {"cluster": "prod"})],
        5: [gone("w-1"), unread],
        8.5: [],
    }
    check(tmp_path, samples, moments)


def test_what_vault_knows_of_a_node_without_an_agent_wakes_somebody(tmp_path: Path) -> None:
    samples = vault([(0, 3)], {"w-1": [(0, 3)], "w-2": [(0, 3)]}) | well("w-2", (0, 3))
    for name in ("silent", "expired", "many-credentials", "overdue"):
        samples |= finding(name, [(1, 3)], "w-1")
    # Of this one its own metrics say it.
    samples |= finding("expired", [(1, 3)], "w-2")
    for name in ("rotation-blocked", "ca-problem", "no-live-credential"):
        samples |= finding(name, [(1, 3)])
    unwatched = ("VaultpkiNodeNotWatched", on("w-1"))
    check(
        tmp_path,
        samples,
        {
            0.5: [unwatched],
            2: [
                unwatched,
                ("VaultpkiNodeSilent", on("w-1", finding="silent")),
                ("VaultpkiReportedCritical", on("w-1", finding="expired")),
                ("VaultpkiReportedWarning", on("w-1", finding="overdue")),
                ("VaultpkiManyCredentials", on("w-1", finding="many-credentials")),
                ("VaultpkiRotationNeedsPerson", {"cluster": "prod", "finding": "rotation-blocked"}),
                ("VaultpkiCaProblem", {"cluster": "prod", "finding": "ca-problem"}),
                ("VaultpkiNoLiveCredential", {"cluster": "prod", "finding": "no-live-credential"}),
            ],
        },
    )


def test_a_rotation_that_stands_still_fires_once_for_all_nodes_and_one_that_goes_on_does_not(tmp_path: Path) -> None:
    samples: Samples = {}
    for node in ("cp-1", "cp-2"):
        agent = Agent(node, [(0, 6)])
        samples |= well(node, (0, 6))
        rotations: dict[str, dict[str, tuple[float, float]]] = {
            "etcd": {"published": (0.5, 1), "switched": (1, 4), "done": (4, 6)},
            "kubelet": {"published": (0, 0.9), "switched": (0.9, 1.8), "retired": (1.8, 2.7), "done": (2.7, 6)},
            "root": {"none": (0, 6)},
        }
        for ca, states in rotations.items():
            for state, span in states.items():
                samples |= series("vaultpki_ca_rotation_state", agent.labels(ca=ca, state=state), 1, [span])
    # One that cannot reach Vault shows an old state.
    away = Agent("w-1", [(0, 6)])
    samples |= well("w-1", (0, 6)) | series("vaultpki_vault_reachable", away.labels(), 0, [(0, 6)])
    samples |= series("vaultpki_ca_rotation_state", away.labels(ca="etcd", state="published"), 1, [(0, 6)])
    cut_off = ("VaultpkiVaultUnreachable", {**away.labels()})
    still = ("VaultpkiRotationStandsStill", {"cluster": "prod", "ca": "etcd", "state": "switched"})
    check(tmp_path, samples, {1.9: [cut_off], 2.2: [cut_off, still], 3.9: [cut_off, still], 4.1: [cut_off]})


def test_the_end_of_a_ca_is_remembered_when_no_agent_of_the_cluster_runs(tmp_path: Path) -> None:
    samples: Samples = well("w-2", (0, 12))
    for node, warning in (("cp-1", 4), ("cp-2", 5)):
        agent = Agent(node, [(0, 2)])
        samples |= agent.samples()
        samples |= series("vaultpki_ca_not_after_timestamp_seconds", agent.labels(ca="etcd"), 8 * 86400, [(0, 2)])
        for level, day in {"notice": 3, "warning": warning, "critical": 6}.items():
            its = agent.labels(ca="etcd", level=level)
            samples |= series("vaultpki_ca_level_timestamp_seconds", its, day * 86400, [(0, 2)])
    both = [gone("cp-1"), gone("cp-2")]
    of = {"cluster": "prod", "ca": "etcd"}
    names = ("Notice", "ExpiresSoon", "ExpiresNow", "Expired")
    notice, warned, now, ended = ((f"VaultpkiCa{name}", of) for name in names)
    moments: dict[float, list[Fires]] = {
        1.9: [],
        2.9: both,
        3.5: [*both, notice],
        4.5: [*both, notice, warned],
        6.5: [*both, notice, warned, now],
        8: [*both, notice, warned, now, ended],
    }
    check(tmp_path, samples, moments)


def test_an_outage_of_vault_and_a_prometheus_without_agents(tmp_path: Path) -> None:
    agent = Agent("w-1", [(0, 3)])
    samples = well("w-1", (0, 3)) | series("vaultpki_vault_reachable", agent.labels(), 0, [(0, 3)])
    samples |= series("vaultpki_outage_left_seconds", agent.labels(), 80000, [(0, 3)])
    away: list[Fires] = [("VaultpkiVaultUnreachable", agent.labels()), ("VaultpkiOutageTurnsFatal", agent.labels())]
    moments: dict[float, list[Fires]] = {
        2: away,
        3.5: [gone("w-1")],
        17.9: [gone("w-1")],
        18.2: [("VaultpkiNoAgents", {})],
    }
    check(tmp_path, samples, moments)


def test_an_agent_that_was_started_and_ends_no_pass_forgets_no_certificate(tmp_path: Path) -> None:
    before, after = Agent("w-1", [(0, 1)]), Agent("w-1", [(0, 1), (1.5, 5)])
    samples = {**before.samples(), **before.certificate("kubelet", 3, life=6), **well("w-2", (0, 5))}
    samples |= series("vaultpki_node_info", after.labels(), 1, after.spans)
    never = ("VaultpkiAgentNeverPassed", after.labels())
    check(
        tmp_path,
        samples,
        {1.4: [gone("w-1")], 1.9: [never], 2.5: [never, soon("w-1")], 4: [never, soon("w-1"), expired("w-1")]},
    )


def test_a_summary_names_cluster_and_node(tmp_path: Path) -> None:
    """The whole sentences of one alert on what an agent says, and of one on what the rules remember."""
    agent = Agent("w-1", [(0, 1)], "10.0.0.1:9910")
    samples = agent.samples() | agent.certificate("kubelet", 1.5, life=30)
    samples |= series("vaultpki_finding", agent.labels(finding="empty"), 1, [(0, 1)])
    page = "https://vaultpki.example.com/alerts.html#"
    empty = {
        "finding": "empty",
        "summary": "prod w-1: this node has no certificate",
        "description": "`vaultpki agent --once` on the node issues them, or says why it cannot.",
        "runbook_url": f"{page}vaultpkinocertificate",
    }
    left = {
        "finding": "expired",
        "summary": "prod w-1: the certificate kubelet has expired",
        "description": "`vaultpki status` on the node says why it was not renewed; `vaultpki renew kubelet` tries now.",
        "runbook_url": f"{page}vaultpkicertificateexpired",
    }
    told(tmp_path, samples, 0.5, ("VaultpkiNoCertificate", agent.labels(finding="empty")), empty)
    told(tmp_path, samples, 2, expired("w-1"), left)
