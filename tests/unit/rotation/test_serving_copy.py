"""The ConfigMap by which others trust kubelets: which steps wait for it, and when it is to be applied again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.root_certificates import NOW, Key
from vaultpki.kube.objects import KubeTrust
from vaultpki.procedure.gate import Gate, Waiting
from vaultpki.records.rotation import CaRef, Method, RotationRecord, State
from vaultpki.rotation.serving_copy import WORD, advice, counts, gate, word_refused

OLD, NEW = Key("prod kubelet CA").root(), Key("prod kubelet CA 2").root()
K1, K2 = "key 1 of the CA kubelet", "key 2 of the CA kubelet"
RECORD = RotationRecord(
    "kubelet",
    State.PUBLISHED,
    3,
    NOW,
    CaRef("kubelet-1", sha256=OLD.fingerprint),
    CaRef("kubelet-2", sha256=NEW.fingerprint),
)
OPEN = Gate(opens=NOW)
BOTH = OLD.pem + NEW.pem


def shown(*files: str) -> KubeTrust:
    return KubeTrust((), (), (), files)


def reasons(found: Gate) -> list[str]:
    assert all(each.node == WORD for each in found.waiting)
    return [each.reason for each in found.waiting]


@pytest.mark.parametrize(
    ("state", "to", "lacks"),
    [
        (State.PUBLISHED, State.SWITCHED, {OLD.pem: K2, NEW.pem: K1, "": f"{K1} and {K2}"}),
        (State.RETRUSTING, State.SWITCHED, {OLD.pem: K2, NEW.pem: K1}),
        (State.RETRUSTING, State.RETURNING, {OLD.pem: "", NEW.pem: K1}),
        (State.RETURNING, State.SWITCHED, {OLD.pem: K2, NEW.pem: ""}),
    ],
)
def test_every_file_must_hold_the_cas_that_the_step_waits_for(state: State, to: State, lacks: dict[str, str]) -> None:
    now = replace(RECORD, state=state)
    assert gate(now, to, OPEN, shown(BOTH, BOTH + OLD.pem)).open(NOW)
    # Without the ConfigMap nobody reads it.
    assert gate(now, to, OPEN, shown()) == OPEN
    for pem, names in lacks.items():
        found = gate(now, to, OPEN, shown(BOTH, pem))
        assert found.open(NOW) == (not names)
        assert all(
            each.startswith(f"does not hold {names} yet. Write it: `vaultpki issue admin --dir DIR`")
            for each in reasons(found)
        )


def test_without_a_kubeconfig_a_person_says_so() -> None:
    (said,) = reasons(gate(RECORD, State.SWITCHED, OPEN, None))
    assert f"must hold {K1} and {K2}" in said and f"`vaultpki ca continue --checked {WORD}`" in said
    told = replace(RECORD, checked=(WORD,))
    assert gate(told, State.SWITCHED, OPEN, None).open(NOW)
    # What the cluster shows counts more than the word.
    assert reasons(gate(told, State.SWITCHED, OPEN, shown(OLD.pem)))
    back = replace(RECORD, state=State.RETRUSTING)
    assert f"`vaultpki ca abort --checked {WORD}`" in reasons(gate(back, State.RETURNING, OPEN, None))[0]
    nobody = gate(replace(RECORD, excused=(WORD,)), State.SWITCHED, OPEN, None)
    assert nobody.open(NOW) and nobody.excused == (Waiting(WORD, "is left out by `--without`"),)


@pytest.mark.parametrize(
    ("record", "to"),
    [
        (replace(RECORD, state=State.SWITCHED), State.RETIRED),
        (replace(RECORD, state=State.RETIRED), State.DONE),
        (replace(RECORD, method=Method.EMERGENCY), State.RETIRED),
        (replace(RECORD, domain="etcd"), State.SWITCHED),
    ],
)
def test_other_steps_do_not_wait_for_it(record: RotationRecord, to: State) -> None:
    assert not counts(record, to) and gate(record, to, OPEN, None) == OPEN
    assert "does not wait for kubelet-serving-ca" in word_refused(record, to, WORD)
    assert word_refused(RECORD, State.SWITCHED, WORD) == "" and word_refused(RECORD, State.SWITCHED, "pods")


def test_at_rest_it_is_applied_again_while_it_holds_another_ca() -> None:
    done = replace(RECORD, state=State.DONE)
    assert advice(done, shown(NEW.pem, NEW.pem)) == advice(done, shown()) == ""
    for pem in (BOTH, OLD.pem, "odd"):
        assert advice(done, shown(NEW.pem, pem)).startswith(f"{WORD} in kube-system does not hold what nodes trust")
    # Without a look only where the rotation has just ended.
    assert advice(done, None) == "" and f"may still hold {K1}, which has left" in advice(done, None, ended=True)
    steady = replace(RECORD, state=State.STEADY)
    assert f"may still hold {K2}, which has left" in advice(steady, None, ended=True)
    assert advice(steady, shown(OLD.pem)) == ""
    never = replace(steady, new=CaRef("kubelet-2"))
    for record in (None, RECORD, never, replace(done, excused=(WORD,)), replace(done, domain="etcd")):
        assert advice(record, shown(OLD.pem), ended=True) == ""
