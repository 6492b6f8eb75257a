"""A cluster that the real kubeadm made with CAs of its own is taken over under load, goes back, and goes to the end.

One cluster for the whole module, and the tests continue each other: the machines enrol; everybody trusts both CAs; a
worker joins by kubeadm; certificates of the new CAs are taken on some machines, and the adoption is aborted; all is as
kubeadm made it, byte for byte; another adoption goes to done. kube-vip, as a static pod on each control plane,
mounts admin.conf and holds a virtual address all the while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from helpers.kube import adopted_disks, adoption_under_load, held_on_disks, kubeadm_adoption
from helpers.kube.adopted_disks import FileSeen
from helpers.kube.adoption_under_load import Seen, under_load
from helpers.kube.client_load import OPERATORS
from helpers.kube.clients_in_pods import ClientsInPods
from helpers.kube.components import Programs
from helpers.kube.kubeadm_adoption import LATER, PLANES, WORKER, Adoption
from helpers.kube.kubeadm_own_cas import OLD_CAS, PKI
from helpers.kube.virtual_address import VirtualAddress
from helpers.vault import servers
from vaultpki.records.adoption import AdoptionState

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(5400)]

S = AdoptionState
# Its Lease is another one's after ten seconds, and who has it waits for twenty for an API server that is away.
ADDRESS_SECONDS = 60
MANAGER = "/etc/kubernetes/manifests/kube-controller-manager.yaml"
Files = Mapping[str, FileSeen]


@dataclass(frozen=True, slots=True)
class Begun:
    """The cluster, the clients in its pods, what holds the virtual address, and what lay on each machine.

    That is from before anybody enrolled, and from after.
    """

    adoption: Adoption
    clients: ClientsInPods
    vip: VirtualAddress
    before: Mapping[str, Files]
    joined: Mapping[str, Files]


@pytest.fixture(scope="module")
def begun(
    stands: Callable[[], None], programs: Programs, kube_vip: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Begun]:
    """cluster.yaml is drafted and applied, the adoption has begun, and every machine has an agent."""
    folder = tmp_path_factory.mktemp("adoption")
    with (
        servers.running("bao", folder / "server", None) as server,
        kubeadm_adoption.standing(server, programs, folder / "kube") as made,
    ):
        stands()
        vip = VirtualAddress([made.nodes[name] for name in PLANES], made.kubernetes.outside, kube_vip)
        vip.start()
        clients = adoption_under_load.start(made)
        made.draft()
        made.vaultpki("apply", "--yes", who="applier")
        before, joined = {}, {}
        made.adopt("start")
        for name in (*PLANES, WORKER):
            before[name] = adopted_disks.files(made.nodes[name])
            made.enrol(name, after_join=lambda name=name: joined.update({name: adopted_disks.files(made.nodes[name])}))  # type: ignore[misc]
        yield Begun(made, clients, vip, before, joined)


@pytest.fixture(scope="module")
def published(begun: Begun) -> Seen:
    """Every machine trusts both CAs."""
    made = begun.adoption
    made.to(S.PUBLISHED)
    with begun.vip.watched(), under_load(made, begun.clients) as seen:
        made.to(S.SWITCHED, until=people_alone)
    return seen


def people_alone(found: Mapping[str, Any]) -> bool:
    """Whether only people are waited for."""
    return bool(found["waiting_for"]) and {each["node"] for each in found["waiting_for"]} <= kubeadm_adoption.PERSONS


@pytest.fixture(scope="module")
def later(begun: Begun, published: Seen) -> str:
    """A worker joins by kubeadm, and enrols; what kubeadm said."""
    made = begun.adoption
    said = made.join(LATER)
    made.add_node(LATER)
    made.enrol(LATER)
    return said


@pytest.fixture(scope="module")
def switched(begun: Begun, later: str) -> Seen:
    """The workers and the first control plane take certificates of the new CAs."""
    made = begun.adoption
    made.to(S.SWITCHED)
    first: list[str] = []

    def passed_on(found: Mapping[str, Any]) -> bool:
        first.extend([found["turn"]] if found["turn"] else [])
        return bool(first) and found["turn"] != first[0]

    with begun.vip.watched(), under_load(made, begun.clients) as seen:
        made.to(S.CLOSED, until=passed_on)
    return seen


@pytest.fixture(scope="module")
def aborted(begun: Begun, switched: Seen) -> Seen:
    """And back, to the end of the way."""
    made = begun.adoption
    assert made.states[-1] is S.SWITCHED, made.states
    with begun.vip.watched(), under_load(made, begun.clients) as seen:
        made.to(S.PREPARED, "abort")
        made.finish("abort")
    return seen


@pytest.fixture(scope="module")
def again(begun: Begun, aborted: Seen) -> Seen:
    """Another adoption, to the step before the last."""
    made = begun.adoption
    made.adopt("start")
    with begun.vip.watched(), under_load(made, begun.clients) as seen:
        made.to(S.SWITCHED, until=lambda found: found["state"] == "published" and people_alone(found))
    return seen


@pytest.fixture(scope="module")
def retired(begun: Begun, again: Seen) -> Seen:
    made = begun.adoption
    made.to(S.SWITCHED)
    with begun.vip.watched(), under_load(made, begun.clients) as seen:
        made.to(S.RETIRED)
        made.to(S.DONE)
        made.finish()
    return seen


@pytest.fixture(scope="module")
def old(begun: Begun) -> tuple[list[x509.Certificate], list[bytes]]:
    """The CAs of kubeadm, and the public keys of all its pairs, by what lay there before."""
    first = begun.before[PLANES[0]]
    cas = [x509.load_pem_x509_certificate(first[f"{PKI}/{name}"].data) for name in OLD_CAS.values()]
    held = {data for files in begun.before.values() for place, (data, *_) in files.items() if place.endswith(".key")}
    # The keys of service accounts are no certificates'.
    held -= {
        data for files in begun.before.values() for place, (data, *_) in files.items() if place.endswith("/sa.key")
    }
    assert len(held) > len(PLANES), "no key was seen"
    keys = [load_pem_private_key(data, None).public_key() for data in held]
    return cas, [key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in keys]


def judge(begun: Begun, seen: Seen) -> None:
    """No client was refused, or saw an end that it did not know, and somebody had the virtual address."""
    assert begun.vip.refused(seen.begin) == []
    assert begun.vip.longest_gap(seen.begin, seen.begin + seen.seconds) < ADDRESS_SECONDS
    begun.vip.await_work()
    seen.audit.read()
    assert seen.audit.unauthorized == []
    assert [each for each in seen.failures if each.of_tls] == []
    # An API server that ends closes kept connections, maybe just as a request is sent: Go's clients send it again
    # (net/http, errServerClosedIdle), and this one does not; etcd drops what is on its way to a leader that hands over.
    lost = [
        each
        for each in seen.failures
        if "etcdserver: " in each.text or (each.client == "write" and each.text.startswith("RemoteDisconnected"))
    ]
    late = [each for each in seen.failures if each.late]
    assert [each for each in seen.failures if each not in (*lost, *late, *seen.excused)] == [], seen.told()
    worked = seen.load.worked
    # Those of clients in pods too.
    requests = worked.total() + sum(seen.clients.worked(seen.begin).values())
    assert len(late) <= requests / 200 and len(lost) <= 1 + worked.total() / 1000, seen.told()
    assert worked["write"] > 30 and worked["exec"] > 3 and worked["logs"] > 6, worked
    assert all(worked[f"list as {who}"] > 20 and not seen.load.missed(who) for who in OPERATORS), worked
    assert seen.watch.most_down <= 1, seen.watch.shown()


# The beginning


def test_machines_join_beside_kubeadms_files(begun: Begun) -> None:
    changed = {name: adopted_disks.changed(files, begun.joined[name]) for name, files in begun.before.items()}
    # By its consent a plane does its part in `prepared` too, now or with its next pass: its controller manager signs
    # from a copy.
    assert all(changed[plane] in ([], [MANAGER]) for plane in PLANES) and changed[WORKER] == [], changed


# Forward


def test_everybody_learns_to_trust_both_under_load(begun: Begun, published: Seen) -> None:
    judge(begun, published)


def test_a_worker_joins_by_kubeadm_in_published(begun: Begun, later: str) -> None:
    assert "This node has joined the cluster" in later and LATER in begun.adoption.members


def test_machines_take_certificates_of_the_new_cas_under_load(begun: Begun, switched: Seen) -> None:
    judge(begun, switched)


# And back


@pytest.mark.exhaustive
def test_on_the_way_back_no_request_fails(begun: Begun, aborted: Seen) -> None:
    assert begun.adoption.states[-3:] == [S.SWITCHED, S.RETURNING, S.PREPARED], begun.adoption.states
    judge(begun, aborted)


@pytest.mark.exhaustive
def test_then_all_is_as_kubeadm_made_it_byte_for_byte(begun: Begun, aborted: Seen) -> None:
    assert begun.adoption.record() is None
    for name, before in begun.before.items():
        assert adopted_disks.changed(before, adopted_disks.files(begun.adoption.nodes[name])) == [], name


# To the end


@pytest.mark.exhaustive
def test_it_goes_to_done_under_load(begun: Begun, again: Seen, retired: Seen) -> None:
    judge(begun, again)
    judge(begun, retired)


@pytest.mark.exhaustive
def test_nothing_of_the_old_cas_is_left(
    begun: Begun, retired: Seen, old: tuple[list[x509.Certificate], list[bytes]]
) -> None:
    begun.adoption.forget_old()
    assert held_on_disks.old_left(begun.adoption.nodes.values(), *old) == []
