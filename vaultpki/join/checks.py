"""Find what would make a join fail on this machine, before the token is used or anything is written.

Each check is a small function that raises if something is wrong, and leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from vaultpki.agent import pairs
from vaultpki.config.agent import refuse_folders
from vaultpki.config.taken_over import ASIDE_FOLDER
from vaultpki.disk import exchange, files, owner_mark, room
from vaultpki.disk.folders import Folders
from vaultpki.errors import ArgumentError, SpecError, StoreError, VaultpkiError
from vaultpki.host import static_pod
from vaultpki.issue.issuers import installed_bundles
from vaultpki.model import AgentConfig, TakenOver
from vaultpki.node import foreign_kubeadm_files, pins
from vaultpki.pki import x509
from vaultpki.pki.trust import in_date
from vaultpki.places import HIDDEN_FOLDER, KUBECONFIGS, KUBELET, PKI, Layout, inner_folders
from vaultpki.records.join_file import Join
from vaultpki.redact import first_few

# What a join and a first pass write, with room to spare: pairs in blocks of 4 KiB, their folders and links.
STATE_BYTES: Final = 64 * 1024
STATE_ENTRIES: Final = 8
PAIRS_BYTES: Final = 512 * 1024
PAIRS_ENTRIES: Final = 100


@dataclass(frozen=True, slots=True)
class JoinPlan:
    """A join that is to be made: where its agent.yaml (`file`), directory and state folder will be, by absolute paths.

    `folders` are as in AgentConfig. `old` is the agent.yaml of an earlier join; what it says of owners stays. With
    `static_pods` agent.yaml gets the hooks that restart this node's static pods. With `adopt` the machine is taken
    over, and its agent does each step.
    """

    join: Join
    old: AgentConfig | None
    file: str
    directory: str
    state: str
    folders: Mapping[str, str] = field(default_factory=dict)
    static_pods: bool = False
    adopt: bool = False

    @property
    def paths(self) -> dict[str, str]:
        """The paths of all folders of files by name, as in AgentConfig."""
        inner = {} if self.join.layout is Layout.DOCUMENT else inner_folders(self.directory)
        return {PKI: self.directory, **inner, **self.folders}

    @property
    def machine(self) -> TakenOver:
        """The machine of this plan as one that is taken over; only in the layout kubeadm."""
        return TakenOver(self.adopt, self.directory, self.folders[KUBELET], self.folders[KUBECONFIGS])


def refuse(plan: JoinPlan) -> None:
    """Raise ArgumentError, SpecError or StoreError, with what to do, for the first check that fails."""
    _static_pods(plan)
    for _, error in failed_checks(plan):
        raise error


def failed_checks(plan: JoinPlan) -> Iterator[tuple[str, VaultpkiError]]:
    """Return each check that fails, by its name, and why."""
    for name, check in CHECKS:
        try:
            check(plan)
        except (ArgumentError, SpecError, StoreError) as error:
            yield name, error


def _same_node(plan: JoinPlan) -> None:
    join, old = plan.join, plan.old
    if old is not None and (old.cluster, old.prefix, old.node) != (join.cluster, join.prefix, join.node):
        raise ArgumentError(
            f"the join file is for node {join.node} of {join.cluster}, and {plan.file} is of node {old.node} of "
            f"{old.cluster}; name another agent.yaml with -c"
        )
    if old is not None and old.layout is not join.layout:
        raise ArgumentError(
            f"the join file is for the layout {join.layout.value}, and {plan.file} is for {old.layout.value}. Name "
            "another agent.yaml with -c, and another --dir if files of the old layout are still in use"
        )


def _apart(plan: JoinPlan) -> None:
    if _inside(plan.state, plan.directory):
        raise ArgumentError(
            f"the agent's own folder {plan.state} would lie in {plan.directory}, which static pods mount; "
            "name another place for agent.yaml with -c, or another --dir"
        )
    if _inside(plan.directory, plan.state):
        raise ArgumentError(
            f"{plan.directory} would lie in the agent's own folder {plan.state}, which nobody else may enter; "
            "name another --dir"
        )
    if plan.folders:
        refuse_folders(plan.directory, plan.state, plan.folders)


def _configuration(plan: JoinPlan) -> None:
    room.prove(os.path.dirname(plan.file), STATE_BYTES, 1)


def _state(plan: JoinPlan) -> None:
    room.prove(plan.state, STATE_BYTES, STATE_ENTRIES)


def _whose(plan: JoinPlan) -> None:
    pin, former = plan.join.root_sha256, plan.join.former_root_sha256
    others = pins.every(plan.state, *filter(None, (pin, former))) | {*filter(None, (former,))}
    holder = owner_mark.DirectoryOwner(plan.join.cluster, plan.join.node, pin, others)
    for name, path in plan.paths.items():
        if name != KUBECONFIGS:
            owner_mark.refuse_foreign(path, holder)


def _former_cas(plan: JoinPlan) -> None:
    """Refuse to leave a root whose CAs would leave the bundles while other nodes show certificates of them."""
    join = plan.join
    if join.former_root_sha256 is None or not files.exists(plan.directory):
        return
    now = datetime.now(UTC)
    with Folders.open(plan.paths, create=False, write=False) as folders:
        held = {ca: x509.readable(text) for ca, text in installed_bundles(folders, join.layout).items()}
    unknown = [
        f"{facts.subject_text} (SHA-256 {facts.fingerprint})"
        for ca, cas in held.items()
        for facts in cas
        if in_date(facts, now) and facts.fingerprint not in join.also_trust.get(ca, ())
    ]
    if unknown:
        raise StoreError(
            f"{plan.directory}: its bundles hold CAs of the former root that the join file does not know, and "
            f"certificates in use may be of them: {first_few(unknown, len(held))}. Write each into `ca.also_trust` of "
            "cluster.yaml, run `vaultpki apply`, and enrol the node again. Take them out once all nodes have joined"
        )


def _kubeadms(plan: JoinPlan) -> None:
    if plan.old is not None and plan.old.taken_over is not None:
        return
    if foreign_kubeadm_files.to_take_over(plan.join, plan.paths):
        machine = plan.machine
        exchange.exchangeable(machine.directory, f"{machine.aside}/{ASIDE_FOLDER}")
        # A machine with etcd alone has none.
        if files.exists(machine.kubelet):
            exchange.exchangeable(machine.kubelet, f"{machine.kubelet_aside}/{ASIDE_FOLDER}")
        return
    foreign_kubeadm_files.refuse(plan.join.layout, plan.paths)
    if plan.adopt:
        raise ArgumentError(
            "--adopt: there is nothing to take over, since this machine has no files of kubeadm's, or the join file "
            "names no CA of theirs. Leave the option out on a new machine. Else write today's CAs into "
            "`ca.also_trust` of cluster.yaml, run `vaultpki apply`, and enrol it again"
        )


def _directory(plan: JoinPlan) -> None:
    paths = [plan.directory, *plan.folders.values()]
    if plan.old is None and foreign_kubeadm_files.to_take_over(plan.join, plan.paths):
        # Nothing is written into kubeadm's own folders, not even to try.
        paths = [plan.machine.aside, plan.machine.kubelet_aside]
    for path in paths:
        hidden = f"{path}/{HIDDEN_FOLDER}"
        room.prove(hidden if files.exists(hidden) else path, PAIRS_BYTES, PAIRS_ENTRIES)


def _static_pods(plan: JoinPlan) -> None:
    # In the layout kubeadm the kubelet and kubeadm make the folder, after the join.
    if plan.static_pods and plan.join.layout is Layout.DOCUMENT and not os.path.isdir(static_pod.MANIFEST_FOLDER):
        raise ArgumentError(
            f"--hooks static-pods: there is no {static_pod.MANIFEST_FOLDER}, so no component runs as a static pod "
            "here. Leave the option out, and write hooks that restart this node's units into agent.yaml"
        )


def _owners(plan: JoinPlan) -> None:
    if plan.old is not None:
        for owner in (plan.old.owner, *(each.owner for each in plan.old.certificates.values())):
            pairs.owner_of(owner)


CHECKS: Final[tuple[tuple[str, Callable[[JoinPlan], None]], ...]] = (
    ("agent.yaml is of the same node", _same_node),
    ("state folder and directory lie apart", _apart),
    ("agent.yaml can be written", _configuration),
    ("state folder can be written", _state),
    ("directory is nobody else's", _whose),
    ("CAs of the former root stay trusted", _former_cas),
    ("no cluster of kubeadm's own is here", _kubeadms),
    ("directory can be written", _directory),
    ("owners exist", _owners),
)
"""The checks in their order, by name."""


def _inside(path: str, folder: str) -> bool:
    return f"{os.path.normpath(path)}/".startswith(f"{os.path.normpath(folder)}/")
