"""The tables of the model of an adoption: those of the code, by letters, and the rules that the model can leave out.

The old CA is kubeadm's own, whose key lies on the disks of the control plane; the new one is Vault's.
"""

from __future__ import annotations

from vaultpki.procedure.phases import ADOPTION_PHASES, Side, seven_phases, table

OLD, NEW, BOTH = Side.OLD.value, Side.NEW.value, Side.BOTH.value
ENDED = 4
"""In place of a CA: a leaf of the old one that has expired."""
NAMES = {0: "-", 1: "O", 2: "N", 3: "O+N", 4: "the past (expired)"}

STATES = {
    "P": "prepared",
    "U": "published",
    "S": "switched",
    "C": "closed",
    "R": "retired",
    "D": "done",
    "T": "re-trusting",
    "B": "returning",
}
"""The words of the code. In P all is as kubeadm made it and nodes enrol; closed is switched without a CSR signer."""

_LETTERS = {word: letter for letter, word in STATES.items()}
_TABLE = ADOPTION_PHASES.of(_LETTERS.__getitem__)
# Of etcd's world, which has no CSR signer and so no closed.
_SHORT = table(seven_phases("prepared")).of(_LETTERS.__getitem__)

TRUST = {letter: phase.accepts.value for letter, phase in _TABLE.phases.items()}
LEAF = {letter: phase.takes.value for letter, phase in _TABLE.phases.items()}
FORWARD, SHORT, BACK = _TABLE.onward, _SHORT.onward, _TABLE.home
# Steps for which nobody is waited for; what everybody must trust, on disk and in memory, before others; of whose leaves
# all must be before others; and after which no leaf of the old CA is let in. In RD nobody may trust anything else.
FREE = {a + b for a, b in _TABLE.free}
TRUST_STEPS = {a + b: side.value for (a, b), side in _TABLE.by_trust.items()}
LEAF_STEPS = {a + b: side.value for (a, b), side in {**_TABLE.by_use, **_SHORT.by_use}.items()}
LAST = ("SR", "CR")
SIGNER = {letter for letter, phase in _TABLE.phases.items() if Side.OLD in phase.uses}
"""The states in which controller managers sign CSRs, with the old CA's key."""
ASIDE = {letter for letter in LEAF if LEAF[letter] == NEW} - {"D"}
"""The states in which the old CA's keys do not lie where kubeadm looks for them."""

RULES = {
    "nodes": "a gate counts the Node objects of the cluster, not only enrolled nodes",
    "members": "a gate counts the members of etcd, also on machines that are no Node",
    "pinned": "an agent trusts O because its SHA-256 came with the join file; without that pin enrolment is refused",
    "leafword": "an agent installs a leaf of N only from switched on, though N is the mount's default all the time",
    "memory": "for embedded kubeconfigs and start-only readers the gate asks for a start after the bundle",
    "paths": "a process counts as a follower of files only if it was started with the kubeconfig that names files",
    "settle": "for followers the gate waits five minutes after the report",
    "echo": "a report counts only if its pass read the record as it stands",
    "info": "published waits for cluster-info (and the kubeadm-certs Secret) with both CAs",
    "stale": "published waits until no join that read cluster-info before can still end: its token is deleted",
    "secret": "in switched the kubeadm-certs Secret (O's key) is deleted, before nodes are listed, and joins "
    "begun with it have ended",
    "signfile": "the CSR signer gets a file of its own with O alone before ca.crt holds two certificates",
    "signer-on": "the CSR signer runs on through published",
    "signer-off": "the CSR signer stops before retired: from there on nothing makes leaves of O",
    "close": "it stops in a step of its own, after every counted node has reported its leaf of N",
    "order": "retired lists nodes only after every control-plane node has reported that its signer is off",
    "csrs": "retired counts issued CSRs too: a node may hold a leaf and not be registered yet",
    "rotate-on": "rotateCertificates stays on as long as the kubelet's leaf is of O",
    "rotate-off": "rotateCertificates is turned off together with the first leaf of N, and the kubelet restarted",
    "shown": "retired asks which pair the kubelet was started with, not which lies on disk",
    "aside": "from switched until done O's keys do not lie where kubeadm looks for them",
    "kept": "the old pairs are kept until done",
    "last": "keys of O and kept pairs are deleted only after the record says done",
    "enddate": "an expired kept pair is not put back; the node goes on with N and the gate home waits",
    "resign": "a node without a usable old pair gets a new one: by a CSR with its leaf of N, or with the key aside",
    "bring": "a machine without O's key (an etcd host) gets a new pair of O from a person when its kept one has ended",
    "able": "an abort from switched on is refused if O's key is lost: leaves of O could not be renewed any more",
    "retrust": "from retired the way back waits until everybody trusts O again",
    "pods": "published (and re-trusting) wait until kube-root-ca.crt has both and older pods were restarted",
    "pods-last": "pods are looked at after every controller manager was seen to hold both",
    "unenrol": "while an adoption is under way an agent leaves only with its node; in prepared once all is of O",
    "outside": "kubeconfigs outside hold both CAs before switched, a pair of N before retired (a person's word)",
}
"""The rules by their names; O is the old CA and N the new one."""
ALL = frozenset(RULES)
