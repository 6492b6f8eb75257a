"""Writes the parts of the pages that follow from the code: commands, the certificate table, metrics, alerts, pictures.

Run as a program it writes them anew into docs/*.md, *.svg and *.html; tests/docs fails while they are not as the code
has them.
"""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click
import yaml
from prometheus_client.parser import text_string_to_metric_families

import example_metrics
import example_report
from vaultpki import __version__, assets
from vaultpki.adopt.catalogue import OBSTACLES
from vaultpki.certificates import (
    API_ADDRESSES,
    API_NAMES,
    ISSUING_CAS,
    NODE_ADDRESSES,
    ROOT,
    SERVICE_IPS,
    TABLE,
    pair_files,
)
from vaultpki.cli import vaultpki
from vaultpki.config.cluster import load_cluster
from vaultpki.config.cluster_schema import schema
from vaultpki.config.consistency import longest_node
from vaultpki.findings.catalogue import CATALOGUE, FindingKind
from vaultpki.graph.content import ExpirySummary, graph
from vaultpki.graph.svg import svg
from vaultpki.layout import shown
from vaultpki.model import NODE, Cluster, NodeRole, Row
from vaultpki.readers import READERS, Reader
from vaultpki.records import published
from vaultpki.show.report_page import html
from vaultpki.values import hosts, names

PAGES: Final = Path(__file__).resolve().parent

_WORDS: Final = {
    "{node}": "NODE",
    "{number}": "NUMBER",
    "{domain}": "DOMAIN",
    API_NAMES: "extra names",
    API_ADDRESSES: "extra addresses",
    NODE_ADDRESSES: "node addresses",
    SERVICE_IPS: "first service address",
}


def commands() -> dict[str, click.Command]:
    """Every command by its name, in the order of `vaultpki --help`; the commands of a group by two words."""
    return dict(_commands_of(vaultpki, ""))


def _commands_of(group: click.Group, before: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands_of(command, f"{before}{name} ")
        elif command is not None:
            yield f"{before}{name}", command


def written(page: str) -> str:
    """Returns the page with each generated part written anew between its marks."""
    for name, part in PARTS.items():
        begin, end = f"<!-- begin {name}: written by docs/reference.py -->", f"<!-- end {name} -->"
        before, mark, rest = page.partition(begin)
        if mark:
            page = f"{before}{begin}\n\n{part()}\n\n{end}{rest.partition(end)[2]}"
    return page


def _commands() -> str:
    return "\n\n".join(_command(name, command) for name, command in commands().items())


def _command(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"vaultpki {name}")
    # click marks a paragraph that is not to be filled by a backspace (click's documentation, "Escaping Text Wrapping").
    said, _, examples = inspect.cleandoc(command.help or "").partition("\b\nExample:\n")
    usage = " ".join((f"vaultpki {name}", *command.collect_usage_pieces(context)))
    shown = "\n".join((usage, "", *map(str.strip, examples.strip().splitlines())))
    # Without --help, which every command has.
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    records = [option.get_help_record(context) for option in options]
    rows = [(f"`{record[0]}`", record[1]) for record in records if record is not None]
    table = f"\n\n{_table(('option', 'meaning'), rows)}" if rows else ""
    return f"### vaultpki {name}\n\n{said.strip()}\n\n```text\n{shown}\n```{table}"


def _certificates() -> str:
    head = (
        "certificate",
        "what it is for",
        "from",
        "to",
        "use",
        "CN",
        "O",
        "names and addresses",
        "CA",
        "files",
        "with kubeadm",
        "on",
    )
    return _table(head, map(_certificate, TABLE))


def _certificate(row: Row) -> tuple[str, ...]:
    crt, key = _files(row.stem, row)
    # In the order the roles are declared: a set has none.
    roles = [role.value for role in NodeRole if role in row.node_roles]
    return (
        row.name,
        row.purpose,
        row.source,
        row.target,
        {"both": "server and client"}.get(row.usage.value, row.usage.value),
        _named(row.common_name),
        ", ".join(row.organization) or "-",
        "; ".join(", ".join(map(_named, names)) for names in (row.dns, row.ips) if names) or "-",
        row.ca,
        " ".join((crt, key, row.kubeconfig or "")).strip(),
        _kubeadms(row),
        ", ".join(roles) or "operator",
    )


def _files(stem: str, row: Row) -> tuple[str, str]:
    """The two files that people look for: the certificate, or those of all keys that sign tokens, and the key."""
    crt, key, _ = pair_files(stem)
    return crt if row.usage.tls else f"{stem}.pub", key


def _kubeadms(row: Row) -> str:
    """The files of the row in kubeadm's layout, with their folder."""
    if row.kubeadm is None:
        return "none"
    if row.operator:
        return str(row.kubeconfig)
    crt, key = _files(row.kubeadm.stem, row)
    return " ".join((shown(row.kubeadm.folder, crt), key, row.kubeconfig or "")).strip()


def _named(value: str) -> str:
    for placeholder, word in _WORDS.items():
        value = value.replace(placeholder, word)
    return value


def _fleet_metrics() -> str:
    return _families(example_metrics.fleet(_loaded(_SIXTY)))


def _families(shown: str) -> str:
    """Returns the families of a text in Prometheus' format as a table."""
    rows = []
    for family in text_string_to_metric_families(shown):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels)
        # The page says which ones every sample has.
        known = ("cluster",) if "_fleet_" in name else ("cluster", "node")
        labels = {label: None for label in labels if label not in known}
        rows.append((f"`{name}`", ", ".join(f"`{label}`" for label in labels) or "-", family.documentation))
    return _table(("metric", "labels", "meaning"), rows)


def tasks() -> tuple[tuple[str, ...], ...]:
    """What vaultpki does, as README lists it; its links lead from docs/ here."""
    _, _, rest = (PAGES.parent / "README.md").read_text(encoding="utf-8").partition("\n## What it does\n")
    lines = rest.partition("\n\n- ")[0].strip().splitlines()[2:]
    return tuple(
        tuple(cell.strip().replace("](docs/", "](") for cell in line.strip("|").split(" | ")) for line in lines
    )


def limits() -> dict[str, tuple[int, str]]:
    """How much of something cluster.yaml may have, as the code has it: a number, and of what."""
    # Any: a JSON schema is read here by the keys that cluster.yaml has.
    keys: Any = schema()["properties"]
    node = keys["nodes"]["items"]["properties"]
    (own,) = keys["certificates"]["patternProperties"].values()
    names_of = {
        role: min(longest_node(row) for row in TABLE if NODE in row.common_name and role in row.node_roles)
        for role in (NodeRole.WORKER, NodeRole.ETCD)
    }
    return {
        "`cluster`": (names.LONGEST_CLUSTER, "characters"),
        "`prefix`": (names.LONGEST_PREFIX, "characters"),
        "`vault.addresses`": (keys["vault"]["properties"]["addresses"]["maxItems"], "addresses"),
        "`nodes`": (keys["nodes"]["maxItems"], "nodes"),
        "`nodes[].name` of a `worker`, or of a node of a pool": (names_of[NodeRole.WORKER], "characters"),
        "`nodes[].name` with `etcd` and without `worker`": (names_of[NodeRole.ETCD], "characters"),
        "`nodes[].name` of a `control-plane` alone": (hosts.LONGEST_NODE, "characters"),
        "`nodes[].addresses`": (node["addresses"]["maxItems"], "addresses"),
        "`pools`": (keys["pools"]["maxItems"], "pools"),
        "`certificates.OWN.common_name`": (names.LONGEST_COMMON_NAME, "characters, once `{node}` is filled in"),
        "`certificates.OWN.organization`": (own["properties"]["organization"]["maxItems"], "values"),
        "certificates of one node": (published.MOST_CERTIFICATES, "certificates"),
    }


def _limits() -> str:
    return _table(("what", "at most"), ((what, f"{most:,} {of}") for what, (most, of) in limits().items()))


def _alerts() -> str:
    return _table(("alert", "severity", "says", "after"), _rules())


def _rules() -> Iterator[tuple[str, str, str, str]]:
    groups = yaml.safe_load(assets.text("templates", "alerts.yaml"))["groups"]
    for rule in (each for group in groups for each in group["rules"] if "alert" in each):
        name = rule["alert"]
        yield f"[{name}](#{name.lower()})", rule["labels"]["severity"], _said(rule), rule.get("for", "at once")


def _said(rule: Mapping[str, Any]) -> str:
    """The summary, with a word in capitals for each label and for the value."""
    said = re.sub(
        r"\{\{ (?:or )?\$labels\.(\w+).*?\}\}", lambda found: found[1].upper(), rule["annotations"]["summary"]
    )
    return re.sub(r"\{\{ \$value \| humanize(\w+) \}\}", lambda found: found[1].upper(), said)


def _findings() -> str:
    rows = (
        (f"`{kind.name}`", kind.severity.value, kind.means, f"`{_shown_command(kind)}`{_place(kind)}")
        for kind in CATALOGUE
    )
    return _table(("finding", "severity", "meaning", "next command"), rows)


def _obstacles() -> str:
    rows = ((f"`{kind.name}`", kind.severity.value, kind.means, kind.cure) for kind in OBSTACLES)
    return _table(("obstacle", "severity", "meaning", "cure"), rows)


def _shown_command(kind: FindingKind) -> str:
    return kind.command.format(node="NODE", names="NAME...", ca="CA", file="", pool="")


def _place(kind: FindingKind) -> str:
    return " on the node" if kind.where == "node" else ""


def _versions() -> str:
    """The readers of CAs whose version decides when they notice a new one; a column for each version that is built."""
    minors = sorted(
        int(each.name.partition(".")[2]) for each in (PAGES.parent / "tests/conformance/kubernetes").iterdir()
    )

    def noticed(reader: Reader, minor: int) -> str:
        if minor < (reader.follows or 0):
            return "after a restart"
        return f"within {reader.reload // 60} minutes" if reader.reload else "at once"

    rows = [
        (reader.component, reader.ca, reader.setting, *(noticed(reader, minor) for minor in minors))
        for reader in READERS
        if reader.follows
    ]
    return _table(("component", "new CA", "read from", *(f"1.{minor}" for minor in minors)), rows)


def _dashboard() -> str:
    """Each row of the dashboard, with the titles of its panels in their order."""
    rows: list[tuple[str, list[str]]] = []
    for panel in json.loads(assets.text("templates", "grafana-dashboard.json"))["panels"]:
        if panel["type"] == "row":
            rows.append((panel["title"], []))
        else:
            rows[-1][1].append(panel["title"])
    return _table(("row", "panels"), ((title, "; ".join(dict.fromkeys(panels))) for title, panels in rows))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


PARTS: Final[dict[str, Callable[[], str]]] = {
    "commands": _commands,
    "certificates": _certificates,
    "findings": _findings,
    "obstacles": _obstacles,
    "limits": _limits,
    "metrics": lambda: _families(example_metrics.agent()),
    "signer-metrics": lambda: _families(example_metrics.signer()),
    "fleet-metrics": _fleet_metrics,
    "alerts": _alerts,
    "dashboard": _dashboard,
    "versions": _versions,
    "tasks": lambda: _table(("task", "command", "page"), tasks()),
}
"""What is generated, by the name in its marks."""


_SIXTY: Final = "\n".join(
    (
        "cluster: prod",
        "layout: kubeadm",
        "nodes:",
        *(f"- {{name: cp-{n}, roles: [control-plane, etcd, worker], addresses: [10.0.0.{n}]}}" for n in range(1, 4)),
        *(f"- {{name: worker-{n}, roles: [worker], addresses: [10.0.1.{n}]}}" for n in range(1, 58)),
        'pools: [{name: autoscaled, roles: [worker], node_names: "w-*"}]',
        "certificates:",
        "  prometheus: {kind: client, common_name: prometheus, ca: kubernetes, roles: [worker], to: kube-apiserver}",
        "",
    )
)
_NOW: Final = datetime(2026, 11, 26, 10, tzinfo=UTC)


def _loaded(text: str) -> Cluster:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cluster.yaml"
        file.write_text(text, encoding="utf-8")
        return load_cluster(file, allow_http=True)


def _quickstart() -> str:
    """The picture of the cluster on the page "Quick start", as the page "See it" makes it."""
    page = (PAGES / "quickstart.md").read_text(encoding="utf-8")
    text = page.partition("```yaml\n# cluster.yaml\n")[2].partition("```")[0]
    # The CA file is not there, and is not needed.
    return svg(graph(_loaded(text.replace("  ca_file: vault-ca.crt\n", "")), _NOW))


def _example() -> str:
    """A larger cluster, with one example of each colour."""
    cluster = _loaded(_SIXTY)
    ends = {row.name: ExpirySummary(_NOW + timedelta(days=21), 3) for row in (*TABLE, *cluster.rows)}
    ends |= {
        "kubelet": ExpirySummary(_NOW + timedelta(days=9), 60, 2),
        "kubelet-client": ExpirySummary(_NOW + timedelta(days=2), 62, due=True),
        "prometheus": ExpirySummary(_NOW - timedelta(days=1), 62),
    }
    # No node reports an operator's certificates.
    del ends["admin"], ends["super-admin"]
    cas = {ca: ExpirySummary(_NOW + timedelta(days=1800)) for ca in ISSUING_CAS} | {
        ROOT: ExpirySummary(_NOW + timedelta(days=3600))
    }
    said = (
        "worker-9: expired: prometheus: run `vaultpki renew prometheus` on worker-9",
        "worker-3, worker-4 (2 nodes): missing: kubelet: run `vaultpki renew kubelet` on each of them",
        "worker-7: overdue: kubelet-client: run `vaultpki renew kubelet-client` on worker-7",
    )
    source, rotations = "reports of 62 nodes", {"etcd": "switched"}
    return svg(graph(cluster, _NOW, expiries=ends, cas=cas, rotations=rotations, source=source, notices=said))


def _report() -> str:
    """The page of nine nodes that do not exist, with one example of each fault; without a version, so that it stays."""
    return html(example_report.example(3, 6)).replace(f"vaultpki {__version__}", "vaultpki")


PICTURES: Final[dict[str, Callable[[], str]]] = {
    "graph.svg": _quickstart,
    "graph-expiry.svg": _example,
    "report-example.html": _report,
}
"""The pictures that are generated, by the name of the file."""


def main() -> None:
    """Writes every generated part anew."""
    for name, picture in PICTURES.items():
        (PAGES / name).write_text(picture(), encoding="utf-8")
    for page in sorted(PAGES.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        new = written(old)
        if new != old:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
