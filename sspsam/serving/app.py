"""The application: routes and their order of steps.

app = create_app(predictor)  # an ASGI application, for `sspsam serve`, uvicorn, or Ray Serve
"""

import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from sspsam._version import __version__
from sspsam.errors import RefusalError
from sspsam.predictor import SSPSAMPredictor
from sspsam.serving.answers import EXPOSED_HEADERS, PNGAnswer, accepted_form, json_response, segment_response
from sspsam.serving.docs_page import docs_page
from sspsam.serving.engine import ExpressionQuery
from sspsam.serving.gate import Gate
from sspsam.serving.metrics import CONTENT_TYPE
from sspsam.serving.openapi import OPERATIONS, Operation, document
from sspsam.serving.options import ServeOptions
from sspsam.serving.questions import Content
from sspsam.serving.service import Service
from sspsam.utils.paths import shown_repr

_PUBLIC_ORIGIN: Final = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}(:.*)?|bundled with sspsam \S+")

_access_logger = logging.getLogger("sspsam.serving.access")


class ServingApp(FastAPI):
    """The FastAPI application of one service, whose `openapi` is written by hand.

    Args:
        service: that the routes use; it starts and ends with the application's lifespan.
        log: receives a line for each request.
    """

    def __init__(self, service: Service, log: Callable[[str], None]) -> None:
        self.service = service
        options = service.options
        super().__init__(
            title="sspsam",
            version=__version__,
            lifespan=_lifespan,
            # FastAPI's own pages load scripts from elsewhere
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
        )
        self.add_middleware(
            Gate,
            token=options.token,
            metrics=service.metrics,
            log=log,
            is_draining=lambda: service.is_draining,
            on_cancel=service.count_given_up,
        )
        if options.cors_origins:  # added last: the outermost, so that a preflight needs no token
            self.add_middleware(
                CORSMiddleware,
                allow_origins=options.cors_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["Authorization", "Content-Type"],
                expose_headers=EXPOSED_HEADERS,
            )
        self.add_exception_handler(HTTPException, _refuse_unknown)
        for operation in OPERATIONS:
            self._add_operation(operation)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whose path may still have the prefix that a proxy strips."""
        if scope["type"] == "http" and self.service.options.root_path:
            scope = {**scope, "root_path": self.service.options.root_path}
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return document(self.service.options)

    def _add_operation(self, operation: Operation) -> None:
        methods = [operation.method, "HEAD"] if operation.method == "GET" else [operation.method]
        self.add_api_route(operation.path, getattr(_Routes(self.service, self), operation.name), methods=methods)


class _Routes:
    """A method for each operation of `sspsam.serving.openapi`, of the same name."""

    def __init__(self, service: Service, app: ServingApp) -> None:
        self._service, self._app = service, app

    async def segment(self, request: Request) -> Response:
        service = self._service
        predictor = service.require_room()
        with service.bodies.holding() as share:
            content = await service.content(request, ("image", "expressions", "options"), share)
            form = accepted_form(request.headers.get("accept", ""), len(content.expressions))
            query = _query(content, form)
            answered = await service.answer_image(request, content.image or b"", query)
        return segment_response(answered, form, predictor.fingerprint)

    async def add_image(self, request: Request) -> Response:
        service = self._service
        service.require_room()
        with service.bodies.holding() as share:
            content = await service.content(request, ("image",), share)
            embedding = (await service.answer_image(request, content.image or b"", ExpressionQuery())).embedding
        name = service.store.add(embedding)
        body = {
            "id": name,
            "width": embedding.width,
            "height": embedding.height,
            "expires_in": service.options.image_expiry,
        }
        return json_response(body, 201)

    async def segment_image(self, request: Request, image_id: str) -> Response:
        service = self._service
        predictor = service.require_room()
        service.store.get(image_id)  # refused before the body is read
        with service.bodies.holding() as share:
            content = await service.content(request, ("expressions", "options"), share)
            form = accepted_form(request.headers.get("accept", ""), len(content.expressions))
            embedding = service.store.get(image_id)
            answered = await service.answer_embedding(request, embedding, _query(content, form))
        return segment_response(answered, form, predictor.fingerprint)

    async def remove_image(self, image_id: str) -> Response:
        self._service.store.remove(image_id)
        return Response(status_code=204)

    async def model(self) -> Response:
        predictor = self._service.require_predictor()
        return json_response(_model_description(predictor, self._service.options))

    async def healthz(self) -> Response:
        self._service.require_working_model()
        return json_response({"status": "ok"})

    async def readyz(self) -> Response:
        self._service.require_working_model()
        if not self._service.is_ready:
            raise RefusalError("the server is starting or stopping", status=503, kind="NotReady", retry_after=5)
        return json_response({"status": "ready"})

    async def metrics(self) -> Response:
        self._service.store.remove_expired()
        return Response(self._service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def docs(self) -> Response:
        return Response(docs_page(self._app.openapi()), media_type="text/html")


def create_app(
    predictor: SSPSAMPredictor | Callable[[], SSPSAMPredictor],
    options: ServeOptions | None = None,
    *,
    log: Callable[[str], None] = _access_logger.info,
) -> ServingApp:
    """Return the ASGI application that answers questions with a predictor.

    One process holds one application: its thread owns the predictor, and its memory holds the images of clients.

    Args:
        predictor: or a function that loads it; the function is called in a thread when the application starts, and
            until it returns `/readyz` and questions are answered with 503.
        options: limits and settings; None: the defaults.
        log: receives a printable line for each request.
    """
    if isinstance(predictor, SSPSAMPredictor):
        loaded = predictor
        return ServingApp(Service(lambda: loaded, options or ServeOptions()), log)
    return ServingApp(Service(predictor, options or ServeOptions()), log)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.service  # type: ignore[attr-defined]  # of `ServingApp`
    service.engine.start()
    try:
        yield
    finally:
        service.is_draining = True
        await run_in_threadpool(service.close)


def _query(content: Content, form: str) -> ExpressionQuery:
    if form == "png":
        return ExpressionQuery(content.expressions, content.options, PNGAnswer.of)
    return ExpressionQuery(content.expressions, content.options)


def _model_description(predictor: SSPSAMPredictor, options: ServeOptions) -> dict[str, Any]:
    """Describe the model; a path of the server is not told."""
    origin = predictor.origin
    return {
        "version": __version__,
        "origin": origin if _PUBLIC_ORIGIN.fullmatch(origin) else "local",
        "fingerprint": predictor.fingerprint,
        "device": str(predictor.device),
        "dtype": str(predictor.dtype).removeprefix("torch."),
        "limits": {
            name: getattr(options, name)
            for name in ("max_bytes", "max_pixels", "max_expressions", "max_expression_characters", "deadline")
        },
    }


async def _refuse_unknown(request: Request, error: Any) -> Response:
    """Answer paths and methods that do not exist in the form of all other errors."""
    path = shown_repr(request.scope["path"])
    message = f"{request.method} is not allowed for {path}" if error.status_code == 405 else f"there is no page {path}"
    kinds = {404: "NotFound", 405: "MethodNotAllowed"}
    headers = dict(error.headers or {})
    kind = kinds.get(error.status_code, "HTTPError")
    raise RefusalError(message, status=error.status_code, kind=kind, headers=headers)
