"""Weeks of a fleet as Prometheus sees them, and which alerts fire at which moment of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from helpers.promtool import promtool
from vaultpki.host.systemd import recipe

STEP: Final = 60
"""Minutes from one sample to the next, and from one evaluation to the next: no `for` is longer."""

DAY: Final = 86400
Labels = Mapping[str, str]
Samples = dict[str, str]
Span = tuple[float, float]
"""From one day to another."""

Fires = tuple[str, Labels]
"""An alert, and its labels but for the severity."""


def series(name: str, labels: Labels, value: float | str, spans: Iterable[Span]) -> Samples:
    """A series that has one value on these days and no sample on others. The value `now` is the time of the sample."""
    parts, at = [], 0
    for span in spans:
        begin, end = (round(day * DAY / 60 / STEP) for day in span)
        parts += [f"_x{begin - at}"] if begin > at else []
        count, at = end - begin - 1, end
        parts.append(f"{begin * STEP * 60}+{STEP * 60}x{count}" if value == "now" else f"{value}x{count}")
    inside = ", ".join(f'{key}="{each}"' for key, each in labels.items())
    return {f"{name}{{{inside}}}": " ".join(parts)}


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent that answers on some days."""

    node: str
    spans: Sequence[Span]
    instance: str = ""
    cluster: str = "prod"
    job: str = "vaultpki"

    def labels(self, **further: str) -> dict[str, str]:
        its = {"cluster": self.cluster, "node": self.node}
        return {"job": self.job, "instance": self.instance or self.node, **its, **further}

    def samples(self) -> Samples:
        """What an agent that is well shows, but for its certificates."""
        return {
            **series("vaultpki_node_info", self.labels(), 1, self.spans),
            **series("vaultpki_build_info", self.labels(version="1"), 1, self.spans),
            **series("vaultpki_last_pass_timestamp_seconds", self.labels(), "now", self.spans),
            **series("vaultpki_vault_reachable", self.labels(), 1, self.spans),
            **series("vaultpki_agent_state", self.labels(state="ok"), 1, self.spans),
        }

    def certificate(self, name: str, expires: float, life: float = 30) -> Samples:
        """One that expires on the day `expires`, lives for `life` days, and is not due for renewal meanwhile."""
        return {
            key: value
            for metric, days in (("not_after_timestamp", expires), ("ttl_asked", life), ("ttl_granted", life))
            for key, value in series(
                f"vaultpki_certificate_{metric}_seconds", self.labels(name=name), days * DAY, self.spans
            ).items()
        }


def vault(read: Sequence[Span], nodes: Mapping[str, Sequence[Span]], cluster: str = "prod") -> Samples:
    """What `nodes --metrics` writes: read on the days of `read`, with the nodes that Vault has on their days."""
    ours = {"job": "node", "instance": "ops", "cluster": cluster}
    found = series("vaultpki_fleet_written_timestamp_seconds", ours, "now", read)
    for node, spans in nodes.items():
        found |= series("vaultpki_fleet_node_info", {**ours, "node": node, "pool": "", "state": "ok"}, 1, spans)
    return found


def finding(name: str, spans: Sequence[Span], node: str = "", cluster: str = "prod") -> Samples:
    """A finding of a node in that file, or of the cluster."""
    ours = {"job": "node", "instance": "ops", "cluster": cluster, "finding": name, "severity": "warning"}
    if not node:
        return series("vaultpki_fleet_finding", ours, 1, spans)
    return series("vaultpki_fleet_node_finding", {**ours, "node": node, "pool": ""}, 1, spans)


def check(tmp_path: Path, samples: Samples, moments: Mapping[float, Sequence[Fires]]) -> None:
    """Fails unless at each moment (in days) exactly these alerts fire, each with exactly these labels."""
    rules, severities = _bare(tmp_path)
    asked: list[dict[str, Any]] = []
    for day, fires in moments.items():
        assert {name for name, _ in fires} <= severities.keys()
        minute = round(day * DAY / 60 / STEP) * STEP
        for alert, severity in severities.items():
            found = [{"exp_labels": {**labels, "severity": severity}} for name, labels in fires if name == alert]
            asked.append({"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": found})
    _run(tmp_path, rules, samples, asked)


def told(tmp_path: Path, samples: Samples, day: float, fires: Fires, annotations: Mapping[str, str]) -> None:
    """Fails unless at a moment (in days) this alert fires with exactly these annotations."""
    rules = tmp_path / "alerts.yaml"
    rules.write_text(recipe("alerts.yaml"))
    alert, labels = fires
    found = {"exp_labels": {**labels, "severity": "critical"}, "exp_annotations": dict(annotations)}
    minute = round(day * DAY / 60 / STEP) * STEP
    _run(tmp_path, rules, samples, [{"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": [found]}])


def _run(tmp_path: Path, rules: Path, samples: Samples, asked: list[dict[str, Any]]) -> None:
    inputs = [{"series": name, "values": values} for name, values in samples.items()]
    test = {"interval": f"{STEP}m", "input_series": inputs, "alert_rule_test": asked}
    story = {"rule_files": [str(rules)], "evaluation_interval": f"{STEP}m", "tests": [test]}
    file = tmp_path / "story.yaml"
    file.write_text(yaml.safe_dump(story))
    promtool("test", "rules", file)


def _bare(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The rules without their sentences, which hold times; and the severity of each alert."""
    content = yaml.safe_load(recipe("alerts.yaml"))
    severities = {}
    for rule in (rule for group in content["groups"] for rule in group["rules"] if "alert" in rule):
        del rule["annotations"]
        severities[rule["alert"]] = rule["labels"]["severity"]
    file = tmp_path / "alerts.yaml"
    file.write_text(yaml.safe_dump(content))
    return file, severities
