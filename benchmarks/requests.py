"""How many broadcasts a second REST takes, with one token and one listener, beside an endpoint of the same
stack that reads the JSON of a request and does nothing with it.

The server has a core and the clients another: 16 connections, each with one request at a time. Both servers
run all the time, and are asked in turns. What is compared is the CPU that each request costs.
"""

import asyncio
import contextlib
import json
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path
from statistics import median

from benchmarks.crowd import Client, connected, cpu_seconds, on_core, speech_of_rowcast, two_cores
from benchmarks.machine import UNBOUNDED, attached, running, token
from rowcast.dev.postgres import Postgres

CONNECTIONS = 16
REQUESTS = 3_000
ROUNDS = 5
#: The least that the other endpoint's cost may be of Rowcast's.
BAR = 0.15
_MARK = "what those look for that count"
_PAYLOAD = {"name": "somebody", "text": _MARK, "at": "2026-01-01T00:00:00Z", "n": 12345}
_BATCH, _SINGLE = "/realtime/v1/api/broadcast", "/realtime/v1/api/broadcast/room/events/e"
#: By name, the route, the body and its broadcasts.
_KINDS = {
    "a batch of 1": (_BATCH, {"messages": [{"topic": "room", "event": "e", "payload": _PAYLOAD}]}, 1),
    "a batch of 25": (_BATCH, {"messages": [{"topic": "room", "event": "e", "payload": _PAYLOAD}] * 25}, 25),
    "the route for one": (_SINGLE, _PAYLOAD, 1),
}
_PATIENCE = 30.0


async def measure(server: Postgres) -> dict[str, tuple[float, float]]:
    """Ratios by name, each with its bar. Prints rates."""
    core, other = two_cores()
    async with contextlib.AsyncExitStack() as stack:
        with on_core(core):
            rowcast = await stack.enter_async_context(attached(server.dsn, UNBOUNDED))
            script = str(Path(__file__).parent / "peers" / "accepting.py")
            accepting = await stack.enter_async_context(running(sys.executable, script))
        return await asyncio.to_thread(_ratios, (rowcast.pid, rowcast.port), accepting, other)


def _ratios(ours: tuple[int, int], theirs: tuple[int, int], core: int) -> dict[str, tuple[float, float]]:
    """Both are the server's process and its port."""
    ratios = {}
    with on_core(core):
        listener = Client(ours[1], speech_of_rowcast("{}", b""))
        for name, (target, body, broadcasts) in _KINDS.items():
            request = _request(target, json.dumps(body).encode())
            bare, sent = [], []
            for _ in range(ROUNDS):
                bare.append(_cost(*theirs, request, None, 0))
                sent.append(_cost(*ours, request, listener, broadcasts))
            rate = median(rate for rate, _ in sent)
            print(
                f"  {name}: {rate:,.0f} requests/s, {rate * broadcasts:,.0f} broadcasts/s, "
                f"{median(cost for _, cost in sent):.0f} µs of CPU for each request; "
                f"the other endpoint {median(rate for rate, _ in bare):,.0f} requests/s, "
                f"{median(cost for _, cost in bare):.0f} µs",
                flush=True,
            )
            ratios[f"CPU for each request, an endpoint that accepts all ÷ {name}"] = (
                median(other / own for (_, other), (_, own) in zip(bare, sent, strict=True)),
                BAR,
            )
    return ratios


def _request(target: str, body: bytes) -> bytes:
    head = (
        f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\napikey: {token()}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _cost(
    process: int, port: int, request: bytes, listener: Client | None, broadcasts: int
) -> tuple[float, float]:
    """Requests a second that were answered, and whose broadcasts the listener has heard; µs for each."""
    polled = select.epoll()
    senders: dict[int, socket.socket] = {}
    for _ in range(CONNECTIONS):
        sender = connected(port)
        senders[sender.fileno()] = sender
        polled.register(sender, select.EPOLLIN)
    if listener is not None:
        polled.register(listener.socket, select.EPOLLIN)
    unheard = REQUESTS * broadcasts
    computed, began = cpu_seconds(process), time.perf_counter()
    waiting = deque(senders.values())
    unsent, unanswered = REQUESTS, REQUESTS
    while unanswered or unheard > 0:
        while unsent and waiting:
            waiting.popleft().sendall(request)
            unsent -= 1
        events = polled.poll(_PATIENCE)
        if not events:
            raise TimeoutError(f"{unanswered} answers and {unheard} broadcasts have not come")
        for file, _ in events:
            if (one := senders.get(file)) is None:
                assert listener is not None
                unheard -= sum(_MARK.encode() in payload for payload in listener.hear())
                continue
            answer = one.recv(4096)
            if not answer.startswith(b"HTTP/1.1 202") or not answer.endswith(b"\r\n\r\n"):
                raise RuntimeError(f"A request was not accepted: {answer.decode()}")
            unanswered -= 1
            waiting.append(one)
    computed, taken = cpu_seconds(process) - computed, time.perf_counter() - began
    polled.close()
    for one in senders.values():
        one.close()
    return REQUESTS / taken, computed / REQUESTS * 1e6
