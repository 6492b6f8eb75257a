"""Reads the files shipped with the code (`policies/`, `templates/`), and renders templates safely.

A template can only contain placeholders. `${name}` is the value itself, `${name.json}` the value as a JSON string,
which is also a YAML scalar, and `$$` a dollar. There are no expressions, loops, includes or attributes. Except for
`.json`, a user's own template means the same as for `string.Template` of the standard library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final, Literal

from vaultpki.errors import TemplateError

MAX_OUTPUT: Final = 256 * 1024
"""The most bytes (UTF-8) a rendered file may have."""

KUBELET_SERVING_CA: Final = "kubelet-serving-ca.yaml"

# The parts of signer.yaml that depend on cluster.yaml.
_SIGNS_PEOPLE: Final = "  - kubernetes.io/kube-apiserver-client\n"
_APPROVES: Final = """\
- apiGroups: [certificates.k8s.io]
  resources: [certificatesigningrequests/approval]
  verbs: [update]
- apiGroups: [certificates.k8s.io]
  resources: [signers]
  resourceNames: [kubernetes.io/kubelet-serving]
  verbs: [approve]
"""

_MAX_NAME = 100

# Half of NAME_MAX on Linux (255 bytes): the store writes under a longer, temporary name first.
_MAX_NAME_BYTES = 200

_TOKEN = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<json>\.json)?\}|(?P<bare>[A-Za-z_][A-Za-z0-9_]*)|)"
)

# The part of an invalid placeholder that a message shows, without the rest of the line.
_NO_PLACEHOLDER = re.compile(r"\$(?:\{[^}\n]{0,20}\}?|[A-Za-z_][A-Za-z0-9_]{0,20}|.?)")

# JSON allows these unescaped in a string; YAML 1.2 (section 5.1) forbids them or reads them as line breaks.
_NOT_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


@cache
def text(kind: Literal["policies", "templates"], name: str) -> str:
    """Return the text of a shipped file; raise TemplateError with the names of all files if it does not exist."""
    folder = _folder(kind)
    try:
        if plain_file_name(name):
            return (folder / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        pass
    known = ", ".join(sorted(path.name for path in folder.glob("*") if path.is_file())) or "none"
    raise TemplateError(f"there is no file {_shown(name)} among the {kind} that ship with vaultpki; there are: {known}")


def render(template_text: str, values: Mapping[str, str], *, name: str, bare: bool = False) -> str:
    """Return `template_text` with its placeholders filled from `values`; `name` is the template's name in errors.

    `bare` also allows placeholders without braces, `$name`, as in `string.Template`.

    Raises TemplateError for an unknown name, a `$` without a placeholder, a NUL or a lone surrogate, and for an output
    of more than `MAX_OUTPUT` bytes, before it is built.
    """
    if (at := template_text.find("\0")) >= 0:
        raise _wrong(name, template_text, at, "the template contains a NUL character, which a text file may not have")
    parts: list[str] = []
    size = end = 0

    def add(part: str, at: int, what: str) -> None:
        nonlocal size
        if "\0" in part:
            raise _wrong(name, template_text, at, f"{what} contains a NUL character, which a text file may not have")
        try:
            size += len(part.encode())
        except UnicodeEncodeError:
            raise _wrong(name, template_text, at, f"{what} is not valid Unicode text") from None
        if size > MAX_OUTPUT:
            raise _wrong(
                name, template_text, at, f"the output is larger than {MAX_OUTPUT // 1024} KiB; make the file smaller"
            )
        parts.append(part)

    for token in _TOKEN.finditer(template_text):
        add(template_text[end : token.start()], end, "the template")
        end = token.end()
        key = token["name"] or (token["bare"] if bare else None)
        if token["dollar"]:
            add("$", token.start(), "the template")
        elif key is None:
            found = _NO_PLACEHOLDER.match(template_text, token.start())
            problem = f"{_shown(found[0] if found else '$')} is not a placeholder"
            hint = "write ${name} or ${name.json}, and $$ for a dollar"
            raise _wrong(name, template_text, token.start(), f"{problem}; {hint}")
        elif key not in values:
            known = ", ".join(sorted(values)) or "none"
            raise _wrong(name, template_text, token.start(), f"there is no value named {key}; there are: {known}")
        else:
            add(_json(values[key]) if token["json"] else values[key], token.start(), f"the value of {key}")
    add(template_text[end:], end, "the template")
    return "".join(parts)


def plain_file_name(name: str) -> bool:
    """Return whether the name is a plain file name: not a path, not hidden, printable, of bounded size.

    Every output name from a user is checked by this, so no output is written outside the node's directory.
    """
    return (
        0 < len(name) <= _MAX_NAME
        and "/" not in name
        and not name.startswith(".")
        and name.isprintable()
        and len(name.encode(errors="replace")) <= _MAX_NAME_BYTES
    )


def kubeconfig(*, cluster: str, server: str, ca_file: str, user: str, certificate: str, key: str) -> str:
    """Return a kubeconfig that names files, so that its reader notices a renewal by itself.

    `server` is a URL; `ca_file`, `certificate` and `key` are absolute paths, because kubectl resolves relative ones
    against the folder of the kubeconfig, which may be reached by a symbolic link.
    """
    values = {
        "cluster": cluster,
        "server": server,
        "ca_file": ca_file,
        "user": user,
        "certificate": certificate,
        "key": key,
        "context": f"{user}@{cluster}",
    }
    for field in ("ca_file", "certificate", "key"):
        if not values[field].startswith("/"):
            raise TemplateError(f"kubeconfig.conf: {field} {_shown(values[field])} is not an absolute path")
    return render(text("templates", "kubeconfig.conf"), values, name="kubeconfig.conf")


def embedded_kubeconfig(
    *, cluster: str, server: str, ca_pem: bytes, user: str, certificate_pem: bytes, key_pem: bytes
) -> str:
    """Return a kubeconfig that holds CA, certificate and key itself, as those of kubeadm; it can be copied anywhere."""
    from base64 import b64encode

    data = {"ca_data": ca_pem, "certificate_data": certificate_pem, "key_data": key_pem}
    values = {name: b64encode(pem).decode("ascii") for name, pem in data.items()}
    values |= {"cluster": cluster, "server": server, "user": user, "context": f"{user}@{cluster}"}
    return render(text("templates", "kubeconfig-embedded.conf"), values, name="kubeconfig-embedded.conf")


def manifest(template: str, *, user: str, group: str, people: bool = False, approves: bool = False) -> str:
    """Return the Kubernetes manifest that `Row.manifest` names, for the row's CN and its (first) O.

    Of a signer's, `people` and `approves` say that it answers requests of people, and approves those of kubelets.
    """
    parts = {"people": _SIGNS_PEOPLE if people else "", "approval": _APPROVES if approves else ""}
    values = {"user": user, "group": group, **parts}
    return render(text("templates", template), values, name=template)


def kubelet_serving_ca(*, bundle: str, chain_bundle: str) -> str:
    """Return the ConfigMap by which metrics-server and other scrapers trust kubelets; both bundles are PEM."""
    values = {"bundle": bundle, "chain_bundle": chain_bundle}
    return render(text("templates", KUBELET_SERVING_CA), values, name=KUBELET_SERVING_CA)


def user_file(template_text: str, *, name: str, cluster: str, endpoint: str, directory: str, node: str) -> str:
    """Return a user's own template, rendered; it may only contain these four values."""
    values = {"cluster": cluster, "endpoint": endpoint, "directory": directory, "node": node}
    return render(template_text, values, name=name, bare=True)


def starter() -> str:
    """Return a commented cluster.yaml that loads unchanged and shows every key with its default or an example."""
    return text("templates", "cluster.yaml")


def _folder(kind: str) -> Path:
    # A wheel has both folders inside the package; a checkout has them beside it. `importlib.resources` would add more
    # than 10 ms to every start.
    package = Path(__file__).resolve().parent
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind


def _json(value: str) -> str:
    quoted = json.dumps(value, ensure_ascii=False)
    return _NOT_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)


def _wrong(name: str, template_text: str, at: int, problem: str) -> TemplateError:
    return TemplateError(f"template {name}, line {template_text.count(chr(10), 0, at) + 1}: {problem}")


def _shown(value: str) -> str:
    return json.dumps(value[:_MAX_NAME])
