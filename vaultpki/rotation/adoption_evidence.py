"""Defines what the judgement of an adoption rests on: what each machine reports, and what the cluster shows; pure.

Reports are read first and the cluster after them: who registers meanwhile is seen without an agent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from vaultpki.kube.objects import PodStart
from vaultpki.procedure.phases import Side
from vaultpki.records.adoption_report import AdoptionReport, Held

HELD: Final = {Side.OLD: Held.OLD, Side.BOTH: Held.BOTH, Side.NEW: Held.NEW}
"""What a node reports that holds exactly these CAs."""


@dataclass(frozen=True, slots=True)
class Served:
    """A certificate that a listener of a machine presented: of which row, where, and the CA that has signed it.

    `side` is None if neither the old nor the new CA has. `own` is whether a kubelet has made it itself.
    """

    row: str
    place: str
    side: Side | None
    own: bool = False


@dataclass(frozen=True, slots=True)
class AdoptedMachine:
    """A machine that counts: it has a Node object, or runs a member of etcd, or a component of the control plane.

    `plane` and `member` are what runs there, `kubelet` is whether it has a Node object. `enrolled` is whether an agent
    of this name can log in. `report` is what its agent said at `time` of the adoption, both None if nothing. `signs`
    is whether the flags of its controller manager name a CSR signer's files, None without one; `rotates` what its
    kubelet says of `rotateCertificates`, None if it does not say. `started` are the starts of its static pods by
    component, as the API server shows them, and `stopped` the components that do not run. `served` is what its
    listeners presented. `later` is whether it has joined with the new CAs' certificates: nothing of kubeadm's CAs was
    ever there. `pooled` is whether its agent is one of a pool: whoever may enrol into that makes as many as it likes.
    `silent` is whether its kubelet has stopped to report. `unknown` is why its kubelet's configuration could not be
    read, where that alone would tell whether it has joined with the new CAs' certificates; "" elsewhere. `mounting` are
    the pods there, beside the components, that mount kubeadm's files, as the API server shows them.
    """

    name: str
    plane: bool = False
    member: bool = False
    kubelet: bool = True
    enrolled: bool = False
    report: AdoptionReport | None = None
    time: datetime | None = None
    signs: bool | None = None
    rotates: bool | None = None
    started: Mapping[str, datetime] = field(default_factory=dict)
    stopped: tuple[str, ...] = ()
    served: tuple[Served, ...] = ()
    later: bool = False
    pooled: bool = False
    silent: bool = False
    unknown: str = ""
    mounting: tuple[str, ...] = ()

    @property
    def by_turn(self) -> bool:
        """Whether it restarts only when it has the turn: its API server or its member of etcd is away meanwhile."""
        return self.plane or self.member


@dataclass(frozen=True, slots=True)
class IssuedRequest:
    """A CSR that the old CA has signed: its name, who asked, and the node that the certificate is for; "" for none.

    `made` is when it was asked for.
    """

    name: str
    user: str
    node: str
    made: datetime | None = None


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """What the API server shows after the reports were read; a Side of nothing at all is None.

    `info` are the CAs in cluster-info, None without that object. `clients` are those in
    `extension-apiserver-authentication` by its keys, empty without that object. `roots` are those in each namespace's
    `kube-root-ca.crt`, with `changed` as its times. `pods` were given one. `tokens` are the ids of
    bootstrap tokens, `keys_secret` whether `kubeadm-certs` is there. `requests` are CSRs that were issued.
    `without_rights` are users of the new certificates to whom no ClusterRoleBinding gives anything.
    `servers` are objects with a CA bundle for another server that holds an old CA and no new one. `stale` are
    objects of kubeadm's that are not right for the end. `spare` are agents of machines that
    the cluster does not have. `unread` says by the name of a part why it could not be read.
    """

    machines: tuple[AdoptedMachine, ...] = ()
    info: Side | None = None
    clients: Mapping[str, Side | None] = field(default_factory=dict)
    roots: Mapping[str, Side | None] = field(default_factory=dict)
    changed: Mapping[str, datetime | None] = field(default_factory=dict)
    pods: tuple[PodStart, ...] = ()
    tokens: tuple[str, ...] = ()
    keys_secret: bool = False
    requests: tuple[IssuedRequest, ...] = ()
    without_rights: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)

    def machine(self, name: str) -> AdoptedMachine | None:
        """Return the machine of this name, None if it is none of the cluster's."""
        return next((each for each in self.machines if each.name == name), None)

    @property
    def planes(self) -> tuple[AdoptedMachine, ...]:
        """The machines of the control plane."""
        return tuple(each for each in self.machines if each.plane)


def side_of(held: Collection[str], old: Collection[str], new: Collection[str]) -> Side | None:
    """Return which CAs a text holds, by SHA-256; None if it holds neither. Others do not matter."""
    sides = [side for side, cas in ((Side.OLD, old), (Side.NEW, new)) if set(cas) & set(held)]
    if not sides:
        return None
    return Side.BOTH if len(sides) == 2 else sides[0]
