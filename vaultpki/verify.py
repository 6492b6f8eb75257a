"""Proof that who must get in gets in and who must not does not: files, chains and live handshakes.

The matrix is made from the holders and the table: every pair is presented to a server of every server row, and every
server is called by a client of every row. A new row is therefore tried without new code.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vaultpki.certificates import ISSUING_CAS, TABLE, bundle, chain_bundle
from vaultpki.checks import (
    DENIED,
    Check,
    Holder,
    Laid,
    bundle_checks,
    client_cas,
    pair_checks,
    read_bundle,
    to_json,
    tried,
)
from vaultpki.facts import Facts
from vaultpki.model import Row

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Check", "Holder", "to_json", "verify"]

# RFC 6761, section 6.4: no certificate can rightly carry it.
_WRONG_NAME: Final = "vaultpki-wrong-name.invalid"

_PURPOSES: Final = (("sslserver", "as a server"), ("sslclient", "as a client"))


def verify(holders: Sequence[Holder], *, now: datetime, rows: Sequence[Row] = TABLE) -> tuple[Check, ...]:
    """Every check of these holders' files, chains and handshakes, in that order.

    `now` is the time at which files and chains are judged; a handshake goes by the machine's clock, as it would in the
    cluster. `rows` are the cluster's, by which who may reach whom is decided. Raises ToolMissing without `openssl`.
    """
    from vaultpki import openssl

    openssl.program()
    by_name = {row.name: row for row in rows}
    checks: list[Check] = []
    laid: list[Laid] = []
    for holder in holders:
        checks.extend(holder.found)
        if not holder.certificates:
            continue
        checks.extend(bundle_checks(holder, by_name, now))
        for certificate in holder.certificates:
            pair, found = pair_checks(holder, by_name[certificate.name], certificate, now)
            checks.extend(found)
            laid.append(pair)
    sound = tuple(pair for pair in laid if pair.leaf is not None)
    checks.extend(_chains(holders, sound, now))
    checks.extend(_handshakes(sound, rows))
    return tuple(checks)


def _chains(holders: Sequence[Holder], laid: Sequence[Laid], now: datetime) -> Iterator[Check]:
    from vaultpki import openssl

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
    # Public certificates only: keys never leave the files they lie in.
    with tempfile.TemporaryDirectory(prefix="vaultpki-verify-") as folder:
        untrusted, trusted = Path(folder) / "issuing.pem", Path(folder) / "root.pem"
        untrusted.write_text("".join(sorted(facts.pem for facts in issuing)))
        for roots, names in by_roots.items():
            trusted.write_text("".join(sorted(facts.pem for facts in roots)))
            pairs = {pair.crt: pair for pair in laid if pair.holder.name in names}

            def judge(options: Sequence[str], files: Sequence[Path]) -> Mapping[Path, str]:
                return openssl.verify(files, [*options, "-untrusted", str(untrusted)], trusted=trusted, now=now)

            for purpose, words in _PURPOSES:
                for crt, refusal in judge(["-purpose", purpose], list(pairs)).items():
                    usage = pairs[crt].certificate.usage
                    good = usage.server if purpose == "sslserver" else usage.client
                    yield _chain(pairs[crt], f"the root, {words}", good, refusal)
            for option, name, bearers in _names(tuple(pairs.values())):
                for crt, said in judge([option, name], bearers).items():
                    leaf = pairs[crt].leaf
                    # Without a DNS SAN `openssl verify` goes by the CN, which no client in a cluster looks at.
                    by_cn = option == "-verify_hostname" and leaf is not None and not leaf.subject.dns
                    refusal = said or ("has no DNS SAN" if by_cn else "")
                    yield _chain(pairs[crt], f"the root, as {name}", name != _WRONG_NAME, refusal)
    yield from _own_ca_only(laid, now)


def _chain(pair: Laid, target: str, good: bool, refusal: str) -> Check:
    return tried(pair.certificate.name, "chain", pair.label, target, good=good, refusal=refusal)


def _names(pairs: Sequence[Laid]) -> Iterator[tuple[str, str, list[Path]]]:
    servers = [pair for pair in pairs if pair.certificate.usage.server]
    bearers: dict[tuple[str, str], list[Path]] = {}
    for pair in servers:
        subject = pair.certificate.subject
        for option, names in (("-verify_hostname", subject.dns), ("-verify_ip", subject.ips)):
            for name in names:
                bearers.setdefault((option, name), []).append(pair.crt)
    if servers:
        bearers["-verify_hostname", _WRONG_NAME] = [pair.crt for pair in servers]
    for (option, name), files in bearers.items():
        yield option, name, files


def _authorities(holder: Holder) -> tuple[frozenset[Facts], frozenset[Facts]]:
    held = {facts for ca in ISSUING_CAS for facts in read_bundle(holder.folder / chain_bundle(ca)) if facts.is_ca}
    roots = frozenset(facts for facts in held if facts.issuer_text == facts.subject_text)
    return roots, frozenset(held) - roots


def _own_ca_only(laid: Sequence[Laid], now: datetime) -> Iterator[Check]:
    """Each leaf under the issuing-only bundle of each CA: accepted under its own, refused under the others."""
    from vaultpki import openssl

    bundles = _Bundles(laid)
    for ca in ISSUING_CAS:
        # Nodes hold the same bundle, so one call of openssl serves all of them.
        alike: dict[tuple[Facts, ...], tuple[Path, list[Laid]]] = {}
        for pair in laid:
            if path := bundles.find(ca, pair.holder):
                alike.setdefault(read_bundle(path), (path, []))[1].append(pair)
        for path, pairs in alike.values():
            said = openssl.verify([pair.crt for pair in pairs], ["-partial_chain"], trusted=path, now=now)
            for pair in pairs:
                yield _chain(pair, bundle(ca), pair.certificate.ca == ca, said[pair.crt])


class _Bundles:
    """Where the issuing-only bundles lie: a holder's own, or another's for a CA that the holder has no use for."""

    def __init__(self, laid: Sequence[Laid]) -> None:
        self._holders = tuple({pair.holder.name: pair.holder for pair in laid}.values())
        self._usable = cache(lambda path: bool(read_bundle(path)))

    def find(self, ca: str, holder: Holder) -> Path | None:
        for candidate in (holder, *self._holders):
            path = candidate.folder / bundle(ca)
            if self._usable(path):
                return path
        return None


def _handshakes(laid: Sequence[Laid], rows: Sequence[Row]) -> Iterator[Check]:
    from vaultpki import handshake

    bundles = _Bundles(laid)
    contexts = _Contexts()
    for server in (pair for pair in laid if pair.certificate.usage.server):
        yield from _server_alone(server, bundles, contexts)
    for client, server in _meetings(laid):
        cas = client_cas(server.row, rows)
        trusted = [path for ca in cas if (path := bundles.find(ca, server.holder))]
        own = bundles.find(server.certificate.ca, client.holder)
        if not cas:
            continue
        let_in = client.row.usage.client and (client.row.ca in cas or client.row.target == server.row.source)
        name = _a_name(server)
        if len(trusted) < len(cas) or own is None:
            refusal = f"there is no bundle of {', '.join(cas)} or of {server.certificate.ca} to try this with"
        else:
            # One who must not get in does not care whom he calls, so only the server's judgement counts there.
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


def _meetings(laid: Sequence[Laid]) -> Iterator[tuple[Laid, Laid]]:
    """Every pair with one server of every server row, and every server with one client of every row.

    All with all would grow with the square of the nodes and show nothing more. The holder's own is preferred.
    """
    servers = [pair for pair in laid if pair.certificate.usage.server]
    met: dict[tuple[str, str], tuple[Laid, Laid]] = {}
    first_server = _first(servers)
    first_client = _first(laid)
    own = {(pair.holder.name, pair.row.name): pair for pair in laid}
    meetings = [
        (client, own.get((client.holder.name, name), server))
        for client in laid
        for name, server in first_server.items()
    ] + [
        (own.get((server.holder.name, name), client), server)
        for server in servers
        for name, client in first_client.items()
    ]
    for client, server in meetings:
        met.setdefault((client.label, server.label), (client, server))
    yield from met.values()


def _first(pairs: Sequence[Laid]) -> dict[str, Laid]:
    first: dict[str, Laid] = {}
    for pair in pairs:
        first.setdefault(pair.row.name, pair)
    return first


def _server_alone(server: Laid, bundles: _Bundles, contexts: _Contexts) -> Iterator[Check]:
    """From the client's side: by each of its names and no other, under its own CA's bundle and no other's."""
    from vaultpki import handshake

    answering = contexts.server(server, ())
    subject = server.certificate.subject
    names = (*subject.dns, *subject.ips)
    trials = [(server.certificate.ca, name, True) for name in names]
    trials.append((server.certificate.ca, _WRONG_NAME, False))
    trials += [(ca, _a_name(server) or _WRONG_NAME, False) for ca in ISSUING_CAS if ca != server.certificate.ca]
    for ca, name, good in trials:
        path = bundles.find(ca, server.holder)
        if path is None:
            # What a holder needs and lacks is a failed check of its file; a CA that nobody here has is no trial.
            continue
        calling = contexts.client(None, (path,), names=True)
        if isinstance(answering, str) or isinstance(calling, str):
            yield tried(
                f"a client to {server.certificate.name}",
                "handshake",
                f"a client of {bundle(ca)}",
                server.label,
                refusal=answering if isinstance(answering, str) else str(calling),
            )
            return
        yield tried(
            f"a client to {server.certificate.name} as {name}",
            "handshake",
            f"a client of {bundle(ca)}",
            server.label,
            good=good,
            refusal=handshake.shake(answering, calling, name),
        )


def _a_name(server: Laid) -> str | None:
    subject = server.certificate.subject
    return next(iter((*subject.dns, *subject.ips)), None)


class _Contexts:
    """TLS contexts, each made once; a text instead of a context says why the files give none."""

    def __init__(self) -> None:
        self._made: dict[tuple[bool, str, tuple[Path, ...], bool], SSLContext | str] = {}

    def server(self, pair: Laid, trusted: tuple[Path, ...]) -> SSLContext | str:
        return self._get(True, pair, trusted, names=False)

    def client(self, pair: Laid | None, trusted: tuple[Path, ...], *, names: bool) -> SSLContext | str:
        return self._get(False, pair, trusted, names=names)

    def _get(self, server: bool, pair: Laid | None, trusted: tuple[Path, ...], *, names: bool) -> SSLContext | str:
        from vaultpki import handshake

        key = (server, pair.label if pair else "", trusted, names)
        if key not in self._made:
            # OpenSSL would wait for ever on a FIFO in the key's place.
            if pair and pair.no_key:
                self._made[key] = pair.no_key
                return self._made[key]
            try:
                files = (pair.crt, pair.key) if pair else None
                self._made[key] = handshake.context(server=server, pair=files, trusted=trusted, names=names)
            except OSError as error:
                whose = pair.label if pair else ", ".join(path.name for path in trusted)
                self._made[key] = f"TLS cannot use the files of {whose}: {handshake.reason(error)}"
        return self._made[key]
