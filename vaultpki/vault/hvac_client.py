"""hvac's calls on our own road: its adapter hands every request to `Vault.call`, so the same limits and errors hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import hvac
import hvac.adapters
import hvac.exceptions

from vaultpki.errors import BadAnswer, Denied, Refused, Sealed, Unavailable, VaultError
from vaultpki.vault.wire import Request, login_token

if TYPE_CHECKING:
    from vaultpki.vault.client import Vault


class _Adapter(hvac.adapters.Adapter):  # type: ignore[misc]
    """What hvac sends is sent by `vault`; what its raw adapters would leave to `requests` never happens."""

    def __init__(self, vault: Vault) -> None:
        # requests.Session would read .netrc and proxy variables; hvac's base class makes one unless it is given.
        super().__init__(base_uri=vault.address, token=None, session=_NoSession())
        self._vault = vault

    def get_login_token(self, response: dict[str, Any]) -> str:
        return login_token(response, "the auth mount")

    def request(self, method: str, url: str, headers: Any = None, raise_exception: bool = True, **kwargs: Any) -> Any:
        method = method.upper()
        parameters = urlencode(kwargs.get("params") or {})
        request = Request(
            method,
            url.removeprefix("/v1/") + (f"?{parameters}" if parameters else ""),
            None if method in ("GET", "LIST", "DELETE") else kwargs.get("json") or {},
            wrap_ttl=kwargs.get("wrap_ttl"),
            merge_patch=method == "PATCH",
        )
        # hvac keeps here the token of whoever logged in through it.
        vault = self._vault.as_token(self.token) if self.token else self._vault
        answer = vault.call(request)
        return answer.body if answer.found else None


class _NoSession:
    """Stands where hvac wants a session; anything hvac tried with it would be a fault."""

    verify = cert = proxies = None

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def client(vault: Vault) -> Iterator[hvac.Client]:
    """An hvac client of the same server and token as `vault`; no hvac exception gets out of the block."""
    try:
        yield hvac.Client(url=vault.address, adapter=lambda **_: _Adapter(vault))
    except hvac.exceptions.VaultError as error:
        raise translate(error) from None


def translate(error: hvac.exceptions.VaultError) -> VaultError:
    """The error of our tree for one that hvac raised itself; its text is left out, since it may carry an answer."""
    for kind, ours in _TREE:
        if isinstance(error, kind):
            made: VaultError = ours(type(error).__name__)
            return made
    raise TypeError(f"hvac has an error that is not mapped: {type(error).__name__}") from None


def _refused(status: int) -> Any:
    return lambda name: Refused(f"Vault refuses the call ({name})", status=status)


_TREE: tuple[tuple[type[Exception], Any], ...] = (
    (hvac.exceptions.VaultNotInitialized, lambda name: Sealed(f"the Vault is not initialised ({name})")),
    (hvac.exceptions.VaultDown, lambda name: Sealed(f"the Vault is sealed ({name})")),
    (hvac.exceptions.RateLimitExceeded, lambda name: Unavailable(f"the Vault is overloaded ({name})")),
    (hvac.exceptions.InternalServerError, lambda name: Unavailable(f"the Vault cannot answer now ({name})")),
    (hvac.exceptions.BadGateway, lambda name: Unavailable(f"the Vault cannot answer now ({name})")),
    (hvac.exceptions.Forbidden, lambda name: Denied(f"Vault refuses the call ({name})")),
    (hvac.exceptions.Unauthorized, lambda name: Denied(f"Vault refuses the call ({name})")),
    (hvac.exceptions.InvalidRequest, _refused(400)),
    (hvac.exceptions.InvalidPath, _refused(404)),
    (hvac.exceptions.UnsupportedOperation, _refused(405)),
    (hvac.exceptions.PreconditionFailed, _refused(412)),
    (hvac.exceptions.ParamValidationError, lambda name: BadAnswer(f"hvac finds a parameter wrong ({name})")),
    (hvac.exceptions.UnexpectedError, lambda name: BadAnswer(f"hvac did not understand the server ({name})")),
    (hvac.exceptions.VaultError, lambda name: BadAnswer(f"hvac failed ({name})")),
)
