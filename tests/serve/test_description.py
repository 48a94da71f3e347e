"""The OpenAPI description against a real server: requests made up from it by schemathesis are answered as it declares.

Server errors other than the declared 503 are failures, whatever the request.
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.serve.hostile import picture
from tests.serve.server import Server

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

GETS = ("/v1/models", "/v1/models/{id}", "/healthz", "/readyz", "/metrics")

IMAGES = [picture(suffix, 1, size) for suffix in ("PNG", "JPEG", "TIFF") for size in ((1, 1), (33, 20))]

# Most bodies are images: by themselves, arbitrary bytes never get further than the decoder.
BODIES = st.one_of(st.sampled_from(IMAGES), st.sampled_from(IMAGES), st.binary(max_size=100))
schemathesis.openapi.format("binary", BODIES)
for media_type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, BODIES)


@schemathesis.check
def only_declared_server_errors(context: object, response: schemathesis.Response, case: schemathesis.Case) -> None:
    """Accept 503 alone, whose content the other checks compare with its declaration."""
    assert response.status_code < 500 or response.status_code == HTTPStatus.SERVICE_UNAVAILABLE, response.text


@pytest.fixture(scope="module")
def server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with Server(["-w", weights], folder / "log") as running:
        yield running


@pytest.fixture(scope="module")
def description(server: Server) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


MODES = schemathesis.GenerationMode
Operation = tuple[str, str, schemathesis.GenerationMode]
# Of paths without options, nothing invalid can be made.
OPERATIONS = [
    ("POST", "/v1/segment", MODES.POSITIVE),
    ("POST", "/v1/segment", MODES.NEGATIVE),
    *(("GET", path, MODES.POSITIVE) for path in GETS),
]


def check(case: schemathesis.Case) -> None:
    """Send a request and check the answer against the description.

    That valid requests are accepted is left out: of what is no image, the description says only that it is refused.
    """
    case.call_and_validate(
        timeout=120,  # the first CRF is compiled
        additional_checks=[only_declared_server_errors],
        excluded_checks=[not_a_server_error, positive_data_acceptance],
    )


def cases(description: schemathesis.BaseSchema, operation: Operation) -> st.SearchStrategy[schemathesis.Case]:
    method, path, mode = operation
    return description[path][method].as_strategy(generation_mode=mode)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_answers_are_declared(description: schemathesis.BaseSchema, operation: Operation) -> None:
    @given(cases(description, operation))
    @settings(max_examples=12 if operation[0] == "POST" else 3)
    def few(case: schemathesis.Case) -> None:
        assume(not (case.query or {}).get("crf"))  # which takes a while to compile
        check(case)

    few()


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_many_answers_are_declared(description: schemathesis.BaseSchema, operation: Operation) -> None:
    many = given(cases(description, operation))(check)
    settings(max_examples=500 if operation[0] == "POST" else 50)(many)()


def test_the_description_names_what_there_is(server: Server, description: schemathesis.BaseSchema) -> None:
    paths = {operation.ok().path for operation in description.get_all_operations()}
    assert paths == {"/v1/segment", *GETS}
