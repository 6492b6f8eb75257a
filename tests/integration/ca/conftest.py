"""The cluster whose CA of etcd is rotated, by a person and with nodes that a test lets report."""

from __future__ import annotations

import pytest

from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.rotations import Rotation, rotation_of


@pytest.fixture
def rotation(clusters: ClusterFactory) -> Rotation:
    return rotation_of(clusters)
