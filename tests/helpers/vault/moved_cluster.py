"""A cluster on one server, and an empty second one to which it moves; both asked with the applier's printed policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from helpers.faults.cutting_proxy import Proxy
from helpers.vault import operator_tokens
from helpers.vault.cluster_factory import ClusterFactory
from helpers.vault.operator_tokens import Who
from helpers.vault.plan_commands import SPEC, AuditedCluster
from helpers.vault.server_contents import Listing, listing
from helpers.vault.servers import Server
from vaultpki.certificates import ROOT
from vaultpki.identity.nodes import Member, members
from vaultpki.model import at_new
from vaultpki.move import commands
from vaultpki.move.run import MoveStep
from vaultpki.move.server import MoveServer
from vaultpki.records.move import MoveRecord, read_move
from vaultpki.vault import Settings, Vault


@dataclass(frozen=True, slots=True)
class MovedCluster:
    """The cluster, and the server to which it moves, at a prefix with another name."""

    cluster: AuditedCluster
    to: Server
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def applied(cls, clusters: ClusterFactory, to: Server, spec: str = SPEC) -> MovedCluster:
        made = clusters.written(spec)
        (made.folder / "new-ca.crt").write_bytes(to.ca_file.read_bytes())
        prefix = f"moved/{made.name}"
        made.write(f"{spec}move: {{addresses: ['{to.address}'], ca_file: new-ca.crt, prefix: {prefix}}}\n")
        made.applied_here()
        return cls(made, to)

    @property
    def prefix(self) -> str:
        """That at the new server."""
        return f"moved/{self.cluster.name}"

    @property
    def old(self) -> MoveServer:
        return MoveServer(self.cluster.model, self.cluster.client())

    def old_through(self, proxy: Proxy) -> MoveServer:
        """The old server through a proxy that ends connections."""
        token = self.cluster.token()
        return MoveServer(self.cluster.model, Vault(Settings((proxy.address,), ca_pem=proxy.ca_pem, token=token)))

    @property
    def new(self) -> MoveServer:
        return MoveServer(at_new(self.cluster.model), self.client())

    def new_through(self, proxy: Proxy) -> MoveServer:
        """The new server through such a proxy."""
        settings = Settings((proxy.address,), ca_pem=proxy.ca_pem, token=self.token())
        return MoveServer(at_new(self.cluster.model), Vault(settings))

    def token(self, who: Who = "applier") -> str:
        return operator_tokens.token(self.to, self.prefix, who, spec=self.cluster.file)

    def client(self, who: Who = "applier") -> Vault:
        return Vault(Settings((self.to.address,), ca_pem=self.to.ca_file.read_text(), token=self.token(who)))

    def begin(self, old: MoveServer | None = None, new: MoveServer | None = None) -> MoveStep:
        """`move start`, through these clients."""
        return commands.start(old or self.old, new or self.new, 60, self.now)

    def step(self, *, back: bool = False) -> MoveStep:
        return commands.advance(self.old, self.new, self.now, back=back)

    @property
    def record(self) -> MoveRecord:
        return read_move(self.cluster.read(f"{self.cluster.prefix}/config/data/rotation/move")["data"], where="old")

    def members(self) -> tuple[Member, ...]:
        """The nodes as the old server knows them."""
        return members(self.old.cluster, self.old.vault)

    def there(self) -> Listing:
        """All that the new server holds of the cluster, in a form that two clusters have in common."""
        found = listing(self.to, self.cluster.name, prefix=self.prefix)
        root = f"moved/CLUSTER/{ROOT}/issuers"
        # The server lists them by their ids.
        return found | {root: sorted(found[root], key=lambda issuer: str(issuer["issuer_name"]))}

    def read_list(self, path: str) -> dict[str, Any]:
        """What a list of the new server says of each name."""
        return dict(self.to.api("LIST", path).data["key_info"])

    def read(self, path: str) -> dict[str, Any]:
        """What lies at a path of the new server; {} if nothing does."""
        answer = self.to.api("GET", path)
        return answer.data if answer.status == 200 else {}
