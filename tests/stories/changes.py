"""What is changed in cluster.yaml and on the server comes to the node in time."""

from __future__ import annotations

import time
from datetime import timedelta

import residents
from applied import Seat, Site
from residents import AT_ONCE, POLL, Watcher, leaf, leaves, resident, short_and_long, signs
from servers import wait_for
from stories.stage import PASS, Stage

from vaultpki import x509


def applied(stage: Stage) -> None:
    """What is changed in cluster.yaml and applied is on the node within the poll interval; and a grant cut by hand."""
    base = short_and_long("60s", "kube-proxy")
    site = stage.site(base)
    seat = stage.seat(site)
    role = f"{site.prefix}/kubernetes/roles/kube-proxy"
    with resident(seat) as agent:
        agent.await_issued()
        before = leaves(seat)
        # Somebody cuts by hand what the role grants; apply would put it right.
        now = site.read(role)
        assert now["ttl"] == 60, now
        assert stage.server.api("POST", role, {**now, "ttl": 30, "max_ttl": 30}).status in (200, 204)
        since = stage.server.audit_position()

        text = base + "  kubelet: {extra_names: [kubelet.example.com]}\n" + OWN
        changed_at = change(site, text)
        # Vault sorts them.
        names = {"worker-1", "kubelet.example.com"}
        wait_for(lambda: set(leaf(seat, "kubelet").subject.dns) == names, POLL + PASS, str)
        wait_for((seat.pki / "monitoring.crt").exists, 2, lambda: "the new row did not come")
        assert leaf(seat, "monitoring").subject.common_name == "monitoring"
        assert leaf(seat, "kubelet-client") == before["kubelet-client"]
        assert time.time() - changed_at < POLL + PASS

        # apply has put the role right; the hand cuts again.
        assert stage.server.api("POST", role, {**now, "ttl": 30, "max_ttl": 30}).status in (200, 204)
        changed_at = change(site, base + "  kubelet-client: {ttl: 20d}\n")
        assert stage.server.api("POST", role, {**now, "ttl": 30, "max_ttl": 30}).status in (200, 204)

        def shorter() -> bool:
            found = leaf(seat, "kubelet-client")
            return found.not_after - found.not_before < timedelta(days=21)

        wait_for(shorter, POLL + PASS, lambda: "the shorter TTL did not come")
        wait_for(lambda: not (seat.pki / "monitoring.crt").is_symlink(), 2, lambda: "the row that went is still there")
        wait_for(lambda: leaf(seat, "kubelet").subject.dns == ("worker-1",), 2, lambda: "the name that went is there")
        # Three lives of the certificate that was cut, of which the first may be held back for half of what is left.
        agent.await_said("renewed kube-proxy", 80, 3)
        assert agent.end() < AT_ONCE
    asked = signs(stage.server, site.prefix, since)
    lives = (time.time() - changed_at + 60) / 15
    assert 3 <= asked.count("kube-proxy") <= lives, asked
    assert (asked.count("kubelet"), asked.count("kubelet-client"), asked.count("monitoring")) == (2, 1, 1), asked
    short = agent.said("granted only")
    assert len(short) == 1 and "kube-proxy" in short[0]["message"] and short[0]["granted"] <= 30, short
    # What would end sooner than the one in use is not taken, and that is told once, with the date.
    wrong = [event["event"] for event in agent.events() if event["level"] != "info"]
    assert wrong in ([], ["failed", "deadline"]), agent.log.read_text()


OWN = """\
  monitoring: {kind: client, common_name: monitoring, ca: kubernetes, roles: [worker]}
"""


def change(site: Site, text: str) -> float:
    site.write(text)
    site.apply()
    return time.time()


def polling(stage: Stage) -> None:
    """A pass that a hook called for before its time asks Vault nothing, and puts off nothing."""
    poll = 2 * POLL
    # Long enough for the pause for watchers, and over before the pass that follows would ask again.
    further = f"hooks: {{kubelet: [[sleep, '{0.6 * poll}']]}}\n"
    seat = stage.seat(stage.site(short_and_long("30s")), further=further)
    seat.configure(f"poll: {POLL}s", f"poll: {poll}s")
    with residents.proxy(stage.server) as between:
        seat.configure(stage.server.address, between.address)

        def asked() -> list[float]:
            return [when for when, _, path in between.asked if path.endswith("/config/data/cluster")]

        with resident(seat) as agent:
            agent.await_said("ran the hooks of kubelet", 40)
            wait_for(lambda: len(asked()) >= 2, 2 * poll, agent.log.read_text)
            assert agent.end() < AT_ONCE
    assert asked()[1] - asked()[0] < 1.25 * poll, asked()


def another_ca(stage: Stage) -> None:
    """A second issuing CA: bundles hold both, the new one first, before any leaf of it; the old one goes last."""
    site = stage.site(short_and_long("30s", "kube-proxy"))
    seat = stage.seat(site)
    mount, root = f"{site.prefix}/kubernetes", f"{site.prefix}/root"
    name = f"{site.name} kubernetes CA 2"
    server = stage.server

    def bundle(name: str = "kubernetes-ca.crt") -> list[str]:
        return [facts.fingerprint for facts in x509.read_certificates((seat.pki / name).read_bytes())]

    # A leaf is read before the bundle, so a bundle that came in time holds its issuer.
    strangers: list[str] = []

    class Believer(Watcher):
        def look(self) -> None:
            signers = {
                stem: x509.read_certificates((seat.pki / f"{stem}.crt").read_bytes())[1].fingerprint
                for stem in ("kube-proxy", "kubelet-client")
            }
            known = bundle()
            strangers.extend(stem for stem, signer in signers.items() if signer not in known)
            Watcher.look(self)

    with resident(seat) as agent:
        agent.await_issued()
        (old,) = bundle()
        before = leaf(seat, "kubelet-client")
        old_id = site.read(f"{mount}/config/issuers")["default"]
        with Believer(seat, pause=0.02).watching() as watched:
            made = server.api(
                "POST",
                f"{mount}/intermediate/generate/internal",
                {"common_name": name, "key_type": "ec", "key_bits": 256},
            )
            body = {"csr": made.data["csr"], "ttl": "8760h", "max_path_length": 0, "not_before_duration": "10m"}
            signed = server.api("POST", f"{root}/root/sign-intermediate", {**body, "common_name": name})
            pem = signed.data["certificate"]
            new = x509.fingerprint(pem.encode())
            taken = server.api("POST", f"{mount}/intermediate/set-signed", {"certificate": pem}).data
            (new_id,) = taken["imported_issuers"]
            assert server.api("POST", f"{mount}/config/issuers", {"default": new_id}).status == 200
            wait_for(lambda: bundle() == [new, old], POLL + PASS, lambda: f"{new} {old}: {bundle()}")
            assert bundle("kubernetes-ca-chain.crt")[:2] == [new, old] and len(bundle("kubernetes-ca-chain.crt")) == 3
            wait_for(lambda: issuer(seat, "kube-proxy") == new, 30, lambda: "nothing was signed by the new CA")
            # What is not due stays as it is: the old CA is still one.
            assert leaf(seat, "kubelet-client") == before
            since = server.audit_position()
            assert server.api("DELETE", f"{mount}/issuer/{old_id}").status in (200, 204)
            wait_for(lambda: issuer(seat, "kubelet-client") == new, POLL + PASS, lambda: "a leaf of the old CA is left")
            wait_for(lambda: bundle() == [new], 2, lambda: str(bundle()))
        assert strangers == [] and watched.looks > 100
        assert signs(server, site.prefix, since).count("kubelet-client") == 1
        assert agent.end() < AT_ONCE


def issuer(seat: Seat, stem: str) -> str:
    return x509.read_certificates((seat.pki / f"{stem}.crt").read_bytes())[1].fingerprint
