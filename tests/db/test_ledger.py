"""What a release has to run over what has run: by pure comparison."""

import pytest

from rowcast.db.ledger import Applied, Ledger, Script, order, plan
from rowcast.db.migrations import scripts
from rowcast.errors import MigrationError

FIRST = Script(1, "first", "create table a ()")
SECOND = Script(2, "second", "-- Works beside: 1.0.0\ncreate table b ()")
FUNCTIONS = (Script(None, "f", "one"), Script(None, "g", "two"))


def ledger(*scripts: Script, release: str = "1.0.0") -> Ledger:
    """What stands where ``release`` has run these."""
    return Ledger(
        {
            one.version: Applied(one.checksum, release, one.beside or release)
            for one in scripts
            if one.version
        },
        {one.name: Applied(one.checksum, release, "") for one in scripts if one.version is None},
    )


def test_what_has_not_run_is_run_in_order_and_functions_all_when_one_differs() -> None:
    assert plan([FIRST, SECOND], FUNCTIONS, Ledger(), "1.0.0").scripts == (FIRST, SECOND, *FUNCTIONS)
    done = ledger(FIRST, *FUNCTIONS)
    assert plan([FIRST], FUNCTIONS, done, "1.0.0").scripts == ()
    assert plan([FIRST, SECOND], FUNCTIONS, done, "1.1.0").scripts == (SECOND,)
    changed = (FUNCTIONS[0], Script(None, "g", "three"))
    assert plan([FIRST], changed, done, "1.0.0").scripts == changed


def test_an_edited_migration_is_refused_unless_it_names_its_earlier_text() -> None:
    edited = Script(1, "first", "create table a (id int)")
    with pytest.raises(MigrationError, match="Migration 1 was edited"):
        plan([edited], FUNCTIONS, ledger(FIRST, *FUNCTIONS), "1.0.0")
    named = Script(1, "first", f"-- Replaces: {FIRST.checksum}\ncreate table a (id int)")
    assert plan([named], FUNCTIONS, ledger(FIRST, *FUNCTIONS), "1.0.0").scripts == ()


def test_an_older_release_runs_nothing_beside_a_newer_ones_schema() -> None:
    newer = ledger(FIRST, SECOND, Script(None, "f", "new"), release="1.1.0")
    planned = plan([FIRST], FUNCTIONS, newer, "1.0.0")
    assert planned.scripts == ()
    assert planned.older == "The database was migrated by Rowcast 1.1.0; this is 1.0.0."


def test_newer_functions_are_not_replaced_by_an_older_releases_even_with_no_migration_between() -> None:
    newer = ledger(FIRST, Script(None, "f", "new"), release="1.0.1")
    planned = plan([FIRST], FUNCTIONS, newer, "1.0.0")
    assert planned.scripts == ()
    assert planned.older is not None


def test_a_release_older_than_a_migration_allows_is_refused() -> None:
    with pytest.raises(
        MigrationError, match=r"migration 2, which this version of Rowcast, 0\.9\.0, does not"
    ):
        plan([FIRST], FUNCTIONS, ledger(FIRST, SECOND, release="1.1.0"), "0.9.0")
    silent = Script(2, "second", "create table b ()")
    with pytest.raises(MigrationError, match=r"at least as new as the one that migrated it, 1\.1\.0"):
        plan([FIRST], FUNCTIONS, ledger(FIRST, silent, release="1.1.0"), "1.0.0")


def test_a_release_with_a_migration_of_its_own_is_not_merely_older() -> None:
    with pytest.raises(MigrationError, match="migration 2"):
        plan([FIRST, Script(3, "own", "")], FUNCTIONS, ledger(FIRST, SECOND, release="1.1.0"), "1.0.0")


def test_a_ledger_that_kept_no_releases_counts_as_older_than_any() -> None:
    kept = ledger(FIRST, *FUNCTIONS, release="")
    assert plan([FIRST, SECOND], FUNCTIONS, kept, "1.0.0") == plan(
        [FIRST, SECOND], FUNCTIONS, ledger(FIRST, *FUNCTIONS), "1.0.0"
    )


def test_releases_are_compared_by_their_numbers() -> None:
    releases = ["", "0.9.0", "0.10.0", "1.0.0rc1", "1.0.1", "2.0.0"]
    assert sorted(reversed(releases), key=order) == releases


def test_every_file_has_a_version_of_its_own() -> None:
    versioned, repeatable = scripts()
    assert len({one.version for one in versioned}) == len(versioned)
    assert len({one.name for one in repeatable}) == len(repeatable)
