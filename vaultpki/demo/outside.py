"""Carries the requests of issuing CAs to a corporate root, and back; a folder is the machine without network.

The signer there is OpenSSL with an ordinary configuration. Everything else calls the functions of `apply`, `ca csr`,
`ca import`, `agent --once`, `issue` and `verify`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from vaultpki.ca import request_files, returned
from vaultpki.ca import waiting as ca_waiting
from vaultpki.ca.request_files import RequestFiles
from vaultpki.demo import run
from vaultpki.demo.run import DEMO_HEAD, AppliedExample, DemoResult
from vaultpki.disk.files import write_private
from vaultpki.errors import VaultpkiError
from vaultpki.host import openssl
from vaultpki.pki import x509
from vaultpki.pki.facts import Facts
from vaultpki.provision import apply
from vaultpki.records.server_facts import ServerFacts
from vaultpki.redact import printable

_SECONDS: Final = 60
_DAYS: Final = 730
_BACKDATED: Final = timedelta(minutes=15)

_EXAMPLE: Final = (
    DEMO_HEAD
    + """\
nodes:
  - {{name: cp-1, roles: [control-plane, etcd, worker], addresses: [10.0.0.11]}}
  - {{name: worker-1, roles: [worker], addresses: [10.0.0.21]}}
ca:
  root: external
  root_file: corp-ca.crt
  issuing_ttl: 2y
  subject: {{O: Example Corp, C: DE}}
"""
)

_CONFIGURATION: Final = """\
[ca]
default_ca = own
[own]
database = index.txt
new_certs_dir = .
rand_serial = yes
unique_subject = no
default_md = sha384
policy = anything
[anything]
countryName = optional
organizationName = optional
commonName = supplied
[req]
distinguished_name = name
[name]
[above]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True, slots=True)
class OutsideDemo:
    """What was carried: the CAs above, the requests, and what came back. `result` is all that came after that."""

    above: Sequence[Facts]
    requests: Sequence[RequestFiles]
    signed: Sequence[Facts]
    result: DemoResult


@contextmanager
def demo(directory: Path, *, port: int = 0, step: Callable[[int], None] = lambda total: None) -> Iterator[OutsideDemo]:
    """Run the demo in `directory`; the server stops when the block ends.

    `step` is called after each piece of the work with how many there are. Raises as `run.applied`, and ToolMissing
    without `openssl`.
    """
    openssl.program()
    with run.applied(directory, _EXAMPLE, port=port, before=_make_signer) as example:
        yield _carried(example, step)


def _make_signer(directory: Path) -> None:
    """Make the folder `offline` with a root and the intermediate CA that signs, and `corp-ca.crt` with both."""
    folder = directory / "offline"
    folder.mkdir(mode=0o700)
    for name, text in (("ca.cnf", _CONFIGURATION), ("index.txt", "")):
        write_private(str(folder / name), text.encode())
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes", "-config", "ca.cnf", "-sha384")
    for name in ("Root", "Policy CA"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.crt" if name == "Root" else f"{name}.csr")
        own = ("-x509", "-days", "7300", "-extensions", "above") if name == "Root" else ()
        _openssl(folder, "req", *own, *new, *files, "-subj", f"/C=DE/O=Example Corp/CN=Example {name}")
    _sign(folder, "Root", "Policy CA.csr", "Policy CA.crt", "-extensions", "above", days=3650)
    chain = "".join((folder / f"{name}.crt").read_text(encoding="ascii") for name in ("Root", "Policy CA"))
    write_private(str(directory / "corp-ca.crt"), chain.encode(), 0o644)


def _sign(folder: Path, signer: str, csr: str, crt: str, *extensions: str, days: int) -> None:
    start = datetime.now(UTC) - _BACKDATED
    dates = [f"{each:%Y%m%d%H%M%S}Z" for each in (start, start + timedelta(days=days))]
    _openssl(
        folder,
        *("ca", "-batch", "-notext", "-preserveDN", "-config", "ca.cnf", "-cert", f"{signer}.crt"),
        *("-keyfile", f"{signer}.key", "-startdate", dates[0], "-enddate", dates[1], "-in", csr, "-out", crt),
        *extensions,
    )


def _openssl(folder: Path, *words: str) -> None:
    """Run `openssl` on the machine without network: in its folder, with what lies there."""
    ran = subprocess.run(
        [openssl.program(), *words],
        cwd=folder,
        env=openssl.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_SECONDS,
        check=False,
    )
    if ran.returncode:
        said = printable((ran.stderr.strip().splitlines() or ["it said nothing"])[-1])
        raise VaultpkiError(f"openssl {words[0]} failed in {folder}: {said}")


def _carried(example: AppliedExample, step: Callable[[int], None]) -> OutsideDemo:
    cluster, vault, directory = example.cluster, example.vault, example.directory
    there = ca_waiting.find(cluster, vault)
    requests = request_files.write(cluster, there.waiting, directory / "requests")
    answers = []
    for each in requests:
        csr, ext, crt = (directory / "requests" / name for name in (each.csr, each.extensions, f"{each.csr[:-4]}.crt"))
        _sign(directory / "offline", "Policy CA", str(csr), str(crt), "-extfile", str(ext), days=_DAYS)
        answers.append(crt)
    now = datetime.now(UTC)
    found = returned.judge(cluster, returned.read_files(answers), [each.request for each in there.waiting], now, there)
    for refused in found.verdict.refused:
        raise VaultpkiError(refused.sentence)
    returned.install_all(cluster, vault, there, found, now)
    where = ServerFacts(cluster.vault.addresses, cluster.vault.ca_pem)
    done = apply.apply(cluster, vault, where, first=None, progress=lambda change: None)
    result = run.issue_and_verify(replace(example, changes=example.changes + len(done.changes)), step)
    chain = (directory / "corp-ca.crt").read_bytes()
    signed = [each.certificate for each in found.verdict.accepted]
    return OutsideDemo(x509.read_certificates(chain), requests, signed, result)
