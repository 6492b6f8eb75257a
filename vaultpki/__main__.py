"""`python -m vaultpki`, and the command `vaultpki`."""


def main() -> None:
    """Run a command; see `vaultpki.cli.main`."""
    from vaultpki.host import first_process

    # Before anything that takes time to load.
    first_process.prepare()

    from vaultpki.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
