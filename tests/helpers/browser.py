"""Chromium without a window, driven over a pipe by its DevTools protocol: what a page shows, says, and does on keys."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

_KEYS: Final = {"Tab": 9, "Enter": 13, "Escape": 27, "Space": 32, "ArrowRight": 39}

Scheme = Literal["light", "dark"]


class Page:
    """One page. `messages` are what its console and the browser's own log have said, errors of scripts included."""

    def __init__(self, to: int, answers: int) -> None:
        self._to, self._answers = to, answers
        self._number = 0
        self._rest = b""
        self._session = ""
        self._loads = 0
        self.messages: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, file: Path, *, scheme: Scheme = "light", width: int = 1280, height: int = 900) -> None:
        """Load a file, and wait until it is loaded."""
        self.look(scheme=scheme, width=width, height=height)
        self.messages.clear()
        self.requests.clear()
        loads = self._loads
        self._call("Page.navigate", url=file.as_uri())
        while self._loads == loads:
            self._read()

    def look(self, *, scheme: Scheme = "light", width: int = 1280, height: int = 900) -> None:
        """Change the size of the window, and whether the reader's system is light or dark."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def run_scripts(self, yes: bool) -> None:
        """Decide whether pages that are opened from now on may run scripts; `value` may at any time."""
        self._call("Emulation.setScriptExecutionDisabled", value=not yes)

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the page, after waiting for a promise."""
        done = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == "Space" else {}
        named = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        self._call("Input.dispatchKeyEvent", type="keyDown", **named, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", **named)

    def write(self, text: str) -> None:
        """Write a text where the focus is."""
        self._call("Input.insertText", text=text)

    def picture(self, form: str = "png", *, whole: bool = False) -> bytes:
        """Return a picture of the window, or of the whole page."""
        quality = {"quality": 80} if form != "png" else {}
        done = self._call("Page.captureScreenshot", format=form, captureBeyondViewport=whole, **quality)
        return base64.b64decode(done["data"])

    def printed(self) -> bytes:
        """Return the page as PDF."""
        done = self._call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        return base64.b64decode(done["data"])

    def print_media(self, yes: bool) -> None:
        """Show the page as it is printed, or as on a screen."""
        self._call("Emulation.setEmulatedMedia", media="print" if yes else "")

    def _call(self, method: str, **parameters: object) -> Any:
        self._number += 1
        wanted = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            wanted["sessionId"] = self._session
        data = json.dumps(wanted).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._answers, 1 << 20)
            assert more, "Chromium has ended"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        happened, what = message.get("method"), message.get("params", {})
        if happened == "Page.loadEventFired":
            self._loads += 1
        elif happened == "Runtime.consoleAPICalled":
            self.messages.append(json.dumps(what["args"]))
        elif happened == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(what["exceptionDetails"]))
        elif happened == "Log.entryAdded":
            self.messages.append(what["entry"]["text"])
        elif happened == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        return message


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Chromium with a profile of its own in a folder; it ends with the block."""
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    command = [
        "chromium",
        "--headless",
        # Chromium's own sandbox refuses to run as root.
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder}/profile",
        "--remote-debugging-pipe",
    ]
    # Chromium reads from 3 and writes to 4.
    shell = f'exec 3<&{their_in} 4>&{their_out}; exec "$@"'
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command], pass_fds=(their_in, their_out), stdout=log, stderr=log
        )
    os.close(their_in)
    os.close(their_out)
    try:
        yield Page(our_out, our_in)
    finally:
        os.close(our_out)
        os.close(our_in)
        process.terminate()
        process.wait(timeout=30)
