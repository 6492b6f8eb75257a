"""Keeps the imported CAs of an adoption as its record says: who signs now, what the record names, and the end.

They sign in RETURNING alone, from when the record says it: nodes then get certificates of the old CAs by their own
names. In DONE they are removed with their keys and mounts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaultpki.ca import imported
from vaultpki.errors import Denied, StateConflict
from vaultpki.records.adoption import ADOPTION_TABLE, OLD_CAS, AdoptionState

if TYPE_CHECKING:
    from vaultpki.adopt.look import AdoptionLook

_S = AdoptionState


def domains(look: AdoptionLook) -> tuple[str, ...]:
    """Return the domains whose old CA, the one that this adoption is about, is in Vault with its key."""
    old = {ca: {each.fingerprint for each in cas} for ca, cas in look.sides.old.items()}
    return tuple(ca for ca in OLD_CAS if ca in look.imported and look.imported[ca].sha256 in old.get(ca, ()))


def settle(look: AdoptionLook) -> bool:
    """Make them what the record says, the record first; return whether anything was changed, so that one looks again.

    Raises StateConflict if the policy of who leads the adoption does not cover them yet.
    """
    record = look.record
    if ADOPTION_TABLE.phases[record.state].destroys:
        return _remove(look)
    there = domains(look)
    if record.imported != there:
        look.writing(record.changed(imported=there))
        return True
    changed = False
    for ca, issuer in look.imported.items():
        wanted = record.state is _S.RETURNING and ca in there
        if issuer.signs is not wanted:
            try:
                changed |= imported.let_sign(look.cluster, look.vault, ca, on=wanted)
            except Denied as error:
                raise _uncovered(look, ca, error) from None
    return changed


def _remove(look: AdoptionLook) -> bool:
    """Remove all of them; the record names them until that is done, so a run that was killed is continued."""
    left = [ca for ca in OLD_CAS if ca in look.imported or ca in look.record.imported]
    for ca in left:
        try:
            if ca in look.imported and look.imported[ca].signs:
                imported.let_sign(look.cluster, look.vault, ca, on=False)
            imported.remove(look.cluster, look.vault, ca)
        except Denied as error:
            # Once the mount is gone, an apply takes the grants away.
            if ca in look.imported:
                raise _uncovered(look, ca, error) from None
    if look.record.imported:
        look.writing(look.record.changed(imported=()))
    return bool(left)


def _uncovered(look: AdoptionLook, ca: str, error: Denied) -> StateConflict:
    return StateConflict(
        f"the imported CA of {ca} cannot be changed with this token ({error}). To add the grants to the adopter's "
        f"policy, run `vaultpki apply{look.cluster.file_option}`, and then this again"
    )
