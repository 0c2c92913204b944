"""The OpenAPI document tells the truth: generated requests get documented answers, whatever they hold."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from danlu.deploy.serve import schemas
from danlu.deploy.serve.service import Service
from tests.deploy.serve.running import RAW, Client, form_of

warnings.filterwarnings("ignore", category=DeprecationWarning, module="schemathesis")
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")


def test_generated_requests_get_documented_answers(served: tuple[Client, Service]) -> None:
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import checks

    client, _ = served
    base = f"http://127.0.0.1:{client.port}"
    schema = schemathesis.openapi.from_dict(client.ask("GET", "/openapi.json").json())
    wanted = [checks.not_a_server_error, checks.load_all_checks() or checks.not_a_server_error]
    from schemathesis.specs.openapi import checks as openapi

    wanted = [
        checks.not_a_server_error,
        openapi.status_code_conformance,
        openapi.content_type_conformance,
        openapi.response_schema_conformance,
        openapi.unsupported_method,
    ]
    seen = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=25,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def answered(case: Any) -> None:
            seen.add((case.path, case.method))
            case.call_and_validate(base_url=base, checks=wanted)

        answered()
    assert len(seen) == 6


def test_the_documents_are_what_the_schemas_say(client: Client, digit: bytes) -> None:
    predicted = client.predict(digit)
    schemas.Answer.model_validate_json(predicted.body)
    schemas.Answer.model_validate_json(client.predict(bytes(128), RAW, Danlu_Shape="2,8,8,1").body)
    schemas.Answer.model_validate_json(client.predict(*form_of([("é.png", digit)])).body)
    schemas.Explanation.model_validate_json(client.predict(digit, path="/v1/explain").body)
    schemas.ModelCard.model_validate_json(client.ask("GET", "/v1/model").body)
    schemas.Health.model_validate_json(client.ask("GET", "/health/ready").body)
    schemas.ErrorDocument.model_validate_json(client.predict(b"x").body)
    schemas.ErrorDocument.model_validate_json(client.ask("GET", "/nowhere").body)


def test_every_error_a_route_gives_is_documented(client: Client) -> None:
    document = client.ask("GET", "/openapi.json").json()
    text = json.dumps(document)
    assert "HTTPValidationError" not in text
    for methods in document["paths"].values():
        for operation in methods.values():
            assert {"200", "401", "403", "421", "503"} <= set(operation["responses"])
            for status, answer in operation["responses"].items():
                if status != "200":
                    assert list(answer["content"]) == ["application/problem+json"]
    body = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert {"image/png", "multipart/form-data", RAW} <= set(body)


def test_the_metrics_are_in_prometheus_format(client: Client, digit: bytes) -> None:
    client.predict(digit)
    reply = client.ask("GET", "/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = reply.body.decode()
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    values: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name not in kinds
            kinds[name] = kind
        elif not line.startswith("#"):
            sample, value = line.rsplit(" ", 1)
            assert sample not in values
            values[sample] = float(value)
            family = sample.partition("{")[0]
            for suffix in ("_bucket", "_sum", "_count"):
                family = family.removesuffix(suffix) if family.removesuffix(suffix) in kinds else family
            assert family in kinds, line
    assert kinds["danlu_request_seconds"] == "histogram"
    assert values["danlu_request_seconds_count"] == values['danlu_request_seconds_bucket{le="+Inf"}'] >= 1
    bounds = [value for sample, value in values.items() if sample.startswith("danlu_request_seconds_bucket")]
    assert bounds == sorted(bounds)
    assert values['danlu_requests_total{route="/v1/predict",method="POST",status="200"}'] >= 1
    assert values["danlu_pictures_total"] >= 1
    assert values["danlu_ready"] == 1
