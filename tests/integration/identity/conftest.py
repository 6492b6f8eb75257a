"""The cluster that tests of identities share: listed nodes and pools; each test leaves it as it was."""

from __future__ import annotations

import pytest

from helpers.node import enrolled_nodes
from helpers.vault.applied_cluster import AppliedCluster
from helpers.vault.cluster_factory import ClusterFactory


@pytest.fixture(scope="module")
def cluster(shared_clusters: ClusterFactory) -> AppliedCluster:
    return shared_clusters.applied(enrolled_nodes.SPEC)
