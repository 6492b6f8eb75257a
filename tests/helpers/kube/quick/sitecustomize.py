"""Has vaultpki count on clients of kube-apiserver that look at their files every 15 seconds, not every five minutes.

A Kubernetes that `tests/setup/kubernetes quick` builds has such clients. Python runs this file as it starts, where its
folder is on PYTHONPATH: the program has no setting for it, and this changes nothing but one line of one module.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

SECONDS = 15
MODULE = "vaultpki.certificates"
LINE = "\nCLIENT_LOOK: Final = 5 * _MINUTE\n"


def changed(source: str) -> str:
    """Return the module with the other constant; raise ImportError where its line is not there once."""
    if source.count(LINE) != 1:
        raise ImportError(f"{MODULE} has the line {LINE.strip()!r} {source.count(LINE)} times, and tests change one")
    return source.replace(LINE, f"\nCLIENT_LOOK: Final = {SECONDS}\n")


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Compile the changed module, which is neither taken from Python's cache of compiled modules nor left there."""
        return compile(changed(self.get_data(self.path).decode()), self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            raise ImportError(f"{MODULE} is no file that tests can change: {spec}")
        spec.loader = _Loader(fullname, spec.loader.path)
        return spec


# A test of this file imports it by another name.
if __name__ == "sitecustomize":
    sys.meta_path.insert(0, _Finder())
