"""The machine that an agent runs on: hooks and the commands they run, static pods, systemd, metrics and the log.

It imports the plain modules, `spec` and `disk`, and never talks to Vault. Entry: `hook_runner.Runner`.
"""
