"""A headless Chromium, told what to do by its DevTools protocol over pipes."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage")
_WAIT_SECONDS = 60.0


def find_browser() -> str | None:
    """The program, or None where none of NAMES is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A page in the browser."""

    def __init__(self, write_end: int, read_end: int) -> None:
        self._write_end, self._read_end = write_end, read_end
        self._read, self._number = b"", 0
        self._session: str | None = None
        self.complaints: list[str] = []
        """Errors of scripts, refused content, and what the console says of either."""
        self.requests: list[str] = []
        """What the page has loaded, itself included."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Show a file and wait until it is loaded."""
        self.complaints.clear()
        self.requests.clear()
        media = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[media])
        self.resize(width, height)
        self.send("Page.navigate", url=path.absolute().as_uri())
        self._wait_for("Page.loadEventFired")

    def resize(self, width: int, height: int) -> None:
        """Lay the page out for a screen of this size, and wait until it is drawn."""
        size: dict[str, Any] = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def value(self, expression: str) -> Any:
        """What the expression is in the page, or what its promise gives. Raises RuntimeError if it throws."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key; a character other than a blank is named by itself."""
        text = {" ": " ", "Enter": "\r"}.get(key)
        code = {
            "Tab": 9,
            " ": 32,
            "Enter": 13,
            "ArrowLeft": 37,
            "ArrowRight": 39,
            "ArrowUp": 38,
            "ArrowDown": 40,
        }
        event: dict[str, Any] = dict(
            key=key, code="Space" if key == " " else key, modifiers=8 if shift else 0
        )
        event |= dict(windowsVirtualKeyCode=code.get(key, 0)) | (dict(text=text) if text else {})
        self.send("Input.dispatchKeyEvent", type="keyDown", **event)
        self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol. Raises RuntimeError where the browser refuses or says nothing."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write_end, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
        raise AssertionError("messages end by an exception")

    def _wait_for(self, event: str) -> None:
        next(message for message in self._messages() if message.get("method") == event)

    def _messages(self) -> Iterator[dict[str, Any]]:
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            while b"\0" not in self._read:
                ready, _, _ = select.select([self._read_end], [], [], max(0.0, deadline - time.monotonic()))
                got = os.read(self._read_end, 1 << 16) if ready else b""
                if not got:
                    raise RuntimeError(f"the browser said nothing for {_WAIT_SECONDS:.0f} s, or has ended")
                self._read += got
            line, _, self._read = self._read.partition(b"\0")
            message = json.loads(line)
            self._note(message)
            yield message

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(parameters["exceptionDetails"]))
            case "Log.entryAdded":
                self.complaints.append(parameters["entry"]["text"])
            case "Runtime.consoleAPICalled":
                self.complaints.append(json.dumps(parameters["args"]))
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])


@contextmanager
def open_browser() -> Iterator[Page]:
    """A browser with an empty page and a profile of its own, for as long as the context lasts."""
    program = find_browser()
    assert program is not None, f"none of {', '.join(NAMES)} is installed"
    its_read, our_write = os.pipe()
    our_read, its_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="flaxmill-browser-", ignore_cleanup_errors=True) as profile:
        flags = [*_FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        # The protocol's pipes are 3 and 4, whatever their numbers are here.
        shell = f'exec "$0" "$@" 3<&{its_read} 4>&{its_write}'
        process = subprocess.Popen(
            ["bash", "-c", shell, program, *flags, "about:blank"],
            pass_fds=(its_read, its_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(its_read)
        os.close(its_write)
        try:
            page = Page(our_write, our_read)
            yield page
            page._session = None
            with suppress(RuntimeError):
                page.send("Browser.close")
            process.wait(timeout=_WAIT_SECONDS)
        finally:
            process.kill()
            process.wait()
            os.close(our_write)
            os.close(our_read)
