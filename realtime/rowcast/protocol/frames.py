"""WebSocket frames of a server (RFC 6455): unmasked, so one frame serves every connection."""

from typing import Final

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
_FIN: Final = 0x80
_MAX_REASON: Final = 123


def text_frame(payload: bytes) -> bytes:
    """A whole text message in one frame. ``payload`` is UTF-8."""
    return _frame(TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """A whole binary message in one frame."""
    return _frame(BINARY, payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; a reason over 123 bytes is cut."""
    text = reason.encode()[:_MAX_REASON].decode(errors="ignore").encode()
    return _frame(CLOSE, code.to_bytes(2, "big") + text)


def payload_of(frame: bytes) -> tuple[bool, bytes]:
    """Whether a frame made here is text, and its payload."""
    size = frame[1]
    offset = 2 if size < 126 else 4 if size == 126 else 10
    return frame[0] & 0x0F == TEXT, frame[offset:]


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        head = bytes((_FIN | opcode, size))
    elif size < 1 << 16:
        head = bytes((_FIN | opcode, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FIN | opcode, 127)) + size.to_bytes(8, "big")
    return head + payload
