"""Bills of materials that `make dist` writes beside its packages: read, and held against their schema."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def read(package: Path) -> dict[str, Any]:
    """The bill of a package, which names this very file; fails where CycloneDX's schema finds a fault."""
    text = Path(f"{package}.cdx.json").read_text()
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert fault is None, fault
    bill: dict[str, Any] = json.loads(text)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    assert bill["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    return bill


def components(bill: dict[str, Any], purl: str) -> dict[str, str]:
    """Name and version of the components whose purl begins so; each has what is asked of it."""
    found = [each for each in bill["components"] if each["purl"].startswith(purl)]
    for each in found:
        assert each["version"]
        if purl == "pkg:pypi/":
            assert each["hashes"] and each["licenses"], each
    return {each["purl"].removeprefix(purl).partition("@")[0]: each["version"] for each in found}
