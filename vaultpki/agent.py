"""A node's part: look at the disk, ask Vault for what is missing or due, lay it down, and say how it stands.

One pass (`run`) works on one locked directory. What Vault told last (the node's record and the CAs) is kept in the
state folder: within the poll interval a node on which nothing is due asks Vault for nothing, and when Vault is away the
copy serves.
"""

from __future__ import annotations

import contextlib
import grp
import json
import pwd
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from vaultpki import assets, credential, issuance, records, renewal
from vaultpki.certificates import ISSUING_CAS, SKEW, pair_files, unit
from vaultpki.errors import CertificateRefused, SpecError, StoreError, TemplateError, Unavailable, VaultpkiError
from vaultpki.facts import Trust
from vaultpki.files import private_folder
from vaultpki.issuance import BUNDLES, Issuers, Owner
from vaultpki.model import AgentConfig, Certificate, UserTemplate
from vaultpki.renewal import Verdict
from vaultpki.store import Directory, File, Stored, read_private, write_private
from vaultpki.vault import Request, Vault

_COPY: Final = "spec.json"
_FIRST_RETRY = 5.0


@dataclass(frozen=True, slots=True)
class Spec:
    """What Vault says this node holds. `fetched` is Unix time in seconds."""

    fetched: float
    endpoint: str
    certificates: tuple[Certificate, ...]
    templates: tuple[UserTemplate, ...]
    issuers: Issuers


@dataclass(frozen=True, slots=True)
class Item:
    """One certificate as a pass found it."""

    want: Certificate
    stored: Mapping[str, Stored]
    verdict: Verdict
    not_after: datetime | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass did: names of the certificates laid down, whether bundles or kubeconfigs changed, what failed.

    `due` is when the next certificate wants renewing, `dies` when the first one expires; None where none is there.
    `short` names certificates that Vault granted less time than asked, with the seconds granted.
    """

    renewed: tuple[str, ...] = ()
    companions: bool = False
    failures: Mapping[str, VaultpkiError] = field(default_factory=dict)
    due: datetime | None = None
    dies: datetime | None = None
    short: Mapping[str, int] = field(default_factory=dict)


def run(config: AgentConfig, *, clock: float | None = None, settle: bool = True, allow_http: bool = False) -> Outcome:
    """One pass over this node. `clock` is Unix time in seconds; the machine's own where it is None.

    `settle` waits some seconds after a replacement, until the old files are gone and every watcher has seen it.
    Raises where nothing could be done at all; a certificate that failed by itself is told in the outcome.
    """
    now = time.time() if clock is None else clock
    with Directory.open(config.directory) as directory:
        directory.sweep()
        outcome = _Pass(config, directory, now, allow_http=allow_http).run()
        if settle:
            directory.settle()
    return outcome


def owner_of(text: str | None) -> Owner:
    """User and group ids of `user:group`; StoreError where this machine has no such user or group."""
    if text is None:
        return Owner()
    user, _, group = text.partition(":")
    try:
        uid = int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
        gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise StoreError(
            f"owner {text}: this machine has no such user or group; create it or change agent.yaml"
        ) from None
    return Owner(uid, gid)


class _Pass:
    def __init__(self, config: AgentConfig, directory: Directory, now: float, *, allow_http: bool) -> None:
        self._config, self._directory = config, directory
        self._clock = now
        self._now = datetime.fromtimestamp(now, UTC)
        self._allow_http = allow_http
        self._vault: Vault | None = None

    def run(self) -> Outcome:
        spec = self._copy()
        # A copy from the future means that a clock was set back; it is no newer than any other.
        fresh = spec is not None and 0 <= self._clock - spec.fetched < self._config.poll
        away: Unavailable | None = None
        if spec is None or not fresh or self._wants_signing(spec):
            try:
                spec = self._fetch()
            except Unavailable as error:
                if spec is None:
                    raise
                away = error
        trust = issuance.trusts(spec.issuers, self._config.root_sha256, self._now)
        failures: dict[str, VaultpkiError] = {}
        # New trust first: a leaf of a new issuing CA must not come before those who check it know the CA.
        changed = self._lay_companions(spec, trust, failures)
        items = self._look(spec, trust)
        renewed, short = self._renew(items, trust, failures, away)
        self._remove_surplus(spec)
        items = self._look(spec, trust)
        if self._vault is not None:
            self._after(self._vault, items, failures)
        if away is not None and not failures:
            failures["vault"] = away
        ends = [item.not_after for item in items if item.not_after is not None]
        dues = [item.verdict.renew_after for item in items if item.verdict.renew_after is not None]
        return Outcome(tuple(renewed), changed, failures, min(dues, default=None), min(ends, default=None), short)

    def _after(self, vault: Vault, items: tuple[Item, ...], failures: dict[str, VaultpkiError]) -> None:
        """What can wait until the certificates lie: the credential's own renewal, and a report for people to read."""
        try:
            credential.roll(self._config, vault, self._clock)
        except VaultpkiError as error:
            failures["credential"] = error
        report = {
            "version": 1,
            "time": self._stamp(self._now),
            "certificates": {
                item.want.name: {
                    "state": item.verdict.state.value,
                    "not_after": None if item.not_after is None else self._stamp(item.not_after),
                }
                for item in items
            },
            "failures": sorted(failures),
        }
        # Nobody trusts it and nothing depends on it, so neither does this pass.
        with contextlib.suppress(VaultpkiError):
            vault.write(f"{self._config.prefix}/config/data/reports/{self._config.node}", {"data": report})

    def _stamp(self, when: datetime) -> str:
        return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    # What Vault says

    def _login(self) -> Vault:
        if self._vault is None:
            self._vault = credential.login(self._config, allow_http=self._allow_http)
        return self._vault

    def _fetch(self) -> Spec:
        config = self._config
        vault = self._login()
        own = credential.own_record(config)
        store = f"{config.prefix}/config/data"
        cluster, node = vault.many([Request("GET", f"{store}/cluster"), Request("GET", f"{store}/{own}")])
        if not cluster.found or not node.found:
            raise SpecError(f"Vault has no record {own} of cluster {config.cluster}; run `vaultpki apply` for it first")
        issuers = issuance.fetch_issuers(vault, config.prefix)
        text = json.dumps(
            {
                "version": 1,
                "fetched": self._clock,
                "cluster": cluster.data.get("data"),
                "own": node.data.get("data"),
                "issuing": {ca: list(pems) for ca, pems in issuers.issuing.items()},
                "roots": list(issuers.roots),
            }
        )
        spec = self._spec(json.loads(text), f"the records of {store}")
        # What is not held to the pin is not kept either.
        issuance.trusts(issuers, config.root_sha256, self._now)
        # An image brings agent.yaml and the issuer's token alone.
        private_folder(config.state)
        write_private(f"{config.state}/{_COPY}", text.encode())
        return spec

    def _copy(self) -> Spec | None:
        """The copy on disk; None where there is none, or none that this version understands."""
        raw = read_private(f"{self._config.state}/{_COPY}")
        if raw is None:
            return None
        try:
            return self._spec(json.loads(raw), f"{self._config.state}/{_COPY}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SpecError):
            return None

    def _spec(self, value: Mapping[str, Any], where: str) -> Spec:
        config = self._config
        cluster = records.read_cluster(value["cluster"], where=where)
        if cluster.cluster != config.cluster:
            raise SpecError(f"belongs to cluster {cluster.cluster}, not {config.cluster}", file=where, field="cluster")
        roles, certificates = records.read_certificates(
            value["own"], node=config.node, prefix=config.prefix, where=where
        )
        return Spec(
            fetched=float(value["fetched"]),
            endpoint=cluster.endpoint,
            certificates=certificates,
            templates=tuple(t for t in cluster.templates if t.roles & roles),
            issuers=Issuers({ca: tuple(value["issuing"][ca]) for ca in ISSUING_CAS}, tuple(value["roots"])),
        )

    # What lies on the disk

    def _look(self, spec: Spec, trust: Mapping[str, Trust]) -> tuple[Item, ...]:
        return tuple(self._item(want, trust) for want in spec.certificates)

    def _item(self, want: Certificate, trust: Mapping[str, Trust]) -> Item:
        from vaultpki import x509

        names = pair_files(want.stem)
        stored = self._directory.read(unit(want.stem), names)
        crt, key, pem = (stored[name].data for name in names)
        pair = x509.read_pair(crt, key, pem, trust[want.ca].live)
        wanted = issuance.pair(dict.fromkeys(names, b""), *self._options(want))
        present = [name for name in names if not stored[name].problem]
        leaf = pair.leaf
        verdict = renewal.assess(
            pair,
            want,
            self._now,
            renewal.jitter(self._config.node, want.name, leaf.serial if leaf else 0),
            wrong_mode=any(stored[name].mode != wanted[name].mode for name in present),
            wrong_owner=any(not stored[name].same_owner(wanted[name]) for name in present),
        )
        return Item(want, stored, verdict, leaf.not_after if leaf else None)

    def _wants_signing(self, spec: Spec) -> bool:
        try:
            trust = issuance.trusts(spec.issuers, self._config.root_sha256, self._now)
        except CertificateRefused:
            return True
        return any(item.verdict.sign for item in self._look(spec, trust))

    def _options(self, want: Certificate) -> tuple[Owner, int]:
        options = self._config.certificates.get(want.name)
        owner = owner_of((options.owner if options else None) or self._config.owner)
        mode = options.mode if options and options.mode is not None else issuance.KEY_MODE
        return owner, mode

    # What is done about it

    def _renew(
        self,
        items: tuple[Item, ...],
        trust: Mapping[str, Trust],
        failures: dict[str, VaultpkiError],
        away: Unavailable | None,
    ) -> tuple[list[str], dict[str, int]]:
        for item in items:
            if item.verdict.mend:
                contents = {name: stored.data or b"" for name, stored in item.stored.items()}
                self._install(item.want, contents)
        wanting = [item for item in items if item.verdict.sign]
        if not wanting:
            return [], {}
        if away is not None:
            failures.update({item.want.name: away for item in wanting})
            return [], {}
        vault = self._login()

        def attempt(item: Item) -> issuance.Signed | VaultpkiError:
            try:
                return issuance.sign(vault, item.want, trust[item.want.ca], self._now)
            except VaultpkiError as error:
                return error

        renewed: list[str] = []
        short: dict[str, int] = {}
        for item, signed in zip(wanting, vault.map(attempt, wanting, width=4), strict=True):
            name = item.want.name
            if isinstance(signed, issuance.Signed):
                try:
                    self._keep_the_better(item, signed)
                    self._install(item.want, signed.contents)
                except VaultpkiError as error:
                    failures[name] = error
                    continue
                renewed.append(name)
                granted = int((signed.facts.not_after - self._now).total_seconds())
                if granted < item.want.ttl - SKEW:
                    short[name] = granted
            else:
                failures[name] = signed
        return renewed, short

    def _keep_the_better(self, item: Item, signed: issuance.Signed) -> None:
        only_due = item.verdict.reasons == (renewal.Reason.DUE,)
        if only_due and item.not_after is not None and signed.facts.not_after <= item.not_after:
            raise CertificateRefused(
                f"{item.want.name}: the new certificate would end before the one in use; the one in use stays",
                reason="shorter",
            )

    def _install(self, want: Certificate, contents: Mapping[str, bytes]) -> None:
        self._directory.install(
            unit(want.stem),
            issuance.pair(contents, *self._options(want)),
            check=lambda back: issuance.whole(back, want),
        )

    def _lay_companions(self, spec: Spec, trust: Mapping[str, Trust], failures: dict[str, VaultpkiError]) -> bool:
        config, owner = self._config, owner_of(self._config.owner)
        files = issuance.companions(
            trust,
            spec.certificates,
            cluster=config.cluster,
            endpoint=spec.endpoint,
            directory=config.directory,
            owner=owner,
            chain=False,
        )
        taken = {*files, *(name for want in spec.certificates for name in pair_files(want.stem))}
        for template in spec.templates:
            try:
                files[template.file] = issuance.user_file(
                    template,
                    taken,
                    cluster=config.cluster,
                    endpoint=spec.endpoint,
                    directory=config.directory,
                    node=config.node,
                    owner=owner,
                )
            except TemplateError as error:
                # A template that went bad takes neither the file it made before nor anybody's certificate with it.
                failures[f"template {template.name}"] = error
                if template.file not in taken and assets.plain_file_name(template.file):
                    old = self._directory.read(BUNDLES, [template.file])[template.file].data
                    if old is not None:
                        files[template.file] = File(old, issuance.KEY_MODE, owner.uid, owner.gid)
            else:
                taken.add(template.file)
        return self._directory.install(BUNDLES, files)

    def _remove_surplus(self, spec: Spec) -> None:
        wanted = {BUNDLES, *(unit(want.stem) for want in spec.certificates)}
        for name in self._directory.units():
            if name not in wanted:
                self._directory.remove(name)


def stay(
    config: AgentConfig,
    *,
    tell: Callable[[Outcome], None],
    complain: Callable[[VaultpkiError], None],
    allow_http: bool = False,
) -> None:
    """Pass after pass, until the process is ended; a failed one is told and tried again, with growing pauses.

    Every pass begins from what lies on the disk, so the process may be killed at any instant.
    """
    failed = 0
    while True:
        wait: float = config.poll
        try:
            outcome = run(config, allow_http=allow_http)
        except VaultpkiError as error:
            complain(error)
            failed += 1
        else:
            if outcome.renewed or outcome.companions or outcome.failures:
                tell(outcome)
            failed = failed + 1 if outcome.failures else 0
            if outcome.due is not None:
                wait = min(wait, max(outcome.due.timestamp() - time.time(), 0.0) + 1.0)
        if failed:
            wait = min(config.poll, _FIRST_RETRY * 2 ** min(failed - 1, 10)) * random.uniform(0.8, 1.2)  # noqa: S311
        time.sleep(wait)
