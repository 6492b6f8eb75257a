"""Compares the keys whose tokens each API server accepts with those that count; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vaultpki.kube.key_sets import identity
from vaultpki.live.checks import found, not_checked
from vaultpki.pki import jwk
from vaultpki.pki.facts import Facts
from vaultpki.redact import first_few
from vaultpki.verify.on_disk import Check

KEY_SET_CHECK: Final = "token keys"


@dataclass(frozen=True, slots=True)
class KeysExpected:
    """The certificates of the keys whose tokens every API server accepts, and who says so.

    While they are `changing`, API servers restart one after the other, and one may hold those of before.
    """

    certificates: Sequence[Facts]
    source: str
    changing: bool = False


def token_key_checks(
    nodes: Sequence[str],
    shown: Mapping[str, frozenset[tuple[str, ...]] | str],
    expected: Mapping[str, KeysExpected],
    why: str,
) -> Iterator[Check]:
    """Check the key set of the API server on each of these nodes.

    `shown` is what each shows, or why it does not; `expected` what is right, by node. `why` is why that is not known of
    others.
    """
    for node in nodes:
        source, keys, right = f"{node}/kube-apiserver", shown.get(node, "it was not asked"), expected.get(node)
        if right is None or isinstance(keys, str):
            yield not_checked(KEY_SET_CHECK, source, "its key set", why if right is None else str(keys))
            continue
        wanted = {identity(jwk.key(facts.public_key)): facts.subject.common_name for facts in right.certificates}
        missing = sorted({name for key, name in wanted.items() if key not in keys})
        strange = len(keys - wanted.keys())
        if right.changing and (missing or strange):
            text = "the keys are changing, and it may not have been started again yet; `vaultpki ca status` says so"
            yield not_checked(KEY_SET_CHECK, source, right.source, text)
            continue
        problems = [f"it refuses the tokens of {first_few(missing)}"] if missing else []
        if strange:
            count = "a key" if strange == 1 else f"{strange} keys"
            problems.append(f"it accepts the tokens of {count} that no node should have")
        yield found(KEY_SET_CHECK, source, right.source, refusal="; ".join(problems))
