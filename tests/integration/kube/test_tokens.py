"""What is read of tokens from an API server: flags of static pods and names of Secrets, and never their content."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from helpers.kube import answering_api
from helpers.kube.answering_api import Api, items
from vaultpki.errors import VaultpkiError
from vaultpki.kube import tokens
from vaultpki.kube.token_flags import LegacyToken, TokenFlags, TokensInUse

CA = trustme.CA()
PODS = "/api/v1/namespaces/kube-system/pods"
SECRETS = "/api/v1/secrets"


def pod(node: str, *arguments: str, mirror: bool = True) -> dict[str, Any]:
    annotations = {"kubernetes.io/config.mirror": "x"} if mirror else {}
    container = {"name": "kube-apiserver", "command": ["kube-apiserver", *arguments]}
    return {"metadata": {"annotations": annotations}, "spec": {"nodeName": node, "containers": [container]}}


def values() -> dict[str, Any]:
    about = {"name": "robot", "namespace": "ci", "creationTimestamp": "2024-05-01T00:00:00Z"}
    longest = "--service-account-max-token-expiration"
    return {
        PODS: items(
            pod("cp-1", "--service-account-extend-token-expiration=false", f"{longest}=1h0m0s"),
            pod("cp-2", f"{longest}=48h"),
            pod("cp-3", mirror=False),
        ),
        SECRETS: items({"metadata": about}),
        "/api/v1/nodes": items({"metadata": {"name": "cp-1"}, "status": {}}),
    }


@pytest.fixture
def api() -> Iterator[Api]:
    with answering_api.serving(values(), CA.issue_cert("127.0.0.1").configure_cert) as server:
        yield server


def read(api: Api, folder: Path, *, metrics: bool = False) -> TokensInUse:
    return tokens.read_tokens(answering_api.access(api, folder, CA.cert_pem.bytes()), metrics=metrics)


def test_flags_and_names_are_read(api: Api, tmp_path: Path) -> None:
    found = read(api, tmp_path)
    assert found.flags == {
        "cp-1": TokenFlags(extends=False, longest=3600),
        "cp-2": TokenFlags(extends=True, longest=48 * 3600),
    }
    assert found.legacy == (LegacyToken("ci/robot", datetime(2024, 5, 1, tzinfo=UTC)),)
    assert found.stale is None and not found.unread
    # Only Secrets of that type, and nothing of what is in them.
    (path,) = [path for path in api.asked if path.startswith(SECRETS)]
    assert "fieldSelector=type%3Dkubernetes.io%2Fservice-account-token" in path
    assert "as=PartialObjectMetadataList" in api.asked[path]
    assert api.methods == {"GET"}
    # This one shows no counter of stale tokens.
    assert read(api, tmp_path, metrics=True).stale == {}


def test_secrets_that_may_not_be_listed_are_not_taken_for_none(api: Api, tmp_path: Path) -> None:
    api.values[SECRETS] = 403
    found = read(api, tmp_path)
    assert found.legacy is None and "Secrets of the cluster could not be read" in found.unread[0]


def test_flags_that_cannot_be_understood_are_not_known(api: Api, tmp_path: Path) -> None:
    api.values[PODS] = items(pod("cp-1", "--service-account-max-token-expiration=soon"))
    found = read(api, tmp_path)
    assert found.flags == {} and "cp-1" in found.unread[0]


def test_a_user_that_is_not_accepted_is_an_error(api: Api, tmp_path: Path) -> None:
    api.values[PODS] = 401
    with pytest.raises(VaultpkiError, match="does not accept the user"):
        read(api, tmp_path)
