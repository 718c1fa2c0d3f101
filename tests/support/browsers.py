"""A Chromium without a screen, driven by its DevTools protocol: windows that see pages as people do."""

import asyncio
import base64
import itertools
import json
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from support.waiting import until

_SECONDS = 30.0
_ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--remote-debugging-port=0", "--hide-scrollbars",
    # A window that is behind another is as much awake.
    "--disable-renderer-backgrounding", "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows", "about:blank",
)  # fmt: skip


class BrowserError(Exception):
    """What the browser could not do, in its words."""


@dataclass
class Browser:
    """A running Chromium."""

    socket: ClientConnection
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _answers: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    _faults: dict[str, list[str]] = field(default_factory=dict)

    async def window(self, address: str, width: int = 1280, height: int = 800) -> "Window":
        """A new window that has loaded a page."""
        made = await self.call("Target.createTarget", url="about:blank", newWindow=True)
        attached = await self.call("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        window = Window(self, attached["sessionId"], made["targetId"])
        window.faults = self._faults[window.session] = []
        await window.call("Runtime.enable")
        await window.call("Log.enable")
        await window.resize(width, height)
        await window.call("Page.navigate", url=address)
        return window

    async def call(self, method: str, *, session: str | None = None, **parameters: Any) -> Any:
        """Call a method of the protocol; what it returns."""
        number = next(self._numbers)
        self._answers[number] = answer = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self.socket.send(json.dumps(message | ({} if session is None else {"sessionId": session})))
        return await asyncio.wait_for(answer, _SECONDS)

    async def listen(self) -> None:
        """Take what the browser says, until it ends."""
        async for text in self.socket:
            message = json.loads(text)
            if "id" in message:
                answer = self._answers.pop(message["id"])
                if "error" in message:
                    answer.set_exception(BrowserError(message["error"]["message"]))
                else:
                    answer.set_result(message["result"])
            elif (fault := _fault(message)) is not None:
                self._faults[message["sessionId"]].append(fault)


@dataclass
class Window:
    """One window. ``faults`` are the errors and warnings that its page has caused."""

    browser: Browser
    session: str
    target: str
    faults: list[str] = field(default_factory=list)
    closed: bool = False

    async def call(self, method: str, **parameters: Any) -> Any:
        return await self.browser.call(method, session=self.session, **parameters)

    async def resize(self, width: int, height: int) -> None:
        """In CSS pixels, as a phone where it is narrow."""
        mobile = width < 600
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if mobile else 1, mobile=mobile,
        )  # fmt: skip

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, awaited."""
        done = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, (expression, done["exceptionDetails"])
        return done["result"].get("value")

    async def sees(self, text: str, where: str = "body") -> None:
        """Wait until an element shows a text."""
        shown = f"document.querySelector({json.dumps(where)})?.innerText"
        await self.until(f"({shown} ?? '').includes({json.dumps(text)})")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true."""

        async def true() -> bool:
            try:
                return bool(await self.evaluate(expression))
            except BrowserError:  # the page is on its way
                return False

        try:
            await until(true, _SECONDS)
        except TimeoutError:
            said = await self.evaluate("document.body.innerText")
            raise AssertionError(f"Never {expression}. It said: {said!r}; {self.faults}") from None

    async def text(self, where: str) -> str:
        """What an element shows."""
        return str(await self.evaluate(f"document.querySelector({json.dumps(where)}).innerText"))

    async def type(self, where: str, text: str, *, enter: bool = True) -> None:
        """Type into a field, in place of what it holds."""
        await self.evaluate(
            f"(field => {{ field.focus(); field.select() }})(document.querySelector({json.dumps(where)}))"
        )
        await self.call("Input.insertText", text=text)
        if enter:
            await self.press("Enter", "\r")

    async def press(self, key: str, text: str = "") -> None:
        """Press a key and let it go."""
        code = {"Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}[key]
        down: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **down, **({"text": text} if text else {}))
        await self.call("Input.dispatchKeyEvent", type="keyUp", **down)

    async def point(self, x: float, y: float) -> None:
        """Move the mouse to a place of the window, in CSS pixels."""
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def cut(self) -> None:
        """Close the page's sockets behind its back."""
        kind = await self.call("Runtime.evaluate", expression="WebSocket.prototype")
        found = await self.call("Runtime.queryObjects", prototypeObjectId=kind["result"]["objectId"])
        await self.call(
            "Runtime.callFunctionOn",
            objectId=found["objects"]["objectId"],
            functionDeclaration="function () { for (const socket of this) socket.close() }",
        )

    async def screenshot(self) -> bytes:
        """A picture of the window, as PNG."""
        taken = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(taken["data"])

    async def close(self) -> None:
        """Close it, as people do. Nothing where it is closed."""
        if not self.closed:
            self.closed = True
            await self.browser.call("Target.closeTarget", targetId=self.target)


#: What opens a window: see the fixture ``look`` of the examples.
Look = Callable[..., Awaitable[Window]]


@asynccontextmanager
async def chromium(home: Path) -> AsyncIterator[Browser]:
    """A browser, while the context is open. The test is skipped where no Chromium is installed."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    process = await asyncio.create_subprocess_exec(
        program, *_ARGUMENTS, f"--user-data-dir={home}", stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
    )
    assert process.stderr is not None
    try:
        said = await asyncio.wait_for(process.stderr.readuntil(b"DevTools listening on "), _SECONDS)
        address = (await process.stderr.readline()).decode().strip()
        assert address.startswith("ws://"), said
        # What it goes on to say is of its own matters, and must not fill the pipe.
        draining = asyncio.create_task(process.stderr.read())
        async with connect(address, max_size=None, ping_interval=None, proxy=None) as socket:
            browser = Browser(socket)
            listening = asyncio.create_task(browser.listen())
            yield browser
            await browser.call("Browser.close")
        await asyncio.wait_for(asyncio.gather(listening, draining, process.wait()), _SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _fault(message: dict[str, Any]) -> str | None:
    """An error or a warning of a page, of a message of the browser's."""
    said = message["params"]
    match message["method"]:
        case "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            return str(details.get("exception", {}).get("description", details["text"]))
        case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning"):
            return " ".join(str(one.get("value", one.get("description"))) for one in said["args"])
        case "Log.entryAdded" if said["entry"]["level"] in ("error", "warning"):
            return f"{said['entry']['text']} {said['entry'].get('url', '')}"
    return None
