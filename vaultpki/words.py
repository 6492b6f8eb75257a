"""Checks of single words: names, addresses, URLs, paths. Each returns the normal form or says what would be right.

What people write, and what a node is told of it, is held to the same ones: nothing that apply takes stops a node.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Final, TypeGuard

from vaultpki import plain
from vaultpki.errors import SpecError

LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
DNS: Final = rf"{LABEL}(?:\.{LABEL})*"
STEM: Final = r"[a-z0-9][a-z0-9._-]{0,99}"
FILE: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"

# Mounts every Vault or OpenBao has, or makes in development mode.
_VAULTS_OWN = ("sys", "auth", "identity", "cubbyhole", "secret")
# What OpenBao and Vault call no namespace (api-docs/system/namespaces).
_NO_NAMESPACES = ("root", "sys", "audit", "auth", "cubbyhole", "identity")
_NAMESPACE_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_LONGEST_NAMESPACE = 512
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+")
MOST_CA_BYTES: Final = 256 * 1024
"""How large a file with the CA of Vault's own certificate may be: it is a part of every join file."""

_SHOWN = 60
# A join file is named after its node, and written under a longer, temporary name first: NAME_MAX on Linux is 255 bytes.
_LONGEST_NODE = 200

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def quoted(text: str) -> str:
    """The text in quotes, escaped so that nothing in it reaches a terminal raw, cut to about 60 characters.

    Tokens and private keys in it are hidden: they are what people paste, or name a file of, by mistake.
    """
    text = plain.hide(text)
    shown = repr(text[:_SHOWN])
    if len(text) > _SHOWN or len(shown) > _SHOWN + 2:
        shown = shown[:_SHOWN].rstrip("\\'\"") + "..." + shown[0]
    return shown


def quoted_key(text: str) -> str:
    """A key of a file as messages show it; what is no plain word may be a line of another file, and secret."""
    return quoted(text) if re.fullmatch(r"[A-Za-z0-9 _*./-]{1,60}", text) else "(not shown)"


def fits(value: object, check: Callable[[str], str]) -> TypeGuard[str]:
    """Whether `value` is text, in the normal form that `check` gives it."""
    try:
        return isinstance(value, str) and check(value) == value
    except SpecError:
        return False


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A hint: the nearest allowed word, or all of them."""
    choices = list(allowed)
    near = close(word, choices)
    return f"did you mean {near}?" if near else f"allowed here: {', '.join(choices)}"


def close(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed word that `word` is, or that it was perhaps meant to be; None where it is like none of them."""
    choices = list(allowed)
    if word in choices:
        return word
    import difflib

    return next(iter(difflib.get_close_matches(word[:100].lower(), choices, n=1, cutoff=0.6)), None)


def label(text: str, what: str = "name", longest: int = 63) -> str:
    """One lower-case DNS label (RFC 1123)."""
    if re.fullmatch(LABEL, text) and len(text) <= longest:
        return text
    if len(text) > longest:
        raise SpecError(f"{quoted(text)} has {len(text)} characters: a {what} has at most {longest}")
    if re.fullmatch(LABEL, text.lower()):
        raise SpecError(f"{quoted(text)} has upper-case letters, which Vault folds: write {text.lower()}")
    raise SpecError(
        f"{quoted(text)} is no {what}: write lower-case letters, digits and hyphens, beginning and ending with a "
        "letter or digit"
    )


def cluster_name(text: str) -> str:
    return label(text, "cluster name", 40)


def pool_name(text: str) -> str:
    return label(text, "pool name")


def prefix(text: str) -> str:
    """A path in Vault: slash-separated labels, at most 128 characters."""
    parts = text.split("/")
    if text.startswith("/") or text.endswith("/") or "" in parts:
        raise SpecError(f"{quoted(text)} has an empty part: write parts with one slash between them, as vaultpki/prod")
    for part in parts:
        label(part, "part of a prefix")
    if parts[0] in _VAULTS_OWN:
        raise SpecError(f"{quoted(text)} begins with {parts[0]}, which is Vault's own: begin with another word")
    if len(text) > 128:
        raise SpecError(f"{quoted(text)} has {len(text)} characters: a prefix has at most 128")
    return text


def vault_namespace(text: str) -> str:
    """A namespace of Vault without slashes at its ends: `root`, or names with one slash between them."""
    inner = text.strip("/")
    if inner == "root":
        return inner
    parts = inner.split("/")
    if not all(re.fullmatch(_NAMESPACE_PART, part) for part in parts) or len(inner) > _LONGEST_NAMESPACE:
        raise SpecError(
            f"{quoted(text)} is no namespace: write names of letters, digits, hyphens, dots and underscores with one "
            "slash between them, such as team1/prod"
        )
    for part in parts:
        if part in _NO_NAMESPACES:
            raise SpecError(f"{quoted(text)} has the part {part}, which no namespace may be called: choose another")
    return inner


def sha256(text: str) -> str:
    """A SHA-256 in lower-case hex; upper case, and colons as OpenSSL prints them, are taken."""
    digits = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise SpecError(f"{quoted(text)} is no SHA-256: write its 64 hex digits")
    return digits


def dns_name(text: str, *, underscores: bool = False) -> str:
    """A host name as a certificate may carry it: lower case, no wildcard, no trailing dot, no address.

    With `underscores` they stand like letters, as they do in some internal names.
    """
    if not text:
        raise SpecError("the name is empty: write a DNS name such as api.example.com")
    if not text.isprintable() or " " in text:
        raise SpecError(f"{quoted(text)} holds a blank or control character: write a DNS name alone")
    if not text.isascii():
        raise SpecError(f"{quoted(text)} holds characters beyond ASCII: write its punycode form (xn--...)")
    if is_address(text):
        raise SpecError(f"{quoted(text)} is an IP address: put it under addresses")
    for found, hint in (
        (",", "has a comma: write each name as an item of its own"),
        ("*", "has a wildcard, which no role allows: write every name out"),
        ("_", "has an underscore, which no host name has: use a hyphen"),
        (":", "has a colon: write the name alone, without scheme or port"),
        ("/", "has a slash: write the name alone, without scheme or path"),
    ):
        if found in text and not (underscores and found == "_"):
            raise SpecError(f"{quoted(text)} {hint}")
    if text.endswith("."):
        raise SpecError(f"{quoted(text)} ends with a dot: leave the dot away")
    if len(text) > 253:
        raise SpecError(f"{quoted(text)} has {len(text)} characters: a DNS name has at most 253")
    if text != text.lower():
        raise SpecError(f"{quoted(text)} has upper-case letters, which Vault folds: write it in lower case")
    parts = text.split(".")
    if any(len(part) > 63 for part in parts):
        raise SpecError(f"{quoted(text)} has a part of more than 63 characters: a DNS label has at most 63")
    if not all(re.fullmatch(LABEL, part.replace("_", "x")) for part in parts):
        raise SpecError(
            f"{quoted(text)} is no DNS name: write labels of letters, digits and hyphens with dots between them"
        )
    if parts[-1].isdigit():
        raise SpecError(f"{quoted(text)} ends with a number and would be taken for an address: write a DNS name")
    return text


def node_name(text: str) -> str:
    """A Node object's name: a DNS subdomain (RFC 1123), at most 200 characters long."""
    if re.fullmatch(LABEL, text):
        return text
    if text.isascii() and text != text.lower() and re.fullmatch(DNS, text.lower()):
        raise SpecError(f"{quoted(text)} has upper-case letters, which Vault folds: write {quoted(text.lower())[1:-1]}")
    if is_address(text):
        raise SpecError(f"{quoted(text)} is an IP address: name the node by a DNS name and put this under addresses")
    if _LONGEST_NODE < len(text) <= 253:
        raise SpecError(f"{quoted(text)} has {len(text)} characters: a node name has at most {_LONGEST_NODE}")
    return dns_name(text)


def host_name(text: str) -> str:
    """A DNS SAN as a certificate carries it: a DNS name, or a node's, which may be a number."""
    return text if re.fullmatch(LABEL, text) else dns_name(text)


def node_pattern(text: str) -> str:
    """A pool's pattern: a non-empty prefix of node names and `*` at its end."""
    start = text[:-1]
    if not text.endswith("*") or not start:
        raise SpecError(f"{quoted(text)} is no pattern: write the beginning of the node names and a *, such as w-*")
    if not re.fullmatch(rf"(?:{LABEL}\.)*[a-z0-9][a-z0-9-]*|(?:{LABEL}\.)+", start) or len(start) > 200:
        raise SpecError(
            f"{quoted(text)} is no pattern of node names: write lower-case letters, digits, hyphens and dots, then "
            "one * at the end, such as w-*"
        )
    return text


def is_address(text: str) -> bool:
    """Whether the text is an IP address in any spelling."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(text: str) -> bool:
    """Whether the text is an address by which a machine reaches itself."""
    return is_address(text) and ipaddress.ip_address(text).is_loopback


def address(text: str) -> str:
    """An IP address in its normal form; loopback is allowed."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise SpecError(
                f"{quoted(text)} is no IP address: write one such as 10.0.0.11 or fd00::11; names go under names"
            ) from None
        raise SpecError(f"{quoted(text)} is a network: write one address without a prefix length") from None
    if isinstance(found, ipaddress.IPv6Address):
        if found.scope_id is not None or "%" in text:
            raise SpecError(f"{quoted(text)} has a zone, which no certificate carries: leave out the part from %")
        if found.ipv4_mapped is not None:
            raise SpecError(f"{quoted(text)} is IPv4 in IPv6 clothes: write {found.ipv4_mapped}")
    if found.is_unspecified or str(found) == "255.255.255.255":
        raise SpecError(f"{quoted(text)} is no one machine's address: write the address itself")
    if found.is_multicast:
        raise SpecError(f"{quoted(text)} is a multicast address: write an address of one machine")
    return str(found)


def node_address(text: str) -> str:
    """An address of a node: never loopback, which is every machine's."""
    found = address(text)
    if is_loopback(found):
        raise SpecError(f"{quoted(text)} is a loopback address: write the address other nodes reach this one by")
    return found


def service_cidr(text: str) -> str:
    """A service range whose first address can be the API server's."""
    try:
        network: Network = ipaddress.ip_network(text)
    except ValueError:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise SpecError(f"{quoted(text)} is no network: write one such as 10.96.0.0/12") from None
        raise SpecError(f"{quoted(text)} has bits behind its prefix length: write {network}") from None
    if "%" in text:
        raise SpecError(f"{quoted(text)} has a zone, which no certificate carries: leave out the part from %")
    if "." in text.partition("/")[2]:
        raise SpecError(f"{quoted(text)} has a mask where its prefix length belongs: write {network}")
    if "/" not in text or network.num_addresses < 4:
        raise SpecError(
            f"{quoted(text)} is too small to hold services: write a range such as 10.96.0.0/12 or fd00:1::/112"
        )
    first = network.network_address + 1
    if network.network_address.is_unspecified or first.is_multicast or first.is_loopback:
        raise SpecError(f"{quoted(text)} is no range for services: write a private range such as 10.96.0.0/12")
    if isinstance(first, ipaddress.IPv6Address) and first.ipv4_mapped is not None:
        raise SpecError(f"{quoted(text)} is IPv4 in IPv6 clothes: write the IPv4 range")
    return str(network)


def host(text: str, *, underscores: bool = False) -> str:
    """The host of a URL or endpoint in its normal form: a DNS name, an IPv4 address or `[IPv6]`."""
    if text.startswith("[") and text.endswith("]"):
        if ":" not in text:
            raise SpecError(f"{quoted(text)} is no IPv6 address in brackets: write [fd00::10], or a name without them")
        return f"[{address(text[1:-1])}]"
    return address(text) if is_address(text) else dns_name(text, underscores=underscores)


def _url(text: str, schemes: tuple[str, ...], example: str, *, underscores: bool = False) -> tuple[str, str, str]:
    scheme, slashes, rest = text.partition("://")
    if not slashes or scheme not in schemes:
        raise SpecError(f"{quoted(text)} does not begin with {schemes[0]}://: write {example}")
    if "@" in rest:
        # Not quoted: what stands before the @ is a password as often as not.
        raise SpecError(f"the address holds a user or password: write {example}, without them")
    match = re.fullmatch(r"(\[[^\[\]/?#]*\]|[^:\[\]/?#]*)(?::(\d{1,5}))?", rest, re.ASCII)
    if match is None:
        raise SpecError(
            f"{quoted(text)} is more than a host and a port, or less: write {example} and nothing behind it"
        )
    if match[2] is not None and not 1 <= int(match[2]) <= 65535:
        raise SpecError(f"{quoted(text)} has no usable port: write one from 1 to 65535")
    return scheme, host(match[1], underscores=underscores), f":{int(match[2])}" if match[2] else ""


def endpoint(text: str) -> str:
    """`https://HOST[:PORT]` of the API server."""
    scheme, name, port = _url(text, ("https",), "https://api.example.com:6443")
    return f"{scheme}://{name}{port}"


def vault_address(text: str) -> str:
    """`http[s]://HOST[:PORT]`; whether plain http is allowed, `refuse_plain_http` tells."""
    scheme, name, port = _url(text, ("https", "http"), "https://vault.example.com:8200", underscores=True)
    return f"{scheme}://{name}{port}"


def refuse_plain_http(url: str) -> None:
    """Refuses http to any but a loopback host; `url` comes from `vault_address`."""
    name = url_host(url)
    local = name == "localhost" or is_loopback(name)
    if url.startswith("http://") and not local:
        raise SpecError(
            f"{quoted(url)} is plain http, which shows every token to the network: write https://, or pass --allow-http"
        )


def url_host(url: str) -> str:
    """The host of a checked URL, an IPv6 address without its brackets."""
    return re.sub(r":\d+$", "", url.partition("://")[2]).strip("[]")


def common_name(text: str, what: str = "common name") -> str:
    """A CN or O of the user's own; `{node}` and `{domain}` may stand in it."""
    bare = text.replace("{node}", "n").replace("{domain}", "d")
    if "{" in bare or "}" in bare:
        raise SpecError(f"{quoted(text)} has a placeholder nobody fills: only {{node}} and {{domain}} are known here")
    filled_name(bare, what)
    return text


def filled_name(text: str, what: str = "common name") -> str:
    """A CN or O as a certificate carries it, without placeholders."""
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9 ._:-]*[A-Za-z0-9])?", text):
        raise SpecError(
            f"{quoted(text)} is no {what}: write letters, digits, blanks and . _ : - in ASCII, beginning and ending "
            "with a letter or digit"
        )
    if len(text) > 64:
        raise SpecError(f"{quoted(text)} has {len(text)} characters: a {what} has at most 64 (RFC 5280)")
    return text


def organization(text: str) -> str:
    """An O value; no placeholder may stand in it, since a role fixes it for all its holders."""
    if "{" in text:
        raise SpecError(f"{quoted(text)} has a placeholder: an organization is the same for every holder, write it out")
    return filled_name(text, "organization")


def san_name(text: str) -> str:
    """A DNS SAN in which `{node}` and `{domain}` may stand."""
    bare = text.replace("{node}", "n").replace("{domain}", "d.d")
    if "{" in bare or "}" in bare:
        raise SpecError(f"{quoted(text)} has a placeholder nobody fills: only {{node}} and {{domain}} are known here")
    dns_name(bare)
    return text


def san_address(text: str) -> str:
    """An IP SAN, or `{node_addresses}` for the node's own."""
    if "{" in text and text != "{node_addresses}":
        raise SpecError(f"{quoted(text)} has a placeholder nobody fills: only {{node_addresses}} is known here")
    return text if text == "{node_addresses}" else address(text)


def stem(text: str) -> str:
    """A file name without extension."""
    if text.endswith((".crt", ".key", ".pem", ".conf")):
        raise SpecError(
            f"{quoted(text)} has an extension, which vaultpki adds: write {quoted(text.rpartition('.')[0])[1:-1]}"
        )
    return plain_file(text, STEM, "lower-case letters, digits, dots, hyphens and underscores")


def file_name(text: str) -> str:
    """A plain file name: no folder, not hidden."""
    return plain_file(text, FILE, "letters, digits, dots, hyphens and underscores")


def kubeconfig_name(text: str) -> str:
    """A plain file name that ends in .conf."""
    if not text.endswith(".conf") or text == ".conf":
        raise SpecError(f"{quoted(text)} is no kubeconfig's file name here: write one that ends in .conf")
    return file_name(text)


def plain_file(text: str, pattern: str, characters: str) -> str:
    if not re.fullmatch(pattern, text):
        raise SpecError(
            f"{quoted(text)} is no plain file name: write up to 100 {characters}, beginning with a letter or digit"
        )
    return text


def component(text: str) -> str:
    """`from` or `to` of a row: a word or a few for people."""
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9 ._:/-]{0,62}[A-Za-z0-9])?", text):
        raise SpecError(f"{quoted(text)} is no component's name: write up to 64 letters, digits, blanks and . _ : / -")
    return text


def file_path(text: str) -> str:
    """A path for the operating system: not empty, printable."""
    if not text or not text.isprintable() or len(text) > 1024:
        raise SpecError(f"{quoted(text)} is no path: write a file's path without control characters")
    return text


def absolute_path(text: str) -> str:
    """An absolute path in its normal form, not the root folder."""
    import posixpath

    file_path(text)
    if not text.startswith("/"):
        raise SpecError(f"{quoted(text)} is a relative path: write it from / on")
    if posixpath.normpath(text) != text or text.startswith("//"):
        normal = "/" + posixpath.normpath(text).lstrip("/")
        raise SpecError(f"{quoted(text)} is not in its shortest form: write {quoted(normal)[1:-1]}")
    if text == "/":
        raise SpecError("the root folder is no place for certificates: write a folder of its own")
    return text


def pem_certificates(text: str) -> str:
    """The PEM certificates of a CA file and nothing else of it; a private key or anything undecodable is refused."""
    if "PRIVATE KEY" in text:
        raise SpecError("the file holds a private key: name a file of CA certificates only, which all may see")
    bodies = pem_bodies(text, "CERTIFICATE")
    if not bodies:
        raise SpecError(
            "the file holds no whole PEM certificate: name one that begins with -----BEGIN CERTIFICATE-----"
        )
    if not all(map(decodes, bodies)):
        raise SpecError("the file holds a PEM certificate that does not decode: copy the CA certificate anew")
    return "".join(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n" for body in bodies)


def pem_bodies(text: str, label: str) -> list[str]:
    """What stands in the PEM blocks of this label (RFC 7468), without the blanks around it; none unless all are whole.

    What lies between blocks is passed over. The work grows with the length of the text, whatever the text is.
    """
    _, *blocks = text.split(f"-----BEGIN {label}-----")
    bodies = []
    for block in blocks:
        body, end, _ = block.partition(f"-----END {label}-----")
        inner = body.strip()
        if not (end and inner and body[0].isspace() and _BASE64.fullmatch(body)):
            return []
        bodies.append(inner)
    return bodies


def decodes(body: str) -> bool:
    """Whether what stands in a PEM block decodes to the beginning of an ASN.1 sequence."""
    import base64
    import binascii

    try:
        return base64.b64decode("".join(body.split()), validate=True).startswith(b"\x30")
    except binascii.Error:
        return False
