"""For how long the API is away is said for each shape of cluster, before anything begins and before each restart."""

from __future__ import annotations

import pytest

from vaultpki.records.adoption import ClusterShape
from vaultpki.rotation.adoption_outages import outage_of, outages


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (ClusterShape.ONE_PLANE, "3 times for 35 to 45 seconds, once"),
        (ClusterShape.TWO_MEMBERS, "6 times for 35 to 40 seconds, once for each member"),
    ],
)
def test_every_outage_is_counted_there_and_back(shape: ClusterShape, said: str) -> None:
    assert outages(shape) == (
        f"the API is away {said} in published, switched and retired. The way back costs as much, in re-trusting, "
        "returning and prepared"
    )


def test_a_restart_costs_nothing_where_another_machine_serves() -> None:
    assert outages(ClusterShape.OTHER) == outage_of(["etcd", "kube-apiserver"], ClusterShape.OTHER) == ""
    assert "35 to 45 s" in outage_of(["kube-apiserver"], ClusterShape.ONE_PLANE)
    assert "35 to 40 s" in outage_of(["etcd"], ClusterShape.TWO_MEMBERS)
    assert outage_of(["kube-apiserver"], ClusterShape.TWO_MEMBERS) == ""
    assert outage_of(["kube-scheduler"], ClusterShape.ONE_PLANE) == ""
