"""Many WebSocket clients in one thread, which count what they hear and do no more.

They wait by epoll, read what is there, and look for a mark in each frame: about as little as Python can do,
so that the server is what is measured. The checks that a client owes a server are not made.
"""

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.machine import token

TOPIC: Final = "realtime:room"
_SMALL: Final = 126
_READ: Final = 65536
_PING, _PONG = 0x89, b"\x8a"
#: Engine.IO's own pings, of Socket.IO.
_ENGINE_PING, _ENGINE_PONG = b"2", b"3"
_CONNECT_SECONDS: Final = 30.0
_PATIENCE: Final = 30.0
_PAUSE: Final = 0.02


@dataclass(frozen=True, slots=True)
class Speech:
    """How a server is spoken to.

    ``target`` is that of the request, ``greeting`` the first frame's text, if any; who has heard ``welcome``
    is there. ``message`` is what is sent, and ``mark`` a part of each frame that brings it.
    """

    target: str
    message: str
    mark: bytes
    greeting: str = ""
    welcome: bytes = b""


def speech_of_rowcast(payload: str, mark: bytes) -> Speech:
    """How Rowcast is: all are in one room, and do not hear themselves. ``payload`` is a JSON object."""
    return Speech(
        target=f"/realtime/v1/websocket?apikey={token()}&vsn=2.0.0",
        message=f'["1",null,"{TOPIC}","broadcast",{{"type":"broadcast","event":"e","payload":{payload}}}]',
        mark=mark,
        greeting=f'["1","1","{TOPIC}","phx_join",{{"config":{{}}}}]',
        welcome=b'"status":"ok"',
    )


class Client:
    """One socket, whose reads block."""

    def __init__(self, port: int, speech: Speech) -> None:
        self.socket = connected(port)
        self._rest = b""
        self.socket.sendall(
            f"GET {speech.target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._rest:
            self._rest += self._read()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(f"The server refused the handshake: {head.decode()}")
        if speech.greeting:
            self.say(speech.greeting)
        while speech.welcome and not any(speech.welcome in frame for frame in self.hear()):
            pass

    def say(self, text: str) -> None:
        """Send a text frame."""
        data = text.encode()
        length = bytes([0x80 | len(data)]) if len(data) < _SMALL else b"\xfe" + len(data).to_bytes(2, "big")
        # A mask of zeros leaves the payload as it is.
        self.socket.sendall(b"\x81" + length + bytes(4) + data)

    def hear(self) -> list[bytes]:
        """The payloads of the whole frames that have come. Pings are answered."""
        data = self._rest + self._read()
        payloads, at, size = [], 0, len(data)
        while at + 2 <= size:
            length, head = data[at + 1], 2
            if length >= _SMALL:
                head = 4 if length == _SMALL else 10
                length = int.from_bytes(data[at + 2 : at + head], "big")
            end = at + head + length
            if end > size:
                break
            payload = data[at + head : end]
            if data[at] == _PING:
                self.socket.sendall(_PONG + bytes([0x80 | len(payload)]) + bytes(4) + payload)
            elif payload == _ENGINE_PING:
                self.say(_ENGINE_PONG.decode())
            else:
                payloads.append(payload)
            at = end
        self._rest = data[at:]
        return payloads

    def _read(self) -> bytes:
        data = self.socket.recv(_READ)
        if not data:
            raise ConnectionResetError("The server closed a socket")
        return data


class Crowd:
    """So many clients that listen, and one that speaks."""

    def __init__(self, port: int, speech: Speech, size: int) -> None:
        self._speech = speech
        self._polled = select.epoll()
        self._clients: dict[int, Client] = {}
        self._speaker = Client(port, speech)
        for client in (self._speaker, *(Client(port, speech) for _ in range(size))):
            self._clients[client.socket.fileno()] = client
            self._polled.register(client.socket, select.EPOLLIN)
        self._listeners = size

    def say(self, times: int) -> None:
        """Send the message so often, each when all have heard the one before."""
        for _ in range(times):
            self._speaker.say(self._speech.message)
            missing = self._listeners
            while missing > 0:
                events = self._polled.poll(_PATIENCE)
                if not events:
                    raise TimeoutError(f"{missing} of {self._listeners} clients have not heard a message")
                for file, _ in events:
                    for payload in self._clients[file].hear():
                        missing -= self._speech.mark in payload
            if missing < 0:
                raise RuntimeError("Somebody heard a message twice")

    def leave(self) -> None:
        """Drop all sockets."""
        self._polled.close()
        for client in self._clients.values():
            client.socket.close()


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep this thread, and the processes that it starts meanwhile, to one core, where that can be had."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def two_cores() -> tuple[int, int]:
    """One for the server, and another for clients. The same one where there are no two."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    return cores[0], cores[-1]


def cpu_seconds(process: int) -> float:
    """What a process has computed, in user's and kernel's mode, with all its threads."""
    with open(f"/proc/{process}/stat") as file:
        # The name, in brackets, may hold anything.
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connected(port: int) -> socket.socket:
    """A connection to a server that may still be starting."""
    deadline = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            made = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made
