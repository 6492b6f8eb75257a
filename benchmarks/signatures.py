"""`python signatures.py FILE PROCESSES`: ready requests on kept connections, and how long they took in seconds.

FILE has the server's host and port, its CA file, and the requests: token, method, path and body of each. It is the most
that a server signs: nothing is made, checked or kept here.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import ssl
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path


def _send(host: str, port: int, ca_file: str, requests: list[tuple[str, str, str, str]], ready: Barrier) -> None:
    connection = http.client.HTTPSConnection(host, port, context=ssl.create_default_context(cafile=ca_file))
    connection.connect()
    ready.wait()
    for token, method, path, body in requests:
        connection.request(method, f"/v1/{path}", body or None, {"X-Vault-Token": token})
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.HTTPStatus.OK:
            sys.exit(f"{path} answered {response.status}: {answer[:300]!r}")
    ready.wait()


def main(file: Path, processes: int) -> None:
    told = json.loads(file.read_text(encoding="utf-8"))
    every = told["requests"]
    ready = multiprocessing.Barrier(processes + 1)
    shares = (every[first::processes] for first in range(processes))
    running = [
        multiprocessing.Process(target=_send, args=(told["host"], told["port"], told["ca_file"], share, ready))
        for share in shares
    ]
    for each in running:
        each.start()
    ready.wait()
    begin = time.perf_counter()
    ready.wait()
    print(time.perf_counter() - begin)
    for each in running:
        each.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
