"""``rowcast tail``: a subscriber that prints what it gets."""

import json
import time

from rowcast.auth.tokens import sign
from rowcast.capture.watching import split_name
from rowcast.errors import RowcastError
from rowcast.protocol.lines import change_line

_TOKEN_SECONDS = 3600


async def follow(url: str, table: str, role: str, secret: str, *, as_json: bool) -> None:
    """Print a table's changes until cancelled. Raises RowcastError when they cannot be had."""
    try:
        import rowcast_client as sdk
    except ImportError:
        raise RowcastError("`rowcast tail` needs the client: install rowcast-client.") from None
    schema, name = split_name(table)

    def key() -> str:
        now = int(time.time())
        return sign({"role": role, "iat": now, "exp": now + _TOKEN_SECONDS}, secret)

    def show(change: sdk.Change) -> None:
        print(json.dumps(change.raw) if as_json else change_line(change.raw), flush=True)

    async with sdk.create_client(url, key) as client:
        channel = client.channel("rowcast-tail").on("postgres_changes", show, schema=schema, table=name)
        try:
            await channel.subscribe()
        except sdk.RowcastError as error:
            raise RowcastError(f"{error}") from None
        await client.wait_until("closed")
