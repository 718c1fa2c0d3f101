"""Addresses: what is wrong with one is said by its part, and nothing secret is shown."""

import pytest
from hypothesis import given

from rowcast.db.address import cleaned, each_host, fault, files, place, primary, shown
from support.addresses import NEEDLE, addresses


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:secret@db.example:5432/app",
        "postgres://me@[::1]:5432/app?sslmode=require",
        "postgresql://one.example:5432,two.example:5433/app?target_session_attrs=primary",
        "postgresql:///app?host=/var/run/postgresql",
        "postgresql://me:50%25off%2F%40@db.example/app%20name",
        "postgresql://db.example?user=me%40corp.example&password=p%26q",
        "postgresql://me@db.example/app?connect_timeout=10&pgbouncer=true&channel_binding=prefer",
        "postgresql://me@db.example/app?options=-c%20statement_timeout%3D0",
        "postgresql://",
    ],
)
def test_addresses_that_postgres_takes_have_no_fault(address: str) -> None:
    assert fault(address) is None


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("mysql://me:secret@db.example/app", "must be an address such as"),
        ("db.example:5432/app", "must be an address such as"),
        ("postgresql:me:secret@db.example", "must be an address such as"),
        ("//[", "must be an address such as"),
        ("postgresql://[::1/app", "must be an address such as"),
        ("postgresql://me:secret@db.example:port/app", "wrong host or port"),
        ("postgresql://me:secret@db.example:70000/app", "a number from 1 to 65535"),
        ("postgresql://me:secret@db.example:0/app", "a number from 1 to 65535"),
        ("postgresql://me:secret@/app?host=a&port=many", "a number from 1 to 65535"),
        ("postgresql://me:sec@ret@db.example/app", "write % as %25"),
        ("postgresql://me:sec/ret@db.example/app", "write % as %25"),
        ("postgresql://me:12/secret@db.example/app", "write % as %25"),
        ("postgresql://me:12#secret@db.example/app", "write % as %25"),
        ("postgresql://me:12?secret=1@db.example/app", "write % as %25"),
        ("postgresql://me:50%off@db.example/app", "a % that begins no code"),
        ("postgresql://me:secret%00@db.example/app", "a % that begins no code"),
        ("postgresql://me:secret@db.example/app?sslmode=verify", "it is one of disable, allow, prefer"),
        ("postgresql://me:secret@db.example/app?sslmode", "?name=value"),
        ("postgresql://me:secret@db.example/app?channel_binding=require", "Take it out"),
        ("postgresql://me:sec ret@db.example/app", "a space or a line break"),
        ("postgresql://me:secret@db.example/app\n", "a space or a line break"),
    ],
)
def test_what_is_wrong_is_said_by_its_part(address: str, says: str) -> None:
    found = fault(address)
    assert found is not None
    assert says in found
    assert "sec" not in found


@given(addresses())
def test_no_password_is_in_what_is_said_of_an_address(address: str) -> None:
    assert NEEDLE not in (fault(address) or "")
    assert NEEDLE not in shown(address)
    if fault(address) is None:
        assert NEEDLE not in place(address)


def test_what_only_others_know_is_left_out_and_the_rest_is_kept() -> None:
    given_ = "postgresql://me:p%2Fq@db.example/app?connect_timeout=10&sslmode=require&search_path=a%20b"
    assert cleaned(given_) == "postgresql://me:p%2Fq@db.example/app?sslmode=require&search_path=a+b"


def test_what_is_shown_tells_where_an_address_leads() -> None:
    address = "postgresql://me:secret@db.example:5432/app?password=secret&sslrootcert=/etc/ca.pem"
    assert shown(address) == "postgresql://me:********@db.example:5432/app"
    assert shown("postgresql:///app?host=/tmp") == "postgresql:///app"
    assert shown("postgresql://[") == "********"
    assert place(address) == "db.example:5432/app"
    assert place("postgresql:///app?host=/tmp") == "local socket/app"
    assert files(address) == {"sslrootcert": "/etc/ca.pem"}


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("postgresql://me:pw@one:1,two:2/app", ["me:pw@one:1", "me:pw@two:2"]),
        ("postgresql://me@one,[::1]:2/app?sslmode=require", ["me@one", "me@[::1]:2"]),
    ],
)
def test_of_several_hosts_each_has_an_address_that_takes_only_a_primary(
    address: str, hosts: list[str]
) -> None:
    found = each_host(address)
    assert [one.partition("://")[2].partition("/")[0] for one in found] == hosts
    assert all("target_session_attrs=primary" in one for one in found)
    assert all(("sslmode=require" in one) == ("sslmode" in address) for one in found)


def test_hosts_may_be_given_as_a_parameter_and_what_is_wanted_of_them_too() -> None:
    parameters = "host=one,two&port=1,2&target_session_attrs=read-write"
    first, second = each_host(f"postgresql://me@/app?{parameters}")
    assert ("host=one&port=1" in first, "host=two&port=2" in second) == (True, True)
    assert "target_session_attrs=read-write" in first
    both, _ = each_host("postgresql://me@/app?host=one,two&port=5433")
    assert "port=5433" in both


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:pw@one:1/app",
        "postgresql:///app?host=/var/run/postgresql",
        "postgresql://",
        "postgresql://me@/app?host=one,two&port=1,2,3",
    ],
)
def test_one_host_and_what_is_no_list_stay_as_they_are(address: str) -> None:
    assert each_host(address) == [address]


def test_a_primary_is_wanted_unless_the_address_says_what() -> None:
    assert primary("postgresql://one/app") == "postgresql://one/app?target_session_attrs=primary"
    assert primary("postgresql://one/app?target_session_attrs=any").endswith("?target_session_attrs=any")
