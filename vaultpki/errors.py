"""Every failure a person can meet, as one sentence each.

VaultpkiError
├── SpecError            cluster.yaml, agent.yaml or a record of the config store is wrong: file, line, field
├── ForeignObject        a path of ours holds something vaultpki did not make
├── VaultError           the server, or the way to it
│   ├── Unavailable      no usable answer in time: unreachable, sealed, standby, overloaded, failing over
│   │   └── Sealed       it answers, and says it is sealed or not initialised
│   ├── Untrusted        its TLS certificate does not verify
│   ├── Denied           the token is missing, expired or too weak for this request
│   │   └── NeedsJoin    this node's credential is gone or no longer taken: only a new join file heals that
│   ├── Refused          the request was understood and turned down; `status` tells with which code
│   └── BadAnswer        what came back is not what a Vault says, or is larger than any answer may be
├── CertificateRefused   what was signed is not what was asked for: it is not installed
├── Held                 a signature is held back for a while, lest a fault become a loop of signings
├── CertificateUnreadable  bytes that should be a certificate, a key or a chain, and are not
├── StoreError           a file or folder could not be read or written safely
│   └── Busy             another vaultpki process holds the directory
├── TemplateError        a template names something unknown or is no template
├── ToolMissing          a program this command needs is not on the machine
└── Attention            done, and something needs a person: exit code 3
"""

from __future__ import annotations


class VaultpkiError(Exception):
    """The root of the tree: `str()` is one sentence for a person, with no secret in it.

    `exit_code` is what a command that ends with this error exits with.
    """

    exit_code = 1


class SpecError(VaultpkiError):
    """Input a person wrote is wrong.

    `file` and `line` (counted from 1; None where no line applies) say where, `field` is the dotted path
    (`nodes[1].addresses[0]`), `problem` what is wrong and what would be right.
    """

    def __init__(self, problem: str, *, file: str = "", line: int | None = None, field: str = "") -> None:
        self.file, self.line, self.field, self.problem = file, line, field, problem
        where = f"{file}:{line}" if line is not None else file
        super().__init__(": ".join(part for part in (where, field, problem) if part))


class ForeignObject(VaultpkiError):
    """A path of ours in Vault holds something vaultpki did not make; it is never adopted or overwritten."""


class VaultError(VaultpkiError):
    """The server, or the way to it."""


class Unavailable(VaultError):
    """No usable answer within the time allowed; the same request may succeed later.

    `sent` tells that the server may have acted on the request all the same; `retry_after` is the pause in seconds
    that it asked for.
    """

    def __init__(self, message: str, *, sent: bool = False, retry_after: float | None = None) -> None:
        self.sent, self.retry_after = sent, retry_after
        super().__init__(message)


class Sealed(Unavailable):
    """The server answers that it is sealed or not initialised."""


class Untrusted(VaultError):
    """The server's TLS certificate does not verify against the CA file given."""


class Denied(VaultError):
    """The token is missing, expired, or its policies do not allow the request (HTTP 403)."""


class NeedsJoin(Denied):
    """This node's credential is missing, or Vault does not take it any more: a person must give it a join file."""


class Refused(VaultError):
    """The server understood the request and turned it down.

    `status` is the HTTP status, `reasons` the server's own words, stripped of anything secret.
    """

    def __init__(self, message: str, *, status: int, reasons: tuple[str, ...] = ()) -> None:
        self.status, self.reasons = status, reasons
        super().__init__(message)


class BadAnswer(VaultError):
    """An answer that no Vault gives: not JSON, of another shape, too large, or with a warning nobody expected.

    `taken` tells that a Vault acted on the request all the same.
    """

    def __init__(self, message: str, *, taken: bool = False) -> None:
        self.taken = taken
        super().__init__(message)


class CertificateRefused(VaultpkiError):
    """What was signed is not what was asked for.

    `reason` is the short name of the check that failed, such as `key-mismatch` or `names-differ`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        self.reason = reason
        super().__init__(message)


class Held(VaultpkiError):
    """A signature is held back until `at` (Unix time in seconds), lest a fault become a loop of signings."""

    def __init__(self, why: str, at: float) -> None:
        self.at = at
        super().__init__(why)


class CertificateUnreadable(VaultpkiError):
    """Bytes that should be a certificate, a key or a chain, and are not."""


class StoreError(VaultpkiError):
    """A file or folder could not be read or written safely."""


class Busy(StoreError):
    """Another vaultpki process holds the directory."""


class TemplateError(VaultpkiError):
    """A template names something unknown, or is no template."""


class ToolMissing(VaultpkiError):
    """A program this command needs is not on the machine."""


class Attention(VaultpkiError):
    """The command did its work and found something a person must look at."""

    exit_code = 3


def fault(error: Exception) -> str:
    """The sentence for an error that no part of this program expected.

    A traceback's lines may quote what a server or a file said, so only its kind and its place are told.
    """
    trace, place = error.__traceback__, "an unknown place"
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__"))
        place = f"{module}, line {trace.tb_lineno}" if module.startswith("vaultpki") else place
        trace = trace.tb_next
    return f"a fault of vaultpki itself ({type(error).__name__} in {place}); please report it"
