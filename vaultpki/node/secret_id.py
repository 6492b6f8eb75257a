"""The files of a node's credential in its state folder, each written in one step that survives a crash.

STATE/secret-id        the secret id in use, 0600
STATE/secret-id.json   when it was minted and for how long, its digest, and the accessors of it and of the one before; a
                       secret id put there by hand has none
STATE/secret-id.old    the one before, until Vault has accepted the new one for a while and destroyed the old one
STATE/secret-id.asked  when secret ids were asked for whose answers were lost: since the last answer, and before
STATE/joined           how far the last join came: the digest of its wrapping token, and the secret id it held until
                       that is in its place, 0600
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import Final

from vaultpki.disk.files import closing, exists, open_folder, read_at, read_private, storage_errors, write_private
from vaultpki.errors import SpecError, StoreError
from vaultpki.model import VERSION
from vaultpki.values import json_object, names
from vaultpki.values.json_object import DIGEST, Integer, JsonMember, JsonObject, JsonText, Object, word

SECRET_ID: Final = "secret-id"  # noqa: S105 -- a file's name
_MOST_ASKED: Final = 20
# Seconds: apply never grants less.
_SHORTEST_LIFE: Final = 7 * 86400
_WRONG: Final = "is not a note of this vaultpki"


@dataclass(frozen=True, slots=True)
class JoinStep:
    """How far a join came: `stage` is "new", "opening", "opened" or "done".

    `token` is the SHA-256 of its wrapping token in hex, `secret` the secret id it held, while "opened".
    """

    token: str = field(repr=False)
    stage: str
    secret: str | None = field(default=None, repr=False)


_STEP: Final = Object(
    JoinStep,
    {"token": DIGEST, "stage": JsonText(), "secret_id": JsonMember(word(names.token), "secret", null=True)},
    problem=_WRONG,
    version=True,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """When secret ids were asked for whose answers were lost, as Unix time: each may live, unknown to its node.

    `pending` are those since the last answer, `lost` those before.
    """

    pending: tuple[float, ...] = ()
    lost: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class SecretIdFiles:
    """The files in the folder `state`; every method raises StoreError if a file cannot be read or written."""

    state: str

    @property
    def join_note(self) -> str:
        """The path of the note on the last join."""
        return f"{self.state}/joined"

    def current(self) -> str | None:
        return self._read(SECRET_ID)

    def previous(self) -> str | None:
        return self._read(f"{SECRET_ID}.old")

    def minted(self, secret: str) -> tuple[int, int] | None:
        """Return when `secret` was minted (Unix time) and for how many seconds; None if it was not minted here."""
        with contextlib.suppress(SpecError):
            note = _note(f"{self.state}/{SECRET_ID}.json")
            if note.get("sha256", JsonText()) == digest(secret):
                return note.get("minted", Integer()), note.get("ttl", Integer(1))
        return None

    def written(self) -> float:
        """Return when the secret id was last written, as Unix time; 0.0 if there is none."""
        try:
            return os.stat(f"{self.state}/{SECRET_ID}").st_mtime
        except FileNotFoundError:
            return 0.0

    def replace(self, secret: str) -> None:
        """Make `secret` the current one, and keep the one that was current as the previous one."""
        current = self.current()
        if current is not None:
            write_private(f"{self.state}/{SECRET_ID}.old", current.encode())
        write_private(f"{self.state}/{SECRET_ID}", secret.encode())

    def tighten(self, ttl: int) -> bool:
        """Take the secret ids from others who may read or write their files; return whether the current one is exposed.

        It gets another inode, and a note by which the next `roll` replaces it: with `ttl` if it has none yet.
        """
        old, current = self._loose(f"{SECRET_ID}.old"), self._loose(SECRET_ID)
        if old is not None:
            write_private(f"{self.state}/{SECRET_ID}.old", old.encode())
        if current is None:
            return False
        minted = self.minted(current)
        self.note_minted(current, 0.0, minted[1] if minted else ttl, exposed=True)
        write_private(f"{self.state}/{SECRET_ID}", current.encode())
        return True

    def exposed(self, secret: str) -> bool:
        """Return whether others could read `secret`, as `tighten` found."""
        with contextlib.suppress(SpecError):
            note = _note(f"{self.state}/{SECRET_ID}.json")
            return note.get("sha256", JsonText()) == digest(secret) and note.value.get("exposed") is True
        return False

    def note_minted(
        self, secret: str, now: float, ttl: int, *, accessor: str | None = None, exposed: bool = False
    ) -> None:
        """Note when `secret` was minted, as Unix time, and for how many seconds; accessors that are known stay known.

        An accessor names a secret id to those who may look it up or destroy it, and opens nothing.
        """
        known, before = self._accessors(), self.previous()
        if accessor is not None:
            known[digest(secret)] = accessor
        wanted = {digest(each) for each in (secret, before) if each is not None}
        note: dict[str, object] = {"version": VERSION, "minted": int(now), "ttl": ttl, "sha256": digest(secret)}
        if exposed:
            note["exposed"] = True
        if kept := {sha256: each for sha256, each in known.items() if sha256 in wanted}:
            note["accessors"] = kept
        write_private(f"{self.state}/{SECRET_ID}.json", json.dumps(note).encode())

    def in_use(self) -> tuple[str, ...]:
        """Return the accessors of the current secret id and of the previous one; none if one of them is not known."""
        with contextlib.suppress(StoreError):
            current, previous = self.current(), self.previous()
            held = [digest(each) for each in (current, previous) if each is not None]
            known = self._accessors()
            if current is not None and all(each in known for each in held):
                return tuple(dict.fromkeys(known[each] for each in held))
        return ()

    def _accessors(self) -> dict[str, str]:
        """Return the accessors that are known, by the digests of their secret ids."""
        with contextlib.suppress(SpecError):
            noted = _note(f"{self.state}/{SECRET_ID}.json").value.get("accessors")
            entries = noted.items() if isinstance(noted, dict) else ()
            return {sha256: each for sha256, each in entries if names.fits(each, names.uuid)}
        return {}

    def restore(self, secret: str, ttl: int) -> None:
        """Make the previous secret id the current one, noted as minted long ago, so that the next pass rolls it."""
        write_private(f"{self.state}/{SECRET_ID}", secret.encode())
        self.note_minted(secret, 0.0, ttl)

    def asked(self) -> Asked:
        """Return which answers were lost; none if there is no note that can be read."""
        with contextlib.suppress(SpecError):
            note = _note(f"{self.state}/{SECRET_ID}.asked")
            return Asked(*(_times(note.value.get(key)) for key in ("pending", "lost")))
        return Asked()

    def lost(self, now: float) -> int:
        """Return how many secret ids may live whose answers were lost; `now` is Unix time in seconds."""
        with contextlib.suppress(StoreError):
            asked, current = self.asked(), self.current()
            # They live as long as the one in use.
            minted = self.minted(current) if current is not None else None
            life = minted[1] if minted is not None else _SHORTEST_LIFE
            return sum(now - life < when <= now for when in (*asked.pending, *asked.lost))
        return 0

    def write_asked(self, asked: Asked) -> None:
        """Note which answers were lost; without any there is no file."""
        if asked == Asked():
            with storage_errors(f"{self.state}/{SECRET_ID}.asked"), contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.state}/{SECRET_ID}.asked")
            return
        note = {"version": VERSION, "pending": asked.pending[-_MOST_ASKED:], "lost": asked.lost[-_MOST_ASKED:]}
        write_private(f"{self.state}/{SECRET_ID}.asked", json.dumps(note).encode())

    def drop_previous(self) -> None:
        with storage_errors(f"{self.state}/{SECRET_ID}.old"):
            os.unlink(f"{self.state}/{SECRET_ID}.old")

    def join_step(self) -> JoinStep | None:
        """Return how far the last join came; None if there is no note that can be read."""
        with contextlib.suppress(SpecError):
            return _STEP.read(_note(self.join_note).value, self.join_note)
        return None

    def write_join_step(self, step: JoinStep) -> None:
        write_private(self.join_note, json.dumps(_STEP.write(step)).encode())

    def _loose(self, name: str) -> str | None:
        """Return a secret id whose file is ours, and that others may read or write; None otherwise."""
        path = f"{self.state}/{name}"
        if not exists(path):
            return None
        with closing(open_folder(self.state, create=False)) as folder, storage_errors(path):
            data, about = read_at(name, folder)
        secret = data.decode("ascii", "replace").strip()
        ours = about.st_uid in {0, os.geteuid()} and names.fits(secret, names.token)
        return secret if ours and about.st_mode & 0o077 else None

    def _read(self, name: str) -> str | None:
        raw = read_private(f"{self.state}/{name}")
        return None if raw is None else raw.decode("ascii", "replace").strip()


def _times(value: object) -> tuple[float, ...]:
    times = value if isinstance(value, list) else []
    return tuple(
        float(each) for each in times if isinstance(each, int | float) and 0 <= each <= json_object.LAST_SECOND
    )


def digest(secret: str) -> str:
    """The SHA-256 of a secret in hex, which may be noted beside it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _note(file: str) -> JsonObject:
    """A note in the state folder; SpecError if it is missing or not what this vaultpki writes."""
    note = JsonObject(json_object.parse(read_private(file) or b"") or {}, file, _WRONG)
    note.refuse_other_version()
    return note
