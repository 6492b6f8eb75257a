"""Writes and reads the part of a cluster's record that names foreign CAs: those of `ca.also_trust` in cluster.yaml.

The record only offers them. A node takes one into the bundles of a domain if its SHA-256 is in agent.yaml, so whoever
can write the record can bring in none. A record of a cluster that has none does not have this part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from vaultpki.certificates import ISSUING_CAS
from vaultpki.model import ForeignCa
from vaultpki.values.json_object import JsonObject

FIELD: Final = "also_trust"
"""The name of the part in the record, and of the key in cluster.yaml, agent.yaml and join files."""

MOST_CAS: Final = 8
"""The largest number of foreign CAs of one domain."""

MOST_PINS: Final = 2 * MOST_CAS
"""The largest number of SHA-256 of one domain in agent.yaml: of those that are there and those that follow them."""

MOST_FOREIGN_BYTES: Final = 16 * 1024
"""The largest size of all foreign CAs of one domain as PEM, in bytes: a bundle is read up to 64 KiB."""

ForeignPems = Mapping[str, tuple[str, ...]]
"""Certificates as PEM, by domain."""


def to_json(cas: Iterable[ForeignCa]) -> dict[str, dict[str, list[str]]]:
    """Return the part as it is stored, by its name; empty for no foreign CA. The order of files does not matter."""
    found: dict[str, list[str]] = {}
    for each in sorted(cas, key=lambda each: (ISSUING_CAS.index(each.ca), each.sha256)):
        found.setdefault(each.ca, []).append(each.pem)
    return {FIELD: found} if found else {}


def pins(cas: Iterable[ForeignCa]) -> dict[str, tuple[str, ...]]:
    """Return the SHA-256 of foreign CAs by domain, as join files and agent.yaml have them."""
    found: dict[str, tuple[str, ...]] = {}
    for each in cas:
        found[each.ca] = (*found.get(each.ca, ()), each.sha256)
    return found


def read(record: JsonObject) -> dict[str, tuple[str, ...]]:
    """Return the certificates that a record offers, as text by domain; SpecError for what no vaultpki writes.

    What is in the texts is not checked here. A domain that this release does not know is left out: a later one may.
    """
    value = record.value.get(FIELD)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise record.wrong(FIELD)
    found = {}
    for ca in ISSUING_CAS:
        pems = value.get(ca, [])
        if not isinstance(pems, list) or len(pems) > MOST_CAS or not all(isinstance(pem, str) for pem in pems):
            raise record.wrong(FIELD)
        if sum(map(len, pems)) > MOST_FOREIGN_BYTES:
            raise record.wrong(FIELD)
        if pems:
            found[ca] = tuple(pems)
    return found
