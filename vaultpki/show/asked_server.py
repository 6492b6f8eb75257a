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
    token = asked.token
    if token is None:
        text = "cannot be read: its policies do not allow auth/token/lookup-self"
        return [*shown, *wrapped(f"Token: {text}", "yellow", WIDTH)]
    parts = [
        escaped(token.name) or "without a name",
        f"policies {', '.join(map(escaped, token.policies)) or 'none'}",
        *([f"entity {escaped(token.entity)}"] if token.entity else []),
        *([f"accessor {escaped(token.accessor)}"] if token.accessor else []),
    ]
    return [*shown, *wrapped(f"Token: {', '.join(parts)}", None, WIDTH)]
