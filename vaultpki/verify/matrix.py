"""Checks files, chains and live handshakes: who must be accepted is, and nobody else.

The matrix is made from the holders and the table: every pair calls a server of every server row, and a client of every
row calls every server. So a new row is checked without new code.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cache
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final

from vaultpki.certificates import ISSUING_CAS, SERVICE_ACCOUNT, TABLE
from vaultpki.host import openssl
from vaultpki.layout import client_cas
from vaultpki.model import Row
from vaultpki.pki.facts import Facts
from vaultpki.pki.trust import self_signed
from vaultpki.verify import handshake, on_disk
from vaultpki.verify.bundles_on_disk import bundle_checks
from vaultpki.verify.client_libraries import library_checks, needs
from vaultpki.verify.held_files import DENIED
from vaultpki.verify.kubeconfig_files import kubeconfig_checks
from vaultpki.verify.on_disk import (
    Check,
    Holder,
    PairOnDisk,
    pair_checks,
    read_bundle,
    tried,
)
from vaultpki.verify.token_key_files import newest_pair, token_key_checks

__all__ = ["Check", "Holder", "to_json", "verify"]

# No certificate can have it (RFC 6761, section 6.4).
_WRONG_NAME: Final = "vaultpki-wrong-name.invalid"

_PURPOSES: Final = (("sslserver", "as a server"), ("sslclient", "as a client"))


def verify(
    holders: Sequence[Holder],
    *,
    now: datetime,
    rows: Sequence[Row] = TABLE,
    step: Callable[[int], None] = lambda total: None,
) -> tuple[Check, ...]:
    """Check these holders' files, chains and handshakes, in that order.

    `now` is the time at which files and chains are judged; a handshake uses the machine's clock, as in the cluster.
    `rows` are the cluster's, which say who may reach whom. `step` is called during the handshakes, which take longest,
    with how many steps they are in all. Raises ToolMissing without `openssl`.
    """
    openssl.program()
    by_name = {row.name: row for row in rows}
    checks: list[Check] = []
    pairs: list[PairOnDisk] = []
    for holder in holders:
        checks.extend(holder.found)
        if not holder.certificates:
            continue
        checks.extend(bundle_checks(holder, by_name, now))
        for certificate in holder.certificates:
            pair, found = pair_checks(holder, by_name[certificate.name], certificate, now)
            checks.extend(found)
            checks.extend(kubeconfig_checks(pair))
            pairs.append(pair)
    checks.extend(token_key_checks(holders))
    sound = tuple(pair for pair in pairs if pair.leaf is not None)
    checks.extend(_chains(holders, sound, now))
    checks.extend(_handshakes(sound, rows, step))
    checks.extend(_token_keys_are_refused(holders, sound, rows))
    return tuple(checks)


def to_json(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the checks as `verify --json` prints them; below a root outside, too, what TLS libraries need there."""
    libraries = [asdict(need) for need in needs(checks)]
    return {**on_disk.to_json(checks), **({"libraries": libraries} if libraries else {})}


def _chains(holders: Sequence[Holder], sound: Sequence[PairOnDisk], now: datetime) -> Iterator[Check]:
    held = {holder.name: _authorities(holder) for holder in holders if holder.certificates}
    by_roots: dict[frozenset[Facts], list[str]] = {}
    for name, (roots, _) in held.items():
        by_roots.setdefault(roots, []).append(name)
    issuing = {facts for _, lower in held.values() for facts in lower}
    if len(by_roots) > 1:
        common = max(by_roots.values(), key=len)
        for names in by_roots.values():
            if names is not common:
                why = f"has another root CA than {', '.join(common[:3])}"
                yield from (tried("root", "chain", name, "root of the cluster", refusal=why) for name in names)
    # Public certificates only: keys are never copied.
    with tempfile.TemporaryDirectory(prefix="vaultpki-verify-") as folder:
        untrusted, trusted = Path(folder) / "issuing.pem", Path(folder) / "root.pem"
        untrusted.write_text("".join(sorted(facts.pem for facts in issuing)))
        for roots, names in by_roots.items():
            trusted.write_text("".join(sorted(facts.pem for facts in roots)))
            # Where the root above a pinned intermediate is not known, that is the end of each chain.
            whole = all(self_signed(facts) for facts in roots)
            ends = ["-untrusted", str(untrusted), *([] if whole else ["-partial_chain"])]
            pairs = {pair.crt: pair for pair in sound if pair.holder.name in names}

            def judge(
                options: Sequence[str], files: Sequence[Path], ends: Sequence[str] = tuple(ends)
            ) -> Mapping[Path, str]:
                return openssl.verify(files, [*options, *ends], trusted=trusted, now=now)

            for purpose, words in _PURPOSES:
                for crt, refusal in judge(["-purpose", purpose], list(pairs)).items():
                    usage = pairs[crt].certificate.usage
                    good = usage.server if purpose == "sslserver" else usage.client
                    yield _chain(pairs[crt], f"the root, {words}", good, refusal)
            for option, name, bearers in _names(tuple(pairs.values())):
                for crt, said in judge([option, name], bearers).items():
                    leaf = pairs[crt].leaf
                    # Without a DNS SAN `openssl verify` uses the CN, which no client in a cluster does.
                    by_cn = option == "-verify_hostname" and leaf is not None and not leaf.subject.dns
                    refusal = said or ("has no DNS SAN" if by_cn else "")
                    yield _chain(pairs[crt], f"the root, as {name}", name != _WRONG_NAME, refusal)
    yield from _own_ca_only(sound, now)
    yield from library_checks(sound, now)


def _chain(pair: PairOnDisk, target: str, good: bool, refusal: str) -> Check:
    return tried(pair.certificate.name, "chain", pair.label, target, good=good, refusal=refusal)


def _names(pairs: Sequence[PairOnDisk]) -> Iterator[tuple[str, str, list[Path]]]:
    servers = [pair for pair in pairs if pair.certificate.usage.server]
    bearers: dict[tuple[str, str], list[Path]] = {}
    for pair in servers:
        subject = pair.certificate.subject
        for option, names in (("-verify_hostname", subject.dns), ("-verify_ip", subject.ips)):
            for name in names:
                bearers.setdefault((option, name), []).append(pair.crt)
    if servers:
        bearers["-verify_hostname", _WRONG_NAME] = [pair.crt for pair in servers]
    yield from ((option, name, files) for (option, name), files in bearers.items())


def _authorities(holder: Holder) -> tuple[frozenset[Facts], frozenset[Facts]]:
    whole = holder.split([facts for facts in holder.authorities() if facts.is_ca])
    return frozenset(whole.roots), frozenset((*whole.issuing, *whole.between))


def _own_ca_only(sound: Sequence[PairOnDisk], now: datetime) -> Iterator[Check]:
    """Check each leaf with the issuing-only bundle of each CA: its own accepts it, the others refuse it."""
    bundles = _Bundles(sound)
    for ca in ISSUING_CAS:
        # Nodes have the same bundle, so one call of openssl is enough for all of them.
        alike: dict[tuple[Facts, ...], tuple[Path, list[PairOnDisk]]] = {}
        for pair in sound:
            if path := bundles.find(ca, pair.holder):
                alike.setdefault(read_bundle(path), (path, []))[1].append(pair)
        for path, pairs in alike.values():
            said = openssl.verify([pair.crt for pair in pairs], ["-partial_chain"], trusted=path, now=now)
            for pair in pairs:
                yield _chain(pair, pair.holder.bundle_name(ca), pair.certificate.ca == ca, said[pair.crt])


class _Bundles:
    """Finds issuing-only bundles: a holder's own, or another's for a CA that the holder does not need."""

    def __init__(self, pairs: Sequence[PairOnDisk]) -> None:
        self._holders = tuple({pair.holder.name: pair.holder for pair in pairs}.values())
        self._usable = cache(lambda path: bool(read_bundle(path)))

    def find(self, ca: str, holder: Holder) -> Path | None:
        for candidate in (holder, *self._holders):
            path = candidate.bundle(ca)
            if self._usable(path):
                return path
        return None


def _handshakes(pairs: Sequence[PairOnDisk], rows: Sequence[Row], step: Callable[[int], None]) -> Iterator[Check]:
    bundles = _Bundles(pairs)
    contexts = _Contexts()
    servers, meetings = [pair for pair in pairs if pair.certificate.usage.server], list(_meetings(pairs))
    total = len(servers) + len(meetings)
    for server in servers:
        step(total)
        yield from _server_alone(server, bundles, contexts)
    for client, server in meetings:
        step(total)
        cas = client_cas(server.row, rows)
        trusted = [path for ca in cas if (path := bundles.find(ca, server.holder))]
        own = bundles.find(server.certificate.ca, client.holder)
        if not cas:
            continue
        let_in = client.row.usage.client and (client.row.ca in cas or client.row.target == server.row.source)
        name = _a_name(server)
        if len(trusted) < len(cas) or own is None:
            refusal = f"a bundle of {', '.join(cas)} or of {server.certificate.ca} is missing"
        else:
            # A client that must be refused may skip its own checks, so only the server's decision counts.
            answering = contexts.server(server, tuple(trusted))
            calling = contexts.client(client, (own,) if let_in else (), names=let_in and name is not None)
            if isinstance(answering, str) or isinstance(calling, str):
                whys = [why for why in (answering, calling) if isinstance(why, str)]
                refusal = DENIED if DENIED in whys else whys[0]
                if not let_in and refusal != DENIED:
                    continue
            else:
                refusal = handshake.shake(answering, calling, name)
        yield tried(
            f"{client.certificate.name} to {server.certificate.name}",
            "handshake",
            client.label,
            server.label,
            good=let_in,
            refusal=refusal,
            accepted=f"by a client certificate of the CA {client.certificate.ca}",
        )


def _token_keys_are_refused(
    holders: Sequence[Holder], pairs: Sequence[PairOnDisk], rows: Sequence[Row]
) -> Iterator[Check]:
    """Check that no server lets a service-account key's certificate in, and that no client takes it for a server's."""
    bundles, contexts = _Bundles(pairs), _Contexts()
    servers = _first([pair for pair in pairs if pair.certificate.usage.server])
    for holder in holders:
        files = newest_pair(holder) if holder.token_keys else None
        if files is None:
            continue
        label = f"{holder.name}/{files[0].name}"
        try:
            calling = handshake.context(server=False, pair=files, trusted=())
            answering = handshake.context(server=True, pair=files, trusted=())
        except OSError as error:
            # What nobody can use opens nothing; what this user may not read is not tried.
            if isinstance(error, PermissionError):
                yield tried(SERVICE_ACCOUNT, "handshake", label, "every server", refusal=DENIED)
            continue
        for name, server in servers.items():
            trusted = tuple(path for ca in client_cas(server.row, rows) if (path := bundles.find(ca, server.holder)))
            listening = contexts.server(server, trusted)
            if trusted and not isinstance(listening, str):
                refusal = handshake.shake(listening, calling, _a_name(server))
                what = f"{SERVICE_ACCOUNT} to {name}"
                yield tried(what, "handshake", label, server.label, good=False, refusal=refusal)
        for ca in ISSUING_CAS:
            path = bundles.find(ca, holder)
            asking = contexts.client(None, (path,), names=False) if path is not None else ""
            if not isinstance(asking, str):
                who, refusal = f"a client of {holder.bundle_name(ca)}", handshake.shake(answering, asking)
                what = f"a client to {SERVICE_ACCOUNT}"
                yield tried(what, "handshake", who, label, good=False, refusal=refusal)


def _meetings(pairs: Sequence[PairOnDisk]) -> Iterator[tuple[PairOnDisk, PairOnDisk]]:
    """Yield every pair with one server of every server row, and every server with one client of every row.

    All with all would grow with the square of the nodes and prove nothing more. The holder's own is preferred.
    """
    servers = [pair for pair in pairs if pair.certificate.usage.server]
    first_server, first_client = _first(servers), _first(pairs)
    own = {(pair.holder.name, pair.row.name): pair for pair in pairs}
    meetings = [
        (client, own.get((client.holder.name, name), server))
        for client in pairs
        for name, server in first_server.items()
    ] + [
        (own.get((server.holder.name, name), client), server)
        for server in servers
        for name, client in first_client.items()
    ]
    yield from {(client.label, server.label): (client, server) for client, server in meetings}.values()


def _first(pairs: Sequence[PairOnDisk]) -> dict[str, PairOnDisk]:
    first: dict[str, PairOnDisk] = {}
    for pair in pairs:
        first.setdefault(pair.row.name, pair)
    return first


def _server_alone(server: PairOnDisk, bundles: _Bundles, contexts: _Contexts) -> Iterator[Check]:
    """Check a server from the client's side: accepted by each of its names and its own CA's bundle, by no other."""
    answering = contexts.server(server, ())
    subject = server.certificate.subject
    names = (*subject.dns, *subject.ips)
    trials = [(server.certificate.ca, name, True) for name in names]
    trials.append((server.certificate.ca, _WRONG_NAME, False))
    trials += [(ca, _a_name(server) or _WRONG_NAME, False) for ca in ISSUING_CAS if ca != server.certificate.ca]
    for ca, name, good in trials:
        path = bundles.find(ca, server.holder)
        if path is None:
            # A bundle that the holder needs is checked as a file; a CA that no holder has cannot be tried.
            continue
        calling = contexts.client(None, (path,), names=True)
        if isinstance(answering, str) or isinstance(calling, str):
            yield tried(
                f"a client to {server.certificate.name}",
                "handshake",
                f"a client of {server.holder.bundle_name(ca)}",
                server.label,
                refusal=answering if isinstance(answering, str) else str(calling),
            )
            return
        yield tried(
            f"a client to {server.certificate.name} as {name}",
            "handshake",
            f"a client of {server.holder.bundle_name(ca)}",
            server.label,
            good=good,
            refusal=handshake.shake(answering, calling, name),
        )


def _a_name(server: PairOnDisk) -> str | None:
    subject = server.certificate.subject
    return next(iter((*subject.dns, *subject.ips)), None)


class _Contexts:
    """Makes each TLS context once; a text instead of a context says why the files cannot be used."""

    def __init__(self) -> None:
        self._made: dict[tuple[bool, str, tuple[Path, ...], bool], SSLContext | str] = {}

    def server(self, pair: PairOnDisk, trusted: tuple[Path, ...]) -> SSLContext | str:
        return self._get(True, pair, trusted, False)

    def client(self, pair: PairOnDisk | None, trusted: tuple[Path, ...], *, names: bool) -> SSLContext | str:
        return self._get(False, pair, trusted, names)

    def _get(self, server: bool, pair: PairOnDisk | None, trusted: tuple[Path, ...], names: bool) -> SSLContext | str:
        key = (server, pair.label if pair else "", trusted, names)
        if key not in self._made:
            # OpenSSL would block on a FIFO in place of the key.
            if pair and pair.no_key:
                return pair.no_key
            try:
                files = (pair.crt, pair.key) if pair else None
                self._made[key] = handshake.context(server=server, pair=files, trusted=trusted, names=names)
            except OSError as error:
                whose = pair.label if pair else ", ".join(path.name for path in trusted)
                self._made[key] = f"TLS cannot use the files of {whose}: {handshake.reason(error)}"
        return self._made[key]
