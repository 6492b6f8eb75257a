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

from vaultpki.ca import commands, renewed
from vaultpki.ca.renewed import RenewedAbove
from vaultpki.ca.waiting import OutsideCas, WaitingCa, outside_root
from vaultpki.certificates import ROOT
from vaultpki.errors import BadAnswer, StoreError
from vaultpki.identity.outside_signer import chain_of
from vaultpki.model import Cluster
from vaultpki.provision import authorities
from vaultpki.records.rotation import SPREAD, Method
from vaultpki.redact import first_few, printable
from vaultpki.values import input_file
from vaultpki.vault import Request, Vault, member

if TYPE_CHECKING:
    from vaultpki.outside.files import Sent
    from vaultpki.outside.request import WaitingRequest
    from vaultpki.outside.verdicts import AcceptedCa, Verdict


@dataclass(frozen=True, slots=True)
class ReturnedFiles:
    """What is to be made of the files.

    `installed` are the domains whose certificates are installed already, and the subjects of such CAs above. `above`
    are CAs above that were renewed. Of the accepted CAs those of `renewed` have another certificate for their key,
    which installs itself by a rotation; those of `held` are renewed when that of `behind` is done.
    """

    verdict: Verdict
    installed: tuple[str, ...] = ()
    above: tuple[RenewedAbove, ...] = ()
    renewed: frozenset[str] = frozenset()
    held: tuple[str, ...] = ()
    behind: str = ""

    @property
    def nothing_new(self) -> bool:
        """Whether nothing is left to install, and nothing is wrong."""
        return bool(self.installed) and not self.verdict.accepted and not self.verdict.refused

    @property
    def fit(self) -> bool:
        """Whether something can be installed, or all is, and nothing is refused."""
        return (bool(self.verdict.accepted or self.above) and not self.verdict.refused) or self.nothing_new


def read_files(paths: Sequence[Path]) -> Sent:
    """Read the files that a person names; StoreError for one that cannot be read."""
    from vaultpki.outside.files import SentFile, read_sent
    from vaultpki.values.certificate_forms import MOST_FILE_BYTES

    files = []
    for path in paths:
        try:
            # One byte more than is possible, so that its own sentence says that it is too large.
            files.append(SentFile(str(path), input_file.read(path, MOST_FILE_BYTES + 1)[0]))
        except input_file.TooLarge:
            files.append(SentFile(str(path), b" " * (MOST_FILE_BYTES + 1)))
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

    A certificate for the key of a CA that is installed renews it. Whatever else of the chain is not in `ca.root_file`
    is refused: nodes read the chain from there.
    """
    from vaultpki.outside import verdicts

    there = installed if installed is not None else OutsideCas()
    known = [each for each in sent.certificates if each.facts.fingerprint in there.installed]
    rest = replace(sent, certificates=tuple(each for each in sent.certificates if each not in known))
    anchor, *others = chain_of(cluster, outside_root(cluster))
    asked = [*requests, *renewed.requests(cluster, rest, there)]
    found = renewed.candidates(rest, others)
    chain = (*others, *(each.certificate for each in found))
    verdict = verdicts.judge(rest, asked, anchor, chain, now, listed=True)
    own = {each.request.domain: each.certificate for each in verdict.accepted}
    over = renewed.judge_above(cluster, found, {**there.signing, **own}, anchor, others, now)
    every = {anchor, *chain, *there.signing.values()}
    twins = verdicts.same_serials(verdict.answers, every)
    refused = (*renewed.older(verdict.answers, there), *twins, *over.refused)
    domains = dict.fromkeys(there.installed[each.facts.fingerprint] for each in known)
    above = [each for each in rest.certificates if each.facts.fingerprint in there.above]
    if not rest.problems and not _answers(verdict):
        # The same files a second time, or a chain alone.
        if domains or over.renewed or over.refused or above:
            verdict = replace(verdict, refused=())
        elif twin := tuple(renewed.of_anchor(rest, anchor)):
            verdict = replace(verdict, refused=twin)
        if not domains:
            domains = dict.fromkeys(printable(each.facts.subject_text) for each in above)
    wrong = {each.domain for each in refused}
    verdict = replace(
        verdict,
        accepted=tuple(_remarked(each, there) for each in verdict.accepted if each.request.domain not in wrong),
        refused=(*verdict.refused, *refused),
        ignored=(*verdict.ignored, *over.ignored),
    )
    missing = tuple(each for each in over.renewed if each.certificate.fingerprint not in there.above)
    return _in_turn(ReturnedFiles(verdict, tuple(domains), missing), requests, there)


def _remarked(accepted: AcceptedCa, there: OutsideCas) -> AcceptedCa:
    """Say of a CA that takes the place of another one that clients need to know a further CA above."""
    from vaultpki.pki import chains

    domain = accepted.request.domain
    if domain not in there.signing:
        return accepted
    before = chains.above([there.signing[domain]], accepted.chain)
    new = [printable(facts.subject_text) for facts in accepted.chain if facts not in before]
    if not new:
        return accepted
    sentence = (
        f"{first_few(new)} is not above the CA in use. Wait until nodes have it in the chain bundle of {domain}. Then "
        "restart what reads that only at a start (kube-controller-manager, pods). Also renew copies elsewhere "
        "(webhooks, APIServices, kubeconfigs). Continue the rotation only after that"
    )
    return replace(accepted, remarks=(*accepted.remarks, sentence))


def _in_turn(found: ReturnedFiles, requests: Sequence[WaitingRequest], there: OutsideCas) -> ReturnedFiles:
    """Return it with the CAs that are renewed, and those of them that wait: one CA is rotated at a time."""
    waiting = {each.domain for each in requests}
    domains = [each.request.domain for each in found.verdict.accepted if each.request.domain not in waiting]
    behind = there.rotated or (domains[0] if domains else "")
    held = tuple(domain for domain in domains if there.rotated or domain != behind)
    return replace(found, renewed=frozenset(domains), held=held, behind=behind if held else "")


def _answers(verdict: Verdict) -> bool:
    return bool(verdict.accepted) or any(each.reason != "no-answer" for each in verdict.refused)


def install_all(cluster: Cluster, vault: Vault, there: OutsideCas, found: ReturnedFiles, now: datetime) -> None:
    """Install all that was accepted and need not wait; `there` is what was judged by, `now` the server's time.

    CAs above come first, so that nodes have the chain before anything is below it.
    """
    for above in found.above:
        authorities.install_above(vault, cluster.mount(ROOT), above.certificate.pem)
    waiting = {each.domain: each for each in there.waiting}
    for accepted in found.verdict.accepted:
        domain = accepted.request.domain
        if domain in waiting:
            install(cluster, vault, waiting[domain], accepted)
        elif domain not in found.held:
            record = commands.rotate(cluster, vault, domain, Method.SAME_KEY, SPREAD, now).record
            new = record.new if record.new is not None else record.old
            begun = WaitingCa(domain, new.name, new.key or record.old.key, accepted.request, record)
            install(cluster, vault, begun, accepted)


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
