"""Takes what the signer of a root from outside sent back: all checks before the first write, then CA by CA.

Servers import nearly every certificate without a word, with any key, so what they did is looked at afterwards, and
undone if it is not what was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vaultpki.ca.waiting import OutsideCas, WaitingCa, outside_root
from vaultpki.errors import BadAnswer, StoreError
from vaultpki.identity.outside_signer import chain_of
from vaultpki.model import Cluster
from vaultpki.provision import authorities
from vaultpki.redact import first_few, printable
from vaultpki.values import input_file
from vaultpki.vault import Request, Vault, member

if TYPE_CHECKING:
    from vaultpki.pki.facts import Facts
    from vaultpki.pki.outside import AcceptedCa, Verdict
    from vaultpki.pki.outside_files import Sent
    from vaultpki.pki.outside_request import WaitingRequest


@dataclass(frozen=True, slots=True)
class ReturnedFiles:
    """What is to be made of the files: the verdict, and the domains whose certificates are installed already."""

    verdict: Verdict
    installed: tuple[str, ...] = ()

    @property
    def nothing_new(self) -> bool:
        """Whether nothing is left to install, and nothing is wrong."""
        return bool(self.installed) and not self.verdict.accepted and not self.verdict.refused


def read_files(paths: Sequence[Path]) -> Sent:
    """Read the files that a person names; StoreError for one that cannot be read."""
    from vaultpki.pki.outside_files import MOST_SENT_BYTES, SentFile, read_sent

    files = []
    for path in paths:
        try:
            # One byte more than is possible, so that its own sentence says that it is too large.
            files.append(SentFile(str(path), input_file.read(path, MOST_SENT_BYTES + 1)[0]))
        except input_file.TooLarge:
            files.append(SentFile(str(path), b" " * (MOST_SENT_BYTES + 1)))
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "this is not a file"
            raise StoreError(f"{printable(str(path))}: it cannot be read ({why})") from None
    return read_sent(files)


def judge(
    cluster: Cluster,
    sent: Sent,
    requests: Sequence[WaitingRequest],
    now: datetime,
    installed: OutsideCas | None = None,
) -> ReturnedFiles:
    """Judge all files together; `now` is the server's time, `installed` what is on the server already.

    Whatever of the chain is not in `ca.root_file` is refused too: nodes read the chain from there.
    """
    from vaultpki.pki import outside

    there = installed.installed if installed is not None else {}
    known = [each for each in sent.certificates if each.facts.fingerprint in there]
    rest = replace(sent, certificates=tuple(each for each in sent.certificates if each not in known))
    domains = tuple(dict.fromkeys(there[each.facts.fingerprint] for each in known))
    anchor, *others = chain_of(cluster, outside_root(cluster))
    verdict = outside.judge(rest, requests, anchor, others, now)
    if known and not rest.problems and not _answers(verdict):
        # The same files a second time.
        verdict = replace(verdict, refused=())
    return ReturnedFiles(_only_from_root_file(cluster, verdict, {anchor, *others}), domains)


def _answers(verdict: Verdict) -> bool:
    return bool(verdict.accepted) or any(each.reason != "no-answer" for each in verdict.refused)


def _only_from_root_file(cluster: Cluster, verdict: Verdict, chain: set[Facts]) -> Verdict:
    """Refuse a CA whose chain has certificates that root_file lacks."""
    from vaultpki.pki.outside import Refusal

    refused = []
    for each in verdict.accepted:
        lacking = [printable(facts.subject_text) for facts in each.chain if facts not in chain]
        if lacking:
            sentence = (
                f"{each.file}: above the certificate for {each.request.domain} is {first_few(lacking)}, which "
                f"ca.root_file of {cluster.file} does not have"
            )
            ask = "Add that certificate to the file, so that every node gets it, and run this again."
            refused.append(Refusal(each.request.domain, each.file, "not-in-root-file", sentence, ask))
    if not refused:
        return verdict
    wrong = {each.domain for each in refused}
    kept = tuple(each for each in verdict.accepted if each.request.domain not in wrong)
    return replace(verdict, accepted=kept, refused=(*verdict.refused, *refused))


def install(cluster: Cluster, vault: Vault, waiting: WaitingCa, accepted: AcceptedCa) -> None:
    """Install one checked CA and name it; in a rotation nobody trusts it yet, since the record does not name it.

    Raises BadAnswer, and leaves nothing new behind, if the server did anything else.
    """
    mount = cluster.mount(waiting.domain)
    issuer = _import(vault, mount, waiting.key, accepted.certificate.pem)
    authorities.name_issuer(vault, mount, issuer, waiting.name)


def _import(vault: Vault, mount: str, key: str, pem: str) -> str:
    """Install a certificate on its mount, and return the id of its issuer, which is the only new one and has our key.

    The default issuer stays, unless there was none.
    """
    before, default = _issuers(vault, mount)
    if _follows_latest(vault, mount):
        # Else the new CA would sign at once.
        body = {"default_follows_latest_issuer": False, **({"default": default} if default else {})}
        vault.write(f"{mount}/config/issuers", body)
    # The CA alone: a chain would make further issuers of this mount.
    imported = vault.api.secrets.pki.set_signed_intermediate(pem, mount_point=mount).data
    ids = [str(id_) for name in ("imported_issuers", "existing_issuers") for id_ in imported.get(name) or ()]
    after, now_default = _issuers(vault, mount)
    new = after - before
    why = ""
    if len(ids) != 1 or not new <= set(ids):
        why = "made other issuers than the one that was imported"
    elif member(imported, "mapping").get(ids[0]) != key and ids[0] in new:
        why = "has another key for it than the one that was requested"
    elif default and now_default != default:
        why = "made it the default issuer at once"
    if not why:
        return ids[0]
    for id_ in sorted(new):
        authorities.delete_issuer(vault, mount, id_)
    if default and now_default != default:
        authorities.make_default(vault, mount, default)
    raise BadAnswer(f"{mount} {why}, and it was not kept; check any proxy in between, and run this again")


def _issuers(vault: Vault, mount: str) -> tuple[frozenset[str], str]:
    """Return the ids of a mount's issuers, and that of the default one, empty if there is none."""
    listed = vault.api.secrets.pki.list_issuers(mount_point=mount)
    default = next((id_ for id_, each in listed.key_info.items() if each.get("is_default") is True), "")
    return frozenset(listed.keys), default


def _follows_latest(vault: Vault, mount: str) -> bool:
    # hvac has no method for a mount's defaults.
    found = vault.call(Request("GET", f"{mount}/config/issuers")).data
    return found.get("default_follows_latest_issuer") is True
