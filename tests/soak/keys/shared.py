"""From one `sa.key` that all control planes share, as kubeadm leaves it, to own keys by the same commands."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from helpers.kube import own_keys
from helpers.kube.components import Programs, ServiceAccountKeys
from helpers.kube.kube_cluster import KubeNode
from helpers.vault.servers import wait_for
from soak.keys import cluster as clusters
from soak.keys.cluster import SoakedKeys
from soak.keys.shape import Asked
from soak.keys.table import KeyPhase
from vaultpki.pki import keys
from vaultpki.records.service_account import KeyState

_KEY: Final = "rsa-2048"
"""As kubeadm makes it."""

_REPORT_SECONDS: Final = 120.0


def abort(run: SoakedKeys) -> None:
    """Back to the shared key, while one API server has loaded the certificates of own keys."""
    with run.phase("from sa.key: aborted when published"):
        _rotate(run)
        run.lead(lambda record: bool(record.turn))
        run.reach(KeyState.STEADY, "abort")


def whole(run: SoakedKeys) -> None:
    with run.phase("from sa.key: published and switched"):
        _rotate(run)
        run.lead(lambda record: record.waits_for_tokens)
    with run.phase("from sa.key: its tokens end"):
        run.reach(KeyState.RETIRED)
    with run.phase("from sa.key: retired, then done"):
        run.reach(KeyState.DONE)
        run.settle()
        # The shared key is gone from every machine.
        run.common = frozenset()

        def left() -> list[str]:
            return [node.name for node in run.kubernetes.nodes.values() if (node.pki / "sa-1.key").exists()]

        # Each agent deletes it at its next poll.
        wait_for(lambda: not left(), _REPORT_SECONDS, lambda: f"the shared key is still on {left()}", pause=1)


def _rotate(run: SoakedKeys) -> None:
    """Begin, once every agent has reported the key that all share."""
    said = [""]

    def begun() -> bool:
        try:
            run.rotate()
        except AssertionError as error:
            said[0] = str(error)
            assert "yet" in said[0], said[0]
            return False
        return True

    wait_for(begun, _REPORT_SECONDS, lambda: said[0], pause=5)


PHASES: Mapping[str, Callable[[SoakedKeys], None]] = {"shared-abort": abort, "shared": whole}
"""What a run on this cluster consists of, in this order."""


def on(
    kind: str, programs: Programs, binary: Path | None, folder: Path, names: Sequence[str], phases: list[KeyPhase]
) -> None:
    """Add the phases on one server to `phases`; they end with the first one that could not be ended."""
    folder.mkdir(parents=True)
    made = ServiceAccountKeys(folder / "sa.key", folder / "sa.pub")
    words = ("openssl", "genrsa", "-out", str(made.private), "2048")
    subprocess.run(words, check=True, capture_output=True)
    public = ("openssl", "rsa", "-in", str(made.private), "-pubout", "-out", str(made.public))
    subprocess.run(public, check=True, capture_output=True)

    def given(node: KubeNode) -> ServiceAccountKeys:
        own = own_keys.of(node)
        shutil.copy(made.private, own.private)
        shutil.copy(made.public, own.public)
        own.private.chmod(0o600)
        return own

    with clusters.standing(kind, programs, binary, folder, phases, given, Asked(key=_KEY)) as run:
        run.common = frozenset({keys.public_der(keys.read_key(made.private.read_bytes()))})
        for name in names:
            PHASES[name](run)
