"""What a client makes of the presence that it is told of."""

import json
from typing import Any

from rowcast.protocol.frames import payload_of


class Client:
    """The state machine of the JavaScript client (syncState, syncDiff), on dictionaries.

    It is content with much; this one asserts that it is told each thing once.
    """

    def __init__(self) -> None:
        self.state: dict[str, dict[str, Any]] = {}

    def hear(self, frame: bytes) -> None:
        """Take a frame of 2.0.0."""
        _, _, _, event, payload = json.loads(payload_of(frame)[1])
        if event == "presence_state":
            assert not self.state
            payload = {"joins": payload, "leaves": {}}
        for key, presence in payload["joins"].items():
            current = self.state.get(key)
            refs = [meta["phx_ref"] for meta in presence["metas"]]
            assert not self.refs().get(key, set()) & set(refs), "what joins was not there"
            kept = [] if current is None else [m for m in current["metas"] if m["phx_ref"] not in refs]
            self.state[key] = {"metas": [*kept, *presence["metas"]]}
        for key, presence in payload["leaves"].items():
            refs = [meta["phx_ref"] for meta in presence["metas"]]
            assert set(refs) <= self.refs().get(key, set()), "what leaves was there"
            metas = [meta for meta in self.state[key]["metas"] if meta["phx_ref"] not in refs]
            self.state[key] = {"metas": metas}
            if not metas:
                del self.state[key]

    def refs(self) -> dict[str, set[str]]:
        """The references that are there, by key."""
        return {key: {meta["phx_ref"] for meta in value["metas"]} for key, value in self.state.items()}
