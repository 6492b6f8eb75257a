"""Checks DNS names, node names, IP addresses and URLs. Each check returns the normal form or raises SpecError."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator
from typing import Final

from vaultpki.errors import SpecError
from vaultpki.values.names import DNS, LABEL_PATTERN, placeholders_filled, quoted

# Written to disk under a longer, temporary name first, and NAME_MAX on Linux is 255 bytes.
LONGEST_NODE: Final = 200
"""Characters of a node's name whose certificates do not have it as their CN; for others a CN's length is the limit."""

_PORTS: Final = {"https": 443, "http": 80}
_NODE_ADDRESSES: Final = "{node_addresses}"


def dns_name(text: str, *, underscores: bool = False) -> str:
    """Return a host name as a certificate may contain it: lower case, no wildcard, no trailing dot, no IP address.

    `underscores` allows them as letters, because some internal names have them.
    """
    if not text:
        raise SpecError("the name is empty: write a DNS name such as api.example.com")
    if not text.isprintable() or " " in text:
        raise SpecError(f"{quoted(text)} contains a blank or control character: write only a DNS name")
    if not text.isascii():
        raise SpecError(f"{quoted(text)} contains characters beyond ASCII: write its punycode form (xn--...)")
    if is_address(text):
        raise SpecError(f"{quoted(text)} is an IP address: put it under addresses")
    for found, hint in (
        (",", "has a comma: write each name as its own list item"),
        ("*", "has a wildcard, which no role allows: write each name in full"),
        ("_", "has an underscore, which a host name must not have: use a hyphen"),
        (":", "has a colon: write only the name, without scheme or port"),
        ("/", "has a slash: write only the name, without scheme or path"),
    ):
        if found in text and not (underscores and found == "_"):
            raise SpecError(f"{quoted(text)} {hint}")
    if text.endswith("."):
        raise SpecError(f"{quoted(text)} ends with a dot: remove the dot")
    if len(text) > 253:
        raise SpecError(f"{quoted(text)} has {len(text)} characters: a DNS name has at most 253")
    if text != text.lower():
        raise SpecError(f"{quoted(text)} has upper-case letters, which Vault changes: write it in lower case")
    parts = text.split(".")
    if any(len(part) > 63 for part in parts):
        raise SpecError(f"{quoted(text)} has a part of more than 63 characters: a DNS label has at most 63")
    if not all(re.fullmatch(LABEL_PATTERN, part.replace("_", "x")) for part in parts):
        raise SpecError(
            f"{quoted(text)} is not a DNS name: write labels of letters, digits and hyphens, separated by dots"
        )
    if parts[-1].isdigit():
        raise SpecError(f"{quoted(text)} ends with a number and could be read as an IP address: write a DNS name")
    return text


def node_name(text: str) -> str:
    """Return the name of a Node object: a DNS subdomain (RFC 1123) of at most LONGEST_NODE characters."""
    if re.fullmatch(LABEL_PATTERN, text):
        return text
    if text.isascii() and text != text.lower() and re.fullmatch(DNS, text.lower()):
        raise SpecError(
            f"{quoted(text)} has upper-case letters, which Vault changes: write {quoted(text.lower())[1:-1]}"
        )
    if is_address(text):
        raise SpecError(f"{quoted(text)} is an IP address: give the node a DNS name and put this under addresses")
    if LONGEST_NODE < len(text) <= 253:
        raise SpecError(f"{quoted(text)} has {len(text)} characters: a node name has at most {LONGEST_NODE}")
    return dns_name(text)


def host_name(text: str) -> str:
    """Return a DNS SAN as a certificate contains it: a DNS name, or a node name, which may be a number."""
    return text if re.fullmatch(LABEL_PATTERN, text) else dns_name(text)


def node_pattern(text: str) -> str:
    """Return the pattern of a pool: the beginning of its node names, followed by `*`."""
    start = text[:-1]
    if (
        not text.endswith("*")
        or not re.fullmatch(rf"(?:{LABEL_PATTERN}\.)*[a-z0-9][a-z0-9-]*|(?:{LABEL_PATTERN}\.)+", start)
        or len(start) > LONGEST_NODE
    ):
        raise SpecError(
            f"{quoted(text)} is not a pattern of node names: write the beginning of the names, then one * at the end, "
            "such as w-*. Names have lower-case letters, digits, hyphens and dots"
        )
    return text


def is_address(text: str) -> bool:
    """Return whether the text is an IP address in any spelling."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(text: str) -> bool:
    """Return whether the text is a loopback IP address."""
    return is_address(text) and ipaddress.ip_address(text).is_loopback


def is_same_address(text: str, others: Collection[str]) -> bool:
    """Return whether the text is one of the addresses among `others`, in any spelling; names there are passed over."""
    return is_address(text) and ipaddress.ip_address(text) in {
        ipaddress.ip_address(each) for each in others if is_address(each)
    }


def address(text: str) -> str:
    """Return an IP address in its normal form; loopback is allowed."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise SpecError(
                f"{quoted(text)} is not an IP address: write one such as 10.0.0.11 or fd00::11, and put names under "
                "names"
            ) from None
        raise SpecError(f"{quoted(text)} is a network: write one address without a prefix length") from None
    if isinstance(found, ipaddress.IPv6Address):
        if "%" in text:
            raise SpecError(f"{quoted(text)} has a zone, which a certificate cannot contain: remove the part from %")
        if found.ipv4_mapped is not None:
            raise SpecError(f"{quoted(text)} is an IPv4-mapped IPv6 address: write {found.ipv4_mapped}")
    if found.is_unspecified or str(found) == "255.255.255.255":
        raise SpecError(f"{quoted(text)} is an unspecified or broadcast address: write the address of one machine")
    if found.is_multicast:
        raise SpecError(f"{quoted(text)} is a multicast address: write the address of one machine")
    return str(found)


def node_address(text: str) -> str:
    """Return an address of a node; loopback is refused, because every machine has it."""
    found = address(text)
    if is_loopback(found):
        raise SpecError(f"{quoted(text)} is a loopback address: write the address at which other nodes reach this one")
    return found


def network(text: str, example: str = "10.0.0.0/16") -> str:
    """Return a network of addresses that certificates may contain: ADDRESS/BITS, without bits behind its prefix."""
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise SpecError(f"{quoted(text)} is not a network: write one such as {example}") from None
    if "%" in text:
        raise SpecError(f"{quoted(text)} has a zone, which a certificate cannot contain: remove the part from %")
    if "." in text.partition("/")[2]:
        raise SpecError(f"{quoted(text)} has a mask instead of a prefix length: write {found}")
    if ipaddress.ip_address(text.partition("/")[0]) != found.network_address:
        raise SpecError(f"{quoted(text)} has bits set behind its prefix length: write {found}")
    if isinstance(found, ipaddress.IPv6Network) and (found[0].ipv4_mapped or found[-1].ipv4_mapped):
        raise SpecError(f"{quoted(text)} is an IPv4-mapped IPv6 range: write the IPv4 range")
    return str(found)


def service_cidr(text: str) -> str:
    """Return a service range whose first address can be the API server's."""
    found = ipaddress.ip_network(network(text, "10.96.0.0/12"))
    if "/" not in text or found.num_addresses < 4:
        raise SpecError(f"{quoted(text)} is too small for services: write a range such as 10.96.0.0/12 or fd00:1::/112")
    first = found.network_address + 1
    if found.network_address.is_unspecified or first.is_multicast or first.is_loopback:
        raise SpecError(f"{quoted(text)} cannot be used for services: write a private range such as 10.96.0.0/12")
    return str(found)


def host(text: str, *, underscores: bool = False) -> str:
    """Return the host of a URL in its normal form: a DNS name, an IPv4 address or `[IPv6]`."""
    if text.startswith("[") and text.endswith("]"):
        if ":" not in text:
            raise SpecError(
                f"{quoted(text)} is not an IPv6 address in brackets: write [fd00::10], or remove the brackets"
            )
        return f"[{address(text[1:-1])}]"
    return address(text) if is_address(text) else dns_name(text, underscores=underscores)


def _url(text: str, schemes: tuple[str, ...], example: str, *, underscores: bool = False) -> str:
    scheme, slashes, rest = text.partition("://")
    if not slashes or scheme not in schemes:
        raise SpecError(f"{quoted(text)} does not begin with {schemes[0]}://: write {example}")
    if "@" in rest:
        # The address is not shown: the part before the @ is often a password.
        raise SpecError(f"the address contains a user or password: write {example}, without them")
    match = re.fullmatch(r"(\[[^\[\]/?#]*\]|[^:\[\]/?#]*)(?::(\d{1,5}))?", rest, re.ASCII)
    if match is None:
        raise SpecError(f"{quoted(text)} is not just a host and a port: write {example} and nothing behind it")
    if match[2] is not None and not 1 <= int(match[2]) <= 65535:
        raise SpecError(f"{quoted(text)} has an invalid port: write one from 1 to 65535")
    port = f":{int(match[2])}" if match[2] else ""
    return f"{scheme}://{host(match[1], underscores=underscores)}{port}"


def endpoint(text: str) -> str:
    """Return `https://HOST[:PORT]` of the API server."""
    return _url(text, ("https",), "https://api.example.com:6443")


def vault_address(text: str) -> str:
    """Return `http[s]://HOST[:PORT]` of Vault; `refuse_plain_http` decides whether http is allowed."""
    return _url(text, ("https", "http"), "https://vault.example.com:8200", underscores=True)


def refuse_plain_http(url: str) -> None:
    """Raise SpecError if `url`, which `vault_address` returned, is http to a host that is not loopback."""
    name = url_host(url)
    if url.startswith("http://") and name != "localhost" and not is_loopback(name):
        raise SpecError(
            f"{quoted(url)} is plain http, which shows every token to the network: write https://, or pass --allow-http"
        )


def parse_origin(address: str, *, allow_http: bool) -> str:
    """Return `scheme://host:port` of a Vault address from the environment or from a server.

    Also accepts upper case and one slash at the end. Without a port it is the scheme's own (443, 80), as in Vault's
    CLI. Raises SpecError if it is not such an address, or is http to a host that is not loopback without `allow_http`.
    """
    try:
        # A non-ASCII letter must not become an ASCII one: the lower case of U+212A is k.
        url = vault_address(address.lower().removesuffix("/") if address.isascii() else address)
    except SpecError:
        # The address is not shown: it may contain a password before an @.
        raise SpecError(
            "a Vault address must be https://HOST:PORT and no more; check VAULT_ADDR or vault.addresses"
        ) from None
    if not allow_http:
        refuse_plain_http(url)
    return url if re.search(r":\d+$", url) else f"{url}:{_PORTS[url.partition(':')[0]]}"


def in_url(host: str) -> str:
    """Return a host as a URL has it: an IPv6 address in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def url_host(url: str) -> str:
    """Return the host of a checked URL, an IPv6 address without its brackets."""
    return re.sub(r":\d+$", "", url.partition("://")[2]).strip("[]")


def san_name(text: str) -> str:
    """Return a DNS SAN, which may contain `{node}` and `{domain}`."""
    dns_name(placeholders_filled(text, domain="d.d"))
    return text


def san_address(text: str) -> str:
    """Return an IP SAN, or `{node_addresses}` for the node's own addresses."""
    if "{" in text and text != _NODE_ADDRESSES:
        raise SpecError(f"{quoted(text)} has an unknown placeholder: only {_NODE_ADDRESSES} is known here")
    return text if text == _NODE_ADDRESSES else address(text)


def address_patterns(network: str) -> Iterator[str]:
    """Yield what the texts of all addresses of a network begin with, and of no others: patterns with `*` at the end.

    An IPv6 address is written in full (`ipaddress.IPv6Address.exploded`): a shortened text does not say where it ends.
    """
    net = ipaddress.ip_network(network)
    step, sign = (8, ".") if net.version == 4 else (16, ":")
    whole, rest = divmod(net.prefixlen, step)
    parts = net.network_address.exploded.split(sign)
    head = "".join(f"{part}{sign}" for part in parts[:whole])
    if not rest:
        yield f"{head}*" if whole < len(parts) else head[:-1]
        return
    end = "" if whole + 1 == len(parts) else f"{sign}*"
    base = 10 if net.version == 4 else 16
    first = int(parts[whole], base)
    for value in range(first, first + (1 << (step - rest))):
        yield f"{head}{value}{end}" if net.version == 4 else f"{head}{value:04x}{end}"
