"""What a rotation of service-account keys is to the views of a cluster, as `procedures.ca_standing`."""

from __future__ import annotations

from collections.abc import Iterator

from vaultpki.findings.cluster import ProcedureView, of_gate
from vaultpki.findings.finding import Finding, found, named_command
from vaultpki.places import file_option
from vaultpki.procedure.banner import Banner, banner
from vaultpki.procedure.standing import and_more
from vaultpki.procedures import key_text
from vaultpki.provision.cluster_facts import ClusterFacts
from vaultpki.records.service_account import SERVICE_ACCOUNT_KEYS
from vaultpki.redact import printable, stamp


def view(read: ClusterFacts) -> ProcedureView:
    """Return where service-account keys stand."""
    return ProcedureView(tuple(_findings(read)), tuple(_lines(read)), _banner(read))


def _findings(read: ClusterFacts) -> Iterator[Finding]:
    """Yield where a rotation of service-account keys stands, or what is left to do after one."""
    keys, file = read.keys, read.cluster.file
    if keys is None or keys.record is None:
        return
    record, command = keys.record, f"vaultpki ca continue{file_option(file)} --wait"
    said = f"{SERVICE_ACCOUNT_KEYS}, {record.state.value} since {stamp(record.since)}"
    left = (*keys.counting, *keys.joining, *keys.restarts)
    if keys.differing:
        first = keys.differing[0]
        text = printable(f"{said}: {first.node}{and_more(keys.differing)}: {first.reason}")
        yield found("rotation-blocked", text, command=named_command(first.reason, file))
    elif keys.gate is not None:
        yield of_gate(f"rotation of {said}", keys.gate, record.since, read.now, file, command)
    elif left:
        text = printable(f"{said}: {left[0].node}{and_more(left)} {left[0].reason}")
        itself = all(each.itself for each in left)
        # Only a node that joins waits for this.
        if not keys.counting and keys.joining:
            command = f"vaultpki admit{file_option(file)} --wait"
        yield found("rotation-waits" if itself else "rotation-blocked", text, command=command)


def _lines(read: ClusterFacts) -> Iterator[str]:
    """Yield where the keys stand; nothing if nothing is left to do."""
    if read.keys is not None:
        yield from key_text.key_lines(read.keys, read.now, read.cluster.file)


def _banner(read: ClusterFacts) -> Banner | None:
    """Return the banner of a rotation that is under way; None if there is none."""
    keys = read.keys
    if keys is None or keys.record is None or not keys.record.active:
        return None
    record, title = keys.record, f"The service-account keys are being rotated: {keys.record.state.value}"
    return banner(title, record.since, key_text.state_sentence(record), keys.gate, read.now, read.cluster.file)
