"""A small cluster.yaml, and the errors that a wrong one raises."""

from __future__ import annotations

from pathlib import Path

import pytest

from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError
from vaultpki.model import Cluster

CP = "- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}"
W = "- {name: w-1, roles: [worker], addresses: [10.0.0.21]}"
BASE = f"cluster: prod\nnodes:\n{CP}\n{W}\n"
"""Two nodes in four lines: what is put behind begins in line 5."""

WITH_POOL = """\
cluster: prod
api_server: {names: [api.example.com]}
nodes:
- {name: cp-1, roles: [control-plane, etcd], addresses: [10.0.0.11]}
- {name: cp-2, roles: [control-plane, etcd], addresses: [10.0.0.13]}
- {name: worker-1, roles: [worker], addresses: [10.0.0.21]}
pools:
- {name: autoscaled, roles: [worker], node_names: "w-*"}
"""


def load(folder: Path, text: str) -> Cluster:
    """The cluster that a cluster.yaml with this text describes."""
    file = folder / "cluster.yaml"
    file.write_text(text)
    return load_cluster(file)


def check_refused(folder: Path, text: str, line: int | None, field: str | None, hint: str) -> None:
    """The error names file, line and field (None for any), says what would be right, and shows no secret."""
    with pytest.raises(SpecError) as caught:
        load(folder, text)
    error = caught.value
    assert (error.file, error.line) == (str(folder / "cluster.yaml"), line), str(error)
    assert field is None or error.field == field, str(error)
    assert hint in error.problem, error.problem
    assert str(error).isprintable()
    assert "hunter2" not in str(error)
    assert len(error.problem) < 500
