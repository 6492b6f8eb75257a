"""A client that knows the API server by a CA file alone, which it reads when it starts, as Python's libraries do.

Run as a script: CA_FILE TOKEN_FILE SERVERS_FILE. Each request is a new handshake with the next of the servers, which
are a JSON list of addresses and ports. It prints a JSON object for each request.
"""

import contextlib
import http.client
import itertools
import json
import ssl
import sys
import time

PAUSE = 0.5


def ask(context: ssl.SSLContext, address: str, port: int, token: str) -> str:
    """Return what went wrong, or nothing."""
    with contextlib.closing(http.client.HTTPSConnection(address, port, timeout=20, context=context)) as connection:
        connection.request("GET", "/api", headers={"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        body = response.read().decode()
    return "" if response.status == 200 else f"{response.status} {body[:300]}"


def main(ca_file: str, token_file: str, servers_file: str) -> None:
    context = ssl.create_default_context(cafile=ca_file)
    for number in itertools.count():
        at = time.time()
        try:
            with open(servers_file) as servers, open(token_file) as token:
                known = json.load(servers)
                address, port = known[number % len(known)]
                error = ask(context, address, port, token.read())
        except (OSError, http.client.HTTPException, ValueError) as problem:
            error = f"{type(problem).__name__}: {problem}"
        print(json.dumps({"at": at, "error": error}), flush=True)
        time.sleep(PAUSE)


if __name__ == "__main__":
    main(*sys.argv[1:])
