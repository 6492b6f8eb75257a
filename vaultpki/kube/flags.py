"""Compares the flags of Kubernetes' components on this machine with the files that the agent installs.

A wrong flag is silent: etcd that trusts the bundle with the root admits every client of the cluster, and kube-apiserver
without `--kubelet-certificate-authority` talks to any server at a kubelet's address.
"""

from __future__ import annotations

import enum
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vaultpki.certificates import SERVICE_ACCOUNT_FILES, laid_out, pair_files
from vaultpki.kube.objects import mapping
from vaultpki.layout import TRUST_BUNDLES
from vaultpki.places import PKI, Layout

COMPONENTS: Final = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
"""The programs whose flags are looked at, by the names of their files."""


class Expect(enum.Enum):
    """What a flag must name: a bundle without the root, either bundle, the one with the root, or a file of a pair.

    FILE is a file of the folder PKI with a name of its own.
    """

    ISSUING = "issuing"
    BUNDLE = "bundle"
    CHAIN = "chain"
    CERTIFICATE = "certificate"
    KEY = "key"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that names one of our files, and what happens if it is missing (empty: nothing).

    `of` is the CA, the row, or the name of the file.
    """

    component: str
    name: str
    expect: Expect
    of: str
    missing: str = ""


@dataclass(frozen=True, slots=True)
class FlagProblem:
    """What is wrong with one component, in one sentence, and what to do."""

    component: str
    problem: str
    remedy: str


AUTHORIZATION_FILE: Final = "authorization-config"
"""The flag that names an AuthorizationConfiguration, from Kubernetes 1.29."""

# docs/components.md has the same flags, as Kubernetes 1.34 to 1.37 and etcd 3.6 and 3.7 read them.
FLAGS: Final = (
    Flag("kube-apiserver", "client-ca-file", Expect.ISSUING, "kubernetes", "no client certificate is accepted"),
    Flag("kube-apiserver", "tls-cert-file", Expect.CERTIFICATE, "kube-apiserver"),
    Flag("kube-apiserver", "tls-private-key-file", Expect.KEY, "kube-apiserver"),
    Flag("kube-apiserver", "etcd-cafile", Expect.BUNDLE, "etcd"),
    Flag("kube-apiserver", "etcd-certfile", Expect.CERTIFICATE, "kube-apiserver-etcd"),
    Flag("kube-apiserver", "etcd-keyfile", Expect.KEY, "kube-apiserver-etcd"),
    Flag(
        "kube-apiserver",
        "kubelet-certificate-authority",
        Expect.BUNDLE,
        "kubelet",
        "it talks to any server at a kubelet's address",
    ),
    Flag("kube-apiserver", "kubelet-client-certificate", Expect.CERTIFICATE, "kube-apiserver-kubelet"),
    Flag("kube-apiserver", "kubelet-client-key", Expect.KEY, "kube-apiserver-kubelet"),
    Flag("kube-apiserver", "requestheader-client-ca-file", Expect.ISSUING, "front-proxy"),
    Flag("kube-apiserver", "proxy-client-cert-file", Expect.CERTIFICATE, "front-proxy-client"),
    Flag("kube-apiserver", "proxy-client-key-file", Expect.KEY, "front-proxy-client"),
    Flag("etcd", "trusted-ca-file", Expect.ISSUING, "etcd", "it checks no client"),
    Flag("etcd", "cert-file", Expect.CERTIFICATE, "etcd-server"),
    Flag("etcd", "key-file", Expect.KEY, "etcd-server"),
    Flag("etcd", "peer-trusted-ca-file", Expect.ISSUING, "etcd", "it checks no peer"),
    Flag("etcd", "peer-cert-file", Expect.CERTIFICATE, "etcd-peer"),
    Flag("etcd", "peer-key-file", Expect.KEY, "etcd-peer"),
    Flag(
        "kube-controller-manager",
        "root-ca-file",
        Expect.CHAIN,
        "kubernetes",
        "pods get no CA of the Kubernetes API",
    ),
)
"""The flags that name our files."""

# The signing key has no default; without the other flag kube-apiserver takes the key of its own serving pair
# (kubernetes pkg/kubeapiserver/options/authentication.go).
TOKEN_FLAGS: Final = (
    Flag(
        "kube-apiserver",
        "service-account-key-file",
        Expect.FILE,
        f"{SERVICE_ACCOUNT_FILES}.pub",
        "it refuses the tokens of every other control-plane node",
    ),
    Flag("kube-apiserver", "service-account-signing-key-file", Expect.FILE, f"{SERVICE_ACCOUNT_FILES}.key"),
    Flag("kube-controller-manager", "service-account-private-key-file", Expect.FILE, f"{SERVICE_ACCOUNT_FILES}.key"),
)
"""The flags that name the files of service-account keys, where nodes have their own."""


# Where kubeadm's page on an external etcd has them.
_ETCD_FILES: Final = {
    "etcd-cafile": "etcd/ca.crt",
    "etcd-certfile": "apiserver-etcd-client.crt",
    "etcd-keyfile": "apiserver-etcd-client.key",
}


def replaced_etcd_files(flags: Mapping[str, str], directory: str) -> Iterator[str]:
    """Yield a sentence for each file of an etcd that keeps its own CA where a take-over puts another one.

    `flags` are those of a kube-apiserver, and `directory` is the folder of kubeadm's certificates.
    """
    for name, file in _ETCD_FILES.items():
        if flags.get(name) == f"{directory}/{file}":
            yield (
                f"--{name} names {flags[name]}, where the agent has a file of its own, and etcd keeps its own CA, "
                "since no node has the role etcd. Copy that file to another name below the same folder, such as "
                f"{directory}/external-etcd/{file.rpartition('/')[2]}, and name it by the flag and in kubeadm-config"
            )


def findings(
    component: str, arguments: Sequence[str], layout: Layout, paths: Mapping[str, str], *, token_keys: bool = False
) -> Iterator[FlagProblem]:
    """Yield what is wrong with the arguments of a component; `paths` are the folders of our files by name.

    A flag that is read from a file or from the environment counts as missing, and only those that must be there are
    reported then. `token_keys` is whether nodes have service-account keys of their own.
    """
    given = flags_of(arguments)
    for flag in (*FLAGS, *(TOKEN_FLAGS if token_keys else ())):
        if flag.component == component:
            yield from _flag_findings(flag, f"--{flag.name}", given.get(flag.name), layout, paths)
    for check in _FURTHER.get(component, ()):
        yield from check(given)


def _flag_findings(
    flag: Flag, name: str, value: str | None, layout: Layout, paths: Mapping[str, str]
) -> Iterator[FlagProblem]:
    """Yield what is wrong with one flag, or setting, that is called `name` for people."""
    if value is None:
        problem = f"{name} is not set, so {flag.missing}" if flag.missing else None
    else:
        problem = _problem(flag, value, layout, paths)
        problem = problem and f"{name} is {value}: {problem}"
    if problem:
        yield FlagProblem(flag.component, problem, f"set it to {_paths(flag, layout, paths)[0]}")


def flags_of(arguments: Sequence[str]) -> dict[str, str]:
    """Return flags and values: Go's flag packages take `--flag=value`, `--flag value`, and one dash."""
    given: dict[str, str] = {}
    for index, word in enumerate(arguments):
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        after = arguments[index + 1] if index + 1 < len(arguments) else ""
        # A boolean flag takes its value only with an equals sign.
        given[name] = value if equals else "true" if not after or after.startswith("-") else after
    return given


def named_paths(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the flag and each absolute path that a command line names, also of lists such as `CERT,KEY:NAMES`."""
    name = ""
    for word in arguments:
        value = word
        if word.startswith("-"):
            name, _, value = word.lstrip("-").partition("=")
        yield from ((name, part) for part in re.split("[,:]", value) if part.startswith("/") and name)


_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - what a flag may say


def own_listener(flags: Mapping[str, str], port: int) -> tuple[str, int]:
    """Return address and port at which a controller manager or scheduler listens; "" for every address, 0 for nowhere.

    `port` is its usual one (k8s.io/apiserver, options/serving.go).
    """
    address, given = flags.get("bind-address", ""), flags.get("secure-port", "")
    return ("" if address in _EVERYWHERE else address), int(given) if given.isdecimal() else port


def sni_names(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the names for which a component serves certificates of their own (`--tls-sni-cert-key=CERT,KEY:NAMES`).

    A pattern is asked for by a name that it fits. Without names those of the certificate count, and are not known here.
    """
    values = [word.partition("=")[2] for word in arguments if word.lstrip("-").startswith("tls-sni-cert-key=")]
    names = (name.strip() for value in values for name in value.rpartition(":")[2].split(",") if ":" in value)
    return tuple(dict.fromkeys(name.replace("*", "any", 1) for name in names if name and "/" not in name))


def _paths(flag: Flag, layout: Layout, paths: Mapping[str, str]) -> list[str]:
    """Return the paths that the flag may have, the best first."""
    if flag.expect is Expect.FILE:
        return [f"{paths[PKI]}/{flag.of}"]
    if flag.expect in (Expect.CERTIFICATE, Expect.KEY):
        row = next((row for row in laid_out(layout) if row.name == flag.of), None)
        if row is None:
            return []
        folder = row.kubeadm.folder if layout is Layout.KUBEADM and row.kubeadm is not None else PKI
        crt, key, pem = pair_files(row.stem)
        return [f"{paths[folder]}/{name}" for name in ((crt, pem) if flag.expect is Expect.CERTIFICATE else (key, pem))]
    bundles = [each for each in TRUST_BUNDLES[layout] if each.ca == flag.of]
    wanted = {Expect.ISSUING: (False,), Expect.CHAIN: (True,), Expect.BUNDLE: (False, True)}[flag.expect]
    return [f"{paths[each.folder]}/{each.file}" for chain in wanted for each in bundles if each.chain is chain]


def _problem(flag: Flag, value: str, layout: Layout, paths: Mapping[str, str]) -> str | None:
    allowed = _paths(flag, layout, paths)
    if not allowed or os.path.normpath(value) in map(os.path.normpath, allowed):
        return None
    chains = {f"{paths[each.folder]}/{each.file}": each.ca for each in TRUST_BUNDLES[layout] if each.chain}
    if flag.expect is Expect.ISSUING and os.path.normpath(value) in map(os.path.normpath, chains):
        return "the root in this file lets in the clients of every CA of the cluster"
    if flag.expect is Expect.CHAIN:
        return "pods whose TLS library is OpenSSL need the root in this file"
    return "the agent does not write this file for it"


def kubelet_files(configuration: Mapping[str, Any]) -> dict[str, object]:
    """Return the files of ours that a KubeletConfiguration should name, by the path of the field."""
    return {flag.name: _field(configuration, flag.name) for flag in _KUBELET_FILES}


def _field(configuration: Mapping[str, Any], path: str) -> object:
    found: object = configuration
    for part in path.split("."):
        found = mapping(found).get(part)
    return found


def kubelet_findings(
    configuration: Mapping[str, Any], layout: Layout, paths: Mapping[str, str]
) -> Iterator[FlagProblem]:
    """Yield what is wrong with the KubeletConfiguration of a kubelet; `paths` are the folders of our files by name."""
    for flag in _KUBELET_FILES:
        value = _field(configuration, flag.name)
        yield from _flag_findings(flag, flag.name, value if isinstance(value, str) and value else None, layout, paths)
    for field, wanted, why in _KUBELET_SETTINGS:
        given = _field(configuration, field)
        # The API leaves out what has its empty value.
        if (given or wanted.__class__()) != wanted:
            yield FlagProblem("kubelet", f"{field} is {given}, so {why}", f"set it to {json.dumps(wanted)}")


# Those of the page that decide who is let in, and whose certificates are in use
# (kubernetes staging/src/k8s.io/kubelet/config/v1beta1/types.go).
_CLIENT_CA: Final = "authentication.x509.clientCAFile"
_KUBELET_FILES: Final = (
    Flag("kubelet", "tlsCertFile", Expect.CERTIFICATE, "kubelet", "it serves a certificate of its own making"),
    Flag("kubelet", "tlsPrivateKeyFile", Expect.KEY, "kubelet", "it serves a certificate of its own making"),
    Flag("kubelet", _CLIENT_CA, Expect.ISSUING, "kubernetes", "no client certificate is accepted"),
)
_KUBELET_SETTINGS: Final[tuple[tuple[str, bool | int | str, str], ...]] = (
    ("authentication.anonymous.enabled", False, "callers without a certificate are not turned away at once"),
    ("authorization.mode", "Webhook", "every client of the cluster may do everything there"),
    ("rotateCertificates", False, "the kubelet asks for a client certificate that nobody signs"),
    ("serverTLSBootstrap", False, "the kubelet asks for a serving certificate that nobody signs"),
    ("readOnlyPort", 0, "it also answers everybody without TLS"),
)


def _etcd_checks(given: Mapping[str, str]) -> Iterator[FlagProblem]:
    for name, who in (("client-cert-auth", "client"), ("peer-client-cert-auth", "peer")):
        if given.get(name, "false") != "true":
            yield FlagProblem("etcd", f"--{name} is not set, so it lets in any {who}", f"set --{name}")
    for name, who in (("listen-client-urls", "clients"), ("listen-peer-urls", "peers")):
        if plain := [url for url in given.get(name, "").split(",") if url.startswith("http://")]:
            yield FlagProblem(
                "etcd", f"--{name} has {plain[0]}, so {who} are let in without TLS", f"set --{name} to https"
            )


def _apiserver_checks(given: Mapping[str, str]) -> Iterator[FlagProblem]:
    if "requestheader-client-ca-file" in given and not given.get("requestheader-allowed-names"):
        yield FlagProblem(
            "kube-apiserver",
            "--requestheader-allowed-names is empty, so every certificate of the front-proxy CA may speak for any user",
            "set it to front-proxy-client",
        )
    plugins = given.get("enable-admission-plugins", "").split(",")
    if "NodeRestriction" not in plugins:
        yield FlagProblem(
            "kube-apiserver",
            "--enable-admission-plugins lacks NodeRestriction, so a kubelet may change other nodes and their pods",
            "add NodeRestriction to it",
        )
    # The two flags exclude each other: with the file there is no mode (pkg/kubeapiserver/options/authorization.go).
    if not given.get(AUTHORIZATION_FILE):
        modes = given.get("authorization-mode", "AlwaysAllow").split(",")
        yield from _mode_findings("--authorization-mode is", modes, "set it to Node,RBAC")


def authorization_findings(configuration: Mapping[str, Any]) -> Iterator[FlagProblem]:
    """Yield what is wrong with the AuthorizationConfiguration that kube-apiserver reads in place of a mode."""
    authorizers = configuration.get("authorizers")
    modes = [str(mapping(each).get("type")) for each in authorizers] if isinstance(authorizers, list) else []
    wanted = "name the types Node and RBAC there, and not AlwaysAllow"
    yield from _mode_findings(f"the file of --{AUTHORIZATION_FILE} has the types", modes, wanted)


def _mode_findings(where: str, modes: Sequence[str], remedy: str) -> Iterator[FlagProblem]:
    if "AlwaysAllow" in modes or not {"Node", "RBAC"} <= set(modes):
        problem = f"{where} {','.join(modes) or 'none'}, so certificates give other rights than they should"
        yield FlagProblem("kube-apiserver", problem, remedy)


def signing_flags(flags: Mapping[str, str], *kinds: str) -> dict[str, str]:
    """Return the flags of a controller manager that name what CSRs are signed with: `kinds` are cert and key, or both.

    There is one pair for all signers, or one for each. kubeadm without the key of its CA sets them to nothing.
    """
    ends = tuple(f"-{kind}-file" for kind in kinds or ("cert", "key"))
    return {name: value for name, value in flags.items() if name.startswith("cluster-signing-") and name.endswith(ends)}


def signing_files(flags: Mapping[str, str], *kinds: str) -> dict[str, str]:
    """Return the files with which a controller manager signs CSRs, by flag; none if it signs nothing."""
    return {name: value for name, value in signing_flags(flags, *kinds).items() if value}


def _manager_checks(given: Mapping[str, str]) -> Iterator[FlagProblem]:
    signing = [f"--{name}" for name in signing_files(given)]
    if signing:
        yield FlagProblem(
            "kube-controller-manager",
            "it signs CertificateSigningRequests with a key on this machine, which is a CA outside Vault",
            f"remove {' and '.join(signing)}",
        )


_FURTHER: Final[Mapping[str, tuple[Callable[[Mapping[str, str]], Iterator[FlagProblem]], ...]]] = {
    "etcd": (_etcd_checks,),
    "kube-apiserver": (_apiserver_checks,),
    "kube-controller-manager": (_manager_checks,),
}
