"""Defines every error of vaultpki; the message of each is one sentence for a person.

VaultpkiError
├── SpecError            a document is wrong, such as cluster.yaml, agent.yaml or a record: file, line, field
├── ArgumentError        a name, option or variable given to the command does not fit this cluster or node
├── StateConflict        the state of the cluster, the server or the node does not allow it now
├── TokenTooWeak         the token may not do all that the command needs: nothing was changed
├── JoinRefused          the join file is used, expired or mixed up: the node needs another one
├── ForeignObject        a path of ours in Vault contains something that vaultpki did not create
├── VaultError           the server, or the connection to it
│   ├── Unavailable      no usable response in time: unreachable, sealed, standby, overloaded, failing over
│   │   └── Sealed       the server is sealed or not initialised
│   ├── Untrusted        the server's TLS certificate does not verify
│   ├── Denied           the token is missing, expired or too weak for this request
│   │   └── NeedsJoin    this node's credential is missing or no longer accepted: it needs a new join file
│   ├── Refused          the server rejected the request; `status` is the HTTP status
│   │   └── ChangedMeanwhile  another operator has changed the record that was read: nothing was written
│   └── BadAnswer        the response is not a Vault response, or is too large
├── CertificateRefused   the signed certificate differs from the request: it is not installed
├── RequestRefused       a certificate request breaks a rule of the signer: it is not signed
├── SigningPaused        signing is delayed, so that a fault does not cause a loop of signings
├── CertificateUnreadable  a certificate, key or chain cannot be parsed
├── StoreError           a file or folder could not be read or written safely
│   ├── Unsafe           others could put their own files in place of ours
│   ├── Busy             another vaultpki process holds the directory
│   └── AgentNotReached  no resident agent can be asked: none runs here, or it has ended
├── TemplateError        a template contains an unknown placeholder or cannot be rendered
├── ToolMissing          a program that this command needs is not installed
└── Attention            the command is done, and something needs attention: exit code 3
"""

from __future__ import annotations


class VaultpkiError(Exception):
    """The base of all errors: `str()` is one sentence for a person, without secrets.

    `exit_code` is the exit code of a command that ends with this error.
    """

    exit_code = 1


class SpecError(VaultpkiError):
    """A document is wrong.

    `file` and `line` (from 1; None if there is no line) are the place, `field` is the dotted path
    (`nodes[1].addresses[0]`), `problem` says what is wrong and what to write instead.
    """

    def __init__(self, problem: str, *, file: str = "", line: int | None = None, field: str = "") -> None:
        self.file, self.line, self.field, self.problem = file, line, field, problem
        where = f"{file}:{line}" if line is not None else file
        super().__init__(": ".join(part for part in (where, field, problem) if part))


class ArgumentError(VaultpkiError):
    """A name, an option, a folder or a variable that was given to the command does not fit this cluster or node."""


class StateConflict(VaultpkiError):
    """The state of the cluster, the server or the node does not allow it now; the message says what must come first."""


class TokenTooWeak(VaultpkiError):
    """The token's policies do not allow all that the command needs; this was found before anything was changed."""


class JoinRefused(VaultpkiError):
    """The join file is used, expired, or of something else than it says: the node needs another one."""


class ForeignObject(VaultpkiError):
    """A path of ours in Vault contains something that vaultpki did not create; it is never adopted or overwritten."""


class VaultError(VaultpkiError):
    """The server, or the connection to it, failed."""


class Unavailable(VaultError):
    """There was no usable response in time; the same request may succeed later.

    `sent` says that the server may have acted on the request anyway. `retry_after` is the pause in seconds that the
    server asked for. `forwards` says that it is a standby that has all requests answered by the active node.
    """

    def __init__(
        self, message: str, *, sent: bool = False, retry_after: float | None = None, forwards: bool = False
    ) -> None:
        self.sent, self.retry_after, self.forwards = sent, retry_after, forwards
        super().__init__(message)


class Sealed(Unavailable):
    """The server at `origin` is sealed or not initialised."""

    origin = ""


class Untrusted(VaultError):
    """The server's TLS certificate does not verify against the CA file given."""


class Denied(VaultError):
    """The token is missing, expired, or its policies do not allow the request (HTTP 403).

    `weak` says that the server knows the token, so that its policies are the reason.
    """

    def __init__(self, message: str, *, weak: bool = False) -> None:
        self.weak = weak
        super().__init__(message)


class NeedsJoin(Denied):
    """This node's credential is missing, or Vault no longer accepts it: the node needs a new join file."""


class Refused(VaultError):
    """The server rejected the request.

    `status` is the HTTP status, `reasons` are the server's own messages, without secrets.
    """

    def __init__(self, message: str, *, status: int, reasons: tuple[str, ...] = ()) -> None:
        self.status, self.reasons = status, reasons
        super().__init__(message)


class ChangedMeanwhile(Refused):
    """Another operator has changed the record that was read, so nothing was written over it."""


class BadAnswer(VaultError):
    """The response is not a Vault response: not JSON, wrong fields, too large, or with an unexpected warning.

    `taken` says that a Vault acted on the request anyway.
    """

    def __init__(self, message: str, *, taken: bool = False) -> None:
        self.taken = taken
        super().__init__(message)


class CertificateRefused(VaultpkiError):
    """The signed certificate differs from the request.

    `reason` is the short name of the check that failed, such as `key-mismatch` or `names-differ`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        self.reason = reason
        super().__init__(message)


class RequestRefused(VaultpkiError):
    """A certificate request breaks a rule of the signer, and is not signed; `rule` is the number of the first one."""

    def __init__(self, message: str, *, rule: str) -> None:
        self.rule = rule
        super().__init__(message)


class SigningPaused(VaultpkiError):
    """Signing is delayed until `at` (Unix time in seconds), so that a fault does not cause a loop of signings."""

    def __init__(self, why: str, at: float) -> None:
        self.at = at
        super().__init__(why)


class CertificateUnreadable(VaultpkiError):
    """A certificate, key or chain cannot be parsed."""


class StoreError(VaultpkiError):
    """A file or folder could not be read or written safely."""


class Unsafe(StoreError):
    """Others could put their own files in place of ours: by the owner or the mode of `place`, a file or a folder."""

    def __init__(self, why: str, place: str) -> None:
        self.place = place
        super().__init__(why)


class Busy(StoreError):
    """Another vaultpki process holds the directory."""


class AgentNotReached(StoreError):
    """No resident agent of this node can be asked: none runs here, it ended meanwhile, or another user runs it."""


class TemplateError(VaultpkiError):
    """A template contains an unknown placeholder or cannot be rendered."""


class ToolMissing(VaultpkiError):
    """A program that this command needs is not installed."""


class Attention(VaultpkiError):
    """The command is done and found something that needs a person's attention."""

    exit_code = 3


def fault(error: Exception) -> str:
    """Return the sentence for an unexpected error.

    It contains only the type and the place, because a traceback may contain text from a server or a file.
    """
    trace, place = error.__traceback__, "an unknown place"
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__"))
        place = f"{module}, line {trace.tb_lineno}" if module.startswith("vaultpki") else place
        trace = trace.tb_next
    return f"a fault of vaultpki itself ({type(error).__name__} in {place}); please report it"
