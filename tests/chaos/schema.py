"""The tables that writers write, who may see what of them, and the audit: the truth about what committed.

Messages to the topic ``said`` are audited as the rows of a table of that name, which are inserted only.

The audit is written in the writer's own transaction and is not captured, so that it holds what committed and
nothing else, whatever crashed. Each row has a ``uid`` for life and a counter ``n`` that every update raises.
"""

from dataclasses import dataclass
from typing import Final

OWNERS: Final = ("ann", "bob", "cid")
COLUMNS: Final = ("uid", "id", "n", "owner", "grp", "amount", "note")

_COLUMNS = """
  uid uuid not null default gen_random_uuid(), id int not null, n bigint not null default 0,
  owner text not null, grp int not null, amount int not null, note text not null"""

SETUP: Final = f"""
create table plain ({_COLUMNS}, primary key (id));
alter table plain replica identity full;
create table owned ({_COLUMNS}, primary key (id, uid));
create table parted ({_COLUMNS}, primary key (id, uid, grp)) partition by list (grp);
create table parted_low partition of parted for values in (0, 1);
create table parted_high partition of parted default;

create table audit (
  log bigint generated always as identity primary key, xid xid8 not null default pg_current_xact_id(),
  op "char" not null, tab text not null,
  uid uuid, id int, n bigint, owner text, grp int, amount int, note text);
create index on audit (tab, log);

alter table owned enable row level security;
create policy mine on owned for all to authenticated
  using (owner = current_setting('request.jwt.claims', true)::jsonb ->> 'sub');
alter table parted enable row level security;
create policy few on parted for all to authenticated
  using (amount < 40 or owner = current_setting('request.jwt.claims', true)::jsonb ->> 'sub');

grant select, insert, update, delete on plain, owned, parted to authenticated, service_role;
grant select on plain to anon;
grant truncate on plain to service_role;
grant select, insert on audit to authenticated, service_role;
alter publication supabase_realtime add table plain, owned, parted;
create policy hear on realtime.messages for select to anon, authenticated, service_role using (true);
create policy say on realtime.messages for insert to authenticated, service_role with check (true);
"""
#: The topic of messages, and the table that they are to the audit.
SAID: Final = "said"


@dataclass(frozen=True, slots=True)
class Subject:
    """Who looks: a role, and the ``sub`` of its claims."""

    role: str
    sub: str | None = None

    def sees(self, table: str) -> str:
        """The table's policies for this subject, as SQL that asks the audit's columns."""
        if self.role != "authenticated" or table in ("plain", SAID):
            return "true"
        mine = f"owner = '{self.sub}'"
        return mine if table == "owned" else f"(amount < 40 or {mine})"

    def may_read(self, table: str) -> bool:
        """Whether the role has SELECT there."""
        return self.role != "anon" or table in ("plain", SAID)


TABLES: Final = ("plain", "owned", "parted")
#: Tables whose old images are whole; of the others the primary key.
WHOLE: Final = frozenset({"plain"})
KEYS: Final = {"plain": ("id",), "owned": ("id", "uid"), "parted": ("id", "uid", "grp")}
SUBJECTS: Final = (
    Subject("anon"),
    Subject("service_role"),
    *(Subject("authenticated", owner) for owner in OWNERS),
)

#: Filters as clients write them, and as SQL. The first are judged by the server, the others by Postgres.
FILTERS: Final = (
    (None, "true"),
    ("grp=eq.1", "grp = 1"),
    ("amount=gt.30", "amount > 30"),
    ("owner=in.(ann,cid)", "owner in ('ann', 'cid')"),
    ("id=lte.60,grp=neq.2", "id <= 60 and grp <> 2"),
    ("note=like.a%", "note like 'a%'"),
    ("note=match.^[a-m]", "note ~ '^[a-m]'"),
    ("or=(note.ilike.%B%,amount.lt.10)", "(note ilike '%B%' or amount < 10)"),
)
