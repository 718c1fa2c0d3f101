"""Where connections are taken: bound before anything else, and told in a line when it cannot be."""

import socket

import pytest

from rowcast.errors import ListenError
from rowcast.serving.server import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost", ""])
def test_a_host_is_listened_on_by_name_and_by_address(host: str) -> None:
    sockets = listen(host, 0)
    try:
        ports = [one.getsockname()[1] for one in sockets if one.family == socket.AF_INET]
        with socket.create_connection(("127.0.0.1", ports[0]), 5):
            pass
    finally:
        for one in sockets:
            one.close()


def test_a_port_that_is_taken_is_named_with_the_setting_that_changes_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=rf"Port {port} of 127\.0\.0\.1 is taken .* set PORT"):
            listen("127.0.0.1", port)


def test_two_servers_do_not_share_a_port() -> None:
    (first,) = listen("127.0.0.1", 0)
    with first, pytest.raises(ListenError, match="is taken"):
        listen("127.0.0.1", first.getsockname()[1])


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "2001:db8::1"])
def test_a_host_that_is_not_this_machine_is_named_with_what_to_set(host: str) -> None:
    with pytest.raises(ListenError, match=f"ROWCAST_HOST is {host}.*0.0.0.0"):
        listen(host, 0)
