"""Shows which server a command asks, in which namespace, and whose token it has; pure."""

from __future__ import annotations

from vaultpki.identity.asked_server import AskedServer
from vaultpki.redact import escaped, first_few
from vaultpki.show.line import WIDTH, Line, wrapped


def server_lines(asked: AskedServer, file: str) -> list[Line]:
    """Return the lines that stand above a plan; `file` is the path of cluster.yaml."""
    shown = wrapped(f"Server: {escaped(asked.address)}, namespace {escaped(asked.namespace)}", None, WIDTH)
    if asked.of_spec:
        shown += wrapped(
            f"! {asked.variable} names this server; {escaped(file)} names {first_few(asked.of_spec)}", "yellow", WIDTH
        )
    if asked.ignored:
        text = f"! this server has no namespaces: it ignores VAULT_NAMESPACE ({escaped(asked.ignored)})"
        shown += wrapped(text, "yellow", WIDTH)
    owner = asked.owner
    if owner is None:
        text = "cannot be read: its policies do not allow auth/token/lookup-self"
        return [*shown, *wrapped(f"Token: {text}", "yellow", WIDTH)]
    parts = [
        escaped(owner.name) or "without a name",
        f"policies {', '.join(map(escaped, owner.policies)) or 'none'}",
        *([f"entity {escaped(owner.entity)}"] if owner.entity else []),
        *([f"accessor {escaped(owner.accessor)}"] if owner.accessor else []),
    ]
    return [*shown, *wrapped(f"Token: {', '.join(parts)}", None, WIDTH)]
