"""The command line: one file for each command, imported only when that command is asked for.

Words for people, JSON for programs and exit codes are decided here. It may import every room; no room imports it.
Entry: `main`.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Final

import click

from vaultpki.errors import VaultpkiError, fault

# Heading of `vaultpki --help` -> name -> (module, attribute, text beside the name), so that --help imports no command.
_GROUPS: Final[dict[str, dict[str, tuple[str, str, str]]]] = {
    "Try": {
        "demo": ("demo", "demo_command", "Run an example: an OpenBao, a cluster, every certificate."),
        "version": ("version", "version_command", "Print the version."),
        "completion": ("completion", "completion_command", "Print the completion script of a shell."),
    },
    "Describe and apply": {
        "init": ("init", "init_command", "Write a commented cluster.yaml for a new cluster."),
        "schema": ("spec", "schema_command", "Print the JSON Schema of cluster.yaml, for editors."),
        "plan": ("apply", "plan_command", "Show what apply would change in Vault; writes nothing."),
        "apply": ("apply", "apply_command", "Make Vault the certificate authority of the cluster."),
        "destroy": ("apply", "destroy_command", "Remove from Vault what apply made."),
        "policy": ("policy", "policy_command", "Print the Vault policy for those who run these commands."),
        "template": ("template", "template_command", "Print a unit, a recipe, the alerts or the dashboard."),
    },
    "Nodes": {
        "enroll": ("enroll", "enroll_command", "Give a node its identity: a single-use join file."),
        "admit": ("admit", "admit_command", "Let control planes with new service-account keys start."),
        "lock": ("enroll", "lock_command", "End every credential of a node at once; the node stays."),
        "unlock": ("enroll", "unlock_command", "Let a locked node that joins by token log in again."),
        "unenroll": ("enroll", "unenroll_command", "Take a node's identity away."),
        "revoke": ("revoke", "revoke_command", "Put a node's certificates on the CRLs of their CAs."),
        "csr": ("csr", "csr_command", "Say what the signer makes of a certificate request."),
        "nodes": ("nodes", "nodes_command", "Show the state of every node, what needs attention first."),
    },
    "CAs": {
        "ca": ("ca", "ca_command", "Show and rotate the CAs of the cluster, step by step."),
        "issue": ("issue", "issue_command", "Issue an operator's certificate, kubeconfig and manifests."),
        "kubeadm": ("kubeadm", "kubeadm_command", "Prepare nodes for kubeadm, with Vault as the CA."),
        "move": ("move", "move_command", "Move the cluster to another server, without an outage."),
        "adopt": ("adopt", "adopt_command", "Take over a live kubeadm cluster step by step, reversibly."),
    },
    "On a node": {
        "join": ("join", "join_command", "Join the cluster by a join file."),
        "agent": ("agent", "agent_command", "Issue, install and renew the node's certificates."),
        "signer": ("signer", "signer_command", "Have approved certificate requests signed by Vault."),
        "doctor": ("doctor", "doctor_command", "Find what is wrong, and what to do; changes nothing."),
        "status": ("status", "status_command", "Show certificates, when they expire, what is wrong."),
        "renew": ("status", "renew_command", "Renew certificates now, even if not due."),
    },
    "See and check": {
        "show": ("show", "show_command", "Show one certificate: names, dates, key, where it is used."),
        "verify": ("verify", "verify_command", "Check files, and make handshakes, allowed and forbidden."),
        "graph": ("graph", "graph_command", "Draw who logs in to whom, with which certificate."),
        "report": ("report", "report_command", "Write one page about all certificates, CAs and checks."),
    },
}
_COMMANDS: Final = {name: command for group in _GROUPS.values() for name, command in group.items()}
# They work for one release, and are shown and offered nowhere.
_OLD: Final = {"pull": ("pull", "pull_command", "")}


# What a command that changes something says after Ctrl-C; all of them can be killed at any point.
_GOES_ON: Final = "Run the same command again to finish."
_RUN_AGAIN: Final = {
    **dict.fromkeys(("apply", "destroy", "lock", "unlock", "unenroll", "revoke", "issue", "admit"), _GOES_ON),
    "apply": f"{_GOES_ON} After `apply FILE` save a new plan first.",
    # A second `ca rotate` would be refused.
    "ca": "See what comes next: `vaultpki ca status`",
    "move": _GOES_ON,
    "enroll": f"{_GOES_ON} A node that has a live credential by now needs `--replace`.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = _COMMANDS.get(cmd_name) or _OLD.get(cmd_name)
        if found is None:
            return None
        from importlib import import_module

        module, attribute, _ = found
        command: click.Command = getattr(import_module(f"vaultpki.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Each section would have a column of its own.
        width = max(map(len, _COMMANDS))
        for heading, commands in _GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), text) for name, (_, _, text) in commands.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    *("-V", "--version"),
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, asked: _print_version(context) if asked else None,
    help="Show the version and exit.",
)
def vaultpki() -> None:
    """Issue, install and renew every certificate of a Kubernetes cluster, with Vault or OpenBao as the CA.

    \b
    Example:
      vaultpki demo                     run an example on this machine
      vaultpki init                     write cluster.yaml
      vaultpki plan                     show the changes in Vault
      vaultpki apply                    make them
    """


def _print_version(context: click.Context) -> None:
    if not context.resilient_parsing:
        from vaultpki.cli.version import text

        click.echo(text())
        context.exit()


def main() -> None:
    """Run a command and exit with its code; an error is reported in one sentence."""
    # A command keeps what it loads; a collection for every 700 new objects takes a tenth of its time.
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
                f"vaultpki: standard output cannot be written ({reason}); the work is done, only its output is lost: "
                "redirect it elsewhere",
                err=True,
            )
            code = code or 1
        sys.stderr.flush()
    except OSError:
        code = code or 1
    # Skip the interpreter's shutdown: a thread that waits for a server inside OpenSSL would crash in it. Every block
    # that must clean up has done so by now.
    os._exit(code)


def _run() -> int:
    try:
        # https://no-color.org: a value that is not empty. click does not know it.
        color = False if os.environ.get("NO_COLOR") else None
        code = vaultpki.main(prog_name="vaultpki", standalone_mode=False, color=color)
    except click.exceptions.Abort:
        return _interrupted()
    except click.UsageError as error:
        from vaultpki.cli import usage

        click.echo(usage.sentence(error), err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except VaultpkiError as error:
        from vaultpki.redact import printable

        # Errors may quote a server or a file; only here do they reach a terminal.
        click.echo(f"vaultpki: {printable(str(error))}", err=True)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output has closed it.
        return 1
    except Exception as error:  # noqa: BLE001 - the last handler; reported, and exit 1
        # Ctrl-C at the wrong moment in threading's Condition.wait makes it release a lock that it does not hold.
        if isinstance(error, RuntimeError) and isinstance(error.__context__, KeyboardInterrupt):
            return _interrupted()
        click.echo(f"vaultpki: {fault(error)}", err=True)
        return 1
    return code if isinstance(code, int) else 0


def _interrupted() -> int:
    """Say what Ctrl-C has ended, and what to do; return the exit code."""
    # The group itself has no option with a value.
    command, *rest = [word for word in sys.argv[1:] if not word.startswith("-")] or [""]
    more = _RUN_AGAIN.get(command) if (command, *rest[:1]) != ("ca", "status") else None
    click.echo(f"vaultpki: interrupted{f'. {more}' if more else ''}", err=True)
    return 130


def _leave_no_core() -> None:
    """Forbid core dumps and reads by other processes of this user: tokens and keys are in memory."""
    from ctypes import CDLL

    # PR_SET_DUMPABLE (4), prctl(2). Not RLIMIT_CORE: hooks would inherit it, and a core that is piped to a program
    # ignores it (core(5), core_pattern).
    CDLL(None).prctl(4, 0, 0, 0, 0)
