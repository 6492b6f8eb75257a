"""Real Kubernetes clusters for the conformance tests, each started once for the whole run."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.kube import kube_cluster
from helpers.kube.components import Programs
from helpers.kube.kube_cluster import Kubernetes
from helpers.product import CLIENTS
from helpers.vault import servers
from vaultpki.certificates import CLIENT_LOOK

INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INSTANCES = 4096


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says beside the figures of a run which Kubernetes it was."""
    kubernetes, etcd = (config.getoption(option) for option in ("--kubernetes", "--etcd"))
    if kubernetes and etcd:
        terminalreporter.write_line(f"Kubernetes {Programs(kubernetes.absolute(), etcd.absolute()).named}; {CLIENTS}")


@pytest.fixture(scope="session")
def programs(request: pytest.FixtureRequest) -> Programs:
    """Kubernetes' and etcd's programs."""
    kubernetes, etcd = (request.config.getoption(option) for option in ("--kubernetes", "--etcd"))
    assert kubernetes and etcd, "this test needs --kubernetes and --etcd; `make conformance` builds both"
    # Each component keeps some, and all clusters on the machine share them: a kubelet without one ends at once.
    if int(INOTIFY.read_text()) < INSTANCES:
        INOTIFY.write_text(str(INSTANCES))
    found = Programs(kubernetes.absolute(), etcd.absolute())
    assert found.client_look <= CLIENT_LOOK, f"{kubernetes} is {found.named}, and {CLIENTS}"
    return found


@pytest.fixture
def etcd_binaries(request: pytest.FixtureRequest) -> Path:
    """The folder with etcd and etcdctl."""
    folder: Path | None = request.config.getoption("--etcd")
    assert folder is not None, "this test needs --etcd; `make conformance` builds it"
    return folder


@pytest.fixture(scope="session")
def before(request: pytest.FixtureRequest, programs: Programs) -> Programs:
    """The programs from which a cluster is upgraded: of the minor version before, or the same where none are given."""
    given: Path | None = request.config.getoption("--kubernetes-before")
    return replace(programs, kubernetes=given.absolute()) if given else programs


@pytest.fixture(scope="session")
def stands(request: pytest.FixtureRequest) -> Callable[[], None]:
    """What tells others that a cluster stands: nothing else needs to run while it starts. See `--standing`."""
    told: Path | None = request.config.getoption("--standing")
    return told.touch if told else lambda: None


@pytest.fixture(scope="session")
def one_node(
    programs: Programs, vault_binary: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubernetes]:
    """One node with every role, enrolled through HashiCorp Vault, where it was given; a test leaves it as it was."""
    # `make kubernetes` tries versions of Kubernetes alone, and builds no Vault.
    yield from _standing("vault" if vault_binary else "bao", kube_cluster.ONE, programs, vault_binary, tmp_path_factory)


@pytest.fixture(scope="session")
def robbed(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """A control-plane node, three of etcd and two workers, with rows of a user's own, enrolled through OpenBao.

    worker-1 is stolen in the end, and may have no identity left; until then a test leaves it as it was.
    """
    yield from _standing("bao", kube_cluster.ROBBED, programs, None, tmp_path_factory)


@pytest.fixture(scope="session")
def growing(
    programs: Programs, vault_binary: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kubernetes]:
    """Two control planes with etcd behind one name, and a worker of a pool, enrolled through HashiCorp Vault."""
    yield from _standing("vault", kube_cluster.GROWING, programs, vault_binary, tmp_path_factory, kube_cluster.COMERS)


@pytest.fixture(scope="session", params=["one_node", "robbed"])
def kubernetes(request: pytest.FixtureRequest) -> Kubernetes:
    """Each of the two shapes in turn."""
    shape: Kubernetes = request.getfixturevalue(request.param)
    return shape


def _standing(
    kind: str,
    spec: str,
    programs: Programs,
    vault_binary: Path | None,
    factory: pytest.TempPathFactory,
    comers: Mapping[str, tuple[str, str]] = types.MappingProxyType({}),
) -> Iterator[Kubernetes]:
    folder = factory.mktemp(f"kube-{kind}")
    with (
        servers.running(kind, folder / "server", vault_binary) as server,
        kube_cluster.cluster(server, programs, folder / "kube", spec, comers=comers) as running,
    ):
        yield running
