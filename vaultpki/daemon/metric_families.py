"""The agent's state as metrics of Prometheus, and what is wrong with its certificates in sentences."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import Metric, registry

from vaultpki.daemon import own_findings
from vaultpki.daemon.view import CertificateView, Counts, LeafView, View
from vaultpki.pki.ca_life import Level


class X509Collector(registry.Collector):
    """The installed certificates under the names of x509-certificate-exporter.

    It has that exporter's labels for a certificate in a file (its docs/metrics.md, version 4); the serial number is
    decimal there.
    """

    def __init__(self, look: Callable[[], View | None]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        view = self._look()
        leaves = [one.leaf for one in view.certificates if one.leaf] if view else []
        for name, about, read in _X509_METRICS:
            metric = Metric(name, about, "gauge")
            for leaf in leaves:
                labels = {
                    "filename": leaf.path.rpartition("/")[2],
                    "filepath": leaf.path,
                    "issuer_CN": leaf.issuer,
                    "serial_number": str(leaf.serial),
                    "subject_CN": leaf.subject,
                    "subject_O": "".join(leaf.organization[:1]),
                }
                metric.add_sample(name, labels, read(leaf))
            yield metric


_X509_METRICS: Final[tuple[tuple[str, str, Callable[[LeafView], float]], ...]] = (
    ("x509_cert_not_before", "When the certificate becomes valid.", lambda leaf: leaf.not_before),
    ("x509_cert_not_after", "When the certificate expires.", lambda leaf: leaf.not_after),
)


class Collector(registry.Collector):
    """The agent's metrics, as `look` and `counts` show it at each collection; every sample has cluster and node.

    Before the first pass has ended there are only the version and the counters.
    """

    def __init__(
        self, look: Callable[[], View | None], counts: Callable[[], Counts], clock: Callable[[], float] = time.time
    ) -> None:
        self._look, self._counts, self._clock = look, counts, clock

    def collect(self) -> Iterator[Metric]:
        view, counts = self._look(), self._counts()
        names = {"cluster": counts.cluster, "node": counts.node}
        families = [*_of_counts(counts), *(_of_view(view, self._clock()) if view is not None else ())]
        for family in families:
            for sample in family.samples:
                sample.labels.update(names)
            yield family


def _of_counts(counts: Counts) -> Iterator[Metric]:
    from vaultpki import __version__

    yield family("build_info", "The version that runs.", [({"version": __version__}, 1)])
    yield family("node_info", "The node of this agent.", [({}, 1)])
    renewals = [({"name": name}, count) for name, count in counts.renewals.items()]
    yield family("renewals_total", "Certificates installed.", renewals)
    about = "Files of this node that the agent put right, since somebody else had changed them."
    yield family("tampered_total", about, [({}, counts.tampered)])
    yield family("signs_total", "Certificates that Vault was asked to sign.", [({}, counts.signs)])


def _of_view(view: View, now: float) -> Iterator[Metric]:
    yield family("agent_state", "1 for the state: ok, backing-off or needs-join.", [({"state": view.state}, 1)])
    about = "1 while the node has this finding, as `vaultpki status` shows it; 0 for each other one."
    found = own_findings.states(view, now)
    yield family("finding", about, [({"finding": name}, value) for name, value in found.items()])
    generation = {"generation": view.trust_generation}
    yield family("trust_generation_info", "Which issuing CAs the bundles hold.", [(generation, 1)])
    for name, about, value in (
        ("last_pass_timestamp_seconds", "When the last pass ended.", view.last_pass),
        ("trust_changed_timestamp_seconds", "When the bundles last changed.", view.trust_changed),
        ("vault_reachable", "1 if Vault answered the last request; absent before the first.", view.vault_reachable),
        ("vault_last_contact_timestamp_seconds", "When Vault last answered.", view.vault_last_ok),
        ("outage_left_seconds", "Seconds until the first certificate expires.", view.outage_left),
    ):
        yield family(name, about, [({}, value)])
    for name, about, read in _CERTIFICATE_METRICS:
        yield family(f"certificate_{name}", about, [({"name": one.name}, read(one)) for one in view.certificates])
    unknown = "unknown" if view.unseen or view.unread else ""
    about = "1 for the state: ok, due, revoked, expired, missing or broken; unknown if the files could not be read."
    states = [({"name": one.name, "state": unknown or one.state}, 1) for one in view.certificates]
    yield family("certificate_state", about, states)
    # A foreign CA has the domain of another one; its end is a finding.
    own = [one for one in view.ends if not one.foreign]
    ends = [({"ca": one.ca}, one.not_after.timestamp()) for one in own]
    yield family("ca_not_after_timestamp_seconds", "When the CA expires.", ends)
    about = "When the end of the CA reaches a level: notice, warning or critical."
    begins = [({"ca": one.ca, "level": level.value}, one.begins(level)) for one in own for level in _LEVELS]
    yield family("ca_level_timestamp_seconds", about, [(labels, when.timestamp()) for labels, when in begins])
    about = "1 for the state of the CA's rotation; none if it was never rotated."
    rotations = [({"ca": one.domain, "state": one.state or "none"}, 1) for one in view.cas]
    yield family("ca_rotation_state", about, rotations)
    about = (
        "1 while the rotation's record is older than before, as after a restored backup, cannot be read, or is not "
        "followed."
    )
    yield family("ca_rotation_behind", about, [({"ca": one.domain}, int(one.behind)) for one in view.cas])
    keys = dict.fromkeys((*view.hook_keys, *view.hooks))
    about = "1 while a change waits for this hook to succeed; 0 for each other one."
    yield family("hook_owed", about, [({"hook": key}, int(key in view.hooks)) for key in keys])
    owed = view.hooks.items()
    since = [({"hook": key}, began) for key, (_, began) in owed]
    yield family("hook_owed_since_timestamp_seconds", "Since when it is owed.", since)
    attempts = [({"hook": key}, count) for key, (count, _) in owed]
    yield family("hook_attempts", "Attempts for this change.", attempts)
    about = "1 while a component was not started again since the bundle of this CA changed, or is not healthy; else 0."
    behind = [
        (dict(zip(("ca", "component"), name.split("/", 1), strict=True)), int(name in view.readers))
        for name in dict.fromkeys((*view.components, *view.readers))
    ]
    yield family("reader_behind", about, behind)


_LEVELS: Final = (Level.NOTICE, Level.WARNING, Level.CRITICAL)

_CERTIFICATE_METRICS: Final[tuple[tuple[str, str, Callable[[CertificateView], float | None]], ...]] = (
    ("not_after_timestamp_seconds", "When the certificate expires.", lambda one: one.not_after),
    ("renew_after_timestamp_seconds", "When the agent renews it.", lambda one: one.renew_after),
    ("ttl_asked_seconds", "The TTL that cluster.yaml asks for.", lambda one: one.asked),
    ("ttl_granted_seconds", "The TTL that Vault granted, counted from the signing.", lambda one: one.granted),
    ("last_error_timestamp_seconds", "When an attempt at it last failed.", lambda one: one.last_error_time),
)


def family(name: str, about: str, samples: Iterable[tuple[dict[str, str], float | None]]) -> Metric:
    """Return a metric of vaultpki with its samples, labels and value each; one whose value is None is left out."""
    full = f"vaultpki_{name}"
    metric = Metric(full.removesuffix("_total"), about, "counter" if full.endswith("_total") else "gauge")
    for labels, value in samples:
        if value is not None:
            metric.add_sample(full, labels, value)
    return metric


def certificate_problems(view: View | None, now: float) -> Iterator[str]:
    """Yield a line for each certificate, bundle and token key that cannot be used, and one if none could be read."""
    if view is None:
        yield "the agent has not ended its first pass"
        return
    if view.unseen:
        yield f"the last pass was cut short: {view.unseen}"
    elif view.unread:
        yield f"the files cannot be read: {view.unread}"
    elif not view.certificates:
        yield "there is no certificate here yet"
    for name, state in own_findings.unusable(view, now):
        yield f"{name}: {state}"
    yield from (*view.bundles, *view.token_keys)
