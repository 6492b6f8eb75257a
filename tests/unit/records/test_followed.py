"""What nodes follow, digested: what changes a digest, and what must not."""

from __future__ import annotations

from pathlib import Path

from helpers.example_cluster import WITH_POOL, load
from vaultpki.records.followed import digests, of_rotation
from vaultpki.records.server_facts import Fields, Key


def test_only_what_nodes_follow_changes_the_digest_of_records(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    store = cluster.mount("config")
    objects: dict[Key, Fields] = {
        ("config", f"{store}/cluster"): {"layout": "document", "root_sha256": "00"},
        ("config", f"{store}/nodes/cp-1"): {"role_id": "one", "certificates": []},
        ("config", f"{store}/pools/autoscaled"): {"certificates": []},
        ("role", f"{cluster.mount('etcd')}/etcd-server"): {"ttl": 60},
    }

    def records(key: Key, **fields: object) -> str:
        return digests(cluster, {**objects, key: {**objects[key], **fields}}, {}, {})["records"]

    same = digests(cluster, dict(reversed(objects.items())), {}, {})["records"]
    node, pool, own, role = *list(objects)[1:3], next(iter(objects)), list(objects)[3]
    # A lock gives the node another role id, and the end of the root's rotation the cluster another pin.
    assert {records(node, role_id="two"), records(own, root_sha256="11"), records(role, ttl=90)} == {same}
    changed = {records(node, certificates=[1]), records(pool, certificates=[1]), records(own, layout="kubeadm")}
    assert len({same, *changed}) == 4
    assert digests(cluster, {own: objects[own]}, {}, {})["records"] not in changed | {same}


def test_another_issuer_or_another_default_changes_the_digest_of_issuers() -> None:
    shown: list[dict[str, bool]] = [{"a": True}, {"a": True, "b": False}, {"a": False, "b": True}, {}]
    assert len({of_rotation({}, {"etcd": each})["issuers"] for each in shown}) == 4
    assert of_rotation({}, {"etcd": {"b": False, "a": True}}) == of_rotation({}, {"etcd": shown[1]})
