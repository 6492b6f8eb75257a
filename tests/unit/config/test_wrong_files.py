"""A file that was named by mistake: what else it holds is in no message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vaultpki.config.agent import load_agent
from vaultpki.config.cluster import load_cluster
from vaultpki.errors import SpecError
from vaultpki.records.join_file import load_join

SECRETS = ("hunter2", "hvs.CAESIJdrmCp4HxF0AHwYk4Gsb0p", "$6$salt", "MIIEvQ")
TOKEN = SECRETS[1]

FILES: dict[str, str] = {
    "~/.vault-token": TOKEN,
    "a token with a newline": TOKEN + "\n",
    "a token as a key": f"{TOKEN}: x\n",
    "two tokens": f"{TOKEN}:\n{TOKEN}:\n",
    "a private key": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n",
    "/etc/shadow": "root:$6$salt$hunter2:19000:0:99999:7:::\nbin:*:19000:0:99999:7:::\n",
    "/etc/shadow with one line": "root:$6$salt$hunter2:19000:0:99999:7:::\n",
    "a line twice": "root:$6$salt$hunter2:::\nroot:$6$salt$hunter2:::\n",
    "an environment": f"VAULT_TOKEN={TOKEN}\nPASSWORD=hunter2\n",
    "an environment with colons": f"VAULT_TOKEN: {TOKEN}\nPASSWORD: hunter2\n",
    "a password alone": "hunter2\n",
    "a password as a key": "hunter2:\n",
    "JSON": f'{{"auth": {{"client_token": "{TOKEN}"}}}}',
    "JSON in a list": f'["{TOKEN}"]',
    "netrc": "machine a login b password hunter2\n",
    "an alias": "*hunter2$ x\n",
    "an anchor": "&hunter2$ x\n",
    "a tag": "!<tag:hunter2$> x\n",
    "a directive": "%hunter2$ x\n",
    "quotes": "'hunter2",
    "a token in a known key": f"cluster: {TOKEN}\n",
    "a token in a known list": f"cluster: p\nnodes: [{TOKEN}]\n",
    "a key in a known key": "cluster: |\n  -----BEGIN PRIVATE KEY-----\n  MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n",
}


@pytest.mark.parametrize("load", [load_cluster, load_agent, load_join])
@pytest.mark.parametrize("what", FILES)
def test_no_message_shows_it(what: str, load: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(FILES[what])
    path.chmod(0o600)
    with pytest.raises(SpecError) as caught:
        load(path)
    assert not [secret for secret in SECRETS if secret in str(caught.value)], str(caught.value)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("load", "text", "line", "what"),
    [
        (load_cluster, "version: 1\ncluster: p\nnode: n\nauth: {}\n", 4, "the agent.yaml of a node"),
        # The version of a join file is no version of cluster.yaml.
        (load_cluster, '{"version": 9,\n"wrap_token": "x"}', 2, "a join file"),
        (load_agent, "cluster: p\nservice_account_keys: true\nnodes: []\n", 3, "a cluster.yaml"),
    ],
)
def test_a_file_of_another_kind_is_told(
    load: Callable[[Path], object], text: str, line: int, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load(path)
    assert caught.value.problem.startswith(f"this is {what}, and not ") and caught.value.line == line


def test_a_cluster_yaml_that_is_missing_is_written_by_init(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no such file: name yours with -f, or write a new one with `vaultpki init`"):
        load_cluster(tmp_path / "cluster.yaml")


NAMED = {
    "vault: {ca_file: file, addresses: [https://v]}\n": ("vault.ca_file", None),
    "pools: [{name: p, roles: [worker], node_names: 'p-*', jwt: {issuer: i, audiences: [a], node_claim: n, "
    "public_keys_file: file}}]\n": ("pools[0].jwt.public_keys_file", "public keys"),
    "pools: [{name: p, roles: [worker], node_names: 'p-*', jwt: {issuer: i, audiences: [a], node_claim: n, "
    "jwks_url: https://i, jwks_ca_file: file}}]\n": ("pools[0].jwt.jwks_ca_file", None),
}


@pytest.mark.parametrize("spec", NAMED)
@pytest.mark.parametrize("what", FILES)
def test_no_message_shows_what_a_file_that_the_spec_names_holds(what: str, spec: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(FILES[what])
    path = tmp_path / "cluster.yaml"
    path.write_text(f"cluster: p\napi_server: {{endpoint: 'https://a', names: [a]}}\n{spec}")
    with pytest.raises(SpecError) as caught:
        load_cluster(path)
    assert caught.value.field == NAMED[spec][0], str(caught.value)
    assert not [secret for secret in SECRETS if secret in str(caught.value)], str(caught.value)
