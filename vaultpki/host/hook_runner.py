"""Run the hooks that are owed: each in turn, with a time limit, and none once the agent stops."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256

from vaultpki.errors import StoreError, fault
from vaultpki.host import static_pod
from vaultpki.host.command import CommandRunner
from vaultpki.host.hooks import Job, Result, rank
from vaultpki.host.restarts import Restarts
from vaultpki.kube.flags import COMPONENTS
from vaultpki.model import Hook


class Runner:
    """Run hooks one at a time, in a thread (`submit`, `results`) or at once (`run_all`).

    `done` is called in the thread for each result. `ran` has the digests that hooks have succeeded for, by key, as far
    as `results` has returned them.
    """

    def __init__(self, done: Callable[[], object] = lambda: None) -> None:
        self._done = done
        self.ran: dict[str, str] = {}
        self._commands = CommandRunner()
        self._restarts = Restarts(self._commands.wait)
        self._lock = threading.Lock()
        self._queued: dict[str, Job] = {}
        self._running: dict[str, Job] = {}
        self._results: list[Result] = []
        # What has succeeded of a key's hooks for a digest, as long as the others of the key have not.
        self._succeeded: dict[str, tuple[str, set[_Step]]] = {}
        self._thread: threading.Thread | None = None

    def submit(self, jobs: Iterable[Job]) -> None:
        """Queue these jobs alone, in place of what is queued and has not begun.

        One whose key's hooks run, or whose result is not taken, is left out. Each pass judges anew what is to run: a
        component that a hook has just restarted may have read the newest files, and the node's turn may be over.
        """
        with self._lock:
            if self._commands.stopped:
                return
            known = {*self._running, *(result.key for result in self._results)}
            self._queued = {job.key: job for job in jobs if job.key not in known}
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

    @property
    def under_way(self) -> frozenset[str]:
        """The keys whose hooks are queued or run, or whose results are not taken."""
        with self._lock:
            return frozenset((*self._queued, *self._running, *(result.key for result in self._results)))

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
        jobs = tuple(sorted(jobs, key=lambda job: rank(job.key)))
        errors: dict[_Step, str] = {}
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
            yield Result(job.key, job.digest, not error, error, job.attempts + 1)

    def _run(self, hook: Hook, job: Job, sharing: list[Job]) -> str:
        """Run one hook for all jobs that share it; return "", or what went wrong as the rest of a sentence."""
        if hook.kind == "static_pod":
            return self._restarts.run(hook, sharing, lambda: _restart_pod(hook.name, sharing))
        if hook.kind == "systemd":
            # Not `restart`: at boot it waits for ever for a unit that is ordered after vaultpki-agent-once.
            argv = ("systemctl", "try-restart", "--", hook.name)
            return self._restarts.run(hook, sharing, lambda: self._command(hook, argv, job, sharing))
        return self._command(hook, hook.argv, job, sharing)

    def _command(self, hook: Hook, argv: tuple[str, ...], job: Job, sharing: list[Job]) -> str:
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


def _restart_pod(name: str, sharing: list[Job]) -> str:
    if _not_there_yet(name):
        return ""
    try:
        static_pod.restart(name, {each.key: _change(each) for each in sharing})
    except StoreError as error:
        return f"failed: {error}"
    return ""


def _change(job: Job) -> str:
    """Return what the manifest says that its pod was restarted for: a file that came back is another change."""
    installed = job.installed
    if installed is None:
        return job.digest
    return sha256(f"{job.digest} {installed.boot} {installed.uptime}".encode()).hexdigest()


def _not_there_yet(name: str) -> bool:
    """Return whether this is a component of Kubernetes or etcd that is not a static pod here now.

    kubeadm writes its manifests after the node has joined, and `kubeadm reset` removes them. Whatever starts later
    reads the new files. Any other name may be misspelt.
    """
    return name in COMPONENTS and not os.path.lexists(static_pod.manifest(name))


def _shown(hook: Hook) -> str:
    # A command's arguments may be secrets.
    if hook.kind == "command":
        return ascii(hook.argv[0])[1:-1]
    return f"{'restart of' if hook.kind == 'systemd' else 'static pod'} {hook.name}"
