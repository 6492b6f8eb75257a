"""What a watch has shown of a cluster's requests: those that wait, and those of tokens that have a certificate."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from vaultpki.errors import RequestRefused
from vaultpki.pki import csr
from vaultpki.signer.requests import CLIENT, CLIENT_KUBELET, SERVING, CsrObject, csr_object, issued_to_tokens


@dataclass(frozen=True, slots=True)
class KnownRequest:
    """A request that may have to be answered; `common_name` is "" where the request itself cannot be read."""

    request: CsrObject
    common_name: str

    @property
    def name(self) -> str:
        """The name of the object."""
        return self.request.name

    @property
    def waits(self) -> bool:
        """Whether it may have to be answered now: it is approved, or the signer might approve it."""
        return self.request.waits or (self.request.signer == SERVING and is_open(self.request))


class KnownRequests:
    """The requests of the signers that are served, as of the last list and each change since; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, KnownRequest] = {}

    def replace(self, items: Iterable[Mapping[str, object]]) -> list[KnownRequest]:
        """Take a new list in place of all that was known; return what waits."""
        found = {each.name: each for item in items if (each := _known(item)) is not None}
        with self._lock:
            self._known = found
        return self.waiting()

    def note(self, item: Mapping[str, object], *, gone: bool) -> list[KnownRequest]:
        """Take a change; return the request if it waits."""
        found = _known(item)
        if found is None:
            return []
        with self._lock:
            if gone:
                self._known.pop(found.name, None)
            else:
                self._known[found.name] = found
        return [found] if found.waits and not gone else []

    def get(self, name: str) -> KnownRequest | None:
        """Return the request of this name; None if there is none."""
        with self._lock:
            return self._known.get(name)

    def waiting(self) -> list[KnownRequest]:
        """Return the requests that wait, the oldest first."""
        return [each for each in self.open() if each.waits]

    def open(self) -> list[KnownRequest]:
        """Return the requests that nobody has answered, approved or not, the oldest first."""
        with self._lock:
            found = [each for each in self._known.values() if is_open(each.request)]
        return sorted(found, key=lambda each: str(each.request.created))

    def done(self, name: str, *, issued: bool) -> None:
        """Note that a request needs no more work, before the watch shows why, and whether it got a certificate."""
        with self._lock, contextlib.suppress(KeyError):
            before = self._known[name]
            request = replace(before.request, certificate=issued, failed=not issued)
            self._known[name] = replace(before, request=request)

    def issued(self, common_name: str) -> str | None:
        """Return the name of an issued request of a token for this common name; None without one."""
        with self._lock:
            found = [each.request for each in self._known.values() if each.common_name == common_name]
        return issued_to_tokens(found).get(common_name)


def is_open(request: CsrObject) -> bool:
    """Return whether nobody has answered a request: it is not denied, has not failed, and has no certificate."""
    return not (request.denied or request.failed or request.certificate)


def _known(item: Mapping[str, object]) -> KnownRequest | None:
    request = csr_object(item)
    if request is None or request.signer not in (CLIENT, CLIENT_KUBELET, SERVING):
        return None
    name = ""
    with contextlib.suppress(RequestRefused):
        name = csr.read_request(request.request).common_name
    return KnownRequest(request, name)
