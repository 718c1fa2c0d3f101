"""What the REST API offers, in OpenAPI's form."""

from typing import Any, Final

from rowcast import __version__


def _refused(what: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": schema or _said("message")}}}


def _said(name: str) -> dict[str, Any]:
    return {"type": "object", "required": [name], "properties": {name: {"type": "string"}}}


_FAULTS: Final = {
    "type": "object",
    "required": ["errors"],
    "properties": {"errors": {"type": "object", "description": "What is wrong, by field"}},
}
_ERRORS: Final = {
    "400": _refused("The body is no JSON"),
    "401": _refused("There is no token, or a bad one"),
    "408": _refused("The body did not come in time"),
    "413": _refused("The body is too large"),
    "415": _refused("The body is of another media type", _said("error")),
    "422": _refused(
        "Something is missing, is invalid or too large, or policies could not be asked",
        {"oneOf": [_FAULTS, _said("message")]},
    ),
    "429": _refused("There are too many messages"),
    "500": _refused("Asking policies failed in a way that is not known"),
    "503": _refused("What was to be stored was not"),
}
_SENT: Final = {"202": {"description": "What may be sent was sent to whoever is joined"}}
#: Not blank.
_NAME: Final = {"type": "string", "minLength": 1, "pattern": r"\S"}
_STORE: Final = "Whether it is stored first, and sent as a message of the database then"
_MESSAGE: Final = {
    "type": "object",
    "required": ["topic", "event", "payload"],
    "properties": {
        "topic": {**_NAME, "description": "The topic without `realtime:`", "example": "room-9"},
        "event": {**_NAME, "example": "ping"},
        "payload": {"type": "object", "example": {"n": 1}},
        "private": {"type": "boolean", "default": False},
        "store": {"type": "boolean", "default": False, "description": _STORE},
        "id": {"type": "string", "format": "uuid", "description": "Sent as `meta.id`"},
    },
}
_BATCH: Final = {
    "type": "object",
    "required": ["messages"],
    "properties": {"messages": {"type": "array", "minItems": 1, "items": _MESSAGE}},
}


_PAYLOAD: Final = {"description": "An object; anything else is sent as an object's `_json`"}
_FLAG: Final = {"type": "boolean", "default": False}
_ID: Final = {"type": "string", "format": "uuid"}


def _part(name: str, what: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": what, "schema": _NAME}


def _option(name: str, what: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": what, "schema": schema}


DESCRIPTION: Final[dict[str, Any]] = {
    "openapi": "3.0.3",
    "info": {"title": "Rowcast", "version": __version__},
    "servers": [{"url": "/realtime/v1"}, {"url": "/"}],
    "security": [{"bearer": []}, {"apikey": []}],
    "components": {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            "apikey": {"type": "apiKey", "in": "header", "name": "apikey"},
        }
    },
    "paths": {
        "/api/broadcast": {
            "post": {
                "operationId": "broadcastBatch",
                "summary": "Send broadcasts to their topics",
                "requestBody": {"required": True, "content": {"application/json": {"schema": _BATCH}}},
                "responses": {**_SENT, **_ERRORS},
            }
        },
        "/api/broadcast/{topic}/events/{event}": {
            "post": {
                "operationId": "broadcast",
                "summary": "Send one broadcast, whose payload is the body",
                "parameters": [
                    _part("topic", "The topic without `realtime:`"),
                    _part("event", "The event"),
                    _option("private", "Whether the channels of that name are meant that are private", _FLAG),
                    _option("store", _STORE, _FLAG),
                    _option("id", "The id of the message that is stored", _ID),
                ],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": _PAYLOAD},
                        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                    },
                },
                "responses": {
                    **_SENT,
                    "403": _refused("No policy lets the token send to this private channel"),
                    **_ERRORS,
                },
            }
        },
    },
}
