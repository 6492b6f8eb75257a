"""The values of one pass: the options it is made with, what it works on, and its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vaultpki.errors import Denied, Refused, VaultpkiError
from vaultpki.host import boot_time
from vaultpki.host.boot_time import Moment
from vaultpki.node.procedures import PassMade
from vaultpki.node.state import AgentState, ReaderSeen, StateFile

if TYPE_CHECKING:
    from vaultpki.agent.pairs import PairStatus
    from vaultpki.disk.folders import Folders
    from vaultpki.host.hook_runner import Runner
    from vaultpki.host.log import Event
    from vaultpki.model import AgentConfig
    from vaultpki.node.assignment import SurplusPair
    from vaultpki.node.at_rest import AtRest
    from vaultpki.node.procedures import Procedures
    from vaultpki.pki.ca_life import CaLife
    from vaultpki.vault import Vault


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How a pass is made.

    `procedures` are those in which the machine may take part. `force` names certificates to renew even if they are not
    due (`pairs.EVERY`: all). `settle` waits some seconds after a replacement until the old files are removed and every
    watcher has noticed. `wait` is how many seconds another process may hold the directory. `share` is the part of the
    poll interval for which Vault's last answer is used again; with 0.0 Vault is asked for everything, whatever is due.
    `rest` is what the pass before left of a node at rest, with which one request may be enough. `alive` is called again
    and again while the pass waits for components of a machine that is taken over, which may take longer than a pass
    that hangs. `prune` removes at once what the node's record does not name; only a person on the node asks for that.
    """

    procedures: Procedures
    allow_http: bool = False
    force: frozenset[str] = frozenset()
    settle: bool = True
    wait: float = 0.0
    share: float = 1.0
    rest: AtRest | None = None
    alive: Callable[[], None] = lambda: None
    prune: bool = False


@dataclass(frozen=True, slots=True)
class Findings:
    """What a pass collects on its way: failures by what failed, events for the log, and times to try again (Unix).

    `unsafe` are paths of folders that others could write to, and whose files could not be replaced since.
    """

    failures: dict[str, VaultpkiError] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    retry_at: list[float] = field(default_factory=list)
    unsafe: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Context:
    """What a pass works on. `folders` are locked by this pass; `clock` is Unix time in seconds.

    Without a `runner` hooks have run when the pass returns. `began` is when the pass began.
    """

    config: AgentConfig
    options: PassOptions
    folders: Folders
    clock: float
    state: StateFile
    runner: Runner | None
    found: Findings = field(default_factory=Findings)
    began: Moment = field(default_factory=boot_time.now)

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock, UTC)

    @property
    def age(self) -> float:
        """How many seconds Vault's last answer may be used again."""
        return self.config.poll * self.options.share


@dataclass(frozen=True, slots=True)
class Contact:
    """What a pass knows of Vault. `vault` is None if nobody asked or the login failed; `away` is why it cannot sign.

    `polled` says that nothing was asked but whether anything has changed, and that nothing has or no answer came.
    `stepped` says that only a step of a rotation was asked for, since nothing else has changed.
    """

    vault: Vault | None = None
    away: VaultpkiError | None = None
    polled: bool = False
    stepped: bool = False

    @property
    def usable(self) -> Vault | None:
        """Vault if it may be asked for more in this pass, None if it may not."""
        return self.vault if self.away is None else None

    @property
    def by_copy(self) -> bool:
        """Whether the pass goes by the copy of Vault's last answer: nobody asked, or only whether anything changed."""
        return self.polled or (self.vault is None and self.away is None)

    @property
    def clock_offset(self) -> float:
        """By how many seconds Vault's clock, which dates certificates, is ahead of ours."""
        return (self.vault.clock_offset or 0.0) if self.vault is not None else 0.0

    @property
    def reached(self) -> bool | None:
        """Whether Vault answered; None if nobody asked. A refusal proves that Vault is reachable."""
        if self.away is not None:
            return isinstance(self.away, Denied | Refused)
        return None if self.vault is None else True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass did and how it left the node.

    `renewed` are the names of installed certificates, `requested` is how many Vault was asked to sign.
    `failures` is what failed, by name. `due` is when
    the next certificate is due, `first_expiry` when the first one expires; None if there is none. `retry_at` is when a
    postponed step may be tried, as Unix time. `reached` is whether Vault answered; None if nobody asked. `urgent`
    is when the first certificate expires that Vault may still renew, and `lives` are those of the root and of the CAs
    of this node's certificates. `awaited` are the components by `CA/COMPONENT` that a rotation still waits for here.
    `rest` is what the next pass of a resident agent gets. `foreign` are sentences about foreign CAs that the cluster's
    record offers and this node does not take. `surplus` are the pairs that its own record does not name. `mended` are
    the files that were not as the last pass left them, and that this one has put right. `made` is for what follows.
    """

    renewed: tuple[str, ...] = ()
    requested: int = 0
    failures: Mapping[str, VaultpkiError] = field(default_factory=dict)
    due: datetime | None = None
    first_expiry: datetime | None = None
    retry_at: float | None = None
    reached: bool | None = None
    events: tuple[Event, ...] = ()
    items: tuple[PairStatus, ...] = ()
    state: AgentState = field(default_factory=AgentState)
    urgent: datetime | None = None
    lives: tuple[CaLife, ...] = ()
    awaited: Mapping[str, ReaderSeen] = field(default_factory=dict)
    rest: AtRest | None = None
    foreign: tuple[str, ...] = ()
    surplus: tuple[SurplusPair, ...] = ()
    mended: tuple[str, ...] = ()
    made: PassMade = field(default_factory=PassMade)
