"""The HTTP interface of an endpoint as an ASGI application. The engine may run in other processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fastapi import APIRouter, FastAPI, Request, Response

from persrep_ray import __version__
from persrep_ray.config import ServeConfig
from persrep_ray.serving.engine.answers import Engine
from persrep_ray.serving.engine.catalog import Catalog
from persrep_ray.serving.http import routes
from persrep_ray.serving.http.auth import Keys
from persrep_ray.serving.http.errors import ErrorAnswers, RequestError
from persrep_ray.serving.http.guard import Guard
from persrep_ray.serving.http.pages import Page
from persrep_ray.serving.http.routes import Endpoint
from persrep_ray.serving.http.schemas import Status, responses

_DESCRIPTION = """
Queries about personalized objects. An image is a JPEG, PNG, WebP, HEIC or AVIF file, which its content decides. Send it
as the raw body, as the field `image` of a form, or as base64 in JSON.
"""


def make_app(
    config: ServeConfig,
    engine: Engine,
    catalog: Catalog,
    keys: Keys,
    *,
    ready: Callable[[], bool],
    count: Callable[[str], None],
) -> FastAPI:
    """The application.

    Args:
        ready: whether queries can be answered, for `/readyz`.
        count: called with the code of every error answer.
    """
    app = FastAPI(
        title="persrep-ray",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # our page loads nothing from other hosts
        redoc_url=None,
        redirect_slashes=False,
    )
    pool = ThreadPoolExecutor(config.http.decode_threads, thread_name_prefix="images")
    app.state.endpoint = Endpoint(config.http, engine, catalog, keys, pool)
    about = _about(ready)
    app.include_router(about)
    app.include_router(routes.router)
    errors = ErrorAnswers(count)
    errors.install(app, [*about.routes, *routes.router.routes])
    app.add_middleware(Guard, http=config.http, errors=errors)
    return app


def _about(ready: Callable[[], bool]) -> APIRouter:
    """The routes that need no key: the pages, and whether the process is up and ready."""
    router = APIRouter()
    index, docs = Page.load("index.html"), Page.load("docs.html")

    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        return index.response()

    @router.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        return docs.response()

    @router.get("/healthz", summary="Is the process up?", responses=responses())
    async def healthz() -> Status:
        return Status(status="ok")

    @router.get("/readyz", summary="Can it answer?", responses=responses("not_ready", "internal"))
    async def readyz(request: Request) -> Status:
        if not ready():
            raise RequestError("not_ready", "not ready yet")
        return Status(status="ready")

    return router
