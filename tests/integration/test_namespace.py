"""A cluster in a namespace of its own, which bounds its applier: nothing outside is seen, reached or changed."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from pathlib import Path

from applied import Site, vaultpki
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID
from plans import SPEC, everything, fails
from servers import Server

NAMESPACE = "kube"


def fetched(server: Server, url: str, question: bytes | None = None) -> bytes:
    """What a URL brings to somebody who has no token and names no namespace; an OCSP responder is sent a question."""
    host, path = url.removeprefix("https://").split("/", 1)
    connection = http.client.HTTPSConnection(
        host, context=ssl.create_default_context(cafile=server.ca_file), timeout=30
    )
    headers = {"Content-Type": "application/ocsp-request"} if question else {}
    with contextlib.closing(connection):
        connection.request("POST" if question else "GET", f"/{path}", question, headers)
        response = connection.getresponse()
        assert response.status == 200, (url, response.status)
        return response.read()


def check_urls(server: Server, certificate: x509.Certificate, signer: x509.Certificate, above: str) -> None:
    """Fails where one of a certificate's URLs does not lie below `above`, or brings something else than it says."""
    (point,) = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    (crl,) = [name.value for name in point.full_name or ()]
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    urls = {entry.access_method: entry.access_location.value for entry in access}
    issuer, responder = urls[AuthorityInformationAccessOID.CA_ISSUERS], urls[AuthorityInformationAccessOID.OCSP]
    for url in (crl, issuer, responder):
        assert url.startswith(f"{server.address}/v1/{above}/"), url
    assert x509.load_der_x509_crl(fetched(server, crl)).issuer == signer.subject
    assert x509.load_der_x509_certificate(fetched(server, issuer)) == signer
    question = ocsp.OCSPRequestBuilder().add_certificate(certificate, signer, SHA256()).build()
    answer = ocsp.load_der_ocsp_response(fetched(server, responder, question.public_bytes(Encoding.DER)))
    assert answer.certificate_status == ocsp.OCSPCertStatus.GOOD


def check_node_urls(server: Server, pki: Path, above: str) -> None:
    leaf, issuing = x509.load_pem_x509_certificates((pki / "kubelet.crt").read_bytes())
    root = x509.load_pem_x509_certificates((pki / "kubelet-ca-chain.crt").read_bytes())[-1]
    check_urls(server, leaf, issuing, above)
    check_urls(server, issuing, root, above)


def test_an_applier_of_a_namespace_is_root_there_and_nowhere_else(own_server: Server, tmp_path: Path) -> None:
    site = Site(own_server, tmp_path, "prod")
    site.write(SPEC)
    within = {"VAULT_NAMESPACE": NAMESPACE}
    made = own_server.api("POST", f"sys/namespaces/{NAMESPACE}", {})
    if own_server.product == "vault":
        # HashiCorp has namespaces in its Enterprise edition only; the community's server knows no such path and does
        # not look at the header. README.md warns of it.
        assert made.status == 404
        vaultpki("apply", "-f", site.file, "--yes", env=own_server.environment() | within)
        assert own_server.api("GET", f"sys/mounts/{site.prefix}/root").status == 200
        urls = site.read(f"{site.prefix}/kubelet/config/urls")
        assert urls["ocsp_servers"] == [f"{own_server.address}/v1/{site.prefix}/kubelet/ocsp"]
        return
    assert made.status == 200, made
    rules = vaultpki("policy", "-f", site.file, "applier").stdout
    path = f"{NAMESPACE}/sys/policies/acl/prod-applier"
    assert own_server.api("PUT", path, {"policy": rules}).status == 204
    token = own_server.api("POST", f"{NAMESPACE}/auth/token/create", {"policies": ["prod-applier"], "ttl": "1h"})
    applier = own_server.environment(token.body["auth"]["client_token"])
    outside = everything(own_server)

    vaultpki("apply", "-f", site.file, "--yes", env=applier | within)
    again = json.loads(vaultpki("apply", "-f", site.file, "--yes", "--json", env=applier | within).stdout)
    assert (again["changes"], again["requests"]["writes"]) == ([], 0)
    other = applier | {"VAULT_NAMESPACE": f"/{NAMESPACE}/"}
    assert json.loads(vaultpki("plan", "-f", site.file, "--json", env=other).stdout)["changes"] == []

    for name, pool in (("worker-1", []), ("w-7", ["--pool", "autoscaled"])):
        node = tmp_path / name
        node.mkdir()
        join = tmp_path / f"{name}.json"
        vaultpki("enroll", "-f", site.file, name, *pool, "-o", join, env=applier | within)
        vaultpki("agent", "-c", node / "agent.yaml", "--join", join, "--dir", node / "pki", "--once", env=within)
        vaultpki("verify", "-f", site.file, "--dir", node / "pki")
        check_node_urls(own_server, node / "pki", f"{NAMESPACE}/{site.prefix}")
    vaultpki("issue", "-f", site.file, "admin", "--dir", tmp_path / "operator", env=applier | within)

    fails(vaultpki("apply", "-f", site.file, "--yes", env=applier, expect=1), "token")
    vaultpki("destroy", "-f", site.file, "--confirm", "prod", env=applier | within)
    assert everything(own_server) == outside


def test_the_namespace_above_all_has_no_name_in_urls(own_server: Server, tmp_path: Path) -> None:
    site = Site(own_server, tmp_path, "prod")
    site.write(SPEC)
    vaultpki("apply", "-f", site.file, "--yes", env=own_server.environment() | {"VAULT_NAMESPACE": "root"})
    site.equip("worker-1").run()
    check_node_urls(own_server, tmp_path / "nodes/worker-1/pki", site.prefix)
    plan = vaultpki("plan", "-f", site.file, "--json", env=own_server.environment()).stdout
    assert json.loads(plan)["changes"] == []
