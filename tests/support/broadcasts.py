"""Binary frames of users' broadcasts, as a client writes and reads them."""


def pushed(
    join_ref: str, ref: str, topic: str, event: str, payload: bytes, *, meta: bytes = b"", raw: bool = False
) -> bytes:
    """A frame of kind 3: a client's push."""
    parts = [join_ref.encode(), ref.encode(), topic.encode(), event.encode(), meta]
    return bytes((3, *map(len, parts), 0 if raw else 1)) + b"".join(parts) + payload


def user_broadcast(data: bytes) -> tuple[str, str, bytes, bool, bytes]:
    """What a frame of kind 4 says: topic, event, metadata, whether it is raw bytes, and the payload."""
    kind, *sizes, encoding = data[:5]
    assert kind == 4
    assert encoding in (0, 1)
    parts, at = [], 5
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    topic, event, meta = parts
    return topic.decode(), event.decode(), meta, encoding == 0, data[at:]
