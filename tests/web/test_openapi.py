"""The REST API is what its description says, for parameters and bodies that fit it and that do not."""

import dataclasses
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from rowcast.model.allowed import Allowed
from rowcast.model.rates import Rates
from rowcast.protocol.batches import UNSTORED
from rowcast.web.openapi import DESCRIPTION
from support.serving import Door, ListFeed, make_app
from support.tokens import make_token

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
#: What fits the description and is refused: it depends on other fields, or on their length together.
ELSEWHERE = (UNSTORED, "with its topic, must have at most")
#: The same in every run, and few: each is a request to the application.
few = settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def api() -> OpenApiSchema:
    """The description, as the real application serves it."""
    app = make_app(ListFeed())
    open_door = Door(Allowed(True, True), writable=Allowed(True, True))
    app.state.services = dataclasses.replace(app.state.services, channels=open_door, requests=Rates(1e6))
    return schemathesis.openapi.from_asgi("/api/openapi", app)


def asked(case: Case[Any]) -> Response:
    """What the application answers to a request with a good token."""
    token = make_token()
    response = case.call(headers={"apikey": token, "authorization": f"Bearer {token}"})
    case.validate_response(response, checks=CHECKS)
    return response


def texts(errors: Any) -> list[str]:
    """All that is said of faults, in whatever field."""
    if isinstance(errors, str):
        return [errors]
    return [text for one in (errors.values() if isinstance(errors, dict) else errors) for text in texts(one)]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_answer_is_as_described_and_what_fits_is_sent(api: OpenApiSchema, mode: GenerationMode) -> None:
    operations = [found.ok() for found in api.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) == len(DESCRIPTION["paths"])
    for operation in operations:

        @few
        @given(operation.as_strategy(generation_mode=mode))
        def answered(case: Case[Any]) -> None:
            response = asked(case)
            if mode is GenerationMode.POSITIVE and response.status_code != 202:
                assert response.status_code == 422
                faults = texts(response.json()["errors"])
                assert [text for text in faults if not text.startswith(ELSEWHERE)] == []

        answered()
