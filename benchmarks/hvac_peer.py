"""`python hvac_peer.py STEPS`: the requests in the file, one after the other, with one hvac client."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import hvac


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as stream:
        steps = json.load(stream)
    client = hvac.Client(os.environ["VAULT_ADDR"], os.environ["VAULT_TOKEN"], verify=os.environ["VAULT_CACERT"])
    answers: list[dict[str, Any]] = []
    for method, path, body, takes in steps:
        if takes:
            field, giver = takes
            body[field] = answers[giver]["data"][field]
        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else None
        try:
            answer = client.adapter.request(method.lower(), f"/v1/{path}", headers=headers, json=body or None)
        except hvac.exceptions.InvalidPath:
            answer = None
        # A write without content comes back as a Response object.
        answers.append(answer if isinstance(answer, dict) else {})


if __name__ == "__main__":
    main()
