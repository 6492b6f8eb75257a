"""The folders of certificates on the way: the copy with both CAs is built, and folders take each other's place."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from vaultpki.disk.files import private_folder
from vaultpki.disk.generations import link_of
from vaultpki.errors import StateConflict
from vaultpki.host.pod_manifest import PodManifest
from vaultpki.pki.facts import Facts
from vaultpki.records.adoption_report import Held
from vaultpki.takeover import folders, plain_files
from vaultpki.takeover.arrangement import VERIFY, FolderKind
from vaultpki.takeover.context import TakeOver
from vaultpki.takeover.journal import read

IN_WORDS: Final = {
    FolderKind.KUBEADM: "that kubeadm made",
    FolderKind.BOTH: "with both CAs and the old certificates",
    FolderKind.AGENT: "of the agent",
}
"""What each folder is, for people."""


def bundles(run: TakeOver) -> dict[str, bytes]:
    """Return the bundles of the folder with both CAs, by path below it: the old CA first, as kubeadm needs it."""
    source = run.machine.folder(FolderKind.KUBEADM)
    found = {
        name: _pems(plain_files.trusted_cas(run, ca))
        for ca, name in folders.CA_FILES.items()
        # What is no part of the adoption stays, such as the CA of an etcd that keeps its own.
        if run.cas.old.get(ca) and os.path.lexists(f"{source}/{name}")
    }
    if "ca.crt" in found:
        found["ca-chain.crt"] = found["ca.crt"] + _pems(run.cas.above)
    if "kube-scheduler" in run.machine.static_pods():
        found["scheduler/ca.crt"] = found["ca.crt"]
    path = run.machine.static_pods().get("kube-apiserver")
    if path is not None and VERIFY in PodManifest(plain_files.original(run, path) or b"", path).flags:
        own = run.machine.certificates(f"{run.machine.folder(FolderKind.AGENT)}/kubelet-ca.crt")
        own = tuple(each for each in own if each not in run.cas.old["kubernetes"])
        found["kubelet-ca.crt"] = _pems(run.cas.old["kubernetes"]) + _pems(own)
    return found


def _pems(cas: Iterable[Facts]) -> bytes:
    return "".join(facts.pem for facts in cas).encode()


def both_is_there(run: TakeOver) -> bool:
    """Return whether the folder with both CAs is as the target needs it."""
    path = run.machine.folder(FolderKind.BOTH)
    if folders.kind(path) is not FolderKind.BOTH or not run.journal.value.copied:
        return False
    if run.machine.kind() is FolderKind.KUBEADM and not _same_as_copied(run):
        return False
    return all((read(f"{path}/{name}") or (b"", None))[0] == data for name, data in bundles(run).items())


def too_new(run: TakeOver) -> dict[str, bytes]:
    """Return the bundles of kubeadm's own folder that hold new CAs, by path below it, with the old ones alone.

    A machine has such that joined by `kubeadm join` while everybody trusted both. One without an old CA is none.
    """
    found = {}
    for ca, name in folders.CA_FILES.items():
        old, new = run.cas.old.get(ca, ()), {facts.fingerprint for facts in run.cas.new.get(ca, ())}
        held = {
            each.fingerprint for each in run.machine.certificates(f"{run.machine.folder(FolderKind.KUBEADM)}/{name}")
        }
        if old and held & new and held - new:
            found[name] = _pems(old)
    return found


def remove_too_new(run: TakeOver) -> None:
    """Take the new CAs out of the bundles of kubeadm's own folder."""
    folders.write_bundles(run.machine.folder(FolderKind.KUBEADM), too_new(run))


def _same_as_copied(run: TakeOver) -> bool:
    """Return whether kubeadm's folder is as it was when it was copied."""
    changed = {**bundles(run), folders.MARK: b""}
    now = {name: one for name, one in folders.digests(run.where.directory).items() if name not in changed}
    then = {name: one for name, one in run.journal.value.copied.items() if name not in changed}
    return now == then


def build_both(run: TakeOver) -> None:
    """Make the folder with both CAs, or give the one that is there its bundles."""
    private_folder(run.where.aside)
    path = run.machine.folder(FolderKind.BOTH)
    kind = run.machine.kind()
    if kind is not FolderKind.KUBEADM and folders.kind(path) is FolderKind.BOTH:
        # What kubeadm has renewed in it since stays.
        folders.write_bundles(path, bundles(run))
        run.journal.save(copied={**folders.digests(path), **run.journal.value.copied})
        return
    copied = folders.build_both(run.machine.folder(FolderKind.KUBEADM), run.where.aside, bundles(run))
    run.journal.save(copied=copied)


def exchange_folders(run: TakeOver) -> None:
    """Put the folder of the target in place. Raises StateConflict if it is not complete."""
    machine, where, target = run.machine, run.where, run.target
    now, to = machine.kind(), machine.folder(target.folder)
    if now is None:
        raise StateConflict(f"{where.directory} is missing; put it back from a backup")
    if target.ours:
        refuse_unready(run)
    if now is FolderKind.BOTH and target.folder is FolderKind.KUBEADM:
        copied = run.journal.value.copied
        # Keys and pairs that kubeadm or a person has renewed meanwhile are the newest there are.
        ours = {*bundles(run), folders.MARK}
        names = [n for n, one in folders.digests(where.directory).items() if n not in ours and copied.get(n) != one]
        taken = folders.copy_files(names, where.directory, to)
        run.journal.save(changed=tuple(dict.fromkeys((*run.journal.value.changed, *taken))))
    else:
        # A row of the user's own may have the name of a file that was there.
        own = [name for name in folders.further_files(where.directory) if not link_of(f"{to}/{name}")]
        folders.copy_files(own, where.directory, to)
        folders.copy_links(where.directory, to)
    folders.put(where.directory, where.aside, target.folder)
    run.tell(f"exchanged {where.directory} for the folder {IN_WORDS[target.folder]}")


def refuse_unready(run: TakeOver) -> None:
    """Raise StateConflict if the agent's folders lack a certificate of the new CAs, or a CA that is to be trusted."""
    own, kubelet = run.machine.folder(FolderKind.AGENT), run.machine.kubelet_folder(FolderKind.AGENT)
    places = {"pki": own, "etcd": f"{own}/etcd", "scheduler": f"{own}/scheduler", "kubelet": kubelet}
    for want in run.assignment.certificates:
        if want.folder in places:
            leaf = run.machine.certificates(f"{places[want.folder]}/{want.stem}.crt")
            if not leaf or (want.ca in run.cas.new and run.cas.signer(leaf[0], want.ca) is not Held.NEW):
                raise StateConflict(f"{places[want.folder]}/{want.stem}.crt is missing; run `vaultpki agent --once`")
    for ca, name in folders.CA_FILES.items():
        found = run.machine.certificates(f"{own}/{name}")
        if found and run.cas.old.get(ca) and run.cas.trusted(found, ca) is not run.target.trust:
            raise StateConflict(
                f"{own}/{name} does not hold the CAs of the state {run.target.name}; run `vaultpki agent --once`"
            )
