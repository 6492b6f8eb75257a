"""Makes standard input, output and error usable, however the command was started."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


class Output(io.FileIO):
    """A file that ignores failed writes, so that the work goes on; `failure` is the first one."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            # The reader has closed it, and wants no more work either.
            raise
        except OSError as error:
            self.failure = self.failure or error
            return memoryview(data).nbytes


def prepare() -> Output:
    """Replace the standard streams by ones that always exist and ignore failed writes; return that below stdout.

    Python has None for a stream that was closed at the start (`>&-`), and the first socket would get its descriptor.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    output, sys.stdout = _through(sys.stdout)
    _, sys.stderr = _through(sys.stderr)
    return output


def _through(stream: TextIO | None) -> tuple[Output, TextIO]:
    if stream is None:
        output = Output(os.open(os.devnull, os.O_WRONLY), "wb")
        return output, io.TextIOWrapper(io.BufferedWriter(output), encoding="utf-8")
    output = Output(stream.fileno(), "wb", closefd=False)
    text = io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=bool(stream.line_buffering),
    )
    return output, text
