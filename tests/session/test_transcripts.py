"""Conversations as they were seen on the wire of the original, frame for frame, in both versions.

Where this server means to differ, a comment says so.
"""

import json
from typing import Any

import pytest

from rowcast.auth.tokens import Verifier, sign
from rowcast.model.allowed import Allowed
from rowcast.model.binding import binding_id
from rowcast.model.rates import RateWindow
from rowcast.protocol.codec import decode_binary, decode_text, encode
from rowcast.protocol.messages import MalformedMessage, Version
from rowcast.session.admission import Limits
from rowcast.session.connection import Connection
from rowcast.session.wants import Attach, Authorize, Send, Want
from support.tokens import SECRET

NOW = 1_000_000.0
# A join without `config` is of the old kind: its topic is taken for a schema.
ROOM = f'[{{"id":{binding_id({"schema": "room-a"})},"schema":"room-a"}}]'
UNKNOWN = (
    "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given "
    "connect parameters: [event: *, schema: room-a, table: *, filters: [], select: nil]"
)
FOREIGN = "the-secret-of-some-other-project-entirely"


def token(secret: str = SECRET, **claims: Any) -> str:
    """A good token, but for the claims that are given; None leaves one out."""
    wanted = {"role": "anon", "exp": NOW + 3600, **claims}
    return sign({name: value for name, value in wanted.items() if value is not None}, secret)


class Conversation:
    """A connection that is spoken to in raw frames. The clock stands still until it is set."""

    def __init__(self, version: Version) -> None:
        self.version, self.now = version, NOW
        limits = Limits(refusal_delay=5.0)
        self.connection = Connection(version, token(), Verifier(SECRET), limits, NOW, RateWindow(100))
        self.attaches: list[Attach] = []
        self.delays: list[float] = []

    def say(self, frame: str | bytes) -> list[str]:
        """What is sent for a frame of the client's."""
        try:
            message = (
                decode_text(frame, self.version)
                if isinstance(frame, str)
                else decode_binary(frame, self.version)
            )
        except MalformedMessage:
            return []
        return self.take(self.connection.receive(message, self.now))

    def refuse(self, text: str) -> list[str]:
        """What is sent when the last subscription is refused."""
        attach = self.attaches[-1]
        return self.take(self.connection.attached(attach.channel, attach.attempt, (text,), False, None))

    def take(self, wants: list[Want]) -> list[str]:
        if wants and isinstance(wants[-1], Authorize):
            # There are no policies.
            wants = [*wants[:-1], *self.connection.authorized(Allowed(), self.now)]
        self.attaches += [want for want in wants if isinstance(want, Attach)]
        sends = [want for want in wants if isinstance(want, Send)]
        self.delays = [send.delay for send in sends]
        return [encode(send.message, self.version).decode() for send in sends]


def test_heartbeat_join_leave_and_odd_frames_under_1_0_0() -> None:
    conversation = Conversation(Version.V1)
    refused = (
        '{"ref":null,"event":"system","payload":{"message":"' + UNKNOWN + '","status":"error",'
        '"extension":"postgres_changes","channel":"room-a"},"topic":"realtime:room-a"}'
    )
    lines: list[tuple[str | bytes, list[str]]] = [
        ('{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}',
         ['{"ref":"1","event":"phx_reply","payload":{"status":"ok","response":{}},"topic":"phoenix"}']),
        ('{"topic":"realtime:room-a","event":"phx_join","payload":{},"ref":"2","join_ref":"2"}',
         ['{"ref":"2","event":"phx_reply","payload":{"status":"ok","response":{"postgres_changes":' + ROOM
          + '}},"topic":"realtime:room-a"}', refused]),
        ('{"topic":"realtime:room-a","event":"whatever","payload":{"a":1},"ref":"3","join_ref":"2"}', []),
        ('{"topic":"realtime:never","event":"broadcast","payload":{"type":"broadcast"},"ref":"4"}',
         ['{"ref":"4","event":"phx_reply","payload":{"status":"error","response":'
          '{"reason":"unmatched topic"}},"topic":"realtime:never"}']),
        ('{"topic":"room-b","event":"phx_join","payload":{},"ref":"5","join_ref":"5"}',
         ['{"ref":"5","event":"phx_reply","payload":{"status":"error","response":'
          '{"reason":"unmatched topic"}},"topic":"room-b"}']),
        # The original sends the phx_close of the old channel too, which closes the new one of some clients.
        ('{"topic":"realtime:room-a","event":"phx_join","payload":{},"ref":"6","join_ref":"6"}',
         ['{"ref":"6","event":"phx_reply","payload":{"status":"ok","response":{"postgres_changes":' + ROOM
          + '}},"topic":"realtime:room-a"}', refused]),
        ('{"topic":"realtime:room-a","event":"phx_leave","payload":{},"ref":"7","join_ref":"6"}',
         ['{"ref":"7","event":"phx_reply","payload":{"status":"ok","response":{}},"topic":"realtime:room-a"}',
          '{"ref":"6","event":"phx_close","payload":{},"topic":"realtime:room-a"}']),
        ('{"topic":"realtime:room-a","event":"phx_leave","payload":{},"ref":"8","join_ref":"6"}',
         ['{"ref":"8","event":"phx_reply","payload":{"status":"ok","response":{}},"topic":"realtime:room-a"}']),
        ("this is not json", []), ('{"a":1}', []), ("", []), (b"\x00\x01\x02\xff", []), (b"", []),
        ('{"event":"heartbeat","topic":"phoenix","payload":{},"ref":null,"join_ref":null}',
         ['{"ref":null,"event":"phx_reply","payload":{"status":"ok","response":{}},"topic":"phoenix"}']),
    ]  # fmt: skip
    for heard, answers in lines:
        said = conversation.say(heard)
        if answers and answers[-1].endswith(refused):
            said += conversation.refuse(UNKNOWN)
        assert said == answers


def test_heartbeat_join_leave_and_odd_frames_under_2_0_0() -> None:
    conversation = Conversation(Version.V2)
    refused = (
        ',null,"realtime:room-a","system",{"message":"' + UNKNOWN + '","status":"error",'
        '"extension":"postgres_changes","channel":"room-a"}]'
    )
    lines: list[tuple[str | bytes, list[str]]] = [
        ('[null,"1","phoenix","heartbeat",{}]',
         ['[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]']),
        ('["2","2","realtime:room-a","phx_join",{}]',
         ['["2","2","realtime:room-a","phx_reply",{"status":"ok","response":{"postgres_changes":' + ROOM
          + '}}]', '["2"' + refused]),
        ('["2","3","realtime:room-a","whatever",{"a":1}]', []),
        ('["9","4","realtime:never","broadcast",{"type":"broadcast"}]',
         ['[null,"4","realtime:never","phx_reply",'
          '{"status":"error","response":{"reason":"unmatched topic"}}]']),
        ('["5","5","room-b","phx_join",{}]',
         ['[null,"5","room-b","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]']),
        ('["6","6","realtime:room-a","phx_join",{}]',
         ['["6","6","realtime:room-a","phx_reply",{"status":"ok","response":{"postgres_changes":' + ROOM
          + '}}]', '["2","2","realtime:room-a","phx_close",{}]', '["6"' + refused]),
        # Pushes with the reference of an older join are heard; without `ack` there is no answer.
        ('["2",null,"realtime:room-a","broadcast",{"type":"broadcast","event":"x","payload":{}}]', []),
        ('["6","7","realtime:room-a","phx_leave",{}]',
         ['["6","7","realtime:room-a","phx_reply",{"status":"ok","response":{}}]',
          '["6","6","realtime:room-a","phx_close",{}]']),
        ('["6","8","realtime:room-a","phx_leave",{}]',
         ['["6","8","realtime:room-a","phx_reply",{"status":"ok","response":{}}]']),
        ("this is not json", []), ("[1]", []), ("", []), (b"\x00\x01\x02\xff", []),
        ('[null,"10","phoenix","heartbeat",{},"more"]',
         ['[null,"10","phoenix","phx_reply",{"status":"ok","response":{}}]']),
    ]  # fmt: skip
    for heard, answers in lines:
        said = conversation.say(heard)
        if answers and answers[-1].endswith(refused):
            said += conversation.refuse(UNKNOWN)
        assert said == answers


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("", {}, "TopicNameRequired: You must provide a topic name"),
        ("r1", {"config": {}, "access_token": token(exp=NOW - 84)},
         "InvalidJWTToken: Token has expired 84 seconds ago"),
        ("r2", {"config": {}, "access_token": token(FOREIGN)},
         "JwtSignatureError: Failed to validate JWT signature"),
        ("r3", {"config": {}, "access_token": "garbage"},
         "MalformedJWT: The token provided is not a valid JWT"),
        ("r4", {"config": {}, "access_token": token(exp=None)},
         "InvalidJWTToken: Fields `role` and `exp` are required in JWT"),
        ("r5", {"config": {}, "access_token": token(role=None)},
         "InvalidJWTToken: Fields `role` and `exp` are required in JWT"),
        ("priv1", {"config": {"private": True}},
         "Unauthorized: You do not have permissions to read from this Channel topic: priv1"),
        ("r11", {"config": {"broadcast": {"replay": {"since": 0, "limit": 5}}}},
         "UnableToReplayMessages: Replay is not allowed for public channels"),
        # These two are worded anew: the original shows its own source's words.
        ("r7", [1, 2], "UnknownErrorOnChannel: expected the payload of the join to be an object"),
        ("r8", {"config": "x"}, "UnknownErrorOnChannel: expected `config` to be an object"),
    ],
)  # fmt: skip
def test_a_join_that_is_refused_is_answered_late_with_the_reason(
    topic: str, payload: Any, reason: str
) -> None:
    conversation = Conversation(Version.V1)
    message = {"topic": f"realtime:{topic}", "event": "phx_join", "payload": payload, "ref": "1"}
    (answer,) = conversation.say(json.dumps(message))
    response = '{"status":"error","response":' + json.dumps({"reason": reason}, separators=(",", ":")) + "}"
    assert answer == f'{{"ref":"1","event":"phx_reply","payload":{response},"topic":"realtime:{topic}"}}'
    assert conversation.delays == [5.0]


@pytest.mark.parametrize(
    "payload",
    [
        {"config": {}, "access_token": None},
        {"config": {}, "access_token": "sb_publishable_xyz"},
        {"config": {}, "access_token": "garbage", "user_token": token()},
        {"config": {"broadcast": {"ack": "maybe", "self": 3}, "presence": {"enabled": "yes"}}},
        {"config": {"private": "perhaps"}},
        {"config": {"broadcast": None, "presence": None, "postgres_changes": None, "private": "FALSE"}},
        {"config": {"postgres_changes": {"event": "*"}}},
        {"config": {"postgres_changes": [None, 5]}},
        {"config": {"broadcast": {"ack": True, "self": True}, "postgres_changes": [], "private": False},
         "access_token": token()},
    ],
)  # fmt: skip
def test_a_join_that_is_accepted_is_answered_at_once(payload: Any) -> None:
    conversation = Conversation(Version.V2)
    answers = conversation.say(json.dumps(["1", "1", "realtime:r6", "phx_join", payload]))
    assert answers == [
        '["1","1","realtime:r6","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]'
    ]
    assert conversation.delays == [0.0]


def test_a_subscription_is_told_after_the_reply() -> None:
    conversation = Conversation(Version.V1)
    entry = '{"table":"todos","schema":"public","event":"*"}'
    (answer,) = conversation.say(
        '{"topic":"realtime:c","event":"phx_join","ref":"1","payload":{"config":{"postgres_changes":['
        + entry
        + "]}}}"
    )
    (attach,) = conversation.attaches
    number = attach.bindings[0].id
    assert answer == (
        '{"ref":"1","event":"phx_reply","payload":{"status":"ok","response":{"postgres_changes":[{"id":'
        f'{number},"event":"*","schema":"public","table":"todos"}}]}}}},"topic":"realtime:c"}}'
    )
    told = conversation.connection.attached(attach.channel, attach.attempt, (), True, "p")
    # `position` is this server's own.
    assert conversation.take(told) == [
        '{"ref":null,"event":"system","payload":{"message":"Subscribed to PostgreSQL","status":"ok",'
        '"extension":"postgres_changes","channel":"c","position":"p"},"topic":"realtime:c"}'
    ]


@pytest.mark.parametrize(
    ("refreshed", "text"),
    [
        (token(role="authenticated"), None),
        (None, None),
        ("sb_publishable_x", None),
        (token(), None),
        ("garbage", "The token provided is not a valid JWT"),
        (token(exp=NOW - 99), "Token has expired 99 seconds ago"),
        (token(exp=None), "Fields `role` and `exp` are required in JWT"),
        # The original shows `:signature_error` here, and this sentence at a join.
        (token(FOREIGN), "Failed to validate JWT signature"),
        ("", "The token provided is not a valid JWT"),
    ],
)
def test_a_refreshed_token_is_answered_only_when_it_ends_the_channel(
    refreshed: str | None, text: str | None
) -> None:
    conversation = Conversation(Version.V1)
    conversation.say('{"topic":"realtime:tk","event":"phx_join","payload":{"config":{}},"ref":"1"}')
    payload = json.dumps({"access_token": refreshed})
    answers = conversation.say(
        f'{{"topic":"realtime:tk","event":"access_token","payload":{payload},"ref":"2","join_ref":"1"}}'
    )
    ended = [
        f'{{"ref":null,"event":"system","payload":{{"message":"{text}","status":"error",'
        '"extension":"system","channel":"tk"},"topic":"realtime:tk"}',
        '{"ref":"1","event":"phx_close","payload":{},"topic":"realtime:tk"}',
    ]
    assert answers == ([] if text is None else ended)


def test_a_refreshed_token_has_the_subscription_made_anew() -> None:
    conversation = Conversation(Version.V2)
    conversation.say(
        '["1","1","realtime:tk","phx_join",{"config":{"postgres_changes":[{"event":"*","table":"a"}]}}]'
    )
    payload = json.dumps({"access_token": token(role="authenticated")})
    told = []
    for frame in (None, f'["1","2","realtime:tk","access_token",{payload}]'):
        assert frame is None or conversation.say(frame) == []
        attach = conversation.attaches[-1]
        wants = conversation.connection.attached(attach.channel, attach.attempt, (), True, "p")
        told.append((attach.claims.role, *conversation.take(wants)))
    subscribed = (
        '["1",null,"realtime:tk","system",{"message":"Subscribed to PostgreSQL","status":"ok",'
        '"extension":"postgres_changes","channel":"tk","position":"p"}]'
    )
    assert told == [("anon", subscribed), ("authenticated", subscribed)]


def test_a_channel_too_many_is_refused_late() -> None:
    conversation = Conversation(Version.V1)
    for number in range(100):
        conversation.say(
            f'{{"topic":"realtime:ch{number}","event":"phx_join","payload":{{"config":{{}}}},"ref":"{number}"}}'
        )
    answers = conversation.say(
        '{"topic":"realtime:ch100","event":"phx_join","payload":{"config":{}},"ref":"100"}'
    )
    assert answers == [
        '{"ref":"100","event":"phx_reply","payload":{"status":"error","response":{"reason":'
        '"ChannelRateLimitReached: Too many channels"}},"topic":"realtime:ch100"}'
    ]
    assert conversation.delays == [5.0]


def test_a_token_that_expires_while_joined() -> None:
    conversation = Conversation(Version.V1)
    payload = json.dumps({"config": {}, "access_token": token(exp=NOW + 4)})
    conversation.say(f'{{"topic":"realtime:tkx","event":"phx_join","payload":{payload},"ref":"1"}}')
    assert conversation.take(conversation.connection.tick(NOW + 3.9)) == []
    assert conversation.take(conversation.connection.tick(NOW + 4)) == [
        '{"ref":null,"event":"system","payload":{"message":"Token has expired 0 seconds ago",'
        '"status":"error","extension":"system","channel":"tkx"},"topic":"realtime:tkx"}',
        '{"ref":"1","event":"phx_close","payload":{},"topic":"realtime:tkx"}',
    ]
