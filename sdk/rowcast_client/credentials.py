"""Credentials: a key or token as text, or a callable that is asked for a fresh one each time."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from .errors import RowcastError, TokenError

Credential = str | Callable[[], str | Awaitable[str]]


async def resolve(credential: Credential, what: str, timeout: float) -> str:
    """The text to present now. Raises TokenError, which never shows any of it."""
    if isinstance(credential, str):
        return credential
    try:
        async with asyncio.timeout(timeout):
            answer = credential()
            text = await answer if inspect.isawaitable(answer) else answer
    except RowcastError:
        raise
    except TimeoutError as fault:
        raise TokenError(f"the `{what}` callable gave no answer within {timeout:g} s") from fault
    except Exception as fault:
        raise TokenError(f"the `{what}` callable raised {type(fault).__name__}") from fault
    if not isinstance(text, str) or not text:
        raise TokenError(
            f"the `{what}` callable returned an empty text, or {type(text).__name__} and not str"
        )
    return text
