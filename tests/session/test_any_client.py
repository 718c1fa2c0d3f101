"""Rules of a conversation that hold whatever a client does, in whatever order."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rowcast.model.allowed import Allowed
from rowcast.protocol.messages import ClientMessage, ServerMessage, Version
from rowcast.session.wants import (
    Attach,
    Authorize,
    Close,
    Detach,
    Enter,
    Publish,
    Send,
    Track,
    Untrack,
    Want,
)
from support.sessions import CHANGES, EVERY_ANSWER, NOW, Answer, connection, ok


class Conversation(RuleBasedStateMachine):
    """Any client against a model that knows only which topics are joined, and by which join."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.version = Version.V2
        self.connection = connection(idle_timeout=1e9)
        self.joined: dict[str, str] = {}
        self.attached: set[int] = set()
        self.entered: set[int] = set()
        self.attempts: list[Attach] = []
        self.asked: list[Authorize] = []
        self.private: set[str] = set()
        self.ref = 0

    def _say(self, topic: str, event: str, payload: Any) -> list[ServerMessage]:
        self.ref += 1
        return self._take(
            self.connection.receive(
                ClientMessage(topic, event, payload, str(self.ref), str(self.ref)), self.now
            )
        )

    def _take(self, wants: list[Want]) -> list[ServerMessage]:
        messages = []
        for want in wants:
            match want:
                case Send(message, _):
                    messages.append(message)
                case Attach():
                    self.attached.add(want.channel)
                    self.attempts.append(want)
                case Authorize():
                    assert want is wants[-1]
                    self.asked.append(want)
                case Enter():
                    self.entered.add(want.channel)
                case Publish() | Track() | Untrack():
                    assert want.channel in self.entered
                case Detach(channel):
                    assert channel in self.entered, "over, and never begun"
                    self.entered.remove(channel)
                    self.attached.discard(channel)
                case Close():
                    raise AssertionError("closed without a reason")
        return messages

    @rule(
        topic=st.sampled_from(["realtime:a", "realtime:b"]),
        changes=st.booleans(),
        good=st.booleans(),
        private=st.booleans(),
        answer=st.sampled_from([*EVERY_ANSWER, None]),
        meanwhile=st.sampled_from([None, "tick"]),
    )
    def joins(
        self,
        topic: str,
        changes: bool,
        good: bool,
        private: bool,
        answer: Answer | None,
        meanwhile: str | None,
    ) -> None:
        config = {**(CHANGES if changes else {}), "private": private}
        payload = {"config": config, "access_token": "anon" if good else "bad"}
        messages = self._say(topic, "phx_join", payload)
        if self.asked:
            assert private
            assert good
            assert messages == []
            self.asked.clear()
            if answer is None:
                # The client went away, and the answer comes too late.
                self.ends_and_begins_anew()
                return
            if meanwhile == "tick":
                assert self._take(self.connection.tick(self.now)) == []
            messages = self._take(self.connection.authorized(answer, self.now))
            good = isinstance(answer, Allowed) and bool(answer)
        self.private.discard(topic)
        if private:
            self.private.add(topic)
        assert messages[0].event == "phx_reply"
        assert messages[0].ref == str(self.ref)
        old = self.joined.pop(topic, None)
        closes = [message.join_ref for message in messages if message.event == "phx_close"]
        assert closes == ([] if old is None else [old])
        if good:
            self.joined[topic] = str(self.ref)
        assert messages[0].payload["status"] == ("ok" if good else "error")

    @rule(topic=st.sampled_from(["realtime:a", "realtime:b", "other"]))
    def leaves(self, topic: str) -> None:
        messages = self._say(topic, "phx_leave", {})
        assert messages[0].payload == ok({})
        assert len(messages) == (2 if self.joined.pop(topic, None) else 1)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), good=st.booleans())
    def is_attached(self, data: st.DataObject, good: bool) -> None:
        attempt = data.draw(st.sampled_from(self.attempts))
        messages = self._take(
            self.connection.attached(attempt.channel, attempt.attempt, ("no",) * (not good), good, "p")
        )
        assert len(messages) <= 1
        if messages:
            assert messages[0].join_ref == self.joined[messages[0].topic]

    @rule(
        token=st.sampled_from(["anon", "authenticated", "bad", "sb_x", None]),
        answer=st.sampled_from(EVERY_ANSWER),
    )
    def refreshes(self, token: str | None, answer: Answer) -> None:
        messages = self._say("realtime:a", "access_token", {"access_token": token})
        if self.asked:
            assert "realtime:a" in self.private
            self.asked.clear()
            messages = self._take(self.connection.authorized(answer, self.now))
            assert "realtime:a" in self.joined
            assert messages or isinstance(answer, Allowed)
        for message in messages:
            if message.event == "phx_close":
                assert self.joined.pop("realtime:a") == message.join_ref

    @rule(
        topic=st.sampled_from(["realtime:a", "realtime:b"]),
        event=st.sampled_from(["broadcast", "presence"]),
        payload=st.sampled_from([{"event": "track"}, {"event": "track", "payload": 1}, {"event": "untrack"}]),
        answer=st.sampled_from(EVERY_ANSWER),
    )
    def pushes(self, topic: str, event: str, payload: Any, answer: Answer) -> None:
        messages = self._say(topic, event, payload)
        if self.asked:
            assert topic in self.private
            assert self.asked.pop().writes
            messages = self._take(self.connection.authorized(answer, self.now))
        for message in messages:
            if message.event == "phx_close":
                assert self.joined.pop(topic) == message.join_ref

    @precondition(lambda self: self.attached)
    @rule(data=st.data())
    def is_lost(self, data: st.DataObject) -> None:
        lost = data.draw(st.sampled_from(sorted(self.attached)))
        (message,) = self._take(self.connection.lost(lost, self.now))
        assert message.event == "phx_error"
        assert self.joined.pop(message.topic) == message.join_ref

    @rule()
    def ends_and_begins_anew(self) -> None:
        self._take(self.connection.end())
        assert self.attached == set()
        assert self.connection.authorized(Allowed(True, True), self.now) == []
        self.__init__()  # type: ignore[misc]

    @invariant()
    def a_heartbeat_is_answered(self) -> None:
        (want,) = self.connection.receive(ClientMessage("phoenix", "heartbeat", {}, None), self.now)
        assert isinstance(want, Send)
        assert want.message.payload["status"] == "ok"


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
