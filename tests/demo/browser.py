"""Headless Chromium over its DevTools pipe: no driver, no package, and every request that a page makes is seen."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # CI runs as root in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Browser:
    """One page in one browser; `with` ends the process.

    Args:
        profile: an empty folder for the browser's files.
        size: of the window, in pixels.
        dark: whether the page is told that its reader prefers dark colours.
    """

    def __init__(self, profile: Path, size: tuple[int, int] = (1280, 860), dark: bool = False) -> None:
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        window = f"--window-size={size[0]},{size[1]}"
        command = [str(CHROMIUM), *FLAGS, window, f"--user-data-dir={profile}", "about:blank"]
        # The pipe's ends are file descriptors 3 and 4 of the browser. They may bear these numbers here already, so both
        # are moved out of the way first.
        moves = [(os.POSIX_SPAWN_DUP2, commands, 100), (os.POSIX_SPAWN_DUP2, answers, 101)]
        moves += [(os.POSIX_SPAWN_DUP2, 100, 3), (os.POSIX_SPAWN_DUP2, 101, 4)]
        log = os.open(profile / "chromium.log", os.O_WRONLY | os.O_CREAT)
        moves += [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        self._process = os.posix_spawn(str(CHROMIUM), command, os.environ, file_actions=moves)
        for end in (commands, answers, log):
            os.close(end)
        self._buffer, self._number, self._session = b"", 0, None
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        (page,) = (one for one in self._call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "DOM"):
            self._call(f"{domain}.enable")
        self._call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        self._call("Browser.close")
        os.waitpid(self._process, 0)
        os.close(self._read)
        os.close(self._write)

    def open(self, url: str) -> None:
        """Load an address; returns before everything is loaded."""
        self._call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The JSON value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Return the first true value of a JavaScript expression; for an element, ask for one of its properties.

        Raises:
            AssertionError: if the expression stays false; the error has the text of the page.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.evaluate(script):
                return value
            time.sleep(0.1)
        raise AssertionError(f"{script}: not within {seconds:g} s; the page: {self.text()[:2000]}")

    def text(self) -> str:
        """Return the text that a reader sees."""
        return self.evaluate("document.body.innerText")

    def click(self, selector: str) -> None:
        """Click in the middle of an element."""
        x, y = self.wait(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            " e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Replace the content of a field by typing, and leave the field."""
        self.click(selector)
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self._call("Input.insertText", text=text)
        self.evaluate(f"document.querySelector({json.dumps(selector)}).blur()")

    def upload(self, selector: str, path: Path) -> None:
        """Choose a file."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 16)
            if not part:
                raise AssertionError("the browser ended")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer = json.loads(message)
        if answer.get("method") == "Network.requestWillBeSent":
            self.requests.append(answer["params"]["request"]["url"])
        if answer.get("method") == "Page.javascriptDialogOpening":
            self.dialogs.append(answer["params"]["message"])
        return answer
