"""The pages of the examples, in windows of a real browser: what is done in one is seen in the other."""

import asyncpg
import pytest

from support.browsers import Look, Window
from support.server import Server
from support.tokens import make_token

pytestmark = pytest.mark.anyio


async def test_a_message_of_the_chat_is_seen_by_all_and_by_who_comes_later(look: Look) -> None:
    ann, ben = await look("chat", "ann"), await look("chat", "ben")
    await ann.type("#text", "Is <b>anybody</b> here?")
    for window in (ann, ben):
        await window.sees("Is <b>anybody</b> here?", "#messages li")
    await ben.type("#text", "I am.")
    await ann.sees("I am.", "#messages li + li")
    await ann.until("document.querySelector('#text').value === ''")
    cal = await look("chat", "cal")
    await cal.sees("I am.", "#messages li + li")
    assert (await cal.text("#messages")).startswith("A\nann, ")
    # After a reconnection it has what was said meanwhile, and nothing twice.
    await cal.cut()
    await cal.until("document.querySelector('#status').innerText === 'not connected'")
    await ben.type("#text", "Where is Cal?")
    await cal.sees("Where is Cal?", "#messages li + li + li")
    assert await cal.evaluate("document.querySelectorAll('#messages li').length") == 3


async def test_cursors_are_seen_where_others_point(look: Look) -> None:
    ann, ben = await look("cursors", "ann"), await look("cursors", "ben")
    await ben.sees("ann", ".cursor.other")
    field = await ann.evaluate("(({x, y, width, height}) => [x, y, width, height])"
                               "(document.querySelector('#field').getBoundingClientRect())")  # fmt: skip
    left, top, width, height = field
    await ann.point(left + width / 4, top + height / 2)
    await ben.until("document.querySelector('.cursor.other').style.left === '25%'")
    # By a finger or a mouse, or by the keyboard.
    await ann.evaluate("document.querySelector('#field').focus()")
    await ann.press("ArrowRight")
    await ben.until("document.querySelector('.cursor.other').style.left === '27%'")
    await ann.close()
    await ben.until("document.querySelector('.cursor.other') === null")
    assert await ben.text("#names") == "ben"


async def test_who_is_here_is_known_by_all_and_whoever_comes_or_goes_is_told(look: Look) -> None:
    ann = await look("presence", "ann")
    await ann.sees("ann (you)", "#people")
    ben = await look("presence", "ben")
    await ann.sees("ben came", "#log")
    await ben.sees("ann", "#people")
    again = await look("presence", "ben")
    await ann.sees("2 windows", "#people")
    await again.close()
    await ben.close()
    await ann.sees("ben left", "#log")
    assert (await ann.text("#log")).count("ben") == 2
    assert await ann.text("#count") == "1"


async def write_to(window: Window, to: str, text: str) -> None:
    await window.type("#to", to, enter=False)
    await window.type("#text", text)


async def test_a_private_message_reaches_whom_it_is_for_and_nobody_else(site: Server, look: Look) -> None:
    db = await asyncpg.connect(site.database)
    await db.execute(
        """select realtime.send('{"from": "us", "text": "Welcome, Ben"}', 'message', 'user:ben')"""
    )
    await db.close()
    tokens = {name: make_token("authenticated", sub=name) for name in ("ann", "ben", "cal")}
    ann = await look("messages", "ann", token=tokens["ann"])
    await write_to(ann, "ben", "Before you came")
    await ann.sees("Before you came", "#messages .mine")
    ben, cal = [await look("messages", name, token=tokens[name]) for name in ("ben", "cal")]
    await ben.sees("Welcome, Ben", "#messages li")
    await ben.sees("Before you came", "#messages li + li")
    await write_to(ann, "ben", "Between us")
    await ben.sees("Between us", "#messages li + li + li")
    # Whoever is sent the next one would have been sent that one before it.
    for window, name in ((ann, "ann"), (cal, "cal")):
        await write_to(ben, name, f"Hello {name}")
        await window.sees(f"Hello {name}", "#messages")
    assert "from ben" in await ann.text("#messages")
    assert await cal.evaluate("document.querySelectorAll('#messages li').length") == 1


async def test_nobody_listens_to_the_messages_of_others(look: Look) -> None:
    ann = await look("messages", "ann", token=make_token("authenticated", sub="ann"))
    await ann.type("#whose", "ben")
    await ann.sees("Refused. Unauthorized: You do not have permissions to read from this Channel", "#verdict")
    ann.faults.clear()
    await write_to(ann, "ann", "Still here")
    await ann.sees("Still here", "#messages")
    # Without a token of somebody's nothing is sent, either.
    nobody = await look("messages", "ann", status="not connected")
    await write_to(nobody, "ann", "Who am I?")
    await nobody.sees("Not sent: Unauthorized", "#fault")
    nobody.faults.clear()
