"""`vaultpki csr check`: a request in a file, and one of a cluster, with what its rules look at there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from helpers import asked_of_signer as asked
from helpers import hostile_requests as hostile
from helpers.asked_of_signer import CLIENT_USAGES, SERVER_USAGES, TOKEN
from helpers.kube import answering_api
from helpers.kube.answering_api import Api, items
from helpers.vault.applied_cluster import vaultpki
from vaultpki.redact import stamp
from vaultpki.signer.requests import CLIENT, CLIENT_KUBELET, SERVING
from vaultpki.values import yaml_text

CA: Final = trustme.CA()
GROUP: Final = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
NODES: Final = "nodes:\n- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}\n"
SPEC: Final = f"""\
cluster: prod
{NODES}signer: {{people: {{names: ["*@example.com"], groups: [[], [dev]]}}}}
pools:
- {{name: joined, roles: [worker], node_names: "w-*", join: token, networks: [10.0.0.0/16]}}
"""
NODE = hostile.simple("system:node:w-1", ["system:nodes"])
SERVER = hostile.simple(
    "system:node:w-1", ["system:nodes"], [hostile.alternative(*hostile.dns("w-1"), (0x87, bytes([10, 0, 0, 21])))]
)


class Person:
    """A person in a folder with a cluster.yaml."""

    def __init__(self, folder: Path, spec: str = SPEC) -> None:
        self.folder = folder
        (folder / "cluster.yaml").write_text(spec)

    def check(self, *words: str | Path, code: int, env: dict[str, str] | None = None) -> str:
        done = vaultpki("csr", "check", *words, "-f", self.folder / "cluster.yaml", env=env or {}, expect={code})
        return done.stdout + done.stderr

    def json(self, *words: str | Path, code: int) -> dict[str, Any]:
        done = vaultpki("csr", "check", *words, "-f", self.folder / "cluster.yaml", "--json", env={}, expect={code})
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def file(self, content: bytes | str | dict[str, Any], name: str = "a.pem") -> Path:
        path = self.folder / name
        if isinstance(content, dict):
            content = yaml_text.dump(content) if name.endswith(".yaml") else json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person(tmp_path)


def named(name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "metadata": {**value["metadata"], "name": name}}


def test_a_request_in_pem_is_taken_for_its_owners(person: Person) -> None:
    said = person.check(person.file(NODE), code=0)
    assert "a request to kubernetes.io/kube-apiserver-client-kubelet by system:node:w-1\n" in said
    assert "Vault signs it by the role csr-kubelet-client for 7d" in said
    assert "rule 20 looks at the running cluster too: pass --kubeconfig FILE" in said
    assert "by the role csr-kubelet-serving for 7d" in person.check(person.file(SERVER), code=0)
    said = person.check(person.file(hostile.simple("bob@example.com", ["dev"]), "bob.csr"), code=0)
    assert "by the role csr-person-1 for 1d" in said and "--kubeconfig" not in said


@pytest.mark.parametrize(
    ("pem", "rule", "message"),
    [
        (NODE + NODE, "2", "the request is not exactly one PEM block"),
        (b"hello\n", "2", "the request is not exactly one PEM block"),
        (
            hostile.simple("bob@example.com", kind="p521"),
            "6",
            "the key is neither P-256, P-384 nor RSA of 2048 to 4096 bits",
        ),
        (
            hostile.simple("system:node:cp-1", ["system:nodes"]),
            "15",
            "cp-1 is a node of cluster.yaml: its agent has its certificates",
        ),
        (hostile.simple("system:node:v-1", ["system:nodes"]), "16", "v-1 is in no pool that joins by token"),
        (hostile.simple("SYSTEM:NODE:w-1", []), "12", "O is not system:nodes alone"),
        (hostile.simple("kubernetes-admin", []), "29", "CN kubernetes-admin is reserved"),
        (hostile.simple("bob@evil.com", []), "30a", "the name is none of signer.people.names"),
    ],
)
def test_the_rule_that_a_file_breaks(person: Person, pem: bytes, rule: str, message: str) -> None:
    path = person.file(pem)
    said = person.check(path, code=3)
    assert f"rule {rule}: vaultpki signer: {message}\n" in said
    assert "this request is not signed" in said
    found = person.json(path, code=3)
    assert (found["rule"], found["message"], found["role"]) == (rule, f"vaultpki signer: {message}", None)


@pytest.mark.parametrize("name", ["request.yaml", "request.json"])
def test_an_object_in_a_file(person: Person, name: str) -> None:
    value = named("node-csr-1", asked.api_object(CLIENT_KUBELET, NODE, *TOKEN, CLIENT_USAGES, expirationSeconds=3600))
    found = person.json(person.file(value, name), code=0)
    assert found == {
        "name": "node-csr-1",
        "signer": CLIENT_KUBELET,
        "username": TOKEN[0],
        "approved": True,
        "denied": False,
        "failed": False,
        "issued": False,
        "role": "csr-kubelet-client",
        "rule": None,
        "message": "it passes the rules: once it is approved, Vault signs it by the role csr-kubelet-client for 1h",
        "left_out": ["20"],
    }
    wrong = asked.api_object(SERVING, SERVER, *TOKEN, SERVER_USAGES)
    said = person.check(person.file(wrong, name), code=3)
    assert f"rule 22: vaultpki signer: {TOKEN[0]} is not CN\n" in said


def test_a_signer_that_is_not_served(person: Person) -> None:
    value = asked.api_object("kubernetes.io/legacy-unknown", NODE, *TOKEN, CLIENT_USAGES)
    said = person.check(person.file(value, "a.yaml"), code=3)
    assert "kubernetes.io/legacy-unknown is not served in this cluster, so the signer does not answer\n" in said


def test_nothing_of_a_request_steers_the_terminal(person: Person) -> None:
    value = asked.api_object(CLIENT_KUBELET, NODE, "\x1b[2Jevil", ["a"], CLIENT_USAGES)
    said = person.check(person.file(value, "a.json"), code=3)
    assert "\x1b" not in said and "rule 19" in said


@pytest.mark.parametrize(
    ("spec", "words", "code", "hint"),
    [
        (f"cluster: prod\n{NODES}", ["a.pem"], 1, "has no signer, so nobody signs requests of this cluster"),
        (SPEC, ["./missing.pem"], 1, "no such file"),
        (SPEC, ["./list.yaml"], 1, "is no CertificateSigningRequest"),
        (SPEC, ["csr-1"], 2, "a request of the cluster is read by --kubeconfig FILE"),
    ],
)
def test_what_cannot_be_checked(tmp_path: Path, spec: str, words: list[str], code: int, hint: str) -> None:
    person = Person(tmp_path, spec)
    person.file("kind: CertificateSigningRequestList\nitems: []\n", "list.yaml")
    said = person.check(*(tmp_path / word if "." in word else word for word in words), code=code)
    assert hint in said


@pytest.fixture
def api() -> Iterator[Api]:
    requests = [
        named("of-a-token", asked.api_object(CLIENT_KUBELET, NODE, *TOKEN, CLIENT_USAGES)),
        named(
            "of-a-living-node",
            asked.api_object(
                CLIENT_KUBELET, hostile.simple("system:node:w-2", ["system:nodes"]), *TOKEN, CLIENT_USAGES
            ),
        ),
        named("of-w-1", asked.api_object(SERVING, SERVER, "system:node:w-1", ["system:nodes"], SERVER_USAGES)),
        named(
            "again",
            asked.api_object(
                CLIENT_KUBELET, hostile.simple("system:node:w-3", ["system:nodes"]), *TOKEN, CLIENT_USAGES
            ),
        ),
        named(
            "before",
            asked.api_object(
                CLIENT_KUBELET, hostile.simple("system:node:w-3", ["system:nodes"]), *TOKEN, CLIENT_USAGES
            ),
        ),
        named("bobs", asked.api_object(CLIENT, hostile.simple("bob@example.com"), "bob", [], CLIENT_USAGES)),
    ]
    requests[4]["status"]["certificate"] = "eA=="
    values: dict[str, Any] = {f"{GROUP}/{each['metadata']['name']}": each for each in requests}
    values[GROUP] = items(*requests)
    node = {"metadata": {"name": "w-1"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.21"}]}}
    values["/api/v1/nodes"] = items(node)
    renewed = stamp(datetime.now(UTC)).replace("Z", ".000000Z")
    values[f"{LEASES}/w-2"] = {"metadata": {"name": "w-2"}, "spec": {"renewTime": renewed}}
    with answering_api.serving(values, CA.issue_cert("127.0.0.1").configure_cert) as server:
        yield server


def test_requests_of_a_cluster_with_what_runs_there(person: Person, api: Api) -> None:
    config = Path(answering_api.access(api, person.folder, CA.cert_pem.bytes()).file)
    for name, role in (("of-a-token", "csr-kubelet-client"), ("of-w-1", "csr-kubelet-serving"), ("bobs", "csr-person")):
        found = person.json(name, "--kubeconfig", config, code=0)
        assert (found["name"], found["role"], found["left_out"]) == (name, role, [])
    said = person.check("of-a-living-node", "--kubeconfig", config, code=3)
    assert (
        "rule 20: vaultpki signer: node w-2 is alive: stop it or delete its Node and Lease before it joins again"
        in said
    )
    said = person.check("again", code=3, env={"KUBECONFIG": str(config)})
    assert "rule 20: vaultpki signer: w-3 got a certificate by before: delete that request if the same" in said
    api.values["/api/v1/nodes"] = items()
    said = person.check("of-w-1", "--kubeconfig", config, code=3)
    assert "rule 25: vaultpki signer: an address is not in the status of its Node" in said
    assert "the cluster has no request none; see `kubectl get csr`" in person.check(
        "none", "--kubeconfig", config, code=1
    )
    assert api.methods == {"GET"}


def test_a_file_is_judged_with_the_cluster_too(person: Person, api: Api) -> None:
    config = Path(answering_api.access(api, person.folder, CA.cert_pem.bytes()).file)
    found = person.json(person.file(SERVER), "--kubeconfig", config, code=0)
    assert (found["role"], found["left_out"]) == ("csr-kubelet-serving", [])
    api.values["/api/v1/nodes"] = items()
    assert person.json(person.file(SERVER), "--kubeconfig", config, code=3)["rule"] == "25"
