"""The machine that an agent runs on: hooks and the commands they run, static pods, components, systemd and the log.

It never talks to Vault. Entry: `hook_runner.Runner`.
"""
