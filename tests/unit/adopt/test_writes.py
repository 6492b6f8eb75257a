"""What an adoption changes in the cluster's API server, in which state, and that the rest of each object stays."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509

from helpers.foreign_ca import ForeignCa
from unit.adopt.test_gates import BEGUN, machine, record, seen
from vaultpki.adopt import writes
from vaultpki.adopt.writes import DEFAULTS_PATH, INFO_PATH, SETTINGS_PATH, ObjectWrite
from vaultpki.procedure.phases import Side
from vaultpki.records.adoption import AdoptionState
from vaultpki.records.adoption_report import OldKeys
from vaultpki.rotation.adoption_states import TRUSTED

_S = AdoptionState
OLD, NEW, OTHER = ForeignCa("kubernetes"), ForeignCa("new"), ForeignCa("other")
NOW = datetime(2027, 3, 1, tzinfo=UTC)


def names(found: tuple[ObjectWrite, ...]) -> list[str]:
    return [each.path.rpartition("/")[2] for each in found]


@pytest.mark.parametrize("state", AdoptionState)
def test_nothing_is_due_once_all_is_as_the_state_asks(state: AdoptionState) -> None:
    assert writes.due(record(state), seen(state)) == ()


@pytest.mark.parametrize("state", AdoptionState)
def test_cluster_info_follows_the_state(state: AdoptionState) -> None:
    for side in Side:
        found = names(writes.due(record(state), replace(seen(state), info=side)))
        assert ("cluster-info" in found) is (side is not TRUSTED[state])
    assert writes.due(record(state), replace(seen(state), info=None)) == ()


def test_tokens_of_before_are_deleted_where_cluster_info_changes_and_at_the_end() -> None:
    for state in AdoptionState:
        tokens = replace(seen(state), tokens=("abcdef", "uvwxyz"))
        found = writes.due(record(state, joins_closed=None), tokens)
        begins = state in (_S.PUBLISHED, _S.RETRUSTING, _S.RETIRED, _S.DONE)
        assert names(found) == (["bootstrap-token-abcdef", "bootstrap-token-uvwxyz"] if begins else [])
        assert all(each.delete and "kubeadm token create" in each.text for each in found)
        # Tokens that were made since are right.
        assert writes.due(record(state, joins_closed=BEGUN), tokens) == ()


def test_keys_for_joining_control_planes_are_deleted() -> None:
    for state in AdoptionState:
        found = names(writes.due(record(state), replace(seen(state), keys_secret=True)))
        kept = state in (_S.PREPARED, _S.PUBLISHED, _S.RETURNING)
        assert found == ([] if kept else ["kubeadm-certs"])
    assert names(writes.due(record(_S.PUBLISHED, joins_closed=None), replace(seen(_S.PUBLISHED), keys_secret=True)))


def test_published_client_cas_are_written_anew_only_when_no_api_server_would_add_the_old_ones() -> None:
    for state in (_S.RETIRED, _S.DONE, _S.PREPARED):
        clients = {"client-ca-file": Side.BOTH, "requestheader-client-ca-file": TRUSTED[state]}
        whole = replace(seen(state), clients=clients)
        assert names(writes.due(record(state), whole)) == ["extension-apiserver-authentication"]
        late = machine("cp-2", state, report=None)
        machines = tuple(late if each.name == "cp-2" else each for each in whole.machines)
        assert writes.due(record(state), replace(whole, machines=machines)) == ()
        assert writes.due(record(state), replace(whole, machines=())) == ()
    # Elsewhere kube-apiserver adds what is missing by itself.
    clients = {"client-ca-file": Side.OLD}
    assert writes.due(record(_S.PUBLISHED), replace(seen(_S.PUBLISHED), clients=clients)) == ()


def test_kubeadms_settings_change_only_at_the_end() -> None:
    for state in AdoptionState:
        found = writes.due(record(state), replace(seen(state), stale=(SETTINGS_PATH, DEFAULTS_PATH)))
        assert names(found) == (["kubeadm-config", "kubelet-config"] if state is _S.DONE else [])
        assert not any(each.delete for each in found)


def test_a_machine_with_keys_is_no_matter_of_the_api_server() -> None:
    report = machine("cp-1", _S.DONE).report
    assert report is not None
    whole = replace(seen(_S.DONE), machines=(machine("cp-1", _S.DONE, report=replace(report, keys=OldKeys.ASIDE)),))
    assert writes.due(record(_S.DONE), whole) == ()


def info(pem: str, *, quoted: bool) -> dict[str, object]:
    data = base64.b64encode(pem.encode()).decode()
    cluster = {"certificate-authority-data": data, "server": "https://api.example.com:6443"}
    text = json.dumps({"clusters": [{"cluster": cluster, "name": ""}]})
    if not quoted:
        # As kubeadm writes it.
        text = (
            "apiVersion: v1\nclusters:\n- cluster:\n"
            f'    certificate-authority-data: {data}\n    server: https://api.example.com:6443\n  name: ""\n'
        )
    return {"metadata": {"resourceVersion": "7"}, "data": {"kubeconfig": text, "jws-kubeconfig-abcdef": "x"}}


def bundle(found: dict[str, object]) -> str:
    data = found["data"]
    assert isinstance(data, dict)
    whole = data["kubeconfig"].partition("certificate-authority-data")[2].lstrip('": ')
    return base64.b64decode(whole.split('"')[0].split("\n")[0]).decode()


@pytest.mark.parametrize("quoted", [False, True])
def test_cluster_info_goes_there_and_back_byte_for_byte(quoted: bool) -> None:
    first = info(OLD.pem.replace("\n-----END", "\n-----END") + "", quoted=quoted)
    both = writes.cluster_info(first, Side.BOTH, [OLD.pem], [NEW.pem])
    assert bundle(both) == OLD.pem + NEW.pem
    assert len(x509.load_pem_x509_certificates(bundle(both).encode())) == 2
    assert {**both, "data": None} == {**first, "data": None}
    assert writes.cluster_info(both, Side.BOTH, [OLD.pem], [NEW.pem]) == both
    new = writes.cluster_info(both, Side.NEW, [OLD.pem], [NEW.pem])
    assert bundle(new) == NEW.pem
    home = writes.cluster_info(both, Side.OLD, [OLD.pem], [NEW.pem])
    assert home == first


def test_what_somebody_else_has_put_there_stays() -> None:
    # Without the last line's end, as a person's editor may leave it.
    found = info(OLD.pem + OTHER.pem.rstrip("\n"), quoted=False)
    both = writes.cluster_info(found, Side.BOTH, [OLD.pem], [NEW.pem])
    assert len(x509.load_pem_x509_certificates(bundle(both).encode())) == 3
    assert OTHER.pem in bundle(writes.cluster_info(both, Side.NEW, [OLD.pem], [NEW.pem]))
    # An object of another form is left as it is, and nothing is emptied.
    assert writes.cluster_info({"data": {"kubeconfig": "{}"}}, Side.NEW, [OLD.pem], [NEW.pem]) == {
        "data": {"kubeconfig": "{}"}
    }
    assert bundle(writes.cluster_info(first := info(OLD.pem, quoted=False), Side.NEW, [OLD.pem], [])) == OLD.pem, first


def test_paths() -> None:
    assert INFO_PATH == "/api/v1/namespaces/kube-public/configmaps/cluster-info"
