"""TLS sockets that close themselves when the other side goes before the handshake begins."""

from __future__ import annotations

import errno
import ssl

# What a socket says that is not connected, such as one that listens: `ssl` goes on with it.
_NOT_CONNECTED = (errno.ENOTCONN, errno.EINVAL)


class ClosingSocket(ssl.SSLSocket):
    """For `SSLContext.sslsocket_class`.

    Where the other side has reset the connection by then, `wrap_socket` reads from it, raises, and would leave open
    what nobody else can close.
    """

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except OSError as error:
            if self.version() is None and error.errno not in _NOT_CONNECTED:
                self.close()
            raise
