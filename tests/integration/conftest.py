"""Who enrols nodes of the cluster of a test; see the fixture `cluster` of its module or room."""

from __future__ import annotations

import pytest

from helpers.node import enrolled_nodes
from helpers.node.enrolled_nodes import Enroller
from helpers.vault.applied_cluster import AppliedCluster


@pytest.fixture
def applier(cluster: AppliedCluster) -> Enroller:
    """With the token of an applier."""
    return Enroller(cluster, cluster.token())


@pytest.fixture
def enroller(cluster: AppliedCluster) -> Enroller:
    """With a token that may do nothing but enrol nodes of pools."""
    return Enroller(cluster, enrolled_nodes.enroller_token(cluster))
