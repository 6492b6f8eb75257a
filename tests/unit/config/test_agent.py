"""agent.yaml: what it gives, what it refuses, and that what is dumped is read back the same."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from vaultpki.config.agent import dump_agent, load_agent
from vaultpki.errors import SpecError
from vaultpki.model import AgentConfig, Auth, FileOptions, Hook

LEAST = {
    "version": "1",
    "cluster": "prod",
    "node": "w-1",
    "vault": "{addresses: ['https://vault.example.com:8200']}",
    "root_sha256": "'" + "4f" * 32 + "'",
    "auth": "{method: approle, role_id: 9a0e-1}",
}
WHOLE = {
    **LEAST,
    "prefix": "vaultpki/prod",
    "pool": "autoscaled",
    "vault": "{addresses: ['https://vault.example.com:8200'], ca_file: /var/lib/vaultpki/vault-ca.pem}",
    "directory": "/srv/pki",
    "state": "/srv/state",
    "owner": "root:root",
    "certificates": "{kube-apiserver: {owner: 'kube:kube', mode: '0640'}}",
    "hooks": "{kubelet: [[systemctl, restart, kubelet], {systemd: kubelet}], etcd-ca: [{static_pod: etcd}]}",
    "hook_timeout": "2m",
    "poll": "1m",
    "metrics": "127.0.0.1:9910",
}


def load(folder: Path, **keys: str) -> AgentConfig:
    path = folder / "agent.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in {**LEAST, **keys}.items() if value))
    return load_agent(path)


def test_whoever_has_an_empty_one_is_told_to_join(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("# nothing\n")
    with pytest.raises(SpecError, match=r"agent\.yaml:1: the file is empty: remove it, and .*`vaultpki join`") as told:
        load_agent(tmp_path / "agent.yaml")
    assert "vaultpki init" not in str(told.value)


def test_whole(tmp_path: Path) -> None:
    assert load(tmp_path, **WHOLE) == AgentConfig(
        cluster="prod",
        prefix="vaultpki/prod",
        node="w-1",
        pool="autoscaled",
        addresses=("https://vault.example.com:8200",),
        ca_file="/var/lib/vaultpki/vault-ca.pem",
        root_sha256="4f" * 32,
        auth=Auth("approle", role_id="9a0e-1"),
        directory="/srv/pki",
        state="/srv/state",
        owner="root:root",
        certificates={"kube-apiserver": FileOptions("kube:kube", 0o640)},
        hooks={
            "kubelet": (Hook("command", argv=("systemctl", "restart", "kubelet")), Hook("systemd", name="kubelet")),
            "etcd-ca": (Hook("static_pod", name="etcd"),),
        },
        hook_timeout=120,
        poll=60,
        metrics="127.0.0.1:9910",
        file=str(tmp_path / "agent.yaml"),
    )


def test_hosts_of_the_metrics(tmp_path: Path) -> None:
    text = "{address: 127.0.0.1:9910, hosts: [Node-1, 10.0.0.11, 'fd00:0::11', '[fd00::12]', a_b.example.com]}"
    config = load(tmp_path, metrics=text)
    assert config.metrics == "127.0.0.1:9910"
    assert config.metrics_hosts == ("node-1", "10.0.0.11", "fd00::11", "fd00::12", "a_b.example.com")


def test_least(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert (config.prefix, config.pool, config.ca_file) == ("vaultpki/prod", None, None)
    assert (config.directory, config.state, config.poll) == ("/etc/kubernetes/pki", "/var/lib/vaultpki", 300)
    assert (config.owner, config.metrics, config.certificates, config.hooks) == (None, None, {}, {})
    assert config.hook_timeout == 60


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"auth": Auth("jwt", path="/run/token")},
        {"auth": Auth("token_file", path="/run/to ken")},
        {"node": "123", "cluster": "1e3", "root_sha256": "1" * 64, "pool": None, "owner": "0:0"},
        {"hooks": {"kubelet": (Hook("command", argv=("a", "no", "1", "~", "é", "a: b", "'", '"', "x" * 3000, "")),)}},
        {
            "hooks": {
                "a": (Hook("systemd", name="yes"), Hook("static_pod", name="123")),
                "b": (Hook("systemd", name="1"),),
            }
        },
        {"namespace": "team1/prod"},
        {"namespace": "root", "ca_file": None},
        {"further_roots": ("ab" * 32, "cd" * 32)},
        {"hooks": {"etcd-ca": (Hook("static_pod", name="/etc/my pods/etcd.yaml"),)}, "hook_timeout": 3600},
        {"metrics": "[::1]:9910", "metrics_hosts": ("node-1.example.com", "10.0.0.11", "fd00::11")},
        {"certificates": {"a": FileOptions(None, 0o600), "b": FileOptions("x:y", None), "c": FileOptions()}},
    ],
)
def test_dumped_and_read_back(change: dict[str, object], tmp_path: Path) -> None:
    config = replace(load(tmp_path, **WHOLE), **change)  # type: ignore[arg-type]
    path = tmp_path / "agent.yaml"
    path.write_text(dump_agent(config))
    assert load_agent(path) == config
    assert path.read_text().splitlines()[1].startswith("version: 1")


@pytest.mark.parametrize(
    ("key", "value", "field", "hint"),
    [
        ("version", "2", "version", "newer vaultpki"),
        ("nodes", "[]", "", "this is a cluster.yaml"),
        ("cluster", "", "cluster", "missing"),
        ("cluster", "A", "cluster", "write a"),
        ("node", "W-1", "node", "write w-1"),
        ("prefix", "sys/a", "prefix", "Vault's own"),
        ("vault", "{}", "vault.addresses", "missing"),
        ("vault", "{addresses: ['http://v']}", "vault.addresses[0]", "plain http"),
        ("vault", "{addresses: ['https://v'], ca_file: ca.pem}", "vault.ca_file", "begins with /"),
        ("vault", "{addresses: ['https://v'], namespace: a//b}", "vault.namespace", "one slash between"),
        ("vault", "{addresses: ['https://v'], namespace: sys}", "vault.namespace", "has the part sys"),
        ("root_sha256", "abc", "root_sha256", "64 hex digits"),
        ("root_sha256", "1" * 64, "root_sha256", "quotes"),
        ("auth", "{method: approle}", "auth.role_id", "needs role_id"),
        ("auth", "{method: jwt}", "auth.path", "needs path"),
        ("auth", "{method: jwt, path: /a, role_id: x}", "auth.role_id", "leave it out"),
        ("auth", "{method: jwt, path: a}", "auth.path", "begins with /"),
        ("auth", "{method: ldap}", "auth.method", "approle, jwt, token_file"),
        ("auth", "{method: approle, role_id: 'a/b'}", "auth.role_id", "not a role id"),
        ("directory", "pki", "directory", "begins with /"),
        ("directory", "/a/../b", "directory", "write /b"),
        ("directory", "/a/", "directory", "write /a"),
        ("directory", "//a", "directory", "write /a"),
        ("directory", "/", "directory", "a folder of its own"),
        ("directory", '"/a\\n"', "directory", "control characters"),
        ("directory", "/var/lib/vaultpki", "directory", "static pods"),
        ("directory", "/var/lib", "directory", "static pods"),
        ("state", "/etc/kubernetes/pki/state", "state", "static pods"),
        ("owner", "root", "owner", "user:group"),
        ("owner", "'a b:c'", "owner", "user:group"),
        ("owner", "1:30", "owner", "quotes"),
        ("certificates", "{a: {mode: 0640}}", "certificates.a.mode", "quotes"),
        ("certificates", "{a: {mode: '640'}}", "certificates.a.mode", "octal"),
        ("certificates", "{a: {mode: '0644'}}", "certificates.a.mode", "everyone"),
        ("certificates", "{a: {mode: '0641'}}", "certificates.a.mode", "everyone"),
        ("certificates", "{a: {mode: '4600'}}", "certificates.a.mode", "octal"),
        ("certificates", "{a: {mode: '04600'}}", "certificates.a.mode", "setuid"),
        ("certificates", "{a: {mode: '0700'}}", "certificates.a.mode", "executable"),
        ("certificates", "{a: {mode: '0660'}}", "certificates.a.mode", "group write"),
        ("certificates", "{a: {mode: '0040'}}", "certificates.a.mode", "owner not read"),
        ("certificates", "{a: {path: /x}}", "certificates.a.path", "owner, mode"),
        ("certificates", "{../a: {mode: '0600'}}", "certificates['../a']", "not a valid name"),
        ("hooks", "{a: systemctl restart a}", "hooks.a", "list"),
        ("hooks", "{a: [systemctl restart a]}", "hooks.a[0]", "list"),
        ("hooks", "{a: [[sleep, 5]]}", "hooks.a[0][1]", "quotes"),
        ("hooks", "{a: [[]]}", "hooks.a[0]", "at least 1"),
        ("hooks", '{a: [["a\\0b"]]}', "hooks.a[0][0]", "NUL"),
        ("hooks", "{A: [[a]]}", "hooks.A", "write a"),
        ("hooks", "{a: [['']]}", "hooks.a[0]", "not a program"),
        ("hooks", "{a: [[bin/reload]]}", "hooks.a[0]", "whole path"),
        ("hooks", "{a: [[../reload]]}", "hooks.a[0]", "whole path"),
        ("hooks", "{a: [{}]}", "hooks.a[0]", "item of its own"),
        ("hooks", "{a: [{systemd: a, static_pod: b}]}", "hooks.a[0]", "item of its own"),
        ("hooks", "{a: [{unit: a}]}", "hooks.a[0].unit", "allowed here: systemd, static_pod"),
        ("hooks", "{a: {systemd: a}}", "hooks.a", "list"),
        ("hooks", "{a: [{systemd: -H}]}", "hooks.a[0].systemd", "not a systemd unit"),
        ("hooks", "{a: [{systemd: 'kube*'}]}", "hooks.a[0].systemd", "not a systemd unit"),
        ("hooks", "{a: [{systemd: 'a b'}]}", "hooks.a[0].systemd", "not a systemd unit"),
        ("hooks", "{a: [{systemd: [a]}]}", "hooks.a[0].systemd", "list"),
        ("hooks", "{a: [{static_pod: ../etcd}]}", "hooks.a[0].static_pod", "whole path"),
        ("hooks", "{a: [{static_pod: etcd.yaml}]}", "hooks.a[0].static_pod", "without .yaml"),
        ("hooks", "{a: [{static_pod: /a/../b.yaml}]}", "hooks.a[0].static_pod", "write /b.yaml"),
        ("hooks", "{a: [{static_pod: /a/.b.yaml}]}", "hooks.a[0].static_pod", "dot"),
        ("hooks", "{a: [{systemd: vaultpki-agent.service}]}", "hooks.a[0].systemd", "for ever"),
        ("hooks", "{a: [{static_pod: vaultpki-agent}]}", "hooks.a[0].static_pod", "for ever"),
        ("hooks", "{a: [[systemctl, --no-block, restart, vaultpki-agent]]}", "hooks.a[0]", "for ever"),
        ("hook_timeout", "61m", "hook_timeout", "1s to 1h"),
        ("hook_timeout", "0s", "hook_timeout", "at least 1s"),
        ("poll", "5s", "poll", "10s to 24h"),
        ("poll", "25h", "poll", "10s to 24h"),
        ("poll", "300", "poll", "no unit"),
        ("metrics", "0.0.0.0:9910", "metrics", "loopback"),
        ("metrics", "10.0.0.1:9910", "metrics", "loopback"),
        ("metrics", "localhost:9910", "metrics", "127.0.0.1:9910"),
        ("metrics", "127.0.0.1", "metrics", "127.0.0.1:9910"),
        ("metrics", "127.0.0.1:0", "metrics", "127.0.0.1:9910"),
        ("metrics", "[127.0.0.1:9910]", "metrics", "a mapping of address and hosts"),
        ("metrics", "{hosts: [a]}", "metrics.address", "missing"),
        ("metrics", "{address: '10.0.0.1:9910'}", "metrics.address", "loopback"),
        ("metrics", "{address: '127.0.0.1:9910', hosts: ['a:9910']}", "metrics.hosts[0]", "without scheme or port"),
        ("metrics", "{address: '127.0.0.1:9910', hosts: ['*']}", "metrics.hosts[0]", "wildcard"),
        ("metrics", "{address: '127.0.0.1:9910', hosts: ['http://a']}", "metrics.hosts[0]", "colon"),
        ("metrics", "{address: '127.0.0.1:9910', names: [a]}", "metrics.names", "unknown"),
    ],
)
def test_refused(key: str, value: str, field: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, **{key: value})
    error = caught.value
    keys = [name for name, text in {**LEAST, key: value}.items() if text]
    line = keys.index(key) + 1 if value else 1
    assert (error.file, error.line, error.field) == (str(tmp_path / "agent.yaml"), line, field), str(error)
    assert hint in error.problem, error.problem
    assert str(error).isprintable()


@pytest.mark.parametrize(
    "command",
    [
        "kill -HUP 1",
        "/bin/kill -1 1",
        "kill -s HUP 1",
        "kill -n 1 77",
        "pkill -HUP etcd",
        "pkill --signal SIGHUP -f kube-apiserver",
        "pkill --signal=1 etcd",
        "pkill -x -1 etcd",
        "killall -sHUP kubelet",
        "/usr/bin/killall -s hup kubelet",
        "systemctl kill -s HUP kubelet",
        "systemctl kill --signal=SIGHUP kubelet",
        "sudo pkill -HUP etcd",
        "env -i kill -HUP 1",
        "sh -c 'pkill -HUP etcd; true'",
        "bash -c 'x=$(pidof etcd) && kill -s HUP $x'",
        "nsenter -t 1 -p -m killall -HUP etcd",
    ],
)
def test_no_hook_hangs_up(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    with pytest.raises(SpecError, match="SIGHUP kills etcd") as caught:
        load(tmp_path, hooks=json.dumps({"etcd-ca": [words]}))
    assert caught.value.field == "hooks.etcd-ca[0]"


@pytest.mark.parametrize(
    "command",
    [
        "kill -TERM 1",
        "kill -TERM -1",
        "pkill -USR1 haproxy",
        "systemctl restart haproxy",
        "systemctl reload nginx",
        "echo kill -HUP",
        "/usr/local/bin/kill-1 -HUP",
        "sh -c 'echo 1 -1 > /tmp/x'",
        "crictl stop -t 1 etcd",
    ],
)
def test_other_commands_are_the_users_own(command: str, tmp_path: Path) -> None:
    config = load(tmp_path, hooks=json.dumps({"etcd-ca": [shlex.split(command)]}))
    assert config.hooks == {"etcd-ca": (Hook("command", argv=tuple(shlex.split(command))),)}


def test_a_token_of_an_issuer_is_for_nodes_of_a_pool(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="method jwt is for nodes of a pool") as caught:
        load(tmp_path, auth="{method: jwt, path: /run/token}")
    assert caught.value.field == "pool"
    assert load(tmp_path, auth="{method: jwt, path: /run/token}", pool="cloud").auth == Auth("jwt", path="/run/token")
