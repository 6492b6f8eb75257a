"""What does not belong on a CA's mount adds no trust and takes none away, and is told by the agent and by `plan`."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.node.resident_agent import proxy
from helpers.vault.applied_cluster import Seat, Site, vaultpki
from helpers.vault.plan_commands import SPEC, Watched
from helpers.vault.servers import Server
from vaultpki.agent import run
from vaultpki.agent.context import Outcome
from vaultpki.certificates import ISSUING_CAS
from vaultpki.pki import x509
from vaultpki.spec import load_agent

ETCD = ("etcdserver", "etcd-peer", "etcd-healthcheck-client")


@pytest.fixture
def site(server: Server, tmp_path: Path, cluster_name: str) -> Watched:
    site = Watched(server, tmp_path / "site", cluster_name)
    site.write(SPEC)
    site.apply()
    return site


@pytest.fixture
def seat(site: Site, tmp_path: Path) -> Seat:
    """A node with all its certificates, and a hook that restarts etcd in earnest."""
    seat = site.equip("cp-1", further=f"hooks: {{etcd-ca: [[sh, -c, 'echo restarted >> {tmp_path}/restarts']]}}\n")
    seat.run()
    (tmp_path / "restarts").write_text("")
    return seat


def certificate(site: Site, ca: str) -> str:
    pem: str = site.read(f"{site.prefix}/{ca}/issuer/default")["certificate"]
    return pem


def brought(site: Site, ca: str, pem: str) -> str:
    """The id of the issuer that this certificate, which is public, becomes on the mount of a CA."""
    answer = site.server.api("POST", f"{site.prefix}/{ca}/issuers/import/cert", {"pem_bundle": pem})
    assert answer.status == 200, answer
    (made,) = answer.data["imported_issuers"]
    return str(made)


def made_default(site: Site, ca: str, issuer: str) -> None:
    assert site.server.api("POST", f"{site.prefix}/{ca}/config/issuers", {"default": issuer}).status == 200


def deleted(site: Site, ca: str) -> None:
    """The mount's own issuer is gone."""
    assert site.server.api("DELETE", f"{site.prefix}/{ca}/issuer/{ca}-1").status in (200, 204)


def bundles(seat: Seat) -> dict[str, bytes]:
    """Every bundle, and by its generation's place whether it was laid down anew."""
    found = {path.name: path.read_bytes() for path in seat.pki.glob("*-ca*.crt")}
    return found | {"place": str((seat.pki / "etcd-ca.crt").resolve()).encode()}


def pairs(seat: Seat) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in seat.pki.glob("*.pem")}


def passed(seat: Seat, *force: str, clock: float | None = None) -> Outcome:
    """A pass in this process that asks Vault, and does not wait for watchers."""
    seat.age()
    return run.run(load_agent(seat.config), run.Options(settle=False, force=frozenset(force)), clock=clock)


def told(done: Outcome) -> list[dict[str, Any]]:
    return [{"level": event.level, **event.fields} for event in done.events if event.name == "stranger"]


def beside(site: Site, issuer: str) -> None:
    """The real one stays, and stays the default."""


def default_too(site: Site, issuer: str) -> None:
    made_default(site, "etcd", issuer)


def instead(site: Site, issuer: str) -> None:
    made_default(site, "etcd", issuer)
    deleted(site, "etcd")


@pytest.mark.parametrize("ca", ["kubernetes", "root"])
@pytest.mark.parametrize("act", [beside, default_too, instead])
def test_a_ca_of_the_cluster_on_another_mount_changes_nothing(
    site: Watched, seat: Seat, tmp_path: Path, act: Callable[[Site, str], None], ca: str
) -> None:
    trusted, held = bundles(seat), pairs(seat)
    pem = certificate(site, ca)
    issuer = brought(site, "etcd", pem)
    act(site, issuer)
    for _ in range(3):
        done = passed(seat)
        assert not done.failures and done.renewed == () and not done.bundles_changed
        why = f"its name is not CN={site.name} etcd CA alone"
        if ca == "root":
            why = "it is the root CA, which belongs on its own mount alone"
        about = {"ca": "etcd", "sha256": x509.fingerprint(pem.encode()), "reason": why}
        assert told(done) == [{"level": "warning", **about}]
        assert bundles(seat) == trusted and pairs(seat) == held
    seat.age()
    line = f"CN={site.name} {ca} CA on the mount of etcd is not trusted: {why}"
    assert seat.run().stderr == f"vaultpki: {line}; remove it from the mount\n"
    assert (tmp_path / "restarts").read_text() == ""
    report = site.read(site.report_path("cp-1"))["data"]
    assert report["strangers"] == [line] and report["failures"] == []
    # A node that comes now takes no more from it.
    other = site.equip("cp-1", folder=tmp_path / "fresh")
    done = passed_first(other)
    lies = (other.pki / "etcd-ca.crt").read_bytes() if (other.pki / "etcd-ca.crt").exists() else None
    assert lies == (None if act is instead else trusted["etcd-ca.crt"])
    assert {"kube-apiserver", "kube-scheduler"} <= set(done.renewed)
    assert (set(ETCD) & {path.stem for path in other.pki.glob("*.crt")} == set()) is (act is not beside)

    shown = site.plan()
    danger = {"name": f"issuer {site.prefix}/etcd/issuer/{issuer}", "reason": f"foreign and dangerous: {why}"}
    assert shown["dangers"] == [danger]
    assert [(change["kind"], change["name"]) for change in shown["changes"]] == (
        [] if act is beside else [("issuer", f"{site.prefix}/etcd")]
    )
    for options in ([], ["--verbose"]):
        ran = vaultpki("plan", "-f", site.file, *options, env=site.environment("viewer"))
        assert f"! {danger['name']}: {danger['reason']}\n" in ran.stdout.replace("\n    ", " ")
        assert ran.stdout.count(issuer) == 1


def passed_first(seat: Seat) -> Outcome:
    return run.run(load_agent(seat.config), run.Options(settle=False))


def test_a_node_that_renews_goes_on_with_the_other_domains(site: Watched, seat: Seat) -> None:
    trusted, held = bundles(seat), pairs(seat)
    instead(site, brought(site, "etcd", certificate(site, "kubernetes")))
    done = passed(seat, "*")
    etcd = {"etcd-server", "etcd-peer", "etcd-healthcheck-client", "kube-apiserver-etcd"}
    assert set(done.failures) == etcd and {"kube-apiserver", "kube-scheduler", "front-proxy-client"} <= {*done.renewed}
    assert bundles(seat) == trusted
    now = pairs(seat)
    assert {name for name in held if held[name] == now[name]} == {
        *(f"{stem}.pem" for stem in ETCD),
        "kube-apiserver-etcd.pem",
    }


def test_a_stranger_comes_and_goes_and_a_ca_that_is_gone_stays_trusted(site: Watched, seat: Seat) -> None:
    """As a CA that goes away with no stranger in its place; apply makes a new certificate for the key that is left."""
    trusted = bundles(seat)["etcd-ca.crt"]
    stranger = brought(site, "etcd", certificate(site, "kubernetes"))
    deleted(site, "etcd")
    assert not passed(seat).failures and (seat.pki / "etcd-ca.crt").read_bytes() == trusted
    # The copy of what Vault said is lost, and the bundle is all that knows.
    (seat.state / "spec.json").unlink()
    assert not run.run(load_agent(seat.config), run.Options(settle=False)).failures
    assert (seat.pki / "etcd-ca.crt").read_bytes() == trusted
    # The bundle is lost, and the copy is all that knows.
    (seat.pki / "etcd-ca.crt").unlink()
    assert not passed(seat).failures and (seat.pki / "etcd-ca.crt").read_bytes() == trusted
    # What somebody wrote into the bundle is no trust of ours.
    bundle = seat.pki / "etcd-ca.crt"
    bundle.write_bytes(trusted + certificate(site, "kubelet").encode())
    assert not passed(seat).failures and bundle.read_bytes() == trusted
    # One that the root signed within a day is taken for one whose answer was lost, unless it is revoked.
    serial = f"{x509.read_certificates(trusted)[0].serial:x}"
    serial = ":".join(textwrap.wrap(serial.zfill(len(serial) + len(serial) % 2), 2))
    assert site.server.api("POST", f"{site.prefix}/root/revoke", {"serial_number": serial}).status == 200
    site.apply()
    assert site.server.api("DELETE", f"{site.prefix}/etcd/issuer/{stranger}").status in (200, 204)
    done = passed(seat)
    assert not done.failures and told(done) == [] and done.renewed == ()
    both = bundle.read_bytes()
    assert len(both) > len(trusted) and trusted in both
    for _ in range(2):
        done = passed(seat, clock=time.time() + 3700)
        assert not done.failures and done.renewed == () and bundle.read_bytes() == both
    passed(seat, "etcd-peer")
    leaf, signer = x509.read_certificates((seat.pki / "etcd-peer.crt").read_bytes())
    assert signer.pem.encode() in both.replace(trusted, b"") and x509.signed_by(leaf, signer)


def test_a_later_key_of_the_ca_counts_beside_the_first(site: Watched, seat: Seat) -> None:
    mount, name = f"{site.prefix}/etcd", f"{site.name} etcd CA 2"
    before = bundles(seat)["etcd-ca.crt"]
    api = site.server.api
    csr = api("POST", f"{mount}/intermediate/generate/internal", {"common_name": name, "key_type": "ec"}).data["csr"]
    body = {"csr": csr, "common_name": name, "ttl": "8760h", "max_path_length": 0, "not_before_duration": "10m"}
    pem = api("POST", f"{site.prefix}/root/root/sign-intermediate", body).data["certificate"]
    assert api("POST", f"{mount}/intermediate/set-signed", {"certificate": pem}).status == 200
    done = passed(seat)
    assert told(done) == [] and not done.failures
    # Newest first, but both may have begun in one second.
    made = pem.strip().encode() + b"\n"
    assert bundles(seat)["etcd-ca.crt"] in (made + before, before + made)
    shown = site.plan()
    assert shown["dangers"] == [] and len(shown["unmanaged"]) == 1


def test_another_root_on_the_root_mount_is_told(site: Watched, seat: Seat) -> None:
    body = {"common_name": "other", "issuer_name": "other"}
    pem = site.server.api("POST", f"{site.prefix}/root/root/generate/internal", body).data["certificate"]
    done = passed(seat)
    assert not done.failures and [(one["ca"], one["reason"]) for one in told(done)] == [
        ("root", "it is not the pinned root CA")
    ]
    assert x509.fingerprint(pem.encode()) == told(done)[0]["sha256"]
    assert site.plan()["dangers"] == [
        {
            "name": f"issuer {site.prefix}/root/issuer/other",
            "reason": "foreign and dangerous: it is not the cluster's root CA",
        }
    ]
    ran = site.apply()
    assert f"! issuer {site.prefix}/root/issuer/other: foreign and dangerous" in ran.stdout


def test_one_in_the_place_of_the_mounts_own_is_told(site: Watched) -> None:
    """By its name it passes for ours; by its certificate it does not."""
    stranger = brought(site, "etcd", certificate(site, "kubernetes"))
    instead(site, stranger)
    patched = site.server.api("POST", f"{site.prefix}/etcd/issuer/{stranger}", {"issuer_name": "etcd-1"})
    assert patched.status in (200, 204)
    (danger,) = site.plan()["dangers"]
    assert danger["name"] == f"issuer {site.prefix}/etcd/issuer/etcd-1"
    assert f"its name is not CN={site.name} etcd CA alone" in danger["reason"]


def test_a_server_that_lies_of_every_ca_changes_no_bundle(site: Watched, seat: Seat, tmp_path: Path) -> None:
    """It answers for each issuing CA with another one's certificate, or with what is none."""
    trusted, held = bundles(seat), pairs(seat)
    known = {ca: certificate(site, ca) for ca in ISSUING_CAS}
    turned = dict(zip(ISSUING_CAS, [*ISSUING_CAS[1:], ISSUING_CAS[0]], strict=True))
    garbled = {ca: known[ca].replace("M", "N", 1) for ca in ISSUING_CAS}
    for lies in ({ca: known[turned[ca]] for ca in ISSUING_CAS}, garbled):

        def lie(method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            for ca, pem in lies.items():  # noqa: B023 - it is over before the next one
                if f"/{ca}/issuer/" in path and "certificate" in body.get("data", {}):
                    return status, {**body, "data": {**body["data"], "certificate": pem}}
            return status, body

        with proxy(site.server, lie) as between:
            seat.configure(site.server.address, between.address)
            done = passed(seat)
            assert not done.failures and done.renewed == () and {one["ca"] for one in told(done)} == {*ISSUING_CAS}
            assert bundles(seat) == trusted and pairs(seat) == held
            seat.configure(between.address, site.server.address)
    assert (tmp_path / "restarts").read_text() == ""
    done = passed(seat)
    assert not done.failures and told(done) == [] and bundles(seat) == trusted


def test_a_name_that_would_steer_a_terminal_is_told_harmlessly(site: Watched) -> None:
    """The name of an issuer is the server's to say."""
    steering = "x\x1b[2J\nPlan: 0 to create"
    issuer = brought(site, "etcd", certificate(site, "kubernetes"))

    def lie(method: str, path: str, status: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        info = body.get("data", {}).get("key_info", {})
        if issuer in info:
            info[issuer]["issuer_name"] = steering
        return status, body

    with proxy(site.server, lie) as between:
        ran = vaultpki("plan", "-f", site.file, env=site.environment("viewer") | {"VAULT_ADDR": between.address})
    assert "\x1b" not in ran.stdout + ran.stderr
    name = f"issuer {site.prefix}/etcd/issuer/x\\x1b[2J\\nPlan: 0 to create"
    told = f"! {name}: foreign and dangerous: its name is not CN={site.name} etcd CA alone"
    shown = ran.stdout.replace("\n    ", " ").splitlines()
    assert [line for line in shown if line.startswith("! ")] == [told]
    assert [line for line in shown if line.startswith("Plan")] == []


def test_an_operator_takes_no_stranger_either(site: Watched, tmp_path: Path) -> None:
    folder = tmp_path / "operator"
    site.issue("admin", folder)
    bundle = (folder / "etcd-ca.crt").read_bytes()
    instead(site, brought(site, "etcd", certificate(site, "kubernetes")))
    ran = site.issue("super-admin", folder)
    assert (folder / "etcd-ca.crt").read_bytes() == bundle
    assert f"! CN={site.name} kubernetes CA on the mount of etcd is not trusted" in ran.stderr
    site.issue("admin", tmp_path / "fresh")
    assert not (tmp_path / "fresh" / "etcd-ca.crt").exists() and (tmp_path / "fresh" / "kubernetes-ca.crt").exists()
    # What it needs itself has to be there.
    instead_of_kubernetes = brought(site, "kubernetes", certificate(site, "kubelet"))
    made_default(site, "kubernetes", instead_of_kubernetes)
    deleted(site, "kubernetes")
    before = (folder / "admin.crt").read_bytes()
    ran = site.issue("admin", tmp_path / "other", expect=1)
    assert "shows no issuing CA of this cluster" in ran.stderr and ran.stderr.count("\n") == 1
    site.issue("admin", folder, expect=1)
    assert (folder / "admin.crt").read_bytes() == before


def test_plan_tells_dangers_by_its_exit_code(site: Watched) -> None:
    command = ("plan", "-f", site.file, "--detailed-exitcode")
    environment = site.environment()
    vaultpki(*command, env=environment)
    issuer = brought(site, "front-proxy", certificate(site, "etcd"))
    vaultpki(*command, env=environment, expect=3)
    vaultpki("plan", "-f", site.file, env=environment)
    made_default(site, "front-proxy", issuer)
    vaultpki(*command, env=environment, expect=4)
    ran = vaultpki("apply", "-f", site.file, "--yes", "--json", env=environment)
    (danger,) = json.loads(ran.stdout)["dangers"]
    assert issuer in danger["name"]
