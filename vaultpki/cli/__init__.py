"""The command line: one file for each command, imported only when that command is asked for."""

from __future__ import annotations

import gc
import os
import sys
from typing import Final

import click

from vaultpki import __version__
from vaultpki.errors import VaultpkiError, fault

# name -> (module, attribute, what `vaultpki --help` says); so that --help imports no command.
_COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "demo": ("demo", "demo_command", "Show it all: an embedded OpenBao, an example cluster, every certificate."),
    "init": ("spec", "init_command", "Write a commented starter cluster.yaml."),
    "schema": ("spec", "schema_command", "Print the JSON Schema of cluster.yaml, for editors."),
    "plan": ("apply", "plan_command", "Show what apply would change in Vault; writes nothing."),
    "apply": ("apply", "apply_command", "Make Vault the certificate authority of the cluster."),
    "destroy": ("apply", "destroy_command", "Remove from Vault what apply made."),
    "policy": ("policy", "policy_command", "Print the Vault policy of an applier, enroller or operator."),
    "enroll": ("enroll", "enroll_command", "Give a node its identity: a single-use join file."),
    "lock": ("enroll", "lock_command", "End every credential of a node at once; the node stays."),
    "unenroll": ("enroll", "unenroll_command", "Take a node's identity away."),
    "nodes": ("enroll", "nodes_command", "List the nodes, their live credentials, and what each last reported."),
    "issue": ("issue", "issue_command", "Issue an operator's certificate, kubeconfig and manifests."),
    "agent": ("agent", "agent_command", "On a node: issue, install and renew its certificates."),
    "status": ("status", "status_command", "On a node: what is there, until when, what is wrong."),
    "renew": ("status", "renew_command", "On a node: renew now what is not due."),
    "verify": ("verify", "verify_command", "Check files and make the live handshakes, allowed and forbidden."),
    "completion": ("completion", "completion_command", "Print what makes a shell complete commands and options."),
}


class _NoCommand(click.UsageError):
    """A command that does not exist, said in one sentence."""

    def show(self, file: object = None) -> None:
        click.echo(f"vaultpki: {self.message}", err=True)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        from importlib import import_module

        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"vaultpki.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            from vaultpki import words

            near = words.close(args[0], _COMMANDS)
            hint = f"did you mean {near}?" if near else "`vaultpki --help` lists them"
            raise _NoCommand(f"there is no command {words.quoted(args[0])}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, _, said) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="vaultpki")
def vaultpki() -> None:
    """Every certificate of a Kubernetes cluster from Vault or OpenBao, issued, installed and renewed.

    \b
    Example:
      vaultpki demo                     see it work on this machine
      vaultpki init                     write cluster.yaml
      vaultpki plan -f cluster.yaml     see what Vault would get
      vaultpki apply -f cluster.yaml    and make it so
    """


def main() -> None:
    """The entry point: runs a command and ends with its exit code, an error told in one sentence."""
    # What a command loads it keeps to its end; to look for rubbish at every 700 new objects takes a tenth of its time.
    gc.set_threshold(10_000)
    _leave_no_core()

    from vaultpki.cli import streams

    output = streams.prepare()
    code = _run()
    try:
        sys.stdout.flush()
        if output.failure:
            reason = output.failure.strerror
            click.echo(
                f"vaultpki: standard output cannot be written ({reason}); only what was shown there is lost, so send "
                "it elsewhere",
                err=True,
            )
            code = code or 1
        sys.stderr.flush()
    except OSError:
        code = code or 1
    # At once, without taking the interpreter down: a thread that waits for a server inside OpenSSL would crash there,
    # and every block that must end something has ended it by now.
    os._exit(code)


def _run() -> int:
    try:
        code = vaultpki.main(prog_name="vaultpki", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("vaultpki: interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except VaultpkiError as error:
        from vaultpki.plain import printable

        # The one place where errors reach a terminal: what a server or a file said may be a part of any of them.
        click.echo(f"vaultpki: {printable(str(error))}", err=True)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has gone.
        return 1
    except Exception as error:  # noqa: BLE001 - the last place before a person; told, and exit 1
        # Ctrl-C at the wrong moment in threading's Condition.wait makes it release a lock that it does not hold.
        if isinstance(error, RuntimeError) and isinstance(error.__context__, KeyboardInterrupt):
            click.echo("vaultpki: interrupted", err=True)
            return 130
        click.echo(f"vaultpki: {fault(error)}", err=True)
        return 1
    return code if isinstance(code, int) else 0


def _leave_no_core() -> None:
    """Tokens and keys are in this process's memory: it leaves no core, and no other process of its user reads it."""
    from ctypes import CDLL

    # PR_SET_DUMPABLE (4), prctl(2). Not RLIMIT_CORE: hooks would inherit it, and a core that goes to a program
    # (core(5), core_pattern) does not ask for it.
    CDLL(None).prctl(4, 0, 0, 0, 0)
