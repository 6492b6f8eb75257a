"""Sets up the signer of a node from its join file: a folder of its own, whose files belong to the user that it runs as.

The signer parses what strangers send, so it gets no right of root, and no file of the agent but its own pair.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from vaultpki.agent.pairs import owner_of
from vaultpki.certificates import CSR_SIGNER
from vaultpki.config.agent import dump_agent
from vaultpki.disk.files import closing, make_folder, open_folder, storage_errors, write_private
from vaultpki.errors import ArgumentError, StoreError
from vaultpki.issue.signing import FileOwner
from vaultpki.join import enter
from vaultpki.model import AgentConfig, FileOptions
from vaultpki.records.join_file import Join


def join_signer(
    agent: AgentConfig, join: Join, state: str, user: str, now: datetime, *, allow_http: bool
) -> AgentConfig:
    """Join as the signer on the node of agent.yaml; return its configuration, which is in the folder `state`.

    Run by root, the files belong to `user`, and agent.yaml gives the pair of the signer to that user too; else they
    belong to whoever runs it. Raises ArgumentError if there is no such user, and as `enter.enter_signer`.
    """
    owner = _owner(user) if os.geteuid() == 0 else FileOwner()
    _make_folder(state, owner)
    with _acting_as(owner):
        config = enter.enter_signer(agent, join, state, now, allow_http=allow_http)
    if owner.uid is not None and agent.certificates.get(CSR_SIGNER, FileOptions()).owner is None:
        options = replace(agent.certificates.get(CSR_SIGNER, FileOptions()), owner=f"{owner.uid}:{owner.gid}")
        changed = replace(agent, certificates={**agent.certificates, CSR_SIGNER: options})
        write_private(agent.file, dump_agent(changed).encode(), 0o644)
    return config


def _owner(user: str) -> FileOwner:
    import pwd

    try:
        return owner_of(f"{user}:{pwd.getpwnam(user).pw_gid}")
    except (KeyError, StoreError):
        raise ArgumentError(
            f"this machine has no user {user}, as which the signer runs; create it (`useradd --system "
            f"--shell /usr/sbin/nologin {user}`), or name another one with --user"
        ) from None


def _make_folder(path: str, owner: FileOwner) -> None:
    """Make a folder that only the owner may enter; one that belongs to another user stays as it is, and is refused."""
    above, name = os.path.split(path)
    wanted = os.geteuid() if owner.uid is None else owner.uid
    with contextlib.ExitStack() as stack:
        parent = stack.enter_context(closing(open_folder(above, create=True)))
        stack.enter_context(storage_errors(path))
        folder = stack.enter_context(closing(make_folder(name, parent, 0o700)))
        about = os.fstat(folder)
        if about.st_uid == 0 and wanted != 0 and not os.listdir(folder):
            os.fchown(folder, wanted, -1 if owner.gid is None else owner.gid)
        elif about.st_uid != wanted:
            raise StoreError(f"{path}: it belongs to the user {about.st_uid}; name that user with --user")


@contextlib.contextmanager
def _acting_as(owner: FileOwner) -> Iterator[None]:
    """Read and write files as their owner, whose folder root must not trust."""
    if owner.uid is None or owner.gid is None:
        yield
        return
    user, group = os.geteuid(), os.getegid()
    os.setegid(owner.gid)
    os.seteuid(owner.uid)
    try:
        yield
    finally:
        os.seteuid(user)
        os.setegid(group)
