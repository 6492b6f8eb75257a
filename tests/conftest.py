"""The servers that integration tests run against are chosen here, by `--server`."""

from __future__ import annotations

import gc
import os
import secrets
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import hypothesis.configuration
import pytest
from hypothesis.database import DirectoryBasedExampleDatabase

from helpers import run_summary
from helpers.closing_tls import ClosingSocket
from helpers.faults.drawn import Drawn, default_seed
from helpers.vault import raft_cluster, servers
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.raft_cluster import Cluster
from helpers.vault.server_of_many_tests import ServerOfManyTests
from helpers.vault.servers import Server

# A shell starts what it puts into the background with SIGINT ignored, and nohup with SIGHUP; every process
# that a test starts would inherit that, and sit through its Ctrl-C or the end of its terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Servers and clients are killed all the time here, and a socket that Python leaves open is an error.
ssl.SSLContext.sslsocket_class = ClosingSocket

# What made a property fail is tried first by every later run on this machine, of whatever clone.
EXAMPLES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaultpki" / "hypothesis"
hypothesis.configuration.set_hypothesis_home_dir(EXAMPLES)
# A change is held to the same examples each time; every other run looks for new ones. `derandomize` by itself keeps
# nothing, and hypothesis takes a database only after it.
hypothesis.settings.register_profile(
    "ci", hypothesis.settings(derandomize=True), database=DirectoryBasedExampleDatabase(EXAMPLES / "examples")
)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server",
        action="append",
        choices=servers.KINDS,
        help="the server under the integration tests; may be given several times (default: bao)",
    )
    parser.addoption(
        "--also", choices=servers.KINDS, help="a further server for tests marked on_both, and the one of on_node"
    )
    parser.addoption("--vault-binary", type=Path, help="HashiCorp Vault's binary, for --server vault")
    parser.addoption("--zlint", type=Path, help="zlint's binary, for the conformance tests")
    parser.addoption("--kubernetes", type=Path, help="the folder with kube-apiserver and the like, for the same")
    parser.addoption(
        "--kubernetes-before", type=Path, help="the same of the minor version before, for an upgrade from it"
    )
    parser.addoption("--kube-vip", type=Path, help="kube-vip's binary, for the adoption of three control planes")
    parser.addoption("--etcd", type=Path, help="the folder with etcd and etcdctl, for the same")
    parser.addoption("--standing", type=Path, help="a file to make once the cluster of a rotation stands")
    parser.addini("long_unit_test", "seconds of a core, after which a unit test is named at the end of a run")
    parser.addoption("--seed", help="draws the points at which agents and commands are disturbed (default: the commit)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Before xdist hands the options to its workers.
    config.option.seed = config.option.seed or default_seed()
    run_summary.register(config)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    # Nothing of what is collected is garbage, so Python need not look for any, now or with each test.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_report_header(config: pytest.Config) -> str:
    return f"points drawn by --seed {config.getoption('--seed')}"


class FailuresAtOnce:
    """Names each failure as it happens: pytest does so at the end, which a run that is interrupted does not reach."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self.terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            why = getattr(getattr(report.longrepr, "reprcrash", None), "message", "").partition("\n")[0]
            self.terminal.ensure_newline()
            self.terminal.write_line(f"{report.nodeid} ({report.when}): {why}", red=True)


def pytest_sessionstart(session: pytest.Session) -> None:
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    # A worker of several has none that anybody sees.
    if terminal is not None and not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(FailuresAtOnce(terminal))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server_kind" in metafunc.fixturenames:
        contained = metafunc.definition.get_closest_marker("container") is not None
        kinds = metafunc.config.getoption("--server") or (["bao", "bao-container"] if contained else ["bao"])
        also = metafunc.config.getoption("--also")
        if metafunc.definition.get_closest_marker("on_node"):
            kinds = [also or kinds[0]]
        elif also and metafunc.definition.get_closest_marker("on_both"):
            kinds = [*kinds, also]
        metafunc.parametrize("server_kind", kinds, scope="session")


def pytest_itemcollected(item: pytest.Item) -> None:
    if "server_kind" not in getattr(item, "fixturenames", ()):
        item.add_marker("serverless")


@pytest.fixture
def drawn(request: pytest.FixtureRequest) -> Drawn:
    """Draws points for one test."""
    seed = request.config.getoption("--seed")
    # Shown where the test fails.
    print(f"points drawn by --seed {seed}")
    return Drawn(seed, request.node.nodeid)


@pytest.fixture(scope="session")
def vault_binary(request: pytest.FixtureRequest) -> Path | None:
    binary: Path | None = request.config.getoption("--vault-binary")
    return binary


@pytest.fixture(scope="session")
def zlint(request: pytest.FixtureRequest) -> Path:
    return _built(request, "--zlint")


@pytest.fixture(scope="session")
def kube_vip(request: pytest.FixtureRequest) -> Path:
    return _built(request, "--kube-vip")


def _built(request: pytest.FixtureRequest, option: str) -> Path:
    binary: Path | None = request.config.getoption(option)
    assert binary is not None, f"this test needs {option}; `make conformance` builds it"
    return binary


@pytest.fixture(scope="session")
def many_tests(tmp_path_factory: pytest.TempPathFactory, vault_binary: Path | None) -> Iterator[ServerOfManyTests]:
    with ServerOfManyTests(tmp_path_factory, vault_binary) as one:
        yield one


@pytest.fixture(scope="module")
def server(server_kind: str, many_tests: ServerOfManyTests) -> Server:
    """One server for many tests: do not stop, seal or freeze it, and keep to a `prefix` of your own."""
    return many_tests.server(server_kind)


@pytest.fixture(scope="module")
def server_on_disk(
    server_kind: str, tmp_path_factory: pytest.TempPathFactory, vault_binary: Path | None
) -> Iterator[Server]:
    """The same with raft, for a module: one that can have no standby allows everybody `sys/step-down`."""
    with servers.running(server_kind, tmp_path_factory.mktemp("server"), vault_binary) as one:
        yield one


@pytest.fixture
def own_server(server_kind: str, tmp_path: Path, vault_binary: Path | None) -> Iterator[Server]:
    """A server for one test, which may do with it as it likes."""
    with servers.running(server_kind, tmp_path / "server", vault_binary) as one:
        yield one


@pytest.fixture
def cluster3(server_kind: str, tmp_path: Path, vault_binary: Path | None) -> Iterator[Cluster]:
    """Three voting raft nodes for one test, which may kill one of them."""
    with raft_cluster.running_cluster(server_kind, tmp_path / "raft", vault_binary) as cluster:
        yield cluster


@pytest.fixture
def clusters(server: Server, tmp_path: Path) -> ClusterFactory:
    """Makes clusters for one test."""
    return ClusterFactory(server, tmp_path)


@pytest.fixture(scope="module")
def shared_clusters(server: Server, tmp_path_factory: pytest.TempPathFactory) -> ClusterFactory:
    """Makes clusters for all tests of a module, which leave them as they were."""
    return ClusterFactory(server, tmp_path_factory.mktemp("clusters"))


@pytest.fixture
def cluster_name() -> str:
    """A cluster name no other test has, so that one server serves them all."""
    return f"t{secrets.token_hex(5)}"


@pytest.fixture
def prefix(cluster_name: str) -> str:
    """The default prefix of `cluster_name`."""
    return f"vaultpki/{cluster_name}"
