"""Writes the inventory of a cluster that is to be taken over, for programs; pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vaultpki.adopt import kubelets, obstacles, starts
from vaultpki.adopt.catalogue import Obstacle
from vaultpki.adopt.draft import ClusterDraft, further
from vaultpki.adopt.found import ClusterInventory, InUse
from vaultpki.kube.flags import signing_files
from vaultpki.kubernetes_versions import tagged
from vaultpki.live.trust import readable_certificates
from vaultpki.pki.facts import Facts, serial_text
from vaultpki.redact import stamp, stamped


def document(
    found: ClusterInventory, draft: ClusterDraft, every: Sequence[Obstacle], written: str | None
) -> dict[str, Any]:
    """Return the inventory; `written` is the path of the cluster.yaml that was written, None if none was."""
    settings = found.whole.settings
    return {
        "cluster": {
            "name": settings.cluster if settings is not None else None,
            "version": settings.version if settings is not None else None,
            "server": found.server,
            "certificates_dir": found.directory,
            "read": stamp(found.now),
        },
        "nodes": _nodes(found, draft),
        "etcd": [
            {
                "name": each.name,
                "node": each.node,
                "static_pod": each.stacked,
                "called_at": list(each.hosts),
                "tls": each.tls,
            }
            for each in found.members
        ],
        "static_pods": _static(found),
        "cas": [_ca(ca, facts) for ca, held in found.cas.items() for facts in held],
        "certificates": [_certificate(each, draft) for each in found.certificates],
        "not_seen": [
            {"node": each.node or None, "certificate": each.row, "place": each.place, "why": each.why}
            for each in found.listeners
            if each.leaf is None
        ],
        "places": _places(found),
        "requests": [
            {
                "name": each.name,
                "signer": each.signer,
                "user": each.user,
                "made": stamped(each.made),
                "state": each.state,
                "issuer": next((facts.issuer_text for facts in readable_certificates(each.pem)), None),
            }
            for each in found.whole.requests
        ],
        "signers": [
            {
                "node": pod.node,
                "leads": found.whole.leaders.get(pod.component) == pod.node,
                "files": signing_files(pod.flags, "cert"),
            }
            for pod in found.static
            if pod.component == "kube-controller-manager"
        ],
        "tokens": [{"id": each.id, "expires": stamped(each.expires)} for each in found.whole.tokens],
        "kubeadm_certs": found.whole.keys_token is not None,
        "kubelets": _kubelets(found),
        "read_at_start": [
            {"ca": each.ca, "component": each.component, "setting": each.setting, "nodes": list(each.nodes)}
            for each in starts.only(found, draft)
        ],
        "pods_that_keep_a_ca": [
            {
                "namespace": each.namespace,
                "name": each.name,
                "owner": each.owner,
                "reads": each.what,
                "path": each.path or None,
                "node": each.node or None,
                "static_pod": each.static,
            }
            for each in found.whole.readers
        ],
        "pods_with_the_root": [
            {"namespace": each.namespace, "name": each.name, "started": stamp(each.started)}
            for each in found.whole.pods
        ],
        "obstacles": [
            {
                "name": each.kind.name,
                "severity": each.severity.value,
                "where": list(each.where),
                "message": each.text,
                "cure": each.kind.cure,
            }
            for each in every
        ],
        "unread": dict(found.whole.unread),
        "draft": {
            "text": draft.whole or draft.text,
            "old_cas": dict(draft.old_cas),
            "written": written,
            "problem": draft.problem or None,
        },
        "ok": not obstacles.attention(tuple(every)),
    }


def _nodes(found: ClusterInventory, draft: ClusterDraft) -> list[dict[str, Any]]:
    roles = {node["name"]: node["roles"] for node in draft.nodes}
    return [
        {
            "name": node.name,
            "roles": list(roles.get(node.name, ())),
            "addresses": [{"type": kind, "address": address} for kind, address in node.addresses],
            "version": node.version or None,
            "ready": {"True": True, "False": False}.get(node.ready),
        }
        for node in found.whole.nodes
    ]


def _static(found: ClusterInventory) -> list[dict[str, Any]]:
    return [
        {
            "node": pod.node,
            "component": pod.component,
            "version": tagged(pod.image) or None,
            "image": pod.image or None,
            "started": stamped(pod.started),
            "arguments": list(pod.arguments),
            "flags_beside_kubeadm": [name for name in pod.flags if not starts.by_kubeadm(pod.component, name)],
            "volumes": [
                {
                    "path": volume.path,
                    "mount": volume.mount,
                    "type": volume.kind or None,
                    "single_file": volume.single,
                    "by_kubeadm": starts.volume_of_kubeadm(volume, found.directory),
                }
                for volume in pod.volumes
            ],
        }
        for pod in found.static
    ]


def _ca(ca: str, facts: Facts) -> dict[str, Any]:
    return {
        "ca": ca,
        "subject": facts.subject_text,
        "sha256": facts.fingerprint,
        "key": facts.key.value if facts.key is not None else None,
        "not_before": stamp(facts.not_before),
        "not_after": stamp(facts.not_after),
    }


def _certificate(each: InUse, draft: ClusterDraft) -> dict[str, Any]:
    subject = each.facts.subject
    return {
        "node": each.node or None,
        "certificate": each.row,
        "place": each.place,
        "served": each.served,
        "ca": each.ca or None,
        "subject": each.facts.subject_text,
        "issuer": each.facts.issuer_text,
        "serial": serial_text(each.facts.serial),
        "names": list(subject.dns),
        "addresses": list(subject.ips),
        "beside_the_table": list(further(each, draft)),
        "key": each.facts.key.value if each.facts.key is not None else None,
        "not_after": stamp(each.facts.not_after),
    }


def _places(found: ClusterInventory) -> list[dict[str, Any]]:
    known = {facts.fingerprint: ca for ca, cas in found.cas.items() for facts in cas}

    def place(name: str, reader: str, held: Sequence[Facts]) -> dict[str, Any]:
        cas = [
            {"sha256": facts.fingerprint, "subject": facts.subject_text, "ca": known.get(facts.fingerprint)}
            for facts in held
        ]
        return {"place": name, "read_by": reader, "holds": cas}

    made = [
        place(copy.place, copy.copied.value, tuple(readable_certificates(copy.pem))) for copy in found.whole.live.copies
    ]
    for machine in found.machines:
        made += [
            place(f"file of the CA {ca} on {machine.node}", "components", held) for ca, held in machine.cas.items()
        ]
        made += [
            place(f"{config.path} on {machine.node}", "kubeconfig", tuple(readable_certificates(config.parts.ca_pem)))
            for config in machine.kubeconfigs
            if config.parts is not None
        ]
    return made


def _kubelets(found: ClusterInventory) -> list[dict[str, Any]]:
    return [
        {
            "node": each.node,
            "rotate_certificates": each.rotates,
            "server_tls_bootstrap": each.asks,
            "client_ca_file": each.client_ca,
            "source": each.source or None,
            "client_not_after": _end(each.client),
            "serving_not_after": _end(each.serving),
            "serving_ca": each.serving.ca or None if each.serving is not None else None,
        }
        for each in kubelets.seen(found)
    ]


def _end(each: InUse | None) -> str | None:
    return stamp(each.facts.not_after) if each is not None else None
