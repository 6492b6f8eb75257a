"""Replace what differs from run to run by stable words, so that two runs can be compared.

Random and secret values (tokens, role ids, secret ids, accessors), serials, fingerprints, times and places become
placeholders such as <role_id>. Certificates, CSRs and keys become one line that says what they mean. Values whose owner
is known keep it: <fingerprint of demo root CA> is not <fingerprint of demo etcd CA>.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from difflib import unified_diff
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

# A thing that is compared: its head names it, its lines say what it is.
Block = tuple[str, tuple[str, ...]]

# Keys of a server's answer whose values are random, and secret or as good as a name of their own.
RANDOM = frozenset({"client_token", "token", "accessor", "secret_id", "secret_id_accessor", "role_id", "entity_id"})
# Keys of lifetimes in seconds, counted from a moment some milliseconds after the server's.
ROUNDED = frozenset({"granted"})
# Of a public key for tokens as a JWK (RFC 7517), beside what says of which kind it is.
JWK = frozenset({"kid", "x", "y"})
# Seconds since the machine booted.
UPTIME = frozenset({"uptime"})

# Quoted within YAML, a line ends in a backslash and an n.
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----(?:\n|\\n)?", re.DOTALL)
# What a random value looks like, among other words: tokens begin with a letter and a dot.
_WORD = re.compile(r"(?:\b(?:hv[sb]|s|b)\.)?[\w-]{3,}", re.ASCII)
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
# Serials, key ids, fingerprints, digests. A serial may lack its leading zeros.
_HEX = re.compile(r"\b(?:[0-9a-f]{2}[:-]){14,}[0-9a-f]{2}\b|\b[0-9a-f]{30,}\b", re.IGNORECASE)
_OWNED = re.compile(r"(?:key:)?(?:<(?:fingerprint|serial|key id) of [^>]+>|<hex>)")
# A PEM block as Kubernetes writes it into a kubeconfig.
_BASE64 = re.compile(r"\bLS0tLS1CRUdJTi[A-Za-z0-9+/]+=*")
_GENERATION = re.compile(r"[0-9a-f]{8}")
_REST = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\dZ"), "<minute>"),
    (re.compile(r"\b(?:hv[sb]|s|b)\.[\w-]{20,}"), "<other token>"),
    # The name of a generation of files, or a short digest.
    (re.compile(r"\b[0-9a-f]{16}\b"), "<16 digits>"),
    # How old a report is, with the spaces of its column, and how long a gate still waits.
    (re.compile(r" +\d+[smh](?:\d+[sm])? ago\b"), " <while> ago"),
    (re.compile(r"\b(?:\d+m)?\d+s more\b"), "<while> more"),
    # Generations of CAs of a node, which are digits alone only in a column of `nodes`.
    (re.compile(r"\b(?=\d*[a-f])[0-9a-f]{8}\b|\b\d{8}(?=(?: +\d+){2}$)", re.MULTILINE), "<8 digits>"),
    # Which of three requests at the same time is refused first.
    (re.compile(r"\brefuses (?:GET sys/(?:auth|mounts)|LIST sys/policies/acl):"), "refuses <one of three reads>:"),
    # Where the stand-in of a Kubernetes API listens.
    (re.compile(r"\b127\.0\.0\.1:[3-6]\d{4}\b"), "127.0.0.1:<port>"),
    # Seconds since 1970, from 2023 to 2033.
    (re.compile(r"\b1[789]\d{8}(?:\.\d+)?\b"), "<seconds>"),
)


@dataclass(slots=True)
class Normaliser:
    """What one run learned of its own random values; `known` maps a value to its placeholder."""

    known: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    _read: set[str] = field(default_factory=set)
    _made: dict[bytes, tuple[str, ...]] = field(default_factory=dict)

    def learn(self, value: object, under: str = "") -> None:
        """Take random values from a server's answer, and certificates from any text, before anything is replaced."""
        match value:
            case dict():
                for key, inner in value.items():
                    if key in RANDOM and isinstance(inner, str) and inner:
                        # A mount's accessor belongs to the mount's path, the one key that ends in a slash.
                        word = f"{key} of {under}" if under.endswith("/") else key
                        self.known.setdefault(inner, f"<{word}>")
                    self.learn(inner, key)
            case list():
                for inner in value:
                    self.learn(inner, under)
            case str():
                for found in _PEM.finditer(_decoded(value)):
                    if found[1] == "CERTIFICATE" and found[0] not in self._read:
                        self._read.add(found[0])
                        self._learn_certificate(found[0])

    def text(self, text: str) -> str:
        """Return the text with placeholders."""
        text = _decoded(text)
        text = _PEM.sub(lambda found: meaning(found[1], found[0]) + "\n", text)
        # A place is no word of its own.
        for place in (each for each in self.known if not _WORD.fullmatch(each)):
            text = text.replace(place, self.known[place])
        text = _WORD.sub(lambda found: self.known.get(found[0], found[0]), text)
        text = _UUID.sub("<uuid>", text)
        text = _HEX.sub(lambda found: self.owners.get(_plain(found[0]), "<hex>"), text)
        for pattern, word in _REST:
            text = pattern.sub(word, text)
        return text

    def value(self, value: object) -> Any:
        """Return a JSON value with placeholders in its keys and texts; JSON within a text is read, too."""
        match value:
            case dict():
                known = {key: f"<{key}>" for key in JWK & value.keys()} if "kty" in value else {}
                return {self.text(key): known.get(key) or self._member(key, inner) for key, inner in value.items()}
            case list():
                made = [self.value(inner) for inner in value]
                # Sets of CAs are written in the order of their digests, which is chance.
                named = all(isinstance(each, str) and _OWNED.fullmatch(each) for each in made)
                return sorted(made) if named else made
            case str():
                if value.startswith("{"):
                    try:
                        return {"<JSON as text>": self.value(json.loads(value))}
                    except ValueError:
                        pass
                return "<8 digits>" if _GENERATION.fullmatch(value) else self.text(value)
            case bool() | None:
                return value
            case int() | float():
                said = self.text(json.dumps(value))
                return value if said == json.dumps(value) else said
        raise TypeError(type(value))

    def _member(self, key: str, inner: Any) -> Any:
        if key in UPTIME:
            return "<seconds>"
        # What is left of the life of a root, at the moment when it signs another one.
        if key == "ttl" and isinstance(inner, int) and inner > 10**8:
            return round(inner, -4)
        return round(inner, -1) if key in ROUNDED else self.value(inner)

    def lines(self, content: bytes) -> tuple[str, ...]:
        """Return the lines of a body, an output or a file: JSON indented with sorted keys, else its text."""
        if content not in self._made:
            value = self.value(parsed(content))
            text = value if isinstance(value, str) else json.dumps(value, indent=1, sort_keys=True)
            self._made[content] = tuple(text.splitlines())
        return self._made[content]

    def _learn_certificate(self, pem: str) -> None:
        certificate = x509.load_pem_x509_certificate(_lines(pem))
        name = _common_name(certificate.subject)
        self.known[str(certificate.serial_number)] = f"<serial of {name}>"
        self.owners[_plain(f"{certificate.serial_number:x}")] = f"<serial of {name}>"
        self.owners[_plain(certificate.fingerprint(hashes.SHA256()).hex())] = f"<fingerprint of {name}>"
        for extension in certificate.extensions:
            if isinstance(extension.value, x509.SubjectKeyIdentifier):
                self.owners[_plain(extension.value.digest.hex())] = f"<key id of {name}>"


def _decoded(text: str) -> str:
    """Return the text with PEM blocks in place of their base64."""
    return _BASE64.sub(lambda found: base64.b64decode(found[0]).decode(errors="backslashreplace"), text)


def parsed(content: bytes) -> object:
    """Return the value of JSON, and all else as text."""
    text = content.decode(errors="backslashreplace")
    try:
        return json.loads(text)
    except ValueError:
        return text


@functools.cache
def meaning(label: str, pem: str) -> str:
    """Return in one line what a PEM block means: names, usages and lifetime, nothing random and no key."""
    match label:
        case "CERTIFICATE":
            certificate = x509.load_pem_x509_certificate(_lines(pem))
            # A server signs some milliseconds after it has read its clock, so seconds may differ by one.
            lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
            return (
                f"<certificate {certificate.subject.rfc4514_string()}; by {_common_name(certificate.issuer)}; "
                f"{_key(certificate.public_key())}; {round(lifetime.total_seconds() / 60)} minutes; "
                f"{_extensions(certificate.extensions)}>"
            )
        case "CERTIFICATE REQUEST":
            request = x509.load_pem_x509_csr(_lines(pem))
            subject = request.subject.rfc4514_string()
            return f"<CSR {subject}; {_key(request.public_key())}; {_extensions(request.extensions)}>"
        case "EC PRIVATE KEY" | "PRIVATE KEY" | "RSA PRIVATE KEY":
            return f"<{label} {_key(serialization.load_pem_private_key(_lines(pem), None).public_key())}>"
    return f"<PEM {label}>"


def differences(before: list[Block], after: list[Block]) -> list[Block]:
    """Return what differs between two multisets of blocks, by head, with two lines of context on each side.

    Lines begin with - (only before), + (only after) or a blank (both).
    """
    gone, new = Counter(before) - Counter(after), Counter(after) - Counter(before)
    found: list[Block] = []
    for head in sorted({head for head, _ in (*gone, *new)}):
        old = sorted(lines for name, lines in gone.elements() if name == head)
        fresh = sorted(lines for name, lines in new.elements() if name == head)
        for one, other in zip(old, fresh, strict=False):
            changed = [line for line in unified_diff(one, other, n=2, lineterm="") if not line.startswith("@@")]
            found.append((head, tuple(changed[2:])))
        # Only one of these is left: what has no counterpart on the other side.
        found += [(head, ("- all of it", *(f"- {line}" for line in lines))) for lines in old[len(fresh) :]]
        found += [(head, ("+ all of it", *(f"+ {line}" for line in lines))) for lines in fresh[len(old) :]]
    return found


def _lines(pem: str) -> bytes:
    return pem.replace("\\n", "\n").encode()


def _plain(digits: str) -> str:
    return re.sub("[:-]", "", digits.lower()).lstrip("0")


def _common_name(name: x509.Name) -> str:
    return ", ".join(str(attribute.value) for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME))


def _key(key: object) -> str:
    return f"{type(key).__name__} {getattr(key, 'key_size', '')}"


def _extensions(extensions: x509.Extensions) -> str:
    return ", ".join(sorted(_extension(one) for one in extensions))


def _extension(one: x509.Extension[x509.ExtensionType]) -> str:
    """Return an extension as cryptography writes it, without key ids and what is not set; ! marks a critical one."""
    bare = isinstance(one.value, x509.SubjectKeyIdentifier | x509.AuthorityKeyIdentifier)
    value = type(one.value).__name__ if bare else re.sub("[<>]", "", repr(one.value))
    value = re.sub(r"ObjectIdentifier\(oid=[\d.]+, name=(\w+)\)", r"\1", value)
    value = re.sub(r"(?:, )?\w+=(?:False|None)\b", "", value).replace("(, ", "(")
    return f"{value}{'!' if one.critical else ''}"
