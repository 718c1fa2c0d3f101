"""The SQL that reads the outbox. Every statement also reads what has been trimmed: TRUNCATE is not MVCC-safe,
and an older snapshot sees an empty table without an error.

The outbox stands in a few tables, and a long transaction's rows may lie in two of them: each statement reads
all.
"""

TABLES = ("rowcast.outbox_0", "rowcast.outbox_1", "rowcast.outbox_2")

# An xid8 as a number, and not as asyncpg's own type.
_OUT = "xid::text::bigint as xid, seq, ord, relation, op::text as op, record, old_record"
_AFTER = "(ord, seq) > ($2, $3) and relation <> all($5::int[]) order by ord, seq limit $4"


def _union(arm: str) -> str:
    return "\nunion all\n".join(f"({arm.format(table=table)})" for table in TABLES)


def _both(arm: str) -> str:
    """The rows that were not visible in A: begun after it, or running then. Two index look-ups a table."""
    return (
        _union(arm.replace("{where}", "xid >= $1::text::xid8"))
        + "\nunion all\n"
        + _union(arm.replace("{where}", "xid = any($2::text[]::xid8[])"))
    )


# $1 xmax of A, $2 xip of A, $3 the most rows an arm may give: an arm that gives that many was cut.
# $4 relations whose rows are counted but not given; the window is over all rows, as a transaction's order is.
# The random part of the epoch, since capture may stop and begin anew between two reads.
# The insert position is read after the snapshot was taken, so every commit the snapshot sees lies before it.
LIVE = f"""
with s as materialized (
  select pg_current_snapshot()::text as snap,
         pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint as wal,
         pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint as flushed,
         (select xid::text::bigint from rowcast.trimmed) as trimmed,
         (select value::text from rowcast.epoch) as epoch
), u as materialized (
{_both(f"select {_OUT}, at from {{table}} where {{where}} limit $3")}
), o as (
  select xid, seq, ord, relation, op, record, old_record,
         max(seq) over (partition by xid) as maxseq, max(at) over (partition by xid) as committed
  from u
)
select s.snap, s.wal, s.flushed, s.trimmed, s.epoch, (select count(*) from u) as changes, o.*
from s left join o on o.relation <> all($4::int[])
order by o.maxseq, o.ord, o.seq
"""

# Transactions of the batch (A, B], in their order; $3 is B, $4 the least maxseq, $5 the most there are to be.
TRANSACTIONS = f"""
select s.trimmed, t.* from (select xid::text::bigint as trimmed from rowcast.trimmed) as s left join lateral (
  select xid::text::bigint as xid, max(seq) as maxseq, max(at) as committed, count(*) as changes from (
{_both("select xid, seq, at from {table} where {where} and xid < pg_snapshot_xmax($3::text::pg_snapshot)")}
  ) as u
  where pg_visible_in_snapshot(xid, $3::text::pg_snapshot)
  group by xid
  having max(seq) >= $4
  order by max(seq) limit $5
) as t on true
order by t.maxseq
"""

# Whole transactions; $1 their xids, $2 relations whose rows are left out.
WHOLE = f"""
select s.trimmed, o.* from (select xid::text::bigint as trimmed from rowcast.trimmed) as s left join lateral (
{_union(f"select {_OUT} from {{table}} where xid = any($1::text[]::xid8[]) and relation <> all($2::int[])")}
) as o on true
"""

# A page of one transaction: $1 its xid, after ($2 ord, $3 seq), at most $4, without the relations $5.
# The limit stands in each arm: over the plain union, Postgres would sort the whole transaction for each page.
PART = f"""
select s.trimmed, o.* from (select xid::text::bigint as trimmed from rowcast.trimmed) as s left join lateral (
  select * from (
{_union(f"select {_OUT} from {{table}} where xid = $1::text::xid8 and {_AFTER}")}
  ) as u order by ord, seq limit $4
) as o on true
order by o.ord, o.seq
"""

# The last mark of the first stretch of xids that has one after $1 (an xmax), up to $2: whoever looks from
# within such a stretch finds the same.
MARK = """
with m as materialized (
  select snap, upto, at, upto::text::bigint / $3 as stretch from rowcast.marks
  where upto > $1::text::xid8 and upto <= $2::text::xid8
)
select snap::text from m where stretch = (select min(stretch) from m) order by upto desc, at desc limit 1
"""

FLUSHED = "select pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint"
# A commit of our own that is flushed, and with it all before.
FLUSH = "select pg_logical_emit_message(true, 'rowcast', '')"

HISTORY = "select rowcast.history()"
# What the planner is told. It has no good statistics of tables that are filled and truncated all day.
PLANNING = {
    "jit": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "synchronous_commit": "local",
    "plan_cache_mode": "force_generic_plan",
}


def _settings(local: str) -> str:
    return ", ".join(f"set_config('{name}', '{value}', {local})" for name, value in PLANNING.items())


SET = f"select {_settings('false')}"
# The same for one transaction, whose backend says with it which history it has.
LENT = f"{HISTORY}, {_settings('true')}"
SNAPSHOT = "select pg_current_snapshot()::text"
