"""`python hvac_peer.py STEPS [THREADS]`: the file's requests by hvac, phase after phase, a client for each thread."""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hvac

_TRIES = 5


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as stream:
        phases = json.load(stream)
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    own = threading.local()
    answers: dict[int, dict[str, Any]] = {}

    def send(step: list[Any]) -> None:
        number, method, path, body, takes, token = step
        if not hasattr(own, "client"):
            own.client = hvac.Client(
                os.environ["VAULT_ADDR"], os.environ["VAULT_TOKEN"], verify=os.environ["VAULT_CACERT"]
            )
        if takes:
            field, giver = takes
            body[field] = answers[giver]["data"][field]
        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
        own.client.token = token or os.environ["VAULT_TOKEN"]
        answer = None
        # OpenBao turns some of many requests at once down, even reads: "transaction commit failed".
        for left in reversed(range(_TRIES)):
            try:
                answer = own.client.adapter.request(method.lower(), f"/v1/{path}", headers=headers, json=body or None)
                break
            except hvac.exceptions.InvalidPath:
                break
            except hvac.exceptions.InternalServerError:
                if not left:
                    raise
        # A write without content comes back as a Response object.
        answers[number] = answer if isinstance(answer, dict) else {}

    with ThreadPoolExecutor(threads) as pool:
        for phase in phases:
            for _ in map(send, phase) if len(phase) == 1 else pool.map(send, phase):
                pass


if __name__ == "__main__":
    main()
