"""A cluster in a namespace of its own, which bounds its applier: nothing outside is seen, reached or changed."""

from __future__ import annotations

import json
from pathlib import Path

from applied import Site, vaultpki
from plans import SPEC, everything, fails
from servers import Server

NAMESPACE = "kube"


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

    for name, pool in (("worker-1", []), ("w-7", ["--pool", "autoscaled"])):
        node = tmp_path / name
        node.mkdir()
        join = tmp_path / f"{name}.json"
        vaultpki("enroll", "-f", site.file, name, *pool, "-o", join, env=applier | within)
        vaultpki("agent", "-c", node / "agent.yaml", "--join", join, "--dir", node / "pki", "--once", env=within)
        vaultpki("verify", "-f", site.file, "--dir", node / "pki")
    vaultpki("issue", "-f", site.file, "admin", "--dir", tmp_path / "operator", env=applier | within)

    fails(vaultpki("apply", "-f", site.file, "--yes", env=applier, expect=1), "token")
    vaultpki("destroy", "-f", site.file, "--confirm", "prod", env=applier | within)
    assert everything(own_server) == outside
