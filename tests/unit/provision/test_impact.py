"""What a plan means for nodes that take part: who issues anew, who loses access, and who is not concerned."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.example_cluster import WITH_POOL, load
from vaultpki.model import Cluster
from vaultpki.provision.desired import desired
from vaultpki.provision.impact import GRAVE, concerns_nodes, impact_of, of_storage, sentences
from vaultpki.provision.plan import Impact, Live, Observed, Plan, plan
from vaultpki.records.server_facts import Fields, Key, ServerFacts
from vaultpki.redact import named

JWT = """\
- name: spot
  roles: [worker]
  node_names: "s-*"
  jwt: {issuer: "https://i.example.com", audiences: [vault], node_claim: node, jwks_url: "https://i.example.com/k"}
"""
KNOWN = ServerFacts(addresses=("https://vault.example.com:8200",), root_sha256="ab")
LIVE = Live(frozenset({"cp-1", "cp-2", "worker-1", "w-1"}), ("w-1", "w-2"))


def planned(before: Cluster, after: Cluster, more: dict[Key, Fields] | None = None) -> Plan:
    found = copy.deepcopy(desired(before, KNOWN)) | (more or {})
    return plan(desired(after, KNOWN), Observed(found, frozenset(found)))


def effects(cluster: Cluster, made: Plan, live: Live = LIVE) -> list[tuple[str, str | None, str | None, int]]:
    """(effect, node or pool, certificate, nodes) of each."""
    found = impact_of(cluster, made.changes, live)
    assert all(each.detail.isprintable() for each in found)
    return [(each.effect, each.node or each.pool, each.certificate, each.nodes) for each in found]


def test_a_changed_address_is_issued_anew_on_that_node_if_it_has_joined(tmp_path: Path) -> None:
    before = load(tmp_path, WITH_POOL + "defaults: {key: ec-p256}\n")
    after = load(tmp_path, WITH_POOL.replace("10.0.0.21", "10.0.0.22"))
    made = planned(before, after)
    assert effects(after, made) == [("reissues", "worker-1", "kubelet", 1)]
    (one,) = impact_of(after, made.changes, LIVE)
    assert one.detail == (
        "worker-1 issues kubelet anew (addresses + 10.0.0.22 - 10.0.0.21) within its agent's `poll` (5m by default) "
        "or in its next window"
    )
    assert effects(after, made, Live(frozenset({"cp-1"}))) == []


def test_a_shorter_life_is_issued_anew_by_all_who_hold_it(tmp_path: Path) -> None:
    before, after = load(tmp_path, WITH_POOL), load(tmp_path, WITH_POOL + "certificates: {kubelet: {ttl: 7d}}\n")
    assert effects(after, planned(before, after)) == [
        ("reissues", "worker-1", "kubelet", 1),
        ("reissues", "autoscaled", "kubelet", 2),
    ]
    # One that an apply would end counts no more.
    gone: dict[Key, Fields] = {("approle", "vaultpki/prod/pooled/w-2"): {"token_policies": ["other"]}}
    made = planned(before, after, gone)
    assert effects(after, made)[:2] == [
        ("reissues", "worker-1", "kubelet", 1),
        ("reissues", "autoscaled", "kubelet", 1),
    ]


def test_a_file_beside_a_certificate_is_written_and_no_certificate_issued(tmp_path: Path) -> None:
    before, after = load(tmp_path, WITH_POOL), load(tmp_path, WITH_POOL + "certificates: {kubelet: {file: served}}\n")
    assert effects(after, planned(before, after))[0] == ("rewrites", "worker-1", "kubelet", 1)


def test_two_certificates_that_exchange_their_paths_wait_for_each_other(tmp_path: Path) -> None:
    swap = "certificates:\n  kube-proxy: {file: kubelet-client, ttl: 9d}\n  kubelet-client: {file: kube-proxy}\n"
    before, after = load(tmp_path, WITH_POOL), load(tmp_path, WITH_POOL + swap)
    made = planned(before, after)
    rows = ("kubelet-client", "kube-proxy")
    assert effects(after, made) == [
        *(("waits", "worker-1", name, 1) for name in rows),
        *(("waits", "autoscaled", name, 2) for name in rows),
    ]
    text = (
        "keeps kube-proxy and kubelet-client where they are until they expire, for at most 30d, or until root there "
        "runs `vaultpki agent --once --prune`; each waits for the other's path, and is not issued until then"
    )
    for merged in (True, False):
        assert list(sentences(impact_of(after, made.changes, LIVE), merged=merged)) == [
            ("yellow", f"worker-1 {text}"),
            ("yellow", f"2 nodes of pool autoscaled: each {text}"),
        ]


OWN = """\
certificates:
  a: {kind: client, common_name: a, ca: kubernetes, roles: [etcd], ttl: 9d, file: a, kubeconfig: x.conf}
  b: {kind: client, common_name: b, ca: kubernetes, roles: [etcd], file: b, kubeconfig: y.conf}
"""


@pytest.mark.parametrize(
    ("words", "waiting"),
    [
        # One that moves leaves its path and its kubeconfig; so does one that is removed.
        ({"file: a": "file: c", "file: b": "file: a"}, [("a.crt", "b")]),
        ({"file: a, kubeconfig: x.conf": "file: c", "y.conf": "x.conf"}, [("x.conf", "b")]),
        ({"  a: {": "  c: {", "name: a": "name: c"}, [("a.crt", "c")]),
        ({"  a: {": "  c: {", "name: a": "name: c", "file: a": "file: c"}, [("x.conf", "c")]),
        # Not where the pair stays, nor where it only gets another name.
        ({"x.conf": "z.conf", "y.conf": "x.conf", "z.conf": "y.conf"}, []),
        ({"  a: {": "  c: {"}, []),
        ({"  a: {": "  c: {", "file: a": "file: c"}, []),
        ({"file: a": "file: c"}, []),
    ],
)
def test_a_certificate_waits_for_what_stays_at_its_path(
    tmp_path: Path, words: dict[str, str], waiting: list[tuple[str, str]]
) -> None:
    text = OWN
    for old, new in words.items():
        text = text.replace(old, new)
    before, after = load(tmp_path, WITH_POOL + OWN), load(tmp_path, WITH_POOL + text)
    found = impact_of(after, planned(before, after).changes, Live(frozenset({"cp-1"})))
    late = ", and is not issued until then"
    assert [each.detail for each in found if each.effect == "waits"] == [
        f"cp-1 keeps {path} of a until that expires, for at most 9d, or until root there runs "
        f"`vaultpki agent --once --prune`; {name} waits for it{late if path.endswith('.crt') else ''}"
        for path, name in waiting
    ]
    # Nothing is said to be written where it waits for the path of its pair.
    pairs = {each.certificate for each in found if each.effect == "waits" and ".crt of" in each.detail}
    assert not [each for each in found if each.certificate in pairs and each.effect != "waits"]


def test_a_role_that_a_node_gets_or_loses(tmp_path: Path) -> None:
    less, more = (
        load(tmp_path, WITH_POOL),
        load(
            tmp_path,
            WITH_POOL.replace("[control-plane, etcd], addresses: [10.0.0.13]", "[etcd], addresses: [10.0.0.13]"),
        ),
    )
    lost = effects(more, planned(less, more))
    assert ("not-renewed", "cp-2", "kube-apiserver", 1) in lost and ("not-renewed", "cp-2", "etcd-peer", 1) not in lost
    got = effects(less, planned(more, less))
    assert ("issues", "cp-2", "kube-apiserver", 1) in got


def test_a_removed_node_loses_access_if_it_had_any(tmp_path: Path) -> None:
    before = load(tmp_path, WITH_POOL)
    after = load(
        tmp_path, WITH_POOL.replace("- {name: cp-2, roles: [control-plane, etcd], addresses: [10.0.0.13]}\n", "")
    )
    made = planned(before, after)
    (one,) = impact_of(after, made.changes, LIVE)
    assert (one.effect, one.node) == ("loses-access", "cp-2")
    assert one.detail == (
        "cp-2 loses its identity at once and can renew nothing; its certificates stay valid for at most 30d"
    )
    assert effects(after, made, Live(frozenset({"cp-1"}))) == []


def test_a_removed_pool_ends_its_nodes(tmp_path: Path) -> None:
    before, after = load(tmp_path, WITH_POOL), load(tmp_path, WITH_POOL.partition("pools:")[0])
    names = [f"w-{number:02}" for number in range(14)]
    orphans: dict[Key, Fields] = {("approle", f"vaultpki/prod/pooled/{name}"): {} for name in names}
    made = planned(before, after, orphans)
    live = Live(frozenset({"cp-1"}), tuple(names))
    (one,) = (each for each in impact_of(after, made.changes, live) if each.effect == "loses-access")
    assert one.nodes == 14
    assert one.detail == (
        f"14 nodes lose their identity at once and can renew nothing: {', '.join(names[:10])} and 4 more, which fit no "
        "pool; certificates that they have stay valid for at most 30d"
    )


def test_a_pooled_node_that_is_listed_now_is_told_to_join_again(tmp_path: Path) -> None:
    before = load(tmp_path, WITH_POOL)
    listed = "- {name: w-1, roles: [worker], addresses: [10.0.0.31]}\npools:"
    after = load(tmp_path, WITH_POOL.replace("pools:", listed).replace("w-*", "v-*"))
    made = planned(before, after, {("approle", "vaultpki/prod/pooled/w-1"): {}})
    found = impact_of(after, made.changes, LIVE)
    assert [each.effect for each in found] == ["loses-access", "rejoins"]
    assert found[0].detail.endswith("; w-1 now listed: a new join file is needed there")
    assert found[1].detail == "w-1 has reported and gets a new AppRole: a new join file is needed there"


def test_a_listed_node_that_is_pooled_now_is_told_so(tmp_path: Path) -> None:
    before = load(tmp_path, WITH_POOL)
    after = load(
        tmp_path,
        WITH_POOL.replace("- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}\n", "").replace("w-*", "wor*"),
    )
    (one,) = (each for each in impact_of(after, planned(before, after).changes, LIVE) if each.node == "worker-1")
    assert one.detail.endswith("; as a node of pool autoscaled it needs a new join file (--pool autoscaled)")


@pytest.mark.parametrize("more", ["", JWT.replace("spot", "other").replace("s-*", "o-*")])
def test_nodes_of_a_jwt_pool_that_goes_are_told_by_their_reports(tmp_path: Path, more: str) -> None:
    before, after = load(tmp_path, WITH_POOL + JWT + more), load(tmp_path, WITH_POOL + more)
    live = Live(frozenset({"s-1", "s-2", "w-1", "cp-1", "o-1"}), ("w-1",))
    made = planned(before, after)
    lost = [each for each in impact_of(after, made.changes, live) if each.effect == "loses-access"]
    assert [(each.pool, each.nodes) for each in lost] == [("spot", 2)]
    assert "s-1, s-2, which logged in by an issuer's token and fit no pool any more" in lost[0].detail
    # Without any of them nothing is lost.
    assert [e for e in impact_of(after, made.changes, replace(live, reported=frozenset({"cp-1"}))) if e.pool] == []


def test_narrowed_names_of_a_jwt_pool(tmp_path: Path) -> None:
    before, after = load(tmp_path, WITH_POOL + JWT), load(tmp_path, WITH_POOL + JWT.replace("s-*", "s-a*"))
    live = Live(frozenset({"s-1", "s-a1"}), ())
    assert effects(after, planned(before, after), live) == [("loses-access", "spot", None, 1)]


def test_an_approle_made_anew_needs_a_new_join_file(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    found = desired(cluster, KNOWN)
    del found["approle", "vaultpki/prod/listed/cp-1"]
    made = plan(desired(cluster, KNOWN), Observed(found, frozenset(found)))
    assert effects(cluster, made) == [("rejoins", "cp-1", None, 1)]


def test_a_ca_made_anew_and_another_endpoint_concern_everybody(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    found = copy.deepcopy(desired(cluster, KNOWN))
    del found["issuer", "vaultpki/prod/etcd"]
    found["config", "vaultpki/prod/config/cluster"]["endpoint"] = "https://other:6443"
    made = plan(desired(cluster, KNOWN), Observed(found, frozenset(found)))
    assert effects(cluster, made) == [
        ("rewrites", None, None, 5),
        ("restarts", None, None, 2),
        ("restarts", None, None, 3),
        ("by-hand", None, None, 0),
        ("reissues", None, None, 2),
    ]
    said = [impact.detail for impact in impact_of(cluster, made.changes, LIVE)]
    how = "by hooks of kubeconfigs, or by you, one node at a time"
    assert said[:4] == [
        (
            "5 nodes with the role control-plane or worker: each writes its kubeconfigs anew within its agent's `poll` "
            "(5m by default)"
        ),
        f"2 nodes with the role control-plane: each needs a restart of kube-scheduler, kube-controller-manager: {how}",
        f"3 nodes with the role worker: each needs a restart of kube-proxy, kubelet: {how}",
        "kubeconfigs of people go on naming https://other:6443: write them anew with `vaultpki issue`",
    ]
    # As long as no node takes part nobody has any.
    assert effects(cluster, made, Live()) == []
    assert said[4].startswith("2 nodes with the role control-plane or etcd: the etcd CA is made anew, ")
    assert not [sentence for sentence in said if "if it has any" in sentence]


def test_in_kubeadms_layout_control_planes_use_their_own_api_server(tmp_path: Path) -> None:
    spec = WITH_POOL.replace("etcd]", "etcd, worker]").replace("{names:", "{endpoint: https://api.example.com, names:")
    before = load(tmp_path, f"{spec}layout: kubeadm\n")
    after = load(tmp_path, f"{spec.replace('example.com,', 'example.com:443,')}layout: kubeadm\n")
    said = [impact.detail for impact in impact_of(after, planned(before, after).changes, LIVE)]
    # kubeadm's kube-proxy has a kubeconfig of its own.
    assert [each for each in said if "restart" in each] == [
        (
            "3 nodes with the role worker: each needs a restart of kubelet: by hooks of kubeconfigs, or by you, one "
            "node at a time"
        )
    ]
    after = load(tmp_path, f"{spec.replace('10.0.0.11', '10.0.0.12')}layout: kubeadm\n")
    of_node = [each for each in impact_of(after, planned(before, after).changes, LIVE) if each.certificate is None]
    assert [(each.effect, each.node) for each in of_node] == [("rewrites", "cp-1"), ("restarts", "cp-1")]
    assert "cp-1 needs a restart of kube-scheduler, kube-controller-manager, kubelet: by" in of_node[1].detail


KEYS = "service_account_keys: true\n"
ROTATES = "`vaultpki ca rotate service-account-keys`"


@pytest.mark.parametrize(
    ("before", "after", "effect", "said"),
    [
        (
            "",
            KEYS,
            "token-keys",
            [
                f"keeps an sa.key that is there until {ROTATES} replaces it",
                (
                    "makes a service-account key if there is no sa.key, and kube-apiserver may start there only after "
                    "`vaultpki admit`"
                ),
            ],
        ),
        (
            KEYS,
            "",
            "token-keys-stay",
            ["keeps sa.key and sa.pub as they are, and nobody rotates them or takes a stolen key out"],
        ),
        (
            KEYS,
            KEYS + "certificates: {service-account: {key: rsa-2048}}\n",
            "token-keys",
            [f"keeps the type of the key that it uses until {ROTATES} makes one of rsa-2048"],
        ),
        # A certificate of such a key counts until the record removes it, whatever its end.
        (KEYS, KEYS + "certificates: {service-account: {ttl: 7d}}\n", "token-keys", []),
    ],
    ids=["on", "off", "type", "ttl"],
)
def test_service_account_keys_concern_control_planes(
    tmp_path: Path, before: str, after: str, effect: str, said: list[str]
) -> None:
    was, cluster = load(tmp_path, WITH_POOL + before), load(tmp_path, WITH_POOL + after)
    found = [each for each in impact_of(cluster, planned(was, cluster).changes, LIVE) if each.effect == effect]
    assert [each.detail for each in found] == [f"{node} {text}" for node in ("cp-1", "cp-2") for text in said]
    merged = [text for _, text in sentences(found, merged=True)]
    assert merged == [f"cp-1, cp-2: each {text}" for text in said]
    assert {colour for colour, _ in sentences(found, merged=True)} <= {"red" if effect in GRAVE else "yellow"}


def test_a_template_concerns_the_roles_that_have_or_had_it(tmp_path: Path) -> None:
    (tmp_path / "a.tmpl").write_text("a\n")
    spec = WITH_POOL + "templates: {a: {file: a.txt, template: a.tmpl, roles: [%s]}}\n"
    before, after = load(tmp_path, spec % "etcd"), load(tmp_path, spec % "worker")
    (impact,) = impact_of(after, planned(after, before).changes, LIVE)
    assert (impact.effect, impact.nodes) == ("rewrites", 5)
    assert impact.detail.startswith(
        "5 nodes with the role etcd or worker: each writes or removes its file of the template a "
    )
    after = load(tmp_path, WITH_POOL)
    (impact,) = impact_of(after, planned(after, before).changes, LIVE)
    assert impact.nodes == 2 and impact.detail.startswith("2 nodes with the role etcd: ")


def test_the_same_end_of_several_nodes_is_one_sentence() -> None:
    gone = [Impact("loses-access", f"w-{n} loses its identity at once", node=f"w-{n}") for n in range(1, 4)]
    alone = Impact("not-renewed", "cp-1 does not renew etcd-peer any more", node="cp-1", certificate="etcd-peer")
    assert list(sentences([*gone, alone], merged=True)) == [
        ("red", "w-1, w-2, w-3: each loses its identity at once"),
        ("yellow", "cp-1 does not renew etcd-peer any more"),
    ]


def test_a_new_cluster_or_nothing_concerns_nobody(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    assert not concerns_nodes(cluster, plan(desired(cluster, KNOWN), Observed()).changes)
    assert not concerns_nodes(cluster, ())
    assert concerns_nodes(cluster, planned(load(tmp_path, WITH_POOL + "defaults: {ttl: 9d}\n"), cluster).changes)


def test_what_several_do_alike_is_one_sentence() -> None:
    def one(node: str, certificate: str) -> Impact:
        return Impact("reissues", f"{node} {certificate}", node=node, certificate=certificate)

    many = [one(node, name) for node in ("cp-1", "cp-2") for name in ("etcd-peer", "etcd-server")]
    other = Impact("loses-access", "w-1 is gone", node="w-1")
    when = "within its agent's `poll` (5m by default) or in its next window"
    assert list(sentences([*many, other], merged=True)) == [
        ("yellow", f"cp-1, cp-2 issue etcd-peer, etcd-server anew, each {when}"),
        ("red", "w-1 is gone"),
    ]
    assert [text for _, text in sentences(many, merged=True)] != [text for _, text in sentences(many[:2], merged=True)]
    assert next(sentences(many[:1], merged=True))[1] == f"cp-1 issues etcd-peer anew {when}"
    assert len(list(sentences([*many, other], merged=False))) == 5


def test_of_many_names_the_first_few_are_shown() -> None:
    names = [f"n{number}" for number in range(12)]
    assert named(names[:10]) == ", ".join(names[:10])
    assert named(names) == ", ".join(names[:10]) + " and 2 more"
    assert named(["\x1b[2J"]) == "\\x1b[2J"


def test_roles_that_store_nothing_any_more_are_said_with_what_that_costs(tmp_path: Path) -> None:
    before, after = load(tmp_path, WITH_POOL), load(tmp_path, WITH_POOL + "defaults: {no_store: true}\n")
    changes = planned(before, after).changes
    assert {change.kind for change in changes} == {"role"}
    (one,) = of_storage(after, changes)
    assert (one.effect, one.nodes) == ("not-stored", 0)
    assert "kube-apiserver" in one.detail and "revoke --certificate FILE" in one.detail and "admin" not in one.detail
    # Back again it costs nothing, and no node does anything.
    assert not list(of_storage(before, planned(after, before).changes)) and effects(after, planned(before, after)) == []
    # Also where the roles are made.
    assert [each.effect for each in of_storage(after, plan(desired(after, KNOWN), Observed()).changes)] == [
        "not-stored"
    ]
