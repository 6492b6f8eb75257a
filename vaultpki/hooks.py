"""What is to be done after a file has changed: who owes a hook, when it is tried again, and the running of it.

Hooks belong to keys: a certificate's name, or a bundle such as `etcd-ca`. A key's hooks are owed as long as the digest
of what lies on disk differs from the one they last ran for. So nothing has to be written down before they run, and what
is owed survives every kill; a hook that a kill cut off runs once more.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from vaultpki import static_pod
from vaultpki.certificates import ISSUING_CAS, bundle
from vaultpki.child import Child
from vaultpki.errors import StoreError
from vaultpki.model import AgentConfig, Hook, NodeRole
from vaultpki.values import dataclass

BUNDLES: Final[Mapping[str, str]] = {bundle(ca).removesuffix(".crt"): ca for ca in ISSUING_CAS}
"""The bundles that may have hooks, by their keys, with the CA of each."""

_FIRST_RETRY, _LAST_RETRY = 5.0, 600.0

Hooks = Mapping[str, tuple[Hook, ...]]


@dataclass(frozen=True, slots=True)
class Owed:
    """A key's hooks that did not run yet, or failed.

    `since` is when that began and `not_before` when they are tried next, both Unix time; `attempts` counts the runs
    that failed, `error` is the last one's sentence.
    """

    since: float
    attempts: int = 0
    not_before: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """The hooks of `key` are to run for the change to `digest`, each for at most `timeout` seconds.

    `attempts` runs have failed before; `directory` is where the files lie.
    """

    key: str
    digest: str
    hooks: tuple[Hook, ...]
    attempts: int
    directory: str
    timeout: float


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended: `error` is a sentence that names the hook, or ""; `attempts` counts this run too."""

    key: str
    digest: str
    ok: bool
    error: str
    attempts: int


def owed(live: Mapping[str, str], done: Mapping[str, str], hooks: Hooks) -> tuple[str, ...]:
    """The keys whose hooks have to run, bundles first.

    `live` holds a digest of what lies on disk now for each key of this node, `done` the digests that hooks ran for.
    """
    keys = [key for key in live if hooks.get(key) and done.get(key) != live[key]]
    return tuple(sorted(keys, key=_rank))


def settled(live: Mapping[str, str], done: Mapping[str, str], hooks: Hooks) -> dict[str, str]:
    """What is to be kept as `done`: without keys that are gone, and with those that have no hooks as done.

    So a hook that a person writes into agent.yaml waits for the next change.
    """
    kept = {key: done.get(key) if hooks.get(key) else digest for key, digest in live.items()}
    return {key: digest for key, digest in kept.items() if digest is not None}


def pending(keys: Iterable[str], before: Mapping[str, Owed], now: float) -> dict[str, Owed]:
    """What is to be remembered of the keys that owe: new ones since `now`, the others as they were `before`."""
    return {key: before.get(key) or Owed(since=now) for key in keys}


def failed(before: Owed, error: str, now: float, jitter: float) -> Owed:
    """What is to be remembered after one more run that failed; for `jitter` see `retry_at`."""
    attempts = before.attempts + 1
    return replace(before, attempts=attempts, not_before=retry_at(attempts, now, jitter), error=error)


def retry_at(attempts: int, now: float, jitter: float) -> float:
    """When hooks that failed `attempts` times (1 or more) are tried again; `jitter` lies in [0, 1)."""
    pause = min(_FIRST_RETRY * 2.0 ** min(attempts - 1, 16), _LAST_RETRY)
    return now + pause * (0.75 + jitter / 4)


def ready(owing: Mapping[str, Owed], now: float) -> tuple[str, ...]:
    """The keys of `owing` whose time has come. A time further off than any pause means that a clock was set back."""
    return tuple(key for key, each in owing.items() if not now < each.not_before <= now + _LAST_RETRY)


def jobs(
    config: AgentConfig, keys: Iterable[str], live: Mapping[str, str], owing: Mapping[str, Owed]
) -> tuple[Job, ...]:
    """What a `Runner` takes, for each of the keys."""
    return tuple(
        Job(
            key,
            live[key],
            config.hooks[key],
            owing[key].attempts if key in owing else 0,
            config.directory,
            config.hook_timeout,
        )
        for key in keys
    )


def unknown(config: AgentConfig, names: Collection[str]) -> tuple[str, ...]:
    """The keys of agent.yaml's hooks that are not among `names`, which are this node's certificates and bundles."""
    return tuple(key for key in config.hooks if key not in names)


@dataclass(frozen=True, slots=True)
class Reader:
    """A component that checks others against a CA's bundle: by which of its settings, and on nodes of which role.

    `follows` is the first minor version of Kubernetes 1 that notices a new bundle by itself; 0 is every version that is
    still in use, None none at all.
    """

    ca: str
    component: str
    role: NodeRole
    setting: str
    follows: int | None


_CONTROL_PLANE, _ETCD, _WORKER = NodeRole.CONTROL_PLANE, NodeRole.ETCD, NodeRole.WORKER

# Kubernetes: what goes through apiserver's dynamiccertificates.DynamicFileCAContent follows by inotify since 1.23, a CA
# file of client-go since 1.36 (transport/transport.go, gate ClientsAllowCARotation). kube-controller-manager reads
# --root-ca-file, which it hands to every pod, as it starts (cmd/kube-controller-manager/app/certificates.go, readCA).
# etcd makes its pools of CAs as it starts, and so does its client in kube-apiserver (etcd client/pkg/transport).
READERS: Final[tuple[Reader, ...]] = (
    Reader("kubernetes", "kube-apiserver", _CONTROL_PLANE, "--client-ca-file", 0),
    Reader("kubernetes", "kubelet", _WORKER, "authentication.x509.clientCAFile", 0),
    Reader("kubernetes", "kube-controller-manager", _CONTROL_PLANE, "--root-ca-file", None),
    Reader("kubernetes", "kube-controller-manager", _CONTROL_PLANE, "certificate-authority in its kubeconfig", 36),
    Reader("kubernetes", "kube-scheduler", _CONTROL_PLANE, "certificate-authority in its kubeconfig", 36),
    Reader("kubernetes", "kubelet", _WORKER, "certificate-authority in its kubeconfig", 36),
    Reader("kubernetes", "kube-proxy", _WORKER, "certificate-authority in its kubeconfig", 36),
    Reader("kubelet", "kube-apiserver", _CONTROL_PLANE, "--kubelet-certificate-authority", 36),
    Reader("etcd", "etcd", _ETCD, "--trusted-ca-file and --peer-trusted-ca-file", None),
    Reader("etcd", "kube-apiserver", _CONTROL_PLANE, "--etcd-cafile", None),
    Reader("front-proxy", "kube-apiserver", _CONTROL_PLANE, "--requestheader-client-ca-file", 0),
)


def advice(key: str, roles: Collection[NodeRole]) -> str | None:
    """What a person has to do on a node of these roles after `key` changed, where no hook does it; None for nothing."""
    here = [each for each in READERS if each.ca == BUNDLES.get(key) and each.role in roles]
    never = list(dict.fromkeys(each.component for each in here if each.follows is None))
    older = list(dict.fromkeys(each.component for each in here if each.follows and each.component not in never))
    said = []
    if never:
        one = "control-plane node" if _CONTROL_PLANE in roles else "etcd member"
        when = "reads it only when it starts" if len(never) == 1 else "read it only when they start"
        said.append(f"restart {_listed(never)} on this node, one {one} at a time; {_listed(never)} {when}")
    if older:
        said.append(f"before Kubernetes 1.{max(each.follows or 0 for each in here)}, restart {_listed(older)} as well")
    return f"{key} changed: {'; '.join(said)}".removesuffix("" if never else " as well") if said else None


def _listed(words: list[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _rank(key: str) -> bool:
    # Whom to trust comes before whom to be: a restart for a new leaf must not meet a consumer with the old trust.
    return key not in BUNDLES


class Runner:
    """Runs hooks one at a time, in a thread of its own (`submit`, `results`) or at once (`run_all`).

    `done` is called in the thread as soon as there are results. `ran` are the digests for which hooks have worked, by
    key, as `results` has told.
    """

    def __init__(self, done: Callable[[], object] = lambda: None) -> None:
        self._done = done
        self.ran: dict[str, str] = {}
        self._child = Child()
        # Reentrant: a signal's handler that calls `stop` may interrupt whoever holds it.
        self._more = threading.Condition(threading.RLock())
        self._waiting: dict[str, Job] = {}
        self._running: tuple[Job, ...] = ()
        self._results: list[Result] = []
        self._worked: dict[str, tuple[str, set[_Step]]] = {}
        self._thread: threading.Thread | None = None

    def submit(self, jobs: Iterable[Job]) -> None:
        """Has the jobs run soon; one that waits, runs, or whose result nobody took yet is not run again."""
        with self._more:
            known = {(job.key, job.digest) for job in self._running} | {(r.key, r.digest) for r in self._results}
            fresh = {job.key: job for job in jobs if (job.key, job.digest) not in known}
            if not fresh or self._child.stopped:
                return
            self._waiting.update(fresh)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hooks", daemon=True)
                self._thread.start()
            self._more.notify_all()

    def results(self) -> tuple[Result, ...]:
        """What has ended since the last call."""
        with self._more:
            taken, self._results = tuple(self._results), []
        self.ran |= {result.key: result.digest for result in taken if result.ok}
        return taken

    @property
    def busy(self) -> frozenset[str]:
        """The keys whose hooks wait or run."""
        with self._more:
            return frozenset(self._waiting) | {job.key for job in self._running}

    def run_all(self, jobs: Iterable[Job]) -> tuple[Result, ...]:
        """Runs the jobs here and now; what `stop` cut off has no result."""
        return tuple(self._batch(tuple(jobs)))

    def stop(self) -> None:
        """Ends the hook that runs, with all it started, and runs no other; returns within half a second."""
        self._child.stop()
        if self._more.acquire(timeout=0.1):
            self._more.notify_all()
            self._more.release()
        if self._thread is not None:
            self._thread.join(0.15)

    def _work(self) -> None:
        while True:
            with self._more:
                self._running = ()
                self._more.wait_for(lambda: self._waiting or self._child.stopped)
                if self._child.stopped:
                    return
                self._running, self._waiting = tuple(self._waiting.values()), {}
            try:
                for result in self._batch(self._running):
                    self._ended(result)
            except Exception as error:  # noqa: BLE001 - the thread goes on, and nobody waits for these jobs for ever
                fault = f"a fault of vaultpki itself ({type(error).__name__}); please report it"
                for job in self._running:
                    self._ended(Result(job.key, job.digest, ok=False, error=fault, attempts=job.attempts + 1))

    def _ended(self, result: Result) -> None:
        with self._more:
            self._results.append(result)
            self._running = tuple(job for job in self._running if job.key != result.key)
        self._done()

    def _batch(self, jobs: tuple[Job, ...]) -> Iterator[Result]:
        ordered = sorted(jobs, key=lambda job: _rank(job.key))
        ended: dict[_Step, str] = {}
        for job in ordered:
            # What has worked for this very change is not run again because a later hook of the key failed.
            digest, worked = self._worked.get(job.key, ("", set()))
            if digest != job.digest:
                worked = set()
            self._worked[job.key] = job.digest, worked
            error = ""
            for number, step in enumerate(_steps(job), start=1):
                if step in worked:
                    continue
                if step not in ended:
                    ended[step] = self._do(step.hook, job, [each for each in ordered if step in _steps(each)])
                if self._child.stopped:
                    return
                if ended[step]:
                    error = f"hook {number} of {job.key} ({_shown(step.hook)}) {ended[step]}"
                    break
                worked.add(step)
            if not error:
                del self._worked[job.key]
            yield Result(job.key, job.digest, not error, error, job.attempts + 1)

    def _do(self, hook: Hook, job: Job, sharing: list[Job]) -> str:
        """Runs one hook for all jobs that share it: "" where it worked, else what became of it."""
        if hook.kind == "static_pod":
            try:
                static_pod.restart(hook.name, {each.key: each.digest for each in sharing})
            except StoreError as error:
                return f"failed: {error}"
            return ""
        # Not `restart`: it waits for a unit that is ordered behind the agent's own pass at boot, for ever.
        argv = ("systemctl", "try-restart", "--", hook.name) if hook.kind == "systemd" else hook.argv
        # Nothing else of ours: it may hold a token of Vault's, and by NOTIFY_SOCKET a hook would speak for the agent.
        environment = {
            "HOME": os.environ.get("HOME", "/"),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "VAULTPKI_CHANGED": " ".join(each.key for each in sharing),
            "VAULTPKI_DIRECTORY": job.directory,
        }
        return self._child.run(argv, environment, job.timeout)


def run_now(jobs: Iterable[Job]) -> tuple[Result, ...]:
    """Runs the jobs before it returns. SIGTERM ends this process meanwhile, and the hook with all it started."""
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


@dataclass(frozen=True, slots=True)
class _Step:
    """One hook of a job; `nth` tells it from the same one earlier in that job's list."""

    hook: Hook
    nth: int


def _steps(job: Job) -> list[_Step]:
    return [_Step(hook, job.hooks[:index].count(hook)) for index, hook in enumerate(job.hooks)]


def _shown(hook: Hook) -> str:
    # A command's arguments are the user's own, and may hold what no log should.
    if hook.kind == "command":
        return ascii(hook.argv[0])[1:-1]
    return f"{'restart of' if hook.kind == 'systemd' else 'static pod'} {hook.name}"
