"""How things outside our schema were found, before the first migration touched them.

``rowcast.notes`` holds one row for each thing: ``was`` is null for what was not there, so that what is there
when Rowcast is taken out is Rowcast's. What was noted first stands; a thing that a later release adds is
noted before its migration runs.
"""

import asyncpg

API_ROLES = ("anon", "authenticated", "service_role")
CAPTURE_ROLE = "rowcast_capture"
JSON_ROLE = "rowcast_json"
#: Those that own functions of ours.
OWNING_ROLES = (CAPTURE_ROLE, JSON_ROLE)
ROLES = (*API_ROLES, *OWNING_ROLES)
PUBLICATION = "supabase_realtime"

TABLE = """
create table if not exists rowcast.notes (
  kind text not null, name text not null, was text, of oid, at timestamptz not null default clock_timestamp(),
  primary key (kind, name));
"""

# A membership counts as there only if this role granted it, or, before PostgreSQL 16, if it is there at all:
# then a member cannot be one twice.
OWN_MEMBERSHIP = """exists (select from pg_auth_members as m join pg_roles as r on r.oid = m.roleid
  join pg_roles as u on u.oid = m.member
  where r.rolname = name and u.rolname = current_user
    and (m.grantor = u.oid or current_setting('server_version_num')::int < 160000))"""

# By a name in a schema that may not be used, even looking fails: so not by to_regclass.
MESSAGES = """select k.oid from pg_class as k join pg_namespace as n on n.oid = k.relnamespace
  where n.nspname = 'realtime' and k.relname = 'messages'"""
#: What SQL calls, by name and types of arguments.
CALLED = (
    "realtime.topic()",
    "realtime.send(jsonb, text, text, boolean)",
    "realtime.send_binary(bytea, text, text, boolean)",
    "realtime.broadcast_changes(text, text, text, text, text, record, record, text)",
    "auth.jwt()",
    "auth.uid()",
    "auth.role()",
)
# The function that has this `name`, as above.
FUNCTION = """select p.oid from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
  where n.nspname || '.' || p.proname || '(' || oidvectortypes(p.proargtypes) || ')' = name"""

_LOOK = f"""
insert into rowcast.notes (kind, name, was)
select kind, name, was from (
  select 'role', name, case when exists (select from pg_roles where rolname = name) then 'there' end
  from unnest($1::text[]) as name
  union all
  select 'membership', name, case when {OWN_MEMBERSHIP} then 'there' end from unnest($1::text[]) as name
  union all
  select 'schema', name, case when exists (select from pg_namespace where nspname = name) then 'there' end
  from unnest(array['realtime', 'auth']) as name
  union all
  select 'usage', schema || ' ' || role, case when exists (
    select from pg_namespace as n, aclexplode(n.nspacl) as a join pg_roles as r on r.oid = a.grantee
    where n.nspname = schema and r.rolname = role and a.privilege_type = 'USAGE') then 'there' end
  from unnest(array['realtime', 'auth']) as schema, unnest($2::text[]) as role
  union all
  select 'publication', name,
         case when exists (select from pg_publication where pubname = name) then 'there' end
  from unnest(array['{PUBLICATION}']) as name
  union all
  select 'table', 'realtime.messages', case when exists ({MESSAGES}) then 'there' end
  union all
  -- Privileges on a table that stays.
  select 'access', role, (
    select string_agg(lower(a.privilege_type), ', ' order by a.privilege_type)
    from pg_class as k, aclexplode(k.relacl) as a join pg_roles as r on r.oid = a.grantee
    where k.oid = ({MESSAGES}) and r.rolname = role)
  from unnest($2::text[]) as role
  union all
  select 'function', name, case when exists ({FUNCTION}) then 'there' end
  from unnest($3::text[]) as name
) as looks (kind, name, was)
on conflict do nothing
"""


async def look(connection: asyncpg.Connection) -> None:
    """Note how each thing stands now, unless it was noted before."""
    await connection.execute(_LOOK, list(ROLES), list(API_ROLES), list(CALLED))
