"""The control runs: each switches exactly one protection off, and shows the failure that the model has without it.

A protection is switched off in the process of the operator's command or of the machine's, by lines of Python that run
there before the command; the product has no such option. Each has a small cluster of its own, which it breaks. Before
that the same is tried with the protection, which must hold; with the signing copy the phase `join-published` does that.
"""

from __future__ import annotations

import base64
import concurrent.futures
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from helpers.kube.components import Programs
from helpers.product import PYTHONPATH
from helpers.vault import servers
from helpers.vault.servers import wait_for
from soak.adoption import cluster as clusters
from soak.adoption.cluster import Soaked, frozen, thawed
from soak.command import ENDS
from soak.phases import Control, Phase
from soak.printed import brief, say

COMER = "w-2"
PERSON = "somebody"
UNTRUSTED = "certificate signed by unknown authority"
# A node counts as silent after 50 s, and what is asked of an API server that is not trusted is asked again and again.
FAILS_SECONDS = 300.0
# Of a join that must not end.
JOIN_SECONDS = 240
NOT_ISSUED_SECONDS = 60

_WITHOUT_UNSEEN = """\
from dataclasses import replace
from vaultpki.adopt import look
_whole = look.seen_of
def _enrolled(*words):
    seen = _whole(*words)
    return replace(seen, machines=tuple(each for each in seen.machines if each.enrolled))
look.seen_of = _enrolled
"""
_WITH_OLD_TOKENS = """\
from vaultpki.adopt import writes
_every = writes.due
writes.due = lambda *words: tuple(each for each in _every(*words) if "/bootstrap-token-" not in each.path)
"""
_WITHOUT_COPY = """\
from vaultpki.takeover import arrangement
arrangement._signing_flags = lambda before: ()
"""
# The product on a machine, changed.
_CHANGED = """\
#!/bin/sh
exec env PYTHONPATH={path} {python} {program} "$@"
"""


def without_unseen_nodes(one: Soaked) -> tuple[str, str]:
    """A worker has no agent, and the operator's look counts only nodes that have one."""
    one.describe()
    one.enrol("cp-1")
    one.begin()
    # As an hour later: issued CSRs count too for as long as there are any, and that is another protection.
    one.kubectl("delete csr --all")
    one.lead("published")
    reason = _reason(one, "w-1")
    assert "has no agent" in reason, reason
    one.changed = _WITHOUT_UNSEEN
    one.lead("switched")
    return f"the gate stays closed: w-1 {reason}", _locked_out(one, "w-1")


def with_a_stale_token(one: Soaked) -> tuple[str, str]:
    """A join begins before published and takes long, and its token is not deleted."""
    one.describe()
    for name in one.nodes_at_first:
        one.enrol(name)
    one.begin()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        join = _begin_join(one, pool)
        one.lead("published")
        thawed(one, COMER)
        join.result()
        held = _last(one, "nauthorized")
        assert COMER not in _members(one)
        one.clear(COMER)
        one.lead("prepared")
        one.token()
        join = _begin_join(one, pool)
        one.changed = _WITH_OLD_TOKENS
        one.lead("published")
        # The next command takes the step, and before any machine does what it asks the join ends.
        _step_alone(one, "switched")
        thawed(one, COMER)
        wait_for(lambda: COMER in _members(one), FAILS_SECONDS, lambda: _kubelet(one, COMER)[-2000:], 1)
        one.turns()
        seen = _locked_out(one, COMER)
        join.result()
    return f"its token is refused after published: {held}", seen


def without_the_signing_copy(one: Soaked) -> tuple[str, str]:
    """The controller manager of the control plane goes on to sign from kubeadm's own ca.crt, which gets a second CA."""
    one.describe()
    for name in one.nodes_at_first:
        one.enrol(name)
    # With what kubeadm left: a CSR is issued within moments.
    _request(one)
    wait_for(lambda: "Issued" in one.kubectl(f"get csr {PERSON}"), FAILS_SECONDS, lambda: "no CSR is issued", 1)
    one.kubectl(f"delete csr {PERSON}")
    program = one.folder / "without-copy.py"
    program.write_text(f"{_WITHOUT_COPY}import sys\nfrom vaultpki.__main__ import main\nsys.exit(main())\n")
    tool = one.nodes["cp-1"].tools / "vaultpki"
    tool.write_text(_CHANGED.format(path=PYTHONPATH, python=sys.executable, program=program))
    one.begin()
    while one.state != "published":
        one.adopt("continue", "--yes")
    # Its controller manager cannot become healthy as the leader, so the command may say so.
    for name in (*one.nodes_at_first, "cp-1"):
        ran = one.nodes[name].run("sh", "-c", "vaultpki adopt node 2>&1", expect=None)
        one.said.append(f"{name}$ adopt node -> {ran.returncode}\n{ran.stdout}")
        one.adopt("continue", "--yes")
    one.person()
    _request(one)
    time.sleep(NOT_ISSUED_SECONDS)
    requests = one.kubectl(f"get csr {PERSON}")
    # A person has approved it, so only the controller manager is missing.
    assert "Approved" in requests and "Issued" not in requests, requests
    last = one.kubectl("-n kube-system logs kube-controller-manager-cp-1 --previous --tail 1", expect=None)
    seen = brief(f"its CSR is not issued ({requests}); the controller manager: {last}")
    return "a worker joins in published, see the phase join-published", seen


def _request(one: Soaked) -> None:
    """A person asks for a certificate by a CSR, and an administrator approves it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, PERSON)])
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    spec = {
        "request": base64.b64encode(made.public_bytes(Encoding.PEM)).decode(),
        "signerName": "kubernetes.io/kube-apiserver-client",
        "usages": ["client auth"],
    }
    head = {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": PERSON}}
    one.kubernetes.apply({**head, "spec": spec})
    one.kubectl(f"certificate approve {PERSON}")


def _begin_join(one: Soaked, pool: concurrent.futures.ThreadPoolExecutor) -> concurrent.futures.Future[str]:
    """The worker reads cluster-info and its token, and then takes its time."""
    frozen(one, COMER)
    # Later than the bound kubeadm is ended; the kubelet goes on by itself.
    join = pool.submit(_join_slowly, one)
    file = one.nodes[COMER].seen("/etc/kubernetes/bootstrap-kubelet.conf")
    wait_for(file.exists, FAILS_SECONDS, lambda: f"{COMER} has not begun to join", 0.2)
    time.sleep(5)
    return join


def _join_slowly(one: Soaked) -> str:
    try:
        return one.join(COMER, within=JOIN_SECONDS)
    except AssertionError as error:
        return str(error)


def _step_alone(one: Soaked, state: str) -> None:
    """Take the next step, and have no machine do anything for it."""
    later: tuple[str, ...] = ()
    for _ in range(60):
        found = one.adopt("continue", "--yes", *later)
        if one.state == state:
            return
        later = one.by_hand({each["node"] for each in found["waiting_for"]}, found["next"])
        time.sleep(2)
    raise AssertionError(one.said[-1])


def _reason(one: Soaked, name: str) -> str:
    found = one.adopt("continue", "--yes")
    return next((each["reason"] for each in found["waiting_for"] if each["node"] == name), "")


def _members(one: Soaked) -> list[str]:
    return [each.removeprefix("node/") for each in one.kubectl("get nodes -o name").split()]


def _kubelet(one: Soaked, name: str) -> str:
    return one.nodes[name].machine.processes["kubelet"].said()


def _last(one: Soaked, word: str) -> str:
    """The last line of the joining kubelet with a word."""
    wait_for(lambda: word in _kubelet(one, COMER), FAILS_SECONDS, lambda: _kubelet(one, COMER)[-2000:], 1)
    return brief([line for line in _kubelet(one, COMER).splitlines() if word in line][-1])


def _locked_out(one: Soaked, name: str) -> str:
    """Waits until a node does not trust the API server any more, and counts as silent; what its kubelet says."""
    begin = len(_kubelet(one, name))

    def fails() -> bool:
        path = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        ready = one.kubectl(f"get node {name} -o '{path}'").strip()
        return UNTRUSTED in _kubelet(one, name)[begin:] and ready == "Unknown"

    wait_for(fails, FAILS_SECONDS, lambda: f"{name} goes on:\n{_kubelet(one, name)[-2000:]}", 1)
    line = [each for each in _kubelet(one, name).splitlines() if UNTRUSTED in each][-1]
    return f"{name} is locked out and silent: {brief(line)}"


CONTROLS: Mapping[str, tuple[str, str, Callable[[Soaked], tuple[str, str]]]] = {
    "control-nodes": (
        "nodes: a gate counts the Node objects of the cluster, not only enrolled nodes",
        "I1: node 1 serves a leaf of N, node 2 trusts O",
        without_unseen_nodes,
    ),
    "control-token": (
        "stale: published waits until no join that read cluster-info before can still end: its token is deleted",
        "I1: node 1 serves a leaf of N, node 2 trusts O",
        with_a_stale_token,
    ),
    "control-signer": (
        "signfile: the CSR signer gets a file of its own with O alone before ca.crt holds two certificates",
        "nobody signs CSRs any more: certificates of kubelets end (I1), and no way home (I3)",
        without_the_signing_copy,
    ),
}
"""By name: the rule of tests/models/adoption_tables.py, what the model says without it, and the run."""


def on(
    kind: str, programs: Programs, binary: Path | None, folder: Path, names: Sequence[str], phases: list[Phase]
) -> None:
    """Adds the control runs on one server to `phases`, each on a cluster of its own."""
    for name in names:
        rule, model, run = CONTROLS[name]
        say(f"{kind}: {name}")
        place, begin, broken = folder / name, time.time(), ""
        found = Control(rule, model)
        with (
            servers.running(kind, place / "server", binary) as server,
            clusters.small(server, programs, place / "kube") as cluster,
        ):
            try:
                found = Control(rule, model, *run(cluster))
            except ENDS as error:
                broken = f"{type(error).__name__}: {error}"
                say(f"{kind}, {name}: {brief(broken)}")
            finally:
                (place / "said.log").write_text("\n".join(cluster.said))
        phases.append(Phase(kind, name, time.time() - begin, 0, broken=broken, control=found))
