"""The summary of what `verify` found: counts, who gets in, and the failures with their reasons."""

from __future__ import annotations

from vaultpki.show.check_summary import LIVE, MOST_SHOWN, check_summary
from vaultpki.verify.held_files import DENIED
from vaultpki.verify.on_disk import Check, CheckKind, tried

ORDER = ("admin", "kubelet-client", "kube-apiserver", "kubelet")


def shake(client: str, server: str, *, good: bool = True, refusal: str = "") -> Check:
    name, source, target = f"{client} to {server}", f"w-1/{client}", f"cp-1/{server}"
    return tried(name, "handshake", source, target, good=good, refusal=refusal, accepted="ok")


def test_who_gets_in_is_told_by_client_and_server() -> None:
    found = check_summary(
        [
            shake("admin", "kube-apiserver"),
            shake("kubelet-client", "kube-apiserver"),
            shake("kubelet-client", "kubelet", good=False, refusal="unknown CA"),
            shake("admin", "kubelet", good=False),
            # No pair of a holder: it proves the bundle.
            tried("a client", "handshake", "a client of etcd/ca.crt", "cp-1/kube-apiserver", refusal=""),
        ],
        ORDER,
    )
    assert found.servers == ("kube-apiserver", "kubelet")
    states = {client: [meeting.state for meeting in meetings] for client, meetings in found.access}
    assert states == {"admin": ["in", "wrong"], "kubelet-client": ["in", "out"]}
    (kind,) = (kind for kind in found.kinds if kind.total)
    assert (kind.total, kind.failed, kind.unmade) == (5, 1, 0)


def test_a_failure_says_what_was_accepted_or_why_it_was_refused() -> None:
    found = check_summary(
        [
            tried("kubelet.key", "file", "w-1", "kubelet", refusal=DENIED),
            shake("admin", "kubelet", good=False),
            tried("kubelet.crt", "file", "w-1", "kubelet", refusal="is missing"),
            tried("kubelet", "chain", "w-1/kubelet", "the root", refusal=""),
        ],
        ORDER,
    )
    assert [(each.source, each.why, each.unmade) for each in found.failures] == [
        ("w-1/admin", "was accepted ok", False),
        ("w-1/kubelet.crt", "is missing", False),
        ("w-1/kubelet.key", DENIED, True),
    ]
    assert (found.total, found.failed, found.unmade, found.hidden) == (4, 2, 1, 0)
    assert [meeting.state for _, meetings in found.access for meeting in meetings] == ["wrong"]


def test_one_that_could_not_be_tried_is_neither_in_nor_out() -> None:
    (meeting,) = check_summary([shake("admin", "kubelet", refusal=DENIED)], ORDER).access[0][1]
    assert (meeting.state, meeting.unmade) == ("unmade", 1)


def test_failures_beyond_a_page_are_counted_only() -> None:
    kind: CheckKind = "file"
    found = check_summary([tried("a.crt", kind, f"w-{n}", "a", refusal="is missing") for n in range(350)], ORDER)
    assert len(found.failures) == MOST_SHOWN and found.hidden == 350 - MOST_SHOWN


def test_checks_of_a_running_cluster_are_a_kind_of_their_own() -> None:
    copy = tried("copy of a CA", "live", "API server", "ClusterTrustBundle own", refusal="lacks CN=prod root CA")
    left = Check("copy of a CA", "live", "API server", "clustertrustbundles", "accept", "unchecked", None, "may not")
    alone = check_summary([copy, left], ())
    assert [(kind.kind, kind.total, kind.failed, kind.unmade) for kind in alone.kinds] == [(LIVE, 2, 1, 1)]
    assert [(each.target, each.why) for each in alone.failures] == [
        ("ClusterTrustBundle own", "lacks CN=prod root CA"),
        ("clustertrustbundles", "may not"),
    ]
    beside = check_summary([shake("admin", "kubelet"), copy], ORDER)
    assert [kind.kind for kind in beside.kinds] == ["file", "chain", "handshake", LIVE]
    assert [kind.kind for kind in check_summary([], ORDER).kinds] == ["file", "chain", "handshake"]
