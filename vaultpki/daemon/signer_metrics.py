"""What a signer of certificate requests shows to Prometheus and to probes, on the address of its signer.yaml."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import Metric, registry

from vaultpki.daemon.metric_families import family
from vaultpki.daemon.metrics_server import LoopbackServer
from vaultpki.model import AgentConfig
from vaultpki.signer.process import SignerView


class SignerCollector(registry.Collector):
    """The metrics of a signer, as `look` shows it at each collection; every sample has cluster and node."""

    def __init__(self, look: Callable[[], SignerView]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        view = self._look()
        for each in _families(view):
            for sample in each.samples:
                sample.labels.update({"cluster": view.cluster, "node": view.node})
            yield each


def _families(view: SignerView) -> Iterator[Metric]:
    signed = [({"signer": name}, count) for name, count in view.signed.items()]
    yield family("signer_signed_total", "Certificate requests that were signed.", signed)
    refused = [({"signer": name, "rule": rule}, count) for (name, rule), count in view.refused.items()]
    yield family("signer_refused_total", "Certificate requests that were refused, by rule.", refused)
    yield family("signer_waiting", "Approved requests that wait.", [({}, view.waiting)])
    yield family(
        "signer_braked", "Requests that wait because of the limits on how many are signed.", [({}, view.braked)]
    )
    yield family("signer_oldest_seconds", "For how long the oldest approved request waits.", [({}, view.oldest or 0.0)])
    yield family("signer_leads", "1 if this signer holds the Lease.", [({}, int(view.leads))])
    yield family("signer_silent", "1 while the cluster's records allow no signature.", [({}, int(bool(view.silent)))])
    yield family("signer_troubles", "How many parts of the signer fail.", [({}, len(view.troubles))])
    yield family(
        "signer_ends",
        "How many of its own certificate and secret id end and were not replaced.",
        [({}, len(view.ends))],
    )


def serve(config: AgentConfig, look: Callable[[], SignerView]) -> None:
    """Serve `/metrics` and `/healthz` in the background if signer.yaml has `metrics`. Raises as LoopbackServer."""
    if config.metrics is None:
        return

    def problems(everything: bool) -> list[str]:
        return look().problems if everything else []

    listed = config.metrics_hosts
    collectors = {"/metrics": SignerCollector(look)}
    LoopbackServer(config.metrics, collectors, problems, listed=listed, file=config.file).start()
