"""The Python programs of the examples, beside their pages and beside each other."""

import pytest

from support.browsers import Look
from support.programs import Start
from support.tokens import make_token

pytestmark = pytest.mark.anyio


async def test_the_chat_in_the_terminal_is_the_one_in_the_browser(look: Look, start: Start) -> None:
    ann = await look("chat", "ann")
    async with start("chat", "ben") as ben:
        await ben.prints("You are in the chat.")
        await ann.type("#text", "Good morning, terminal")
        await ben.prints("ann: Good morning, terminal")
        await ben.type("Good morning, browser")
        await ann.sees("Good morning, browser", "#messages")
    async with start("chat", "cal") as cal:
        await cal.prints("ann: Good morning, terminal")
        await cal.prints("ben: Good morning, browser")


async def test_cursors_of_programs_and_of_people_are_in_one_field(look: Look, start: Start) -> None:
    ann = await look("cursors", "ann")
    async with start("cursors", "ben") as ben, start("cursors", "cal") as cal:
        await ben.prints("cal is at ")
        await cal.prints("ben is at ")
        await ann.until("document.querySelectorAll('.cursor.other').length === 2")
        await ann.point(600, 400)
        await ben.prints("ann is at ")
    await ann.until("document.querySelector('.cursor.other') === null")


async def test_a_program_says_who_is_here_and_who_comes_and_goes(look: Look, start: Start) -> None:
    async with start("presence", "ann") as ann:
        await ann.prints("Here: ann")
        ben = await look("presence", "ben")
        await ann.prints("ben came")
        await ann.prints("Here: ann ben")
        await ben.sees("ann", "#people")
        await ben.close()
        await ann.prints("ben left")
        assert "ann came" in ann.printed


async def test_programs_and_pages_send_each_other_what_nobody_else_reads(look: Look, start: Start) -> None:
    tokens = {name: make_token("authenticated", sub=name) for name in ("ann", "ben")}
    ann = await look("messages", "ann", token=tokens["ann"])
    await ann.type("#to", "ben", enter=False)
    await ann.type("#text", "Between us")
    await ann.sees("Between us", "#messages .mine")
    async with start("messages", "ben", tokens["ben"]) as ben:
        await ben.prints("ann: Between us")
        await ben.type("ann: Understood")
        await ann.sees("Understood", "#messages")
        await ben.type("Nobody")
        await ben.prints("That has no name before it")
    async with start("messages", "ben", tokens["ann"]) as thief:
        await thief.prints(
            "Unauthorized: You do not have permissions to read from this Channel topic: user:ben"
        )
        assert await thief.process.wait() == 1
    assert len(thief.printed.splitlines()) == 1
