"""The procedures that views of a cluster show, each by the function that returns what they need of it.

They are registered here, in one tuple, which every entry point hands over. The views import none of them.
"""

from __future__ import annotations

from typing import Final

from vaultpki.findings.cluster import ProceduresInCluster
from vaultpki.procedures import adoption_standing, ca_standing, key_standing, move_standing

IN_CLUSTER: Final[ProceduresInCluster] = (
    ca_standing.view,
    key_standing.view,
    adoption_standing.view,
    move_standing.view,
)
"""What `findings.cluster.judge` gets."""
