"""Decide which hooks are owed after a file has changed and when they are tried again, and run them.

Hooks belong to keys: the name of a certificate, or of a bundle such as `etcd-ca`. They are owed as long as the digest
of the file on disk differs from the one that they last ran for. So nothing is recorded before they run, no kill loses
them, and a hook that a kill interrupted runs again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from vaultpki.certificates import CLIENT_LOOK, ISSUING_CAS, bundle, laid_out
from vaultpki.errors import StoreError, fault
from vaultpki.host import static_pod
from vaultpki.host.command import CommandRunner
from vaultpki.host.component_flags import COMPONENTS
from vaultpki.model import AgentConfig, Hook, NodeRole
from vaultpki.places import Layout

BUNDLES: Final[Mapping[str, str]] = {bundle(ca).removesuffix(".crt"): ca for ca in ISSUING_CAS}
"""The keys of the bundles, with the CA of each."""

_FIRST_RETRY, _LAST_RETRY = 5.0, 600.0

Hooks = Mapping[str, tuple[Hook, ...]]


@dataclass(frozen=True, slots=True)
class Owed:
    """Hooks of one key that have not run yet, or failed: since when, and when they are tried next (Unix seconds).

    `attempts` counts the runs that failed, and `error` is the sentence about the last one.
    """

    since: float
    attempts: int = 0
    not_before: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A run of the hooks of `key` for the change to `digest`, each for at most `timeout` seconds.

    `attempts` runs have failed before; `directory` is the one of agent.yaml, and `folders` are all with certificates.
    """

    key: str
    digest: str
    hooks: tuple[Hook, ...]
    attempts: int
    directory: str
    timeout: float
    folders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a job: `error` is a sentence that names the hook, or ""; `attempts` includes this run.

    `began` is a moment (Unix time) before the first of its hooks ran.
    """

    key: str
    digest: str
    ok: bool
    error: str
    attempts: int
    began: float = field(default=0.0, compare=False)


def owed(live: Mapping[str, str], done: Mapping[str, str], hooks: Hooks) -> tuple[str, ...]:
    """Return the keys whose hooks must run, bundles first.

    `live` has the digest of each key's file on disk, `done` the digests that hooks have run for.
    """
    keys = [key for key in live if hooks.get(key) and done.get(key) != live[key]]
    return tuple(sorted(keys, key=_rank))


def settled(live: Mapping[str, str], done: Mapping[str, str], hooks: Hooks) -> dict[str, str]:
    """Return `done` without the keys that are gone; a key without hooks counts as done.

    So a hook that is added to agent.yaml runs at the next change.
    """
    kept = {key: done.get(key) if hooks.get(key) else digest for key, digest in live.items()}
    return {key: digest for key, digest in kept.items() if digest is not None}


def pending(keys: Iterable[str], before: Mapping[str, Owed], now: float) -> dict[str, Owed]:
    """Return the state of the keys that are owed: new ones since `now`, the others as `before`."""
    return {key: before.get(key) or Owed(since=now) for key in keys}


def failed(before: Owed, error: str, now: float, jitter: float) -> Owed:
    """Return the state after one more run that failed; `jitter`, in [0, 1), spreads the retries of many nodes."""
    pause = min(_FIRST_RETRY * 2.0 ** min(before.attempts, 16), _LAST_RETRY)
    not_before = now + pause * (0.75 + jitter / 4)
    return replace(before, attempts=before.attempts + 1, not_before=not_before, error=error)


def ready(owing: Mapping[str, Owed], now: float) -> tuple[str, ...]:
    """Return the keys to try now. A time further off than any pause means that the clock was set back."""
    return tuple(key for key, each in owing.items() if not now < each.not_before <= now + _LAST_RETRY)


def jobs(
    config: AgentConfig, keys: Iterable[str], live: Mapping[str, str], owing: Mapping[str, Owed]
) -> tuple[Job, ...]:
    """Return a job for each of the keys."""
    failures = {key: each.attempts for key, each in owing.items()}
    return tuple(
        Job(
            key,
            live[key],
            config.hooks[key],
            failures.get(key, 0),
            config.directory,
            config.hook_timeout,
            tuple(config.paths.values()),
        )
        for key in keys
    )


def unknown(config: AgentConfig, names: Collection[str]) -> tuple[str, ...]:
    """Return the keys of agent.yaml's hooks that are no certificate or bundle of this node, which `names` lists."""
    return tuple(key for key in config.hooks if key not in names)


@dataclass(frozen=True, slots=True)
class Reader:
    """A component that reads the bundle of `ca`: by which setting, and on nodes of which role.

    `follows` is the first minor version of Kubernetes 1 that notices a new bundle by itself: 0 for every version in
    use, None for none. `reload` is how many seconds that takes at most.
    """

    ca: str
    component: str
    role: NodeRole
    setting: str
    follows: int | None
    reload: int = 0


_CONTROL_PLANE, _ETCD, _WORKER = NodeRole.CONTROL_PLANE, NodeRole.ETCD, NodeRole.WORKER
_KUBECONFIG = "certificate-authority in its kubeconfig"

# Kubernetes: dynamiccertificates.DynamicFileCAContent of apiserver watches its file since 1.23. client-go reads its CA
# file again since 1.36, every five minutes (transport/ca_rotation.go, gate ClientsAllowCARotation).
# kube-controller-manager reads --root-ca-file, which every pod gets, when it starts
# (cmd/kube-controller-manager/app/certificates.go, readCA). etcd makes its CA pools when it starts, and so does its
# client in kube-apiserver (etcd client/pkg/transport).
READERS: Final[tuple[Reader, ...]] = (
    Reader("kubernetes", "kube-apiserver", _CONTROL_PLANE, "--client-ca-file", 0),
    Reader("kubernetes", "kubelet", _WORKER, "authentication.x509.clientCAFile", 0),
    Reader("kubernetes", "kube-controller-manager", _CONTROL_PLANE, "--root-ca-file", None),
    Reader("kubernetes", "kube-controller-manager", _CONTROL_PLANE, _KUBECONFIG, 36, CLIENT_LOOK),
    Reader("kubernetes", "kube-scheduler", _CONTROL_PLANE, _KUBECONFIG, 36, CLIENT_LOOK),
    Reader("kubernetes", "kubelet", _WORKER, _KUBECONFIG, 36, CLIENT_LOOK),
    Reader("kubernetes", "kube-proxy", _WORKER, _KUBECONFIG, 36, CLIENT_LOOK),
    Reader("kubelet", "kube-apiserver", _CONTROL_PLANE, "--kubelet-certificate-authority", 36, CLIENT_LOOK),
    Reader("etcd", "etcd", _ETCD, "--trusted-ca-file and --peer-trusted-ca-file", None),
    Reader("etcd", "kube-apiserver", _CONTROL_PLANE, "--etcd-cafile", None),
    Reader("front-proxy", "kube-apiserver", _CONTROL_PLANE, "--requestheader-client-ca-file", 0),
)


def start_only(ca: str, roles: Collection[NodeRole], layout: Layout = Layout.DOCUMENT) -> tuple[Reader, ...]:
    """Return what reads the bundle of `ca` only when it starts, on a node of these roles."""
    return tuple(each for each in _readers(ca, roles, layout) if each.follows is None)


def once_start_only(readers: Iterable[Reader]) -> tuple[int, list[str]]:
    """Return the components that read a bundle only when they started, before this minor version of Kubernetes 1.

    The version is 0 where there is none.
    """
    once = [each for each in readers if each.follows]
    return max((each.follows or 0 for each in once), default=0), list(dict.fromkeys(each.component for each in once))


def _readers(ca: str | None, roles: Collection[NodeRole], layout: Layout) -> list[Reader]:
    components = {row.source for row in laid_out(layout)}
    here = [each for each in READERS if each.ca == ca and each.role in roles]
    return [each for each in here if each.component in components]


def advice(key: str, roles: Collection[NodeRole], layout: Layout = Layout.DOCUMENT) -> str | None:
    """Return what a person must restart on a node of these roles after `key`, which has no hooks, changed; or None."""
    here = _readers(BUNDLES.get(key), roles, layout)
    never = list(dict.fromkeys(each.component for each in here if each.follows is None))
    version, once = once_start_only(here)
    older = [component for component in once if component not in never]
    said = []
    if never:
        one = "control-plane node" if _CONTROL_PLANE in roles else "etcd member"
        said.append(
            f"restart {_listed(never)} on this node, one {one} at a time, because this file is read only at start"
        )
    if older:
        said.append(f"on Kubernetes before 1.{version}, restart {_listed(older)}")
    return f"{key} changed: {'; '.join(said)}" if said else None


def _listed(words: list[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _rank(key: str) -> bool:
    # Bundles first: a component restarted for a new leaf must not meet one that still has the old CAs.
    return key not in BUNDLES


class Runner:
    """Run hooks one at a time, in a thread (`submit`, `results`) or at once (`run_all`).

    `done` is called in the thread for each result. `ran` has the digests that hooks have succeeded for, by key, as far
    as `results` has returned them.
    """

    def __init__(self, done: Callable[[], object] = lambda: None) -> None:
        self._done = done
        self.ran: dict[str, str] = {}
        self._commands = CommandRunner()
        self._lock = threading.Lock()
        self._queued: dict[str, Job] = {}
        self._running: dict[str, Job] = {}
        self._results: list[Result] = []
        # What has succeeded of a key's hooks for a digest, as long as the others of the key have not.
        self._succeeded: dict[str, tuple[str, set[_Step]]] = {}
        self._thread: threading.Thread | None = None

    def submit(self, jobs: Iterable[Job]) -> None:
        """Queue the jobs, in place of older ones of their keys; ignore one that runs or whose result is not taken."""
        with self._lock:
            if self._commands.stopped:
                return
            known: set[tuple[str, str]] = {(job.key, job.digest) for job in self._running.values()}
            known |= {(result.key, result.digest) for result in self._results}
            self._queued |= {job.key: job for job in jobs if (job.key, job.digest) not in known}
            if self._queued and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hooks", daemon=True)
                self._thread.start()

    def results(self) -> tuple[Result, ...]:
        """Return the results since the last call."""
        with self._lock:
            taken, self._results = tuple(self._results), []
        self.ran |= {result.key: result.digest for result in taken if result.ok}
        return taken

    @property
    def busy(self) -> frozenset[str]:
        """The keys whose hooks are queued or run."""
        with self._lock:
            return frozenset((*self._queued, *self._running))

    def run_all(self, jobs: Iterable[Job]) -> tuple[Result, ...]:
        """Run the jobs and return their results; there is none for a job that `stop` interrupted."""
        return tuple(self._batch(tuple(jobs)))

    def stop(self) -> None:
        """Kill the hook that runs, with all that it started, and run no other; returns within half a second."""
        # Takes no lock of this class: a signal handler that calls it may have interrupted the thread that holds one.
        self._commands.stop()
        thread = self._thread
        if thread is not None:
            thread.join(0.15)

    def _work(self) -> None:
        while True:
            with self._lock:
                self._running, self._queued = self._queued, {}
                if not self._running:
                    self._thread = None
                    return
            jobs = tuple(self._running.values())
            try:
                for result in self._batch(jobs):
                    self._ended(result)
            except Exception as error:  # noqa: BLE001 - the thread goes on, and each job gets a result
                for job in [job for job in jobs if job.key in self._running]:
                    self._ended(Result(job.key, job.digest, ok=False, error=fault(error), attempts=job.attempts + 1))

    def _ended(self, result: Result) -> None:
        with self._lock:
            self._results.append(result)
            del self._running[result.key]
        self._done()

    def _batch(self, jobs: tuple[Job, ...]) -> Iterator[Result]:
        """Run the hooks of all jobs, bundles first; one that several jobs share runs once."""
        jobs = tuple(sorted(jobs, key=lambda job: _rank(job.key)))
        errors: dict[_Step, str] = {}
        # Of the whole batch: a hook that several jobs share runs with the first of them.
        began = time.time()
        for job in jobs:
            digest, succeeded = self._succeeded.get(job.key, ("", set()))
            if digest != job.digest:
                succeeded = set()
            self._succeeded[job.key] = job.digest, succeeded
            error = ""
            for number, step in enumerate(_steps(job), start=1):
                if step in succeeded:
                    continue
                if step not in errors:
                    errors[step] = self._run(step[0], job, [each for each in jobs if step in _steps(each)])
                if self._commands.stopped:
                    return
                if errors[step]:
                    error = f"hook {number} of {job.key} ({_shown(step[0])}) {errors[step]}"
                    break
                succeeded.add(step)
            if not error:
                del self._succeeded[job.key]
            yield Result(job.key, job.digest, not error, error, job.attempts + 1, began)

    def _run(self, hook: Hook, job: Job, sharing: list[Job]) -> str:
        """Run one hook for all jobs that share it; return "", or what went wrong as the rest of a sentence."""
        if hook.kind == "static_pod":
            if _not_there_yet(hook.name):
                return ""
            try:
                static_pod.restart(hook.name, {each.key: each.digest for each in sharing})
            except StoreError as error:
                return f"failed: {error}"
            return ""
        # Not `restart`: at boot it waits for ever for a unit that is ordered after vaultpki-agent-once.
        argv = ("systemctl", "try-restart", "--", hook.name) if hook.kind == "systemd" else hook.argv
        # Nothing else of our environment: it may hold a Vault token, or NOTIFY_SOCKET.
        environment = {
            "HOME": os.environ.get("HOME", "/"),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "VAULTPKI_CHANGED": " ".join(each.key for each in sharing),
            "VAULTPKI_DIRECTORY": job.directory,
        }
        return self._commands.run(argv, environment, job.timeout, place=hook.place, own=job.folders)


def run_now(jobs: Iterable[Job]) -> tuple[Result, ...]:
    """Run the jobs and return their results. SIGTERM kills the hook, with all that it started, and this process."""
    runner = Runner()
    if threading.current_thread() is not threading.main_thread():
        return runner.run_all(jobs)

    def end(number: int, frame: object) -> None:
        runner.stop()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        return runner.run_all(jobs)
    finally:
        signal.signal(signal.SIGTERM, before)


# One hook of a job, and how often it stands in that job's list before.
_Step = tuple[Hook, int]


def _steps(job: Job) -> list[_Step]:
    return [(hook, job.hooks[:index].count(hook)) for index, hook in enumerate(job.hooks)]


def _not_there_yet(name: str) -> bool:
    """Return whether this is a component of Kubernetes or etcd that is no static pod here now.

    kubeadm writes its manifests after the node has joined, and `kubeadm reset` removes them. Whatever starts later
    reads the new files. Any other name may be misspelt.
    """
    return name in COMPONENTS and not os.path.lexists(static_pod.manifest(name))


def _shown(hook: Hook) -> str:
    # A command's arguments may be secrets.
    if hook.kind == "command":
        return ascii(hook.argv[0])[1:-1]
    return f"{'restart of' if hook.kind == 'systemd' else 'static pod'} {hook.name}"
