"""A headless Chromium for tests, driven over a pipe by its DevTools protocol: no port, no package.

https://chromedevtools.github.io/devtools-protocol/ names the methods and events.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
WAITED_SECONDS = 60.0
SIZES = {"wide": (1280, 900), "phone": (390, 844)}


class PageLeft(Exception):
    """The page navigated while it was asked something."""

    MESSAGE = "Inspected target navigated or closed"


class Browser:
    """One browser with one page. Ends with the block."""

    def __init__(self, folder: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        theirs_in, theirs_out = _out_of_the_way(theirs_in), _out_of_the_way(theirs_out)
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
        command = [str(CHROMIUM), *flags, "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]

        def give() -> None:
            os.dup2(theirs_in, 3)
            os.dup2(theirs_out, 4)

        self._process = subprocess.Popen(
            command, close_fds=False, preexec_fn=give, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = os.fdopen(ours_in, "rb", buffering=0), os.fdopen(ours_out, "wb", buffering=0)
        self._left = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()
        self._process.terminate()
        self._process.wait(10)
        self._in.close()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and wait for its answer; events meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                if found.get("error", {}).get("message") == PageLeft.MESSAGE:
                    raise PageLeft(method)
                assert "error" not in found, found
                return found.get("result", {})
            if "method" in found:
                self.events.append(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            read = self._in.read(2**16)
            assert read, "the browser has ended"
            self._left += read
        message, self._left = self._left.split(b"\0", 1)
        return json.loads(message)

    def size(self, name: str) -> None:
        """As wide as a desk's window, or as a phone."""
        width, height = SIZES[name]
        is_phone = name == "phone"
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)

    def go(self, url: str) -> None:
        """Open an address."""
        self.send("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript; what it promises is waited for."""
        found = self._evaluate(script)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def _evaluate(self, script: str) -> dict[str, Any]:
        return self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)

    def _value(self, script: str) -> Any:
        """Of an expression that may throw, or be asked of a page that is just being left: then None."""
        try:
            return self._evaluate(script)["result"].get("value")
        except PageLeft:
            return None

    def wait(self, script: str) -> Any:
        """The value of an expression, once it is one that counts."""
        ends = time.monotonic() + WAITED_SECONDS
        while time.monotonic() < ends:
            found = self._value(script)
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"never came: {script}\n{self.run('document.body.innerText')}")

    def press(self, key: str) -> None:
        """One key, down and up."""
        text = {"text": key} if len(key) == 1 else {}
        known = {"Enter": {"text": "\r", "windowsVirtualKeyCode": 13}, "Escape": {"windowsVirtualKeyCode": 27}}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **known.get(key, {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def type(self, text: str) -> None:
        """A text into what has the focus."""
        self.send("Input.insertText", text=text)

    def picture(self, path: Path) -> None:
        """What is seen now, as a PNG."""
        found = self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    def asked(self) -> list[str]:
        """Every address that was asked for."""
        sent = [
            one["params"]["request"]["url"] for one in self.events if one["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith(("data:", "about:"))]

    def complaints(self) -> list[str]:
        """What the browser said of scripts that failed, were refused, or opened a window."""
        said = []
        for one in self.events:
            if one["method"] in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening"):
                said.append(json.dumps(one["params"]))
            elif one["method"] == "Log.entryAdded" and one["params"]["entry"]["level"] == "error":
                said.append(one["params"]["entry"]["text"])
        return said


def _out_of_the_way(descriptor: int) -> int:
    """The same pipe under a number that is neither 3 nor 4, which the browser reads and writes."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved
