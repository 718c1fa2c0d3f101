"""What one client sends must not harm the rest: found by review, kept by tests."""

import jwt
import pytest

from rowcast.auth.tokens import Verifier
from rowcast.model.claims import Claims, TokenError
from rowcast.model.rates import RateWindow
from rowcast.protocol.messages import ClientMessage, Version
from rowcast.session.admission import Limits
from rowcast.session.connection import Connection
from rowcast.session.wants import Attach, Send
from support.tokens import SECRET


@pytest.mark.parametrize("name", ["exp", "iat"])
def test_a_time_of_hundreds_of_digits_is_no_time(name: str) -> None:
    claims = {"role": "anon", "exp": 2_000_000_000, name: 10**400}
    with pytest.raises(TokenError, match="expiration time is invalid"):
        Verifier(SECRET)(jwt.encode(claims, SECRET, algorithm="HS256"), 1_000_000_000)


def test_an_entrys_own_id_does_not_replace_the_one_that_changes_carry() -> None:
    conversation = Connection(
        Version.V2, "t", lambda *_: Claims("anon", 1e9, {}), Limits(), 0.0, RateWindow(100)
    )
    entry = {"id": 5, "event": "*", "table": "todos"}
    payload = {"config": {"postgres_changes": [entry]}}
    sent, attach, _ = conversation.receive(ClientMessage("realtime:a", "phx_join", payload, "1", "1"), 0.0)
    assert isinstance(sent, Send)
    assert isinstance(attach, Attach)
    (echo,) = sent.message.payload["response"]["postgres_changes"]
    assert list(echo) == ["id", "event", "table"]
    assert [echo["id"]] == [binding.id for binding in attach.bindings]
