"""What may be signed now, and what a pass says where it may not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import sample_certificates
from helpers.example_agent import agent_config
from helpers.foreign_ca import ForeignCa
from vaultpki.agent import sign_due
from vaultpki.agent.context import Contact, Context, PassOptions
from vaultpki.agent.pairs import PairStatus
from vaultpki.certificates import BUNDLES
from vaultpki.disk.folders import Folders
from vaultpki.errors import StoreError, Unavailable
from vaultpki.issue.issuers import Issuers
from vaultpki.issue.rotations import Rotations
from vaultpki.layout import shown
from vaultpki.model import Certificate, KeyType, NodeRole, Subject, Usage
from vaultpki.node.assignment import Assignment
from vaultpki.node.state import StateFile
from vaultpki.pki.facts import Trust
from vaultpki.pki.renewal import Assessment, Reason
from vaultpki.places import PKI

WANT = Certificate(
    "kubelet", Usage.SERVER, Subject("w-1"), "kubelet", "m/kubelet", "kubelet", 86400, KeyType.EC_P256, "kubelet"
)
WANTED = Assignment(0.0, "", "", frozenset({NodeRole.WORKER}), (WANT,), (), Issuers({}, ()), {}, Rotations())
CA = ForeignCa("prod kubelet CA").facts
TRUST = Trust(CA, (CA,), (CA,), signers=(CA,))
AWAY = Unavailable("nobody answers", sent=False)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    (tmp_path / "state").mkdir(mode=0o700)
    with Folders.open({PKI: str(tmp_path / "pki")}) as folders:
        config = agent_config(state=str(tmp_path / "state"), directory=folders.path)
        yield Context(
            config, PassOptions(()), folders, sample_certificates.SIGNED.timestamp(), StateFile(config.state), None
        )


def item(*reasons: Reason) -> PairStatus:
    return PairStatus(WANT, {}, Assessment(reasons, sample_certificates.SIGNED), sample_certificates.LEAF)


def test_a_key_that_others_could_read_is_told_once_and_remembered(context: Context) -> None:
    """The mode that tells it is corrected, and the key is still to be replaced."""
    for _ in range(2):
        sign_due._note_exposed(context, [item(Reason.KEY_EXPOSED)])
    assert context.state.value.exposed == {"kubelet": sample_certificates.LEAF.serial}
    (event,) = context.found.events
    assert (event.name, event.level) == ("exposed", "warning") and "others could read the key of kubelet" in event.text
    assert StateFile(context.config.state).value.exposed == context.state.value.exposed


def test_while_vault_is_away_no_renewal_is_late_and_nothing_is_tried_on_the_disk(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = list[str]()
    monkeypatch.setattr(Folders, "probe", lambda folders, folder, count: probed.append(folder))
    due, away = item(Reason.DUE), Contact(away=AWAY)
    assert not sign_due.postpone_late(context, away, 0.0, [due])
    assert sign_due._allowed(context, away, WANTED, [due], {"kubelet": TRUST}) == [] and not probed
    assert context.found.failures == {"kubelet": AWAY}


@pytest.mark.parametrize("failed", [(), ("one",), ("whole",), ("one", "whole")])
def test_no_certificate_comes_before_its_ca_and_the_reason_is_the_bundles(
    context: Context, failed: Sequence[str]
) -> None:
    """Readers would refuse it; and what keeps the bundle back is what a person has to cure."""
    names = {"one": shown(PKI, "kubelet-ca.crt"), "whole": shown(PKI, BUNDLES)}
    errors = {each: StoreError(f"{each} cannot be written") for each in failed}
    context.found.failures.update({names[each]: error for each, error in errors.items()})
    why = sign_due._cannot_install(context, WANTED, item(Reason.DUE), TRUST)
    expected = errors.get("whole") or errors.get("one")
    assert why is expected if expected else "it is not there with every CA of kubelet" in str(why)
    assert sign_due._cannot_install(context, WANTED, item(Reason.DUE), replace(TRUST, live=())) is None
