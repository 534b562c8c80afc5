"""What a machine sends that has read the served OpenAPI document: right and wrong, and the answers are as documented."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.support.doors import FRAMEWORKS, Door

pytestmark = pytest.mark.slow

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


@pytest.fixture(scope="module", params=FRAMEWORKS)
def document(request, tmp_path_factory):
    with Door(request.param, str(tmp_path_factory.mktemp(request.param) / "shop.db")) as served:
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{served.port}/api/openapi.json")


CALM = {"suppress_health_check": list(HealthCheck)}
OPERATIONS = ["math/double", "math/either", "math/resource"]
OPERATIONS += [f"orders/{name}" for name in ("create", "find", "list", "update", "delete")]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_answers_are_as_the_document_says(document, operation, mode):
    @given(document[f"/api/{operation}"]["POST"].as_strategy(generation_mode=mode))
    @settings(max_examples=100, phases=[Phase.generate], deadline=None, derandomize=True, database=None, **CALM)
    def send(case):
        # The next row's id would be beyond what the schemas promise: a key that clients may choose is theirs to choose well.
        assume(not (isinstance(case.body, dict) and case.body.get("id") == 2**53 - 1))
        case.call_and_validate(headers={"X-User": "clerk"}, checks=CHECKS)

    send()
