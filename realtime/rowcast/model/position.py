"""Snapshots of Postgres, and positions in the stream of changes.

A position says: everything visible in snapshot A, and of what is visible in B everything up to
(maxseq, ord, seq); at a batch's end it shrinks to one snapshot. Both are properties of the data, so a
position means the same on every node. Clients see an opaque URL-safe text. This module performs no I/O.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

EPOCH_BYTES = 6
#: A position of three thousand open transactions is shorter. To read one costs time, whoever wrote it.
MAX_TEXT = 8192
_MAX_NUMBER = 2**63 - 1


class PositionError(ValueError):
    """A text that is no position of this server."""


@dataclass(frozen=True)
class Snapshot:
    """A ``pg_snapshot``: every xid below ``xmax`` that is not in ``xip`` (ascending) had ended."""

    xmax: int
    xip: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form, ``xmin:xmax:xip,xip,…``."""
        _, xmax, xip = text.split(":")
        return cls(int(xmax), tuple(int(xid) for xid in xip.split(",")) if xip else ())

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.xip))}"

    @property
    def xmin(self) -> int:
        """The lowest xid that had not ended."""
        return self.xip[0] if self.xip else self.xmax

    @cached_property
    def _open(self) -> frozenset[int]:
        return frozenset(self.xip)

    def sees(self, xid: int) -> bool:
        """Whether the transaction had ended when the snapshot was taken."""
        return xid < self.xmax and xid not in self._open

    def covers(self, older: Self) -> bool:
        """Whether all that had ended in ``older`` has ended here."""
        return self.xmax >= older.xmax and all(not older.sees(xid) for xid in self.xip)


@dataclass(frozen=True, slots=True)
class Order:
    """Where a change stands in its batch: the transaction's greatest seq, its statement, its own seq."""

    maxseq: int
    ord: int
    seq: int

    def key(self) -> tuple[int, int, int]:
        return self.maxseq, self.ord, self.seq


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the stream. ``end`` and ``order`` are both None at a batch's end."""

    epoch: bytes
    start: Snapshot
    end: Snapshot | None = None
    order: Order | None = None

    def passed(self, xid: int, order: Order) -> bool:
        """Whether the change of transaction ``xid`` at ``order`` lies at this position or before it."""
        if self.start.sees(xid):
            return True
        if self.end is None or self.order is None:
            return False
        return self.end.sees(xid) and order.key() <= self.order.key()

    def encode(self) -> str:
        """The opaque text."""
        batch = encode_batch(self.epoch, self.start, self.end)
        return batch if self.order is None else encode_event(batch, self.order)

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read the opaque text back. Raises PositionError."""
        batch, dot, event = text.partition(".")
        try:
            if len(text) > MAX_TEXT:
                raise ValueError("too long")
            reader = _Reader(_unpack(batch))
            epoch = reader.take(EPOCH_BYTES)
            start = reader.snapshot()
            if not dot:
                reader.done()
                return cls(epoch, start)
            end = reader.successor(start)
            reader.done()
            reader = _Reader(_unpack(event))
            maxseq, after, ahead = reader.number(), reader.number(), reader.number()
            reader.done()
            if maxseq > _MAX_NUMBER or after + ahead > maxseq:
                raise ValueError("numbers that no change has")
        except (IndexError, ValueError) as error:
            raise PositionError("The position is not one of this server's") from error
        return cls(epoch, start, end, Order(maxseq, maxseq - after - ahead, maxseq - after))


def encode_batch(epoch: bytes, start: Snapshot, end: Snapshot | None) -> str:
    """The part of a position that all events of a batch share."""
    writer = _Writer(bytearray(epoch))
    writer.snapshot(start)
    if end is not None:
        writer.successor(start, end)
    return _pack(writer.data)


def encode_event(batch: str, order: Order) -> str:
    """A change's position, from the shared part of its batch."""
    writer = _Writer(bytearray())
    writer.number(order.maxseq)
    writer.number(order.maxseq - order.seq)
    writer.number(order.seq - order.ord)
    return f"{batch}.{_pack(writer.data)}"


def _pack(data: bytes | bytearray) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unpack(text: str) -> bytes:
    padded = text.encode("ascii") + b"=" * (-len(text) % 4)
    data = base64.b64decode(padded, altchars=b"-_", validate=True)
    if _pack(data) != text:
        raise ValueError("not the only way to write it")
    return data


class _Writer:
    """Numbers as varints; sets of open xids as Rice-coded gaps below an upper end."""

    def __init__(self, data: bytearray) -> None:
        self.data = data

    def number(self, value: int) -> None:
        while value > 0x7F:
            self.data.append(value & 0x7F | 0x80)
            value >>= 7
        self.data.append(value)

    def snapshot(self, snapshot: Snapshot) -> None:
        self.number(snapshot.xmax)
        self._gaps(snapshot.xmax, snapshot.xip)

    def successor(self, start: Snapshot, end: Snapshot) -> None:
        self.number(end.xmax - start.xmax)
        still_open = frozenset(end.xip)
        self._bits("".join("01"[xid in still_open] for xid in start.xip))
        self._gaps(end.xmax, [xid for xid in end.xip if xid >= start.xmax])

    def _gaps(self, top: int, xids: Iterable[int]) -> None:
        gaps, above = [], top
        for xid in sorted(xids, reverse=True):
            gaps.append(above - xid - 1)
            above = xid
        self.number(len(gaps))
        if not gaps:
            return
        width = max(0, (sum(gaps) // len(gaps)).bit_length() - 1)
        self.data.append(width)
        low = (1 << width) - 1
        self._bits(
            "".join("1" * (g >> width) + "0" + (format(g & low, f"0{width}b") if width else "") for g in gaps)
        )

    def _bits(self, bits: str) -> None:
        if bits:
            padded = bits + "0" * (-len(bits) % 8)
            self.data += int(padded, 2).to_bytes(len(padded) // 8, "big")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) < count:
            raise ValueError("too short")
        self._at += count
        return part

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def snapshot(self) -> Snapshot:
        xmax = self.number()
        return Snapshot(xmax, self._gaps(xmax))

    def successor(self, start: Snapshot) -> Snapshot:
        xmax = start.xmax + self.number()
        kept = self.take((len(start.xip) + 7) // 8)
        still_open = [xid for n, xid in enumerate(start.xip) if kept[n // 8] >> (7 - n % 8) & 1]
        opened = self._gaps(xmax)
        if opened and opened[0] < start.xmax:
            raise ValueError("an xid that had ended is open again")
        return Snapshot(xmax, (*still_open, *opened))

    def done(self) -> None:
        if self._at != len(self._data):
            raise ValueError("too long")

    def _gaps(self, top: int) -> tuple[int, ...]:
        count = self.number()
        if not count:
            return ()
        width = self.number()
        # Each gap takes at least one bit, so what is left bounds the count, and memory with it.
        if width > 63 or count > (len(self._data) - self._at) * 8:
            raise ValueError("a set of xids that does not fit")
        bit = self._at * 8
        xids, above = [], top
        for _ in range(count):
            quotient = 0
            while self._bit(bit):
                quotient += 1
                bit += 1
            bit += 1
            rest = 0
            for _ in range(width):
                rest = rest << 1 | self._bit(bit)
                bit += 1
            above -= (quotient << width | rest) + 1
            if above < 0:
                raise ValueError("an xid below zero")
            xids.append(above)
        self._at = (bit + 7) // 8
        return tuple(reversed(xids))

    def _bit(self, n: int) -> int:
        return self._data[n // 8] >> (7 - n % 8) & 1
