"""A connection that is reset before its handshake leaves no socket open."""

from __future__ import annotations

import gc
import socket
import ssl
import struct
import warnings

import pytest
import trustme

from helpers.closing_tls import ClosingSocket

RESET_AT_CLOSE = struct.pack("ii", 1, 0)


def test_a_reset_before_the_handshake() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = ClosingSocket
    trustme.CA().issue_cert("node").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        client.close()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with accepted, pytest.raises(ConnectionResetError):
                context.wrap_socket(accepted, server_side=True)
            gc.collect()
    assert told == []


def test_a_socket_that_listens_stays_open() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = ClosingSocket
    with context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True) as listening:
        assert listening.fileno() >= 0
