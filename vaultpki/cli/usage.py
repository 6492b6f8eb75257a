"""Says in one sentence what is wrong with the words of a command, and what to write instead."""

from __future__ import annotations

import re
from typing import Final

import click

from vaultpki.redact import hide, printable

# A command that people try -> what they look for.
HINTS: Final = {
    **dict.fromkeys(("abort", "back", "rollback", "undo"), "run `vaultpki ca abort`"),
    **dict.fromkeys(("add", "bootstrap", "init-node", "register"), "run `vaultpki enroll NODE`"),
    **dict.fromkeys(("cert", "certs", "certificates", "log", "logs"), "run `vaultpki status` on the node"),
    **dict.fromkeys(("check", "test", "validate"), "run `vaultpki verify`"),
    **dict.fromkeys(("cas", "rotation", "rotations"), "run `vaultpki ca status`"),
    "continue": "run `vaultpki ca continue`",
    **dict.fromkeys(("daemon", "run", "start"), "run `vaultpki agent` on the node"),
    **dict.fromkeys(("delete", "remove"), "run `vaultpki unenroll NODE`, or `vaultpki destroy` for the whole cluster"),
    **dict.fromkeys(("describe", "inspect"), "run `vaultpki show NAME` on the node"),
    **dict.fromkeys(("diff", "dry-run"), "run `vaultpki plan`"),
    "help": "run `vaultpki --help`",
    "import": "run `vaultpki ca import FILE`",
    "inventory": "run `vaultpki adopt inventory`",
    "jwks": "run `vaultpki ca jwks`",
    **dict.fromkeys(("get", "list", "ls"), "run `vaultpki nodes`"),
    **dict.fromkeys(("migrate", "takeover"), "run `vaultpki adopt inventory`"),
    **dict.fromkeys(("recover", "restore"), "run `vaultpki ca recover CA`"),
    "rotate": "run `vaultpki ca rotate CA`",
    **dict.fromkeys(("setup", "sync", "update"), "run `vaultpki apply`"),
    **dict.fromkeys(("sign", "kubeconfig"), "run `vaultpki issue admin --dir DIR`"),
    **dict.fromkeys(("token", "policies"), "run `vaultpki policy`"),
    "unit": "run `vaultpki template NAME`",
}
# A command without a word that it needs -> what it is for.
BARE: Final = {
    "issue": "`vaultpki issue admin --dir DIR` is for people, and nodes get their certificates by the agent",
    "ca rotate": "`vaultpki ca status` lists the CAs",
    "ca recover": "`vaultpki ca status` lists the CAs",
}
# A command with a word that it does not take -> why.
NO_WORD: Final = dict.fromkeys(
    ("ca abort", "ca continue"), "only one is rotated at a time, so write no name; `vaultpki ca status` shows which"
)
_NO_COMMAND: Final = re.compile(r"No such command (?P<word>.*)\.", re.DOTALL)
_TOO_MANY: Final = re.compile(r"Got unexpected extra arguments? \((?P<words>.*)\)", re.DOTALL)
_NO_VALUE: Final = re.compile(r"Option .* requires .*")


def sentence(error: click.UsageError) -> str:
    """Return what is wrong, and what to write instead; the help of a command that was called without any word."""
    if error.message.startswith("Usage: "):
        return error.message
    return printable(f"vaultpki: {hide(_sentence(error))}")


def _sentence(error: click.UsageError) -> str:
    said = error.message.removesuffix(".")
    help_ = f"`{error.ctx.command_path if error.ctx else 'vaultpki'} --help` has an example"
    if isinstance(error, click.NoSuchOption):
        return _no_option(error)
    if isinstance(error, click.MissingParameter):
        choices = error.param.type.choices if error.param and isinstance(error.param.type, click.Choice) else ()
        hint = f"write one of {', '.join(map(str, choices))}" if choices else help_
        return f"{_shown(error)} is missing; {BARE.get(_command(error.ctx), hint)}"
    if isinstance(error, click.BadParameter):
        return f"{_shown(error)}: {said}; {help_}"
    if isinstance(error, click.BadOptionUsage):
        # click does not say of which command.
        name, needs = error.option_name, _NO_VALUE.match(said)
        return f"{name} needs a value; write {name} VALUE" if needs else f"{name} takes no value; write it alone"
    if found := _NO_COMMAND.fullmatch(error.message):
        return _no_command(found["word"], error.ctx)
    if found := _TOO_MANY.fullmatch(said):
        return f"this is too much: {found['words']}; {_not_taken(found['words'], error.ctx) or help_}"
    # Our own end with no full stop, and say what to write.
    return f"{said[0].lower()}{said[1:]}; {help_}" if said != error.message else said


def _not_taken(words: str, context: click.Context | None) -> str:
    """Return what to write instead of words that a command does not take; "" if that is not known."""
    options = {name for param in context.command.params for name in param.opts} if context is not None else set[str]()
    if words.endswith((".yaml", ".yml")) and " " not in words:
        return next((f"write {name} {words}" for name in ("-f", "-c") if name in options), "")
    return NO_WORD.get(_command(context), "")


def _no_option(error: click.NoSuchOption) -> str:
    from vaultpki.values import names

    near = (error.possibilities or [""])[0]
    path = error.ctx.command_path if error.ctx else "vaultpki"
    hint = f"did you mean {near}?" if near else f"`{path} --help` lists the options"
    return f"there is no option {names.quoted(error.option_name)}; {hint}"


def _no_command(word: str, context: click.Context | None) -> str:
    import ast

    from vaultpki.values import names

    # click shows its repr.
    name = str(ast.literal_eval(word))
    group = context.command if context is not None else None
    known = group.list_commands(context) if context is not None and isinstance(group, click.Group) else []
    near = names.close(name, known)
    path = context.command_path if context is not None else "vaultpki"
    hint = HINTS.get(name) if not _command(context) else None
    hint = hint or (f"did you mean {near}?" if near else f"`{path} --help` lists them")
    return f"there is no command {names.quoted(name)}; {hint}"


def _command(context: click.Context | None) -> str:
    """Return the words of a command without the program's own name."""
    return context.command_path.partition(" ")[2] if context is not None else ""


def _shown(error: click.BadParameter) -> str:
    """Return an option as it is written, an argument as the help shows it."""
    if isinstance(error.param, click.Option):
        return max(error.param.opts, key=len)
    if error.param is None:
        return "a value"
    name = error.param.metavar or str(error.param.name).upper()
    return name.strip("[].").replace("|", " or ")
