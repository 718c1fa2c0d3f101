"""Conversations about ``postgres_changes`` that were had with the original, and what it said in them.

Where this server says something else, a step has both, and why.
"""

from dataclasses import replace
from decimal import Decimal
from hashlib import md5
from typing import Any, Final

from transcripts.differences import (
    ARRAYS,
    CONNECTION,
    ENTRIES,
    KEYS,
    PRIVILEGES,
    PUBLICATION,
    ROLES,
    TOAST,
)
from transcripts.frames import DISABLED, FAILED, GIVEN, OK, Change, Told
from transcripts.policies import POLICIES
from transcripts.steps import Conversation, Differs, Joins, Runs, on

# The order in which the original was seen to send the columns of a record.
_ORDER: Final = (
    "d", "j", "m", "u", "f4", "f8", "i2", "id", "ip", "iv", "jj", "ms", "pt", "tm", "ts", "vc", "big", "num",
    "raw", "rng", "tsn", "txt", "flag", "nums", "tags",
)  # fmt: skip
ALLTYPES: Final = (
    "id:int8 big:int8 num:numeric txt:text flag:bool ts:timestamptz tsn:timestamp d:date tm:time iv:interval "
    "j:jsonb jj:json u:uuid tags:_text nums:_int4 raw:bytea m:mood ms:_mood f8:float8 f4:float4 vc:varchar "
    "i2:int2 ip:inet rng:int4range pt:point"
)
FULLIDENT: Final = "id:int4 body:text n:numeric"
_NONE: Final = "delete from alltypes; delete from fullident"


def row(**values: Any) -> dict[str, Any]:
    """A row of ``alltypes``; what is not named is null."""
    return {name: values.get(name) for name in _ORDER}


def inserted(**values: Any) -> Change:
    return Change("INSERT", "alltypes", ALLTYPES, row(**values))


def updated(id_: int, **values: Any) -> Change:
    return Change("UPDATE", "alltypes", ALLTYPES, row(**values), {"id": id_})


def deleted(id_: int) -> Change:
    return Change("DELETE", "alltypes", ALLTYPES, old_record={"id": id_})


def full(id_: int, body: str, n: Any) -> dict[str, Any]:
    """A row of ``fullident``."""
    return {"n": n, "id": id_, "body": body}


def full_inserted(
    id_: int, body: str, n: Any = 1, entries: tuple[int, ...] = (0,), client: str = "A"
) -> Change:
    return Change("INSERT", "fullident", FULLIDENT, full(id_, body, n), entries=entries, client=client)


def full_deleted(
    id_: int, body: str, n: Any = 1, entries: tuple[int, ...] = (0,), client: str = "A"
) -> Change:
    old = full(id_, body, n)
    return Change("DELETE", "fullident", FULLIDENT, old_record=old, entries=entries, client=client)


_ONE: Final = {
    "d": "2024-02-29", "m": "happy", "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "i2": -32768, "id": 1,
    "ip": "10.1.2.3/24", "iv": "1 day 02:03:04", "jj": {"a": 2, "z": 1}, "ms": ["sad", "ok"],
    "pt": "(1.5,2)", "tm": "12:34:56.5", "vc": "vc", "big": 9007199254740993, "rng": "[1,10)",
    "tsn": "2024-02-29T12:34:56.789012", "nums": [1, 2, 3],
}  # fmt: skip

EVERY_TYPE: Final = Conversation("every column type", _NONE, (
    Joins("realtime:db-all", (on("alltypes"),)),
    Runs(
        "insert into public.alltypes(id,big,num,txt,flag,ts,tsn,d,tm,iv,j,jj,u,tags,nums,raw,m,ms,f8,f4,vc,"
        "i2,ip,rng,pt) values (1,9007199254740993,12345678901234567890.123456789,'héllo \"q\" \\ € 😀',true,"
        "'2024-02-29 12:34:56.789012+02','2024-02-29 12:34:56.789012','2024-02-29','12:34:56.5',"
        "'1 day 02:03:04','{\"a\":[1,2,{\"b\":null}],\"n\":1e3,\"big\":9007199254740993}',"
        "'{\"z\" : 1, \"a\":  2}','a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',"
        "array['x','y z','with \"quote\"',null],'{1,2,3}','\\xdeadbeef00ff','happy','{sad,ok}',1.5e300,0.1,"
        "'vc','-32768','10.1.2.3/24','[1,10)','(1.5,2)')",
        (inserted(**_ONE, j={"a": [1, 2, {"b": None}], "n": 1000, "big": 9007199254740993},
                  f4=Decimal("0.1"), f8=15 * 10**299, ts="2024-02-29T10:34:56.789012+00:00",
                  num=Decimal("12345678901234567890.123456789"), raw="deadbeef00ff",
                  txt='héllo "q" \\ € 😀', flag=True, tags=["x", "y z", 'with "quote"', None]),),
    ),
    Runs("insert into public.alltypes(id) values (2)", (inserted(id=2),)),
    Runs(
        "update public.alltypes set num='NaN', f8='Infinity', f4='-Infinity', txt='', tags='{}', "
        "ts='infinity', j='null', raw='' where id=1",
        (updated(1, **_ONE, ts="infinity", raw="", txt="", flag=True, tags=[]),),
    ),
    Runs(
        "update public.alltypes set num=1.10, f8=1, txt=null, ts='2024-07-01 00:00:00+00', j='[]', "
        "flag=false where id=1",
        (updated(1, **_ONE, j=[], f8=1, ts="2024-07-01T00:00:00+00:00", num=Decimal("1.10"), raw="",
                 flag=False, tags=[]),),
    ),
    Runs("update public.alltypes set id=3 where id=2", (updated(2, id=3),)),
    Runs("delete from public.alltypes where id=3", (deleted(3),)),
    Runs("delete from public.alltypes where id=1", (deleted(1),)),
))  # fmt: skip

SEVERAL: Final = Conversation("several subscriptions in one join", _NONE, (
    Joins("realtime:db-multi", (
        on("fullident", "INSERT"), on("fullident", "UPDATE"), on("fullident", "DELETE"),
        on("fullident", filter="id=eq.2"), {"event": "*", "schema": "public"}, on("fullident", "insert"),
    )),
    Runs(
        "begin; insert into public.fullident values (1,'a',1.5),(2,'b',null); "
        "update public.fullident set body='bb' where id=2; delete from public.fullident where id=1; commit",
        (
            full_inserted(1, "a", Decimal("1.5"), (5, 4, 0)),
            full_inserted(2, "b", None, (5, 4, 3, 0)),
            Change("UPDATE", "fullident", FULLIDENT, full(2, "bb", None), full(2, "b", None), (4, 3, 1)),
            full_deleted(1, "a", Decimal("1.5"), (4, 2)),
        ),
    ),
    Runs(
        "update public.fullident set id=20 where id=2",
        (Change("UPDATE", "fullident", FULLIDENT, full(20, "bb", None), full(2, "bb", None), (4, 1)),),
    ),
    Runs("delete from public.fullident", (full_deleted(20, "bb", None, (4, 2)),)),
    Runs("insert into public.fullident values (7,'t',0)", (full_inserted(7, "t", 0, (5, 4, 0)),)),
    Runs("truncate public.fullident"),
    Runs("begin; insert into public.fullident values (8,'rolled back',0); rollback"),
))  # fmt: skip

# It begins like what was seen: a text that is too long to stay in its row, and does not get shorter.
_LONG_SQL: Final = "(select string_agg(md5(n::text), '' order by n) from generate_series(1, 400) as n)"
_LONG: Final = "".join(md5(str(n).encode()).hexdigest() for n in range(1, 401))

LARGE: Final = Conversation("unchanged TOAST value and a record over 1 MiB", _NONE, (
    Joins("realtime:db-toast", (on("alltypes"),)),
    Runs(f"insert into public.alltypes(id,txt) values (1, {_LONG_SQL})", (inserted(id=1, txt=_LONG),)),
    Runs(
        "update public.alltypes set big=5 where id=1",
        Differs(
            TOAST,
            (Change("UPDATE", "alltypes", ALLTYPES,
                    {name: value for name, value in row(id=1, big=5).items() if name != "txt"}, {"id": 1}),),
            (updated(1, id=1, big=5, txt=_LONG),),
        ),
    ),
    Runs(
        "insert into public.alltypes(id,txt,vc) values (9, repeat('x',1200000), 'small')",
        (Change("INSERT", "alltypes", ALLTYPES, {"id": 9, "vc": "small"},
                errors=["Error 413: Payload Too Large"]),),
    ),
    Runs("delete from public.alltypes where id=9", (deleted(9),)),
))  # fmt: skip

DDL: Final = Conversation(
    "columns added and dropped",
    "drop table if exists ddlt, nopk2; create table ddlt (id int primary key, a text);"
    "grant select on ddlt to anon; alter publication supabase_realtime add table ddlt",
    (
        Joins("realtime:db-ddl", (on("ddlt"),)),
        Runs(
            "insert into public.ddlt values (1,'x')",
            (Change("INSERT", "ddlt", "id:int4 a:text", {"a": "x", "id": 1}),),
        ),
        Runs("alter table public.ddlt add column b int default 5"),
        Runs(
            "insert into public.ddlt values (2,'y')",
            (Change("INSERT", "ddlt", "id:int4 a:text b:int4", {"a": "y", "b": 5, "id": 2}),),
        ),
        Runs("alter table public.ddlt drop column a"),
        Runs(
            "insert into public.ddlt values (3,7)",
            (Change("INSERT", "ddlt", "id:int4 b:int4", {"b": 7, "id": 3}),),
        ),
        Runs("alter table public.ddlt replica identity nothing"),
        Runs("alter table public.ddlt replica identity default"),
        Runs(
            "create table nopk2 (a int, b text); grant select on nopk2 to anon;"
            "alter publication supabase_realtime add table nopk2"
        ),
        Joins("realtime:db-nopk", (on("nopk2"),)),
        Runs(
            "insert into public.nopk2 values (1,'x')",
            Differs(
                KEYS,
                (
                    Change(
                        "INSERT", "nopk2", "", {}, errors=["Error 400: Bad Request, no primary key"],
                        topic="realtime:db-nopk", dated=False,
                    ),
                ),
                (
                    Change(
                        "INSERT", "nopk2", "a:int4 b:text", {"a": 1, "b": "x"}, topic="realtime:db-nopk"
                    ),
                ),
            ),
        ),
    ),
)  # fmt: skip

_ID_TXT: Final = "id:int8 txt:text"
_THREE: Final = f"{_NONE}; insert into alltypes(id) values (1), (2), (3)"
SELECTED: Final = Conversation("select as a list", _THREE, (
    Joins("realtime:db-e", (on("alltypes", select=["id", "txt"]),)),
    Runs(
        "delete from public.alltypes",
        tuple(Change("DELETE", "alltypes", _ID_TXT, old_record={"id": number}) for number in (1, 2, 3)),
    ),
    Runs("insert into public.alltypes(id,txt,big) values (77,'sel',5)",
         (Change("INSERT", "alltypes", _ID_TXT, {"id": 77, "txt": "sel"}),)),
    Runs("update public.alltypes set txt='sel2' where id=77",
         (Change("UPDATE", "alltypes", _ID_TXT, {"id": 77, "txt": "sel2"}, {"id": 77}),)),
    Runs("delete from public.alltypes where id=77",
         (Change("DELETE", "alltypes", _ID_TXT, old_record={"id": 77}),)),
))  # fmt: skip

EVERYTHING: Final = Conversation("schema *", _NONE, (
    Joins("realtime:db-e", ({"event": "*", "schema": "*", "table": "*"},)),
    Runs("insert into public.fullident values (900,'star',1)", (full_inserted(900, "star"),)),
    Runs("delete from public.fullident where id=900", (full_deleted(900, "star"),)),
))  # fmt: skip

_NOCOL: Final = Told(
    f'{FAILED} [event: *, schema: public, table: fullident, filters: [{{"nocol", "eq", "1", false}}], '
    "select: nil]. Exception: ERROR P0001 (raise_exception) invalid column for filter nocol"
)
MIXED: Final = Conversation("one good and one bad subscription in the same join", _NONE, (
    Joins("realtime:db-e2", (on("fullident"), on("fullident", filter="nocol=eq.1")),
          Differs(ENTRIES, (_NOCOL,), (_NOCOL, OK))),
    Runs("insert into public.fullident values (901,'mix',1)",
         Differs(ENTRIES, (), (full_inserted(901, "mix"),))),
    Runs("delete from public.fullident where id=901", Differs(ENTRIES, (), (full_deleted(901, "mix"),))),
))  # fmt: skip

LATECOMER: Final = Conversation("a table that is created after the join", "drop table if exists latecomer", (
    Joins("realtime:db-late", (on("latecomer"),), (
        Told(f"{DISABLED} [event: *, schema: public, table: latecomer, filters: [], select: nil]"),
    )),
    Runs("create table public.latecomer(id int primary key); grant select on latecomer to anon"),
    Runs("alter publication supabase_realtime add table public.latecomer"),
    Runs("insert into public.latecomer values (1)"),
))  # fmt: skip

_ROLE: Final = 'The role "nosuchrole" is not one that this server assumes. Add it to ROWCAST_ROLES.'
NO_ROLE: Final = Conversation("a role that does not exist", _NONE, (
    Joins("realtime:db-role", (on("fullident"),), Differs(ROLES, (
        Told(f"{FAILED} [event: *, schema: public, table: fullident, filters: [], select: nil]. "
             'Exception: ERROR 42704 (undefined_object) role "nosuchrole" does not exist'),
    ), (Told(_ROLE),)), role="nosuchrole"),
    Runs("insert into public.fullident values (902,'r',1)"),
    Runs("delete from public.fullident where id=902"),
))  # fmt: skip


def _secret(type_: str, record: dict[str, Any] | None, old: dict[str, Any] | None = None) -> Change:
    return Change(type_, "secret", "id:int4 a:text", record, old)


_UNREAD: Final = Told(
    f"{GIVEN} public.secret: the role anon may not read it: GRANT SELECT ON public.secret TO anon; "
    "[event: *, schema: public, table: secret, filters: [], select: nil]"
)
_BY_B: Final = '[{"b", "eq", "y", false}]'
SECRET: Final = Conversation(
    "privileges",
    "drop table if exists secret; create table secret (id int primary key, a text, b text);"
    "alter publication supabase_realtime add table secret",
    (
        Joins("realtime:sec", (on("secret"),), Differs(PRIVILEGES, (OK,), (_UNREAD,))),
        Runs("insert into public.secret values (1,'x','y')", Differs(PRIVILEGES, (
            Change("INSERT", "secret", "", {}, errors=["Error 401: Unauthorized"], dated=False),
        ), ())),
        # Who was refused stays so, until it joins again.
        Runs("grant select (id,a) on public.secret to anon"),
        Runs("insert into public.secret values (2,'x','y')",
             Differs(PRIVILEGES, (_secret("INSERT", {"a": "x", "id": 2}),), ())),
        Runs("update public.secret set b='z' where id=2",
             Differs(PRIVILEGES, (_secret("UPDATE", {"a": "x", "id": 2}, {"id": 2}),), ())),
        Runs("delete from public.secret where id=2",
             Differs(PRIVILEGES, (_secret("DELETE", None, {"id": 2}),), ())),
        Joins("realtime:sec", (on("secret"),), client="B"),
        Runs("insert into public.secret values (3,'x','y')", (
            replace(_secret("INSERT", {"a": "x", "id": 3}), client="B"),
        )),
        Joins("realtime:sec2", (on("secret", filter="b=eq.y"),), (
            Told(f"{FAILED} [event: *, schema: public, table: secret, filters: {_BY_B}, select: nil]. "
                 "Exception: ERROR P0001 (raise_exception) invalid column for filter b"),
        ), "B"),
    ),
)  # fmt: skip

ARRAY: Final = Conversation("a filter on an array column", _NONE, (
    Joins("realtime:pb", (on("fullident"),), client="B"),
    Joins("realtime:pa", (on("alltypes", filter="tags=eq.{a}"),)),
    Runs("insert into public.fullident values (300,'before',1)",
         (full_inserted(300, "before", client="B"),)),
    Runs(
        "begin; insert into public.alltypes(id,tags) values (50,'{a}'); "
        "insert into public.fullident values (301,'same transaction',1); commit",
        Differs(ARRAYS, (), (
            inserted(id=50, tags=["a"]), full_inserted(301, "same transaction", client="B"),
        )),
    ),
    Runs("insert into public.fullident values (302,'after',1)", (full_inserted(302, "after", client="B"),)),
    Runs("insert into public.fullident values (303,'later',1)", (full_inserted(303, "later", client="B"),)),
    Runs(
        "delete from public.fullident where id in (300,301,302,303)",
        tuple(full_deleted(number, body, client="B") for number, body in
              ((300, "before"), (301, "same transaction"), (302, "after"), (303, "later"))),
    ),
))  # fmt: skip

JSONB: Final = Conversation("a filter on a jsonb column", _NONE, (
    Joins("realtime:pj", (on("alltypes", "INSERT", filter="j=eq.{}"),)),
    Runs("insert into public.alltypes(id,j) values (60,'{}')", (inserted(id=60, j={}),)),
))  # fmt: skip

_GONE: Final = Told(f"{DISABLED} [event: *, schema: public, table: fullident, filters: [], select: nil]")
ALTERED: Final = Conversation("the publication altered while subscribed", _NONE, (
    Joins("realtime:pub", (on("fullident"),)),
    Runs("insert into public.fullident values (400,'in',1)", (full_inserted(400, "in"),)),
    Runs("alter publication supabase_realtime drop table public.fullident",
         Differs(PUBLICATION, (), (_GONE,))),
    Runs("insert into public.fullident values (401,'out',1)"),
    Runs("alter publication supabase_realtime add table public.fullident",
         Differs(PUBLICATION, (), (OK,))),
    Runs("insert into public.fullident values (402,'in again',1)", (full_inserted(402, "in again"),)),
    Runs("insert into public.fullident values (403,'75 s later',1)", (full_inserted(403, "75 s later"),)),
))  # fmt: skip

KILLED: Final = Conversation("the connection of the reader killed", _NONE, (
    Joins("realtime:kill", (on("fullident"),)),
    Runs("insert into public.fullident values (500,'before',1)", (full_inserted(500, "before"),)),
    Runs("select pg_terminate_backend(pid) from pg_stat_activity "
         "where datname = current_database() and application_name = 'rowcast reader'", quiet=False),
    Runs("insert into public.fullident values (501,'after kill +0s',1)",
         Differs(CONNECTION, (), (full_inserted(501, "after kill +0s"),))),
    Runs("insert into public.fullident values (502,'after kill +1s',1)",
         (full_inserted(502, "after kill +1s"),)),
    Runs("insert into public.fullident values (503,'after kill +2s',1)",
         (full_inserted(503, "after kill +2s"),)),
    Runs("insert into public.fullident values (504,'after kill +3s',1)",
         (full_inserted(504, "after kill +3s"),)),
))  # fmt: skip

CONVERSATIONS: Final = (
    EVERY_TYPE, SEVERAL, LARGE, DDL, SELECTED, EVERYTHING, MIXED, LATECOMER, NO_ROLE, POLICIES, SECRET, ARRAY,
    JSONB, ALTERED, KILLED,
)  # fmt: skip
