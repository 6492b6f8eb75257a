"""What `destroy` shows before it asks: the objects by kind, and how many nodes live from them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from helpers.example_cluster import WITH_POOL, load
from vaultpki.errors import Denied
from vaultpki.provision import destroy
from vaultpki.provision.destroy import Living, Removal
from vaultpki.show import removal

ADDRESS = "https://v:8200"
DOOMED = (("mount", "p/etcd"), ("mount", "p/config"), ("auth", "p/listed"), ("policy", "p/operator"))


def found() -> Removal:
    seen: Any = SimpleNamespace(observed=SimpleNamespace(objects=dict.fromkeys([*DOOMED, ("role", "p/etcd/server")])))
    return Removal(seen, DOOMED, ("p/node/other",))


def test_what_is_removed_and_who_lives_from_it(tmp_path: Path) -> None:
    cluster = load(tmp_path, WITH_POOL)
    shown = [line.text for line in removal.lines(cluster, ADDRESS, found(), Living(1, 2, 2))]
    assert shown == [
        f"This removes {cluster.name} at {ADDRESS}, also its CAs. It cannot be undone.",
        "  2 mounts: p/config, p/etcd",
        "  1 auth mount: p/listed",
        "  1 policy: p/operator",
        "  1 role: p/etcd/server",
        "2 nodes depend on it: 1 can log in, 2 have reported. Nothing renews their certificates then.",
    ]
    document = removal.to_json(cluster, ADDRESS, found(), Living(1, 2, 2), ["p/node/other"])
    assert document["removed"]["role"] == ["p/etcd/server"] and document["kept"] == ["p/node/other"]
    assert document["nodes"] == {"credentials": 1, "reported": 2, "total": 2}


def test_nodes_that_cannot_be_counted_stop_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    cluster = load(tmp_path, WITH_POOL)

    def refuse(*_: object) -> None:
        raise Denied("may not list")

    monkeypatch.setattr("vaultpki.identity.nodes.read_nodes", refuse)
    nothing: Any = None
    living = destroy.count_living(cluster, nothing)
    assert (
        removal.lines(cluster, ADDRESS, found(), living)[-1].text
        == "It is not known how many nodes depend on it: may not list"
    )
    assert removal.to_json(cluster, ADDRESS, found(), living, ())["nodes"] == {"problem": "may not list"}
    assert removal.lines(cluster, ADDRESS, found(), Living())[-1].text == "No node depends on it."
