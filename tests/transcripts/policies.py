"""The conversation about row level security that was had with the original, and what it said in it.

A is anon, B a user, C a role that bypasses policies.
"""

from dataclasses import replace
from typing import Any, Final

from transcripts.differences import OTHERS_DELETES
from transcripts.frames import Change
from transcripts.steps import Conversation, Differs, Events, Joins, Refreshes, Runs, on

ONE: Final = "11111111-1111-4111-8111-111111111111"
TWO: Final = "22222222-2222-4222-8222-222222222222"
TABLE: Final = """
drop table if exists rls_notes;
create table rls_notes (id int8 primary key, owner uuid, body text);
alter table rls_notes enable row level security;
create policy own on rls_notes for select to authenticated using (owner = auth.uid());
grant select on rls_notes to anon, authenticated, service_role;
alter publication supabase_realtime add table rls_notes;
"""
COLUMNS: Final = "id:int8 owner:uuid body:text"
_TOPIC: Final = "realtime:rls"


def note(id_: int, owner: str, body: str) -> dict[str, Any]:
    """A row of ``rls_notes``."""
    return {"id": id_, "body": body, "owner": owner}


def _to(clients: str, change: Change) -> Events:
    return tuple(replace(change, client=client) for client in clients)


def _inserted(id_: int, owner: str, body: str) -> Change:
    return Change("INSERT", "rls_notes", COLUMNS, note(id_, owner, body))


def _updated(id_: int, owner: str, body: str, old: dict[str, Any]) -> Change:
    return Change("UPDATE", "rls_notes", COLUMNS, note(id_, owner, body), old)


def _deleted(old: dict[str, Any]) -> Change:
    return Change("DELETE", "rls_notes", COLUMNS, old_record=old)


POLICIES: Final = Conversation("row level security", TABLE, (
    Joins(_TOPIC, (on("rls_notes"),)),
    Joins(_TOPIC, (on("rls_notes"),), client="B", role="authenticated", claims={"sub": ONE}),
    Joins(_TOPIC, (on("rls_notes"),), client="C", role="service_role"),
    Runs(f"insert into public.rls_notes(id,owner,body) values (1,'{ONE}','mine')",
         _to("CB", _inserted(1, ONE, "mine"))),
    Runs(f"insert into public.rls_notes(id,owner,body) values (2,'{TWO}','not mine')",
         _to("C", _inserted(2, TWO, "not mine"))),
    Runs(f"update public.rls_notes set owner='{TWO}' where id=1",
         _to("C", _updated(1, TWO, "mine", {"id": 1}))),
    Runs("delete from public.rls_notes where id=1",
         Differs(OTHERS_DELETES, _to("ABC", _deleted({"id": 1})), _to("C", _deleted({"id": 1})))),
    Runs("alter table public.rls_notes replica identity full"),
    Runs("update public.rls_notes set body='full' where id=2",
         _to("C", _updated(2, TWO, "full", note(2, TWO, "not mine")))),
    Runs("delete from public.rls_notes where id=2", Differs(
        OTHERS_DELETES, _to("BCA", _deleted({"id": 2})), _to("C", _deleted(note(2, TWO, "full"))),
    )),
    Runs("alter table public.rls_notes replica identity default"),
    Refreshes(_TOPIC, "authenticated", {"sub": ONE}),
    Runs(f"insert into public.rls_notes(id,owner,body) values (5,'{ONE}','after refresh')",
         _to("BCA", _inserted(5, ONE, "after refresh"))),
))  # fmt: skip
