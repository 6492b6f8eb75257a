"""Writes the root's SHA-256 into the text of a cluster.yaml, as one line; every other byte stays. Pure."""

from __future__ import annotations

from vaultpki.errors import SpecError
from vaultpki.values.yaml_edit import TextChange, UnsafePlace, YamlText, child, written


def with_pin(data: bytes, sha256: str, file: str) -> bytes:
    """Return the text of `file` with `ca.root_sha256`, or as it is if it names this root already.

    `sha256` is in lower-case hex. Raises SpecError if the text names another root, or has a form that is not safe to
    change.
    """
    try:
        found = YamlText(data)
        ca = found.at("ca")
        if ca is not None and ca.id == "mapping" and child(ca, "root_sha256") is not None:
            return _unchanged(data, found.value["ca"]["root_sha256"], sha256, file)
        wanted = {**found.value, "ca": {**(found.value.get("ca") or {}), "root_sha256": sha256}}
        if ca is not None:
            change = found.entry(ca, "root_sha256", sha256)
        elif found.root.flow_style:
            change = found.entry(found.root, "ca", {"root_sha256": sha256})
        else:
            end = "\r\n" if "\r\n" in found.text else "\n"
            begin = "" if found.text.endswith("\n") else end
            at = len(found.text)
            change = TextChange(at, at, f"{begin}ca: {{root_sha256: {written(sha256, quoted=True)}}}{end}")
        return found.apply([change], wanted)
    except (UnsafePlace, AttributeError, TypeError, IndexError):
        raise SpecError(
            f"the line cannot be added here safely: write `root_sha256: {sha256}` below `ca` yourself", file=file
        ) from None


def _unchanged(data: bytes, named: object, sha256: str, file: str) -> bytes:
    """Return the text if its pin, or one of its pins, is this root; else raise SpecError."""
    pins = named if isinstance(named, list) else [named]
    if sha256 not in [str(pin).replace(":", "").lower() for pin in pins]:
        shown = ", ".join(map(str, pins))
        raise SpecError(
            f"another root is pinned here: {shown}; the root in Vault is {sha256}, so decide which one is right",
            file=file,
            field="ca.root_sha256",
        )
    return data
