"""A real headless Chromium, driven over its debugging pipe: files, keys, pointers, and what it complains of.

    with Browser(folder) as browser, browser.open(path, width=360) as page:
        page.click("#next")
        assert page.js("document.title") == "…"
        assert page.complaints == [] and page.requests == [path.as_uri()]

`scripts/test-tools` installs Chromium.
"""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
PATIENCE_S = 30.0
"""How long anything may take before a test gives up on it."""
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--hide-scrollbars",
    "--lang=en",
)
Json = dict[str, Any]


class Browser:
    """One Chromium with a profile of its own in `folder`."""

    def __init__(self, folder: Path) -> None:
        program = next((found for name in NAMES if (found := shutil.which(name))), None)
        assert program, "The tests need Chromium: scripts/test-tools installs it."
        read, self._to = map(_moved, os.pipe())
        self._from, write = map(_moved, os.pipe())
        command = [program, *FLAGS, f"--user-data-dir={folder}"]
        if os.getuid() == 0:
            command.append("--no-sandbox")  # it refuses to start as root otherwise
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "bash", *command],
            pass_fds=(read, write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder)},
        )
        os.close(read)
        os.close(write)
        self._received = bytearray()
        self._numbers = itertools.count(1)
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.send("Browser.close")
        os.close(self._to)
        os.close(self._from)
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @contextlib.contextmanager
    def open(
        self, path: Path, *, width: int = 1200, height: int = 900, dark: bool = False
    ) -> "Iterator[Page]":
        """A page that has loaded `path`; narrow ones are phones, with a finger for a pointer."""
        target = self.send("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session)
        try:
            page.load(path, width=width, height=height, dark=dark)
            yield page
        finally:
            del self._pages[session]
            self.send("Target.closeTarget", {"targetId": target})

    def send(self, method: str, params: Json | None = None, session: str = "") -> Json:
        """Send a command and wait for its result; what is told meanwhile is kept with its page."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params or {}}
        data = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            told = self.receive()
            if told.get("id") == number:
                assert "error" not in told, f"{method}: {told['error']}"
                result: Json = told["result"]
                return result

    def receive(self) -> Json:
        """The next message; an event is handed to its page too."""
        deadline = time.monotonic() + PATIENCE_S
        while (end := self._received.find(0)) < 0:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._from, 1 << 20) if ready else b""
            assert data, "Chromium says nothing any more"
            self._received += data
        told: Json = json.loads(self._received[:end])
        del self._received[: end + 1]
        if page := self._pages.get(told.get("sessionId", "")):
            page.hear(told)
        return told


def _moved(fd: int) -> int:
    """Another number for a descriptor: the browser listens on 3 and talks on 4, so ours must not be those."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    return moved


class Page:
    """One tab. `complaints` are errors and warnings, `requests` every address that was asked for."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._loaded = False
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def send(self, method: str, **params: Any) -> Json:
        return self._browser.send(method, params, self._session)

    def hear(self, told: Json) -> None:
        params = told.get("params", {})
        match told.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" | "Log.entryAdded":
                self.complaints.append(json.dumps(params))

    def load(self, path: Path, *, width: int, height: int, dark: bool) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.resize(width, height)
        self.prefer("dark" if dark else "light")
        self.send("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._browser.receive()

    def resize(self, width: int, height: int) -> None:
        phone = width < 600
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=phone)

    def prefer(self, scheme: str, *, media: str = "") -> None:
        """What the reader's system prefers: `light` or `dark`; `media` is `print` or empty."""
        self.send(
            "Emulation.setEmulatedMedia",
            media=media,
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def js(self, expression: str) -> Any:
        """What an expression gives, once its promise, if it is one, is kept."""
        result = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.js(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        """Press and release the pointer in the middle of an element."""
        box = self.js(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)});"
            "found.scrollIntoView({block: 'center'}); const box = found.getBoundingClientRect();"
            "return [box.left + box.width / 2, box.top + box.height / 2]; })()"
        )
        self.click_at(*box)

    def click_at(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key by its name: `Tab`, `Enter`, `ArrowRight`, `/`."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowRight": 39}
        text = {"Enter": "\r", " ": " "}.get(key, key if len(key) == 1 else "")
        common: Json = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0), "modifiers": 8 * shift}
        self.send("Input.dispatchKeyEvent", type="keyDown", **({"text": text} if text else {}), **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def text(self, selector: str) -> str:
        """What a reader sees of an element."""
        text: str = self.js(f"document.querySelector({json.dumps(selector)}).innerText")
        return text

    def screenshot(self, path: Path) -> None:
        """What is in sight, as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))
