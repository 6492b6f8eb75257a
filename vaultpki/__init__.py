"""Vault or OpenBao as the certificate authority of a Kubernetes cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        # Found when it is asked for: a checkout asks git, which few commands have a reason for.
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = version = _version()
        return version


def _version() -> str:
    from pathlib import Path

    # As for templates: a wheel has the file inside the package, and a checkout has what it is made from beside it.
    package = Path(__file__).resolve().parent
    script = package.parent / "packages" / "version.py"
    if script.is_file():
        from runpy import run_path

        return str(run_path(str(script))["version"]())
    return (package / "VERSION").read_text(encoding="utf-8").strip()
