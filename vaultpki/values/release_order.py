"""Orders versions of vaultpki that nodes report: a build before a release comes before it; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.version import Version


def key(version: str) -> tuple[bool, Version | None, str]:
    """Return the place of a version among others, by PEP 440. What is no version, since a node lies, comes last."""
    from packaging.version import Version

    try:
        return False, Version(version), version
    except ValueError:
        # Never compared: all of them have None here, and only they have True before it.
        return True, None, version
