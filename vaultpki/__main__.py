"""`python -m vaultpki`."""

from vaultpki.cli import main

main()
