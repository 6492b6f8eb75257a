"""Checks names, paths and other single words. Each check returns the normal form or raises SpecError with a remedy.

The same checks read cluster.yaml and the records that a node receives, so a node accepts every name that apply accepts.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from typing import Final, TypeGuard

from vaultpki import redact
from vaultpki.errors import SpecError

LABEL_PATTERN: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
DNS: Final = rf"{LABEL_PATTERN}(?:\.{LABEL_PATTERN})*"
STEM_PATTERN: Final = r"[a-z0-9][a-z0-9._-]{0,99}"
FILE_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"

LONGEST_CLUSTER: Final = 40
"""Characters of a cluster's name, which is a part of the names of its CAs."""

LONGEST_PREFIX: Final = 128
"""Characters of a cluster's path in Vault."""

LONGEST_COMMON_NAME: Final = 64
"""Characters of a CN or an O (RFC 5280 appendix A, ub-common-name)."""

# Mounts that every Vault or OpenBao has, or creates in development mode.
_VAULTS_OWN = ("sys", "auth", "identity", "cubbyhole", "secret")
# Names that OpenBao and Vault refuse for a namespace (api-docs/system/namespaces).
_NO_NAMESPACES = ("root", "sys", "audit", "auth", "cubbyhole", "identity")
_NAMESPACE_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_LONGEST_NAMESPACE = 512
_SHOWN = 60


def quoted(text: str) -> str:
    """Return the text in quotes, escaped for a terminal and cut to about 60 characters.

    Tokens and private keys are hidden, because people paste them, or name a file that contains them, by mistake.
    """
    text = redact.hide(text)
    shown = repr(text[:_SHOWN])
    if len(text) > _SHOWN or len(shown) > _SHOWN + 2:
        shown = shown[:_SHOWN].rstrip("\\'\"") + "..." + shown[0]
    return shown


def quoted_key(text: str) -> str:
    """Return a key of a file for messages; hides it unless it is a plain word, because it may be a secret."""
    return quoted(text) if re.fullmatch(r"[A-Za-z0-9 _*./-]{1,60}", text) else "(not shown)"


def fits(value: object, check: Callable[[str], str]) -> TypeGuard[str]:
    """Return whether `value` is text in the normal form that `check` returns."""
    try:
        return isinstance(value, str) and check(value) == value
    except SpecError:
        return False


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return a hint: the nearest allowed word, or all of them."""
    choices = list(allowed)
    near = close(word, choices)
    return f"did you mean {near}?" if near else f"allowed here: {', '.join(choices)}"


def close(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word that is equal or similar to `word`; None if there is none."""
    choices = list(allowed)
    if word in choices:
        return word
    import difflib

    return next(iter(difflib.get_close_matches(word[:100].lower(), choices, n=1, cutoff=0.6)), None)


def matching(pattern: str, is_wrong: str) -> Callable[[str], str]:
    """Return a check that accepts text which `pattern` matches as a whole; else its error is `'TEXT' {is_wrong}`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise SpecError(f"{quoted(text)} {is_wrong}")
        return text

    return check


def label(text: str, what: str = "name", longest: int = 63) -> str:
    """Return one lower-case DNS label (RFC 1123)."""
    if re.fullmatch(LABEL_PATTERN, text) and len(text) <= longest:
        return text
    if len(text) > longest:
        raise SpecError(f"{quoted(text)} has {len(text)} characters: a {what} has at most {longest}")
    if re.fullmatch(LABEL_PATTERN, text.lower()):
        raise SpecError(f"{quoted(text)} has upper-case letters, which Vault changes: write {text.lower()}")
    raise SpecError(
        f"{quoted(text)} is not a valid {what}: write lower-case letters, digits and hyphens, beginning and ending "
        "with a letter or digit"
    )


def cluster_name(text: str) -> str:
    return label(text, "cluster name", LONGEST_CLUSTER)


def pool_name(text: str) -> str:
    return label(text, "pool name")


def prefix(text: str) -> str:
    """Return a path in Vault: labels separated by slashes, at most LONGEST_PREFIX characters."""
    parts = text.split("/")
    if "" in parts:
        raise SpecError(f"{quoted(text)} has an empty part: write parts with one slash between them, as vaultpki/prod")
    for part in parts:
        label(part, "part of a prefix")
    if parts[0] in _VAULTS_OWN:
        raise SpecError(f"{quoted(text)} begins with {parts[0]}, which is Vault's own: begin with another word")
    if len(text) > LONGEST_PREFIX:
        raise SpecError(f"{quoted(text)} has {len(text)} characters: a prefix has at most {LONGEST_PREFIX}")
    return text


def vault_namespace(text: str) -> str:
    """Return a Vault namespace without slashes at its ends: `root`, or names with one slash between them."""
    inner = text.strip("/")
    if inner == "root":
        return inner
    parts = inner.split("/")
    if not all(re.fullmatch(_NAMESPACE_PART, part) for part in parts) or len(inner) > _LONGEST_NAMESPACE:
        raise SpecError(
            f"{quoted(text)} is not a namespace: write names of letters, digits, hyphens, dots and underscores with "
            "one slash between them, such as team1/prod"
        )
    for part in parts:
        if part in _NO_NAMESPACES:
            raise SpecError(f"{quoted(text)} has the part {part}, which Vault refuses in a namespace: choose another")
    return inner


def sha256(text: str) -> str:
    """Return a SHA-256 in lower-case hex; upper case, and colons as OpenSSL prints them, are accepted."""
    digits = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise SpecError(f"{quoted(text)} is not a SHA-256: write its 64 hex digits")
    return digits


uuid: Final = matching("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "is not a UUID")
"""Checks a UUID as Vault writes it, such as the accessor of a secret id."""


def token(text: str) -> str:
    """Return a token, secret id or role id of Vault: up to 4096 visible ASCII characters."""
    if not re.fullmatch(r"[\x21-\x7e]{1,4096}", text):
        raise SpecError("the text is not a token: write one line of visible characters without blanks")
    return text


def placeholders_filled(text: str, domain: str = "d") -> str:
    """Return the text with samples in place of `{node}` and `{domain}`; raise SpecError for other braces."""
    filled = text.replace("{node}", "n").replace("{domain}", domain)
    if "{" in filled or "}" in filled:
        raise SpecError(f"{quoted(text)} has an unknown placeholder: only {{node}} and {{domain}} are known here")
    return filled


def common_name(text: str) -> str:
    """Return a CN from cluster.yaml, which may contain `{node}` and `{domain}`."""
    filled_name(placeholders_filled(text))
    return text


def filled_name(text: str, what: str = "common name") -> str:
    """Return a CN or O as a certificate contains it, without placeholders."""
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9 ._:-]*[A-Za-z0-9])?", text):
        raise SpecError(
            f"{quoted(text)} is not a valid {what}: write letters, digits, blanks and . _ : - in ASCII, beginning and "
            "ending with a letter or digit"
        )
    if len(text) > LONGEST_COMMON_NAME:
        most = f"{LONGEST_COMMON_NAME} (RFC 5280)"
        raise SpecError(f"{quoted(text)} has {len(text)} characters: a {what} has at most {most}")
    return text


def organization(text: str) -> str:
    """Return an O value; placeholders are refused, because the PKI role sets one value for all holders."""
    if "{" in text:
        raise SpecError(
            f"{quoted(text)} has a placeholder: an organization is the same for every holder, so write it in full"
        )
    return filled_name(text, "organization")


def signer_mount(text: str) -> str:
    """Return the path of another PKI mount, without slashes at its ends; names have letters, digits and `.`, `_`, `-`.

    A policy names this path literally, so it may contain nothing that a policy reads as a pattern.
    """
    inner = text.strip("/")
    parts = inner.split("/")
    if not all(re.fullmatch(_NAMESPACE_PART, part) for part in parts) or len(inner) > LONGEST_PREFIX:
        raise SpecError(
            f"{quoted(text)} is not the path of a mount. Write names of letters, digits, hyphens, dots and underscores "
            f"with one slash between them, at most {LONGEST_PREFIX} characters, such as pki-corp"
        )
    if parts[0] in ("sys", "auth", "identity", "cubbyhole"):
        raise SpecError(f"{quoted(text)} begins with {parts[0]}, which is Vault's own: write the path of a PKI mount")
    return inner


def signer(text: str) -> str:
    """Return the name or the id of an issuer; `default` is refused, since it may be another one tomorrow."""
    if not re.fullmatch(_NAMESPACE_PART, text):
        raise SpecError(f"{quoted(text)} is not the name of an issuer: write its name, or its id")
    if text == "default":
        raise SpecError("the default issuer may be another one tomorrow: write the name or the id of the issuer itself")
    return text


def subject_value(text: str) -> str:
    """Return a value of a CA's subject: 1 to 64 printable characters (RFC 5280 appendix A.1), no blank at its ends."""
    if not 0 < len(text) <= LONGEST_COMMON_NAME or not text.isprintable() or text.strip() != text:
        raise SpecError(
            f"{quoted(text)} cannot be in the name of a CA: write 1 to {LONGEST_COMMON_NAME} printable characters "
            "without blanks at the ends (RFC 5280)"
        )
    # Both servers split such a text, and then the name of the CA is another one.
    if "," in text or '"' in text:
        raise SpecError(f"{quoted(text)} has a comma or a quote, at which Vault splits a value: leave it out")
    return text


def country(text: str) -> str:
    """Return a country of a CA's subject: two upper-case letters (ISO 3166-1)."""
    if not re.fullmatch("[A-Z]{2}", text):
        raise SpecError(f"{quoted(text)} is not a country: write its two upper-case letters, such as DE")
    return text


def stem(text: str) -> str:
    """Return a file name without extension."""
    if text.endswith((".crt", ".key", ".pem", ".conf")):
        raise SpecError(
            f"{quoted(text)} has an extension, which vaultpki adds: write {quoted(text.rpartition('.')[0])[1:-1]}"
        )
    return _stem(text)


_NOT_A_FILE: Final = "is not a plain file name: write up to 100 {}, beginning with a letter or digit"
_stem: Final = matching(STEM_PATTERN, _NOT_A_FILE.format("lower-case letters, digits, dots, hyphens and underscores"))

file_name: Final = matching(FILE_PATTERN, _NOT_A_FILE.format("letters, digits, dots, hyphens and underscores"))
"""Checks a plain file name: not in a folder, not hidden."""

component: Final = matching(
    r"[A-Za-z0-9](?:[A-Za-z0-9 ._:/-]{0,62}[A-Za-z0-9])?",
    "is not a component's name: write up to 64 letters, digits, blanks and . _ : / -",
)
"""Checks `from` or `to` of a row: one or a few words for people."""


def kubeconfig_name(text: str) -> str:
    """Return a plain file name that ends in .conf."""
    if not text.endswith(".conf") or text == ".conf":
        raise SpecError(f"{quoted(text)} is not a kubeconfig's file name: write one that ends in .conf")
    return file_name(text)


def file_path(text: str) -> str:
    """Return a path for the operating system: not empty, printable."""
    if not text or not text.isprintable() or len(text) > 1024:
        raise SpecError(f"{quoted(text)} is not a path: write a file's path without control characters")
    return text


def absolute_path(text: str) -> str:
    """Return an absolute path in its normal form; the root folder is refused."""
    file_path(text)
    if not text.startswith("/"):
        raise SpecError(f"{quoted(text)} is a relative path: write an absolute one, which begins with /")
    normal = "/" + posixpath.normpath(text).lstrip("/")
    if normal != text:
        raise SpecError(f"{quoted(text)} is not in its shortest form: write {quoted(normal)[1:-1]}")
    if text == "/":
        raise SpecError("certificates cannot be kept in the root folder: write a folder of its own")
    return text
