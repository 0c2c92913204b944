"""The routes. They are fixed: no model is registered, loaded or fetched by a request."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from danlu.core.version import __version__
from danlu.deploy.serve import problems, schemas
from danlu.deploy.serve.guard import Guard
from danlu.deploy.serve.metrics import CONTENT_TYPE
from danlu.deploy.serve.problems import Problem
from danlu.deploy.serve.service import Service
from danlu.deploy.serve.site import Site

__all__ = ["make_app", "make_routes"]

_TOP = 5
_DESCRIPTION = "Classes of pictures, by one artifact that was fixed when the server started."

Shape = Annotated[
    str | None,
    Header(alias="Danlu-Shape", description="B,H,W,C of a raw uint8 body", examples=["32,224,224,3"], max_length=80),
]
Deadline = Annotated[
    str | None,
    Header(alias="Danlu-Deadline", description="seconds the answer may take", examples=["2.5"], max_length=40),
]
Top = Annotated[int, Query(ge=1, le=1000, description="how many classes to list for a picture")]
Index = Annotated[
    int | None, Query(ge=0, le=10**6, description="the class to explain; the most probable one by default")
]


def make_app(service: Service) -> Guard:
    """Return the whole application: the routes behind the guard."""
    return Guard(make_routes(service), service.settings, service.metrics)


def make_routes(service: Service) -> FastAPI:
    """Return the routes alone, with their OpenAPI document."""
    options: dict[str, Any] = {"docs_url": None, "redoc_url": None, "redirect_slashes": False}
    if "telemetry" in inspect.signature(FastAPI).parameters:
        # Recent versions can send traces to wherever the environment says; nothing of ours phones home.
        options["telemetry"] = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
    app = FastAPI(title="danlu serve", version=__version__, description=_DESCRIPTION, **options)
    _add_predictions(app, service)
    _add_facts(app, service)
    _add_page(app, Site(), service)
    _add_problems(app)
    app.openapi = _documented(app, service.settings.token is not None)  # type: ignore[method-assign]
    return app


def _json(document: dict[str, Any], status: int = 200) -> Response:
    # Plain ASCII: a class may be called anything, and no reader of this text takes it for markup.
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return Response(text, status, media_type="application/json")


def _add_predictions(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/predict",
        response_model=schemas.Answer,
        responses=schemas.errors(400, 413, 415, 500, 504),
        openapi_extra=schemas.request_body(many=True),
        summary="Classify one picture or more",
    )
    async def predict(request: Request, top: Top = _TOP, shape: Shape = None, deadline: Deadline = None) -> Response:
        return _json(await service.predict(request, min(top, len(service.engine.info.classes))))

    @app.post(
        "/v1/explain",
        response_model=schemas.Explanation,
        responses=schemas.errors(400, 413, 415, 500, 504),
        openapi_extra=schemas.request_body(many=False),
        summary="Show which places of one picture speak for a class",
    )
    async def explain(
        request: Request,
        method: Literal["auto", "activation", "occlusion"] = "auto",
        index: Index = None,
        deadline: Deadline = None,
    ) -> Response:
        return _json(await service.explain(request, method, index))


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.get("/v1/model", response_model=schemas.ModelCard, responses=schemas.errors(), summary="The model card")
    async def model() -> Response:
        return _json(service.engine.card())

    async def live() -> Response:
        return _json({"status": "live"})

    async def ready() -> Response:
        if service.batcher.draining:
            raise Problem(503, "the server is stopping", retry_after=service.settings.limits.drain_seconds)
        return _json({"status": "ready"})

    for answer, summary in ((live, "Whether it lives"), (ready, "Whether it takes work")):
        path = f"/health/{answer.__name__}"
        # Many probes ask with HEAD. The first of the two routes answers, the second is what the document shows.
        app.add_api_route(path, answer, methods=["GET", "HEAD"], include_in_schema=False)
        app.get(path, response_model=schemas.Health, responses=schemas.errors(), summary=summary)(answer)

    text: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format"}
    }

    @app.get("/metrics", response_class=Response, responses={**schemas.errors(), **text}, summary="Figures")
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})


def _add_page(app: FastAPI, site: Site, service: Service) -> None:
    def route(path: str) -> Callable[[Request], Awaitable[Response]]:
        async def asset(request: Request) -> Response:
            found = site.asset(path, request.headers.get("accept-language"))
            headers = {"content-type": found.kind, "cache-control": "no-cache", "etag": found.tag}
            headers |= {"vary": "accept-language"} if path == "/" else {}
            if found.tag in request.headers.get("if-none-match", ""):
                return Response(status_code=304, headers=headers)
            return Response(found.data, headers=headers)

        return asset

    for path in site.paths:
        app.get(path, include_in_schema=False)(route(path))


def _add_problems(app: FastAPI) -> None:
    def answer(problem: Problem) -> Response:
        return Response(
            problem.body(), problem.status, headers={"content-type": problems.CONTENT_TYPE, **problem.headers}
        )

    @app.exception_handler(Problem)
    async def told(request: Request, problem: Problem) -> Response:
        return answer(problem)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return answer(Problem(error.status_code, str(error.detail), headers=dict(error.headers or {})))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return answer(Problem(400, str(first["msg"]), where=where[:200]))

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=408)  # nobody reads it

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        # Starlette raises the error again behind this answer, and the guard logs it: once.
        return answer(problems.unexpected(error))


def _documented(app: FastAPI, token: bool) -> Callable[[], dict[str, Any]]:
    """Return what makes the OpenAPI document: with our error documents in place of FastAPI's own."""
    make = app.openapi
    made: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if made:
            return made
        made.update(make())
        components = made.setdefault("components", {})
        known = components.setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            known.pop(name, None)
        known["ErrorDocument"] = schemas.ErrorDocument.model_json_schema()
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in made["paths"].items():
            for operation in methods.values():
                operation["responses"].pop("422", None)
                if token and not path.startswith("/health/"):
                    operation["security"] = [{"token": []}]
        return made

    return document
