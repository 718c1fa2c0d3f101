"""What the role that migrates may do here, what is missing, and what an administrator can run about it.

The administrator's SQL touches nothing that the migrating role owns, and runs no code of its: whoever runs
DDL runs the event triggers' function, a superuser perhaps, and what a trigger on a table of ours would do
then (a deferred one: as that superuser) is the owner's to decide. So that function writes nothing. It
notifies; the servers ask for rights anew and do the rest.
"""

from dataclasses import dataclass

import asyncpg

from rowcast.db.notes import (
    API_ROLES,
    CALLED,
    CAPTURE_ROLE,
    FUNCTION,
    JSON_ROLE,
    MESSAGES,
    OWNING_ROLES,
    PUBLICATION,
    ROLES,
)

HINT = "`rowcast migrate --print-admin-sql` prints what an administrator runs once."
#: The same as in functions/catalog.sql: what is printed has to stand where that has not run yet.
TAGS = (
    "CREATE TABLE", "CREATE TABLE AS", "SELECT INTO", "ALTER TABLE", "ALTER TYPE", "ALTER SCHEMA",
    "CREATE PUBLICATION", "ALTER PUBLICATION", "CREATE TRIGGER", "ALTER TRIGGER", "GRANT", "REVOKE",
    "CREATE POLICY", "ALTER POLICY", "CREATE SUBSCRIPTION", "ALTER SUBSCRIPTION", "CREATE CAST",
)  # fmt: skip

_ROLE = """
select current_user::text as name, r.rolsuper as superuser, r.rolcreaterole as creates_roles,
       current_database()::text as database, has_database_privilege(current_database(), 'create') as creates,
       current_setting('server_version_num')::int >= 160000 as grants_options,
       exists (select from pg_namespace where nspname = 'rowcast') as begun,
       2 = (select count(*) from pg_event_trigger as e
            where e.evtenabled <> 'D' and e.evtname in ('rowcast_follow_ddl', 'rowcast_follow_drop'))
         as follows
from pg_roles as r where r.rolname = current_user
"""
# What one may do with a role, and whether one could help oneself.
_ROLES = """
select w.name, r.oid is not null as stands, coalesce(r.rolbypassrls or r.rolsuper, false) as bypasses,
       coalesce(pg_has_role(r.oid, case when $2 then 'set' else 'member' end), false) as sets,
       -- Before PostgreSQL 16 a role that inherits nothing cannot be made to by a grant.
       coalesce(pg_has_role(r.oid, 'usage'), false)
         or not $2 and not (select rolinherit from pg_roles where rolname = current_user) as inherits,
       case when $2 then coalesce(pg_has_role(r.oid, 'member with admin option'), false)
            else (select rolcreaterole from pg_roles where rolname = current_user) end as admins
from unnest($1::text[]) with ordinality as w (name, n) left join pg_roles as r on r.rolname = w.name
order by w.n
"""
# What another party made, where it is not as it has to be. Only where there is something to compare with.
_DIFFERS = f"""
select format('the publication %I belongs to %I, who alone may add tables to it', p.pubname, r.rolname)
from pg_publication as p join pg_roles as r on r.oid = p.pubowner
where p.pubname = $1 and not pg_has_role(r.oid, 'usage')
union all
select format('%s is missing from the schema %s, which another party made', name, n.nspname)
from unnest('realtime.messages'::text || $4::text[]) as w (name)
join pg_namespace as n on n.nspname = split_part(name, '.', 1)
where $2 and not exists ({FUNCTION}) and not (name = 'realtime.messages' and exists ({MESSAGES}))
union all
select format('%s returns %s, not %s', name, format_type(f.prorettype, null), w.type)
from (values ('realtime.topic()', 'text'), ('auth.jwt()', 'jsonb'), ('auth.uid()', 'uuid'),
             ('auth.role()', 'text')) as w (name, type) join pg_proc as f on f.oid = ({FUNCTION})
where f.prorettype <> w.type::regtype
union all
select format('%I may not use the schema %s, which another party made', r.rolname, n.nspname)
from pg_namespace as n, pg_roles as r
where n.nspname in ('realtime', 'auth') and r.rolname = any ($3::text[])
  and not has_schema_privilege(r.oid, n.oid, 'usage')
"""


@dataclass(frozen=True, slots=True)
class Missing:
    """What the current role can neither do nor make. ``members`` are roles that it is no member of.

    ``differs`` are sentences about what others made, which no SQL of ours changes.
    """

    user: str
    database: str
    grants_options: bool
    create: bool = False
    roles: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    bypass: bool = False
    event_triggers: bool = False
    differs: tuple[str, ...] = ()

    @property
    def mendable(self) -> bool:
        """Whether there is something for an administrator to run."""
        return self.create or bool(self.roles) or bool(self.members) or self.bypass or self.event_triggers

    def sentence(self) -> str | None:
        """All of it in one line, or None where nothing is missing."""
        parts = [f"the right of {self.user} to create in the database"] if self.create else []
        if self.roles:
            parts.append(f"the {_many('role', self.roles)}")
        if self.members:
            parts.append(f"membership of {self.user} in {_listed(self.members)}")
        if self.bypass:
            parts.append("BYPASSRLS of service_role")
        if self.event_triggers:
            parts.append("event triggers (so a timer follows DDL, within ten seconds)")
        said = [f"Missing here: {'; '.join(parts)}. {HINT}"] if parts else []
        if self.differs:
            said.append(f"Not as Rowcast makes it: {'; '.join(self.differs)}.")
        return " ".join(said) or None

    def admin_sql(self) -> str:
        """SQL for psql, run once by a superuser in this database. It may be run again."""
        if not self.mendable:
            return "-- Nothing is missing here that an administrator would have to make.\n"
        parts = [_head(self.user, self.database)]
        if self.create:
            parts.append(
                "-- Rowcast keeps its outbox in a schema of its own, and a publication.\n"
                f"grant create on database {_quoted(self.database)} to {_quoted(self.user)};\n"
            )
        parts += [_role_sql(name) for name in self.roles]
        if self.bypass:
            parts.append(
                "-- Tokens of service_role see every row, as Supabase's do.\n"
                "alter role service_role bypassrls;\n"
            )
        joined = [*self.roles, *self.members]
        parts += [_membership_sql(name, self.user, self.grants_options) for name in ROLES if name in joined]
        if self.event_triggers:
            parts.append(_EVENT_TRIGGERS)
        return "\n".join([*parts, "commit;\n"])


async def missing(connection: asyncpg.Connection) -> Missing:
    """What is missing for the current role in the current database, after what it can make itself."""
    role = await connection.fetchrow(_ROLE)
    assert role is not None
    rows = await connection.fetch(_ROLES, list(ROLES), role["grants_options"])
    makes = role["superuser"] or role["creates_roles"]
    differs = await connection.fetch(_DIFFERS, PUBLICATION, role["begun"], list(API_ROLES), list(CALLED))
    return Missing(
        user=role["name"],
        database=role["database"],
        grants_options=role["grants_options"],
        create=not role["creates"],
        roles=tuple(row["name"] for row in rows if not row["stands"] and not makes),
        members=tuple(
            row["name"]
            for row in rows
            if row["stands"]
            and not (role["superuser"] or row["admins"])
            and not (row["sets"] and (row["inherits"] or row["name"] not in OWNING_ROLES))
        ),
        bypass=any(row["name"] == "service_role" and row["stands"] and not row["bypasses"] for row in rows),
        event_triggers=not role["follows"] and not role["superuser"],
        differs=tuple(row[0] for row in differs),
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _many(what: str, names: tuple[str, ...]) -> str:
    return f"{what}{'s' if len(names) > 1 else ''} {_listed(names)}"


def _head(user: str, database: str) -> str:
    # Whoever chose these names must not write the administrator's SQL: a line break would end a comment, and
    # a quote of dollars the block.
    shown = (" ".join(user.split()), " ".join(database.split()))
    quote = "$check$"
    while quote in database:
        quote = f"{quote[:-1]}_$"
    return f"""-- For Rowcast in the database {shown[1]}, used by the role {shown[0]}.
-- Run it once, as a superuser, with psql in that database; running it again changes nothing.
-- Afterwards: rowcast migrate
\\set ON_ERROR_STOP on
begin;
-- The settings of a database are its owner's to make: no name below is looked up where that owner could put
-- another.
set local search_path = pg_catalog, pg_temp;
set local standard_conforming_strings = on;

do {quote}
begin
  if current_database() <> {_literal(database)} then
    raise exception 'this is for the database %, and not for %', {_literal(database)}, current_database();
  end if;
  -- Nobody else may have made this schema first: they could put their own functions in it.
  if exists (select from pg_namespace as n join pg_roles as r on r.oid = n.nspowner
             where n.nspname = 'rowcast_admin' and not r.rolsuper) then
    raise exception 'the schema rowcast_admin belongs to another role: look into it, and drop it';
  end if;
end {quote};

-- What is the administrator's: that owner may look at it, and change nothing.
create schema if not exists rowcast_admin;
revoke all on schema rowcast_admin from public;
grant usage on schema rowcast_admin to {_quoted(user)};
-- What is made here, for `rowcast uninstall` to name.
create table if not exists rowcast_admin.made (kind text, name text, primary key (kind, name));
revoke all on table rowcast_admin.made from public;
grant select on table rowcast_admin.made to {_quoted(user)};
"""


def _role_sql(name: str) -> str:
    why = {
        "anon": "Roles that tokens stand for; no one logs in as one. Clients read with their rights.",
        "service_role": "The same, past row level security.",
        CAPTURE_ROLE: "Owns the functions of the triggers: it may write into the outbox, and nothing else.",
        JSON_ROLE: "Runs what a type's own cast to json does when rows are captured: it may do nothing.",
    }.get(name)
    options = "nologin noinherit bypassrls" if name == "service_role" else "nologin noinherit"
    comment = f"-- {why}\n" if why else ""
    return f"""{comment}do $role$
begin
  if not exists (select from pg_roles where rolname = '{name}') then
    create role {name} {options};
    insert into rowcast_admin.made values ('role', '{name}') on conflict do nothing;
  end if;
end $role$;
"""


def _membership_sql(name: str, user: str, grants_options: bool) -> str:
    if name in OWNING_ROLES:
        comment = "-- To give those functions away, and to replace them later.\n"
    elif name == API_ROLES[0]:
        comment = "-- To ask Postgres under these roles.\n"
    else:
        comment = ""
    # Acting as a role takes SET; what the role may do without acting as it is not wanted.
    inherits = "true" if name in OWNING_ROLES else "false"
    options = f" with set true, inherit {inherits}" if grants_options else ""
    return f"{comment}grant {name} to {_quoted(user)}{options};\n"


_EVENT_TRIGGERS = f"""\
-- Tell the servers of DDL, so that they follow it at once. Whoever runs DDL runs this function, so the owner
-- of the database may neither replace it nor have a part in what it does: it is in a schema of the
-- administrator's, calls nothing but Postgres' own functions, reads and writes no table, catches every error,
-- and waits for nothing.
create or replace function rowcast_admin.follow_ddl() returns event_trigger
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' as $follow$
begin
  if current_setting('rowcast.installing', true) = 'on'
     -- A transaction that has notified cannot be prepared.
     or current_setting('max_prepared_transactions') <> '0' then
    return;
  end if;
  if tg_event = 'sql_drop' then
    if not exists (select from pg_event_trigger_dropped_objects() as d
                   where not d.is_temporary and d.schema_name is distinct from 'pg_toast') then
      return;
    end if;
  elsif tg_tag not in ('GRANT', 'REVOKE')
     and not exists (select from pg_event_trigger_ddl_commands() as d
                     where d.schema_name is distinct from 'pg_temp') then
    return;
  end if;
  perform pg_notify('rowcast', 'catalog');
exception when others then
  null;
end $follow$;
revoke all on function rowcast_admin.follow_ddl() from public;

set local client_min_messages = warning;
drop event trigger if exists rowcast_follow_ddl;
drop event trigger if exists rowcast_follow_drop;
create event trigger rowcast_follow_ddl on ddl_command_end
  when tag in ({", ".join(f"'{tag}'" for tag in TAGS)})
  execute function rowcast_admin.follow_ddl();
create event trigger rowcast_follow_drop on sql_drop execute function rowcast_admin.follow_ddl();
alter event trigger rowcast_follow_ddl enable always;
alter event trigger rowcast_follow_drop enable always;
"""
