import asyncio
import math
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool

from .. import __version__
from ..errors import error_summary
from ..index import Index, IndexedDocument
from ..languages import LanguagePack
from ..retrieval import Hit, OpticalRetriever
from .batching import Batcher, Overloaded, Refused, Search, Stopped, message_of
from .limits import Limits
from .metrics import Metrics
from .middleware import LimitBody, Measure
from .schemas import FoundDocument, Health, PackRequest, Packs, Result, SearchResponse, search_request


# Without `from __future__ import annotations`: FastAPI reads the types of local classes.


def create_app(
    retriever: OpticalRetriever, index: Index, *, limits: Limits | None = None, token: str | None = None
) -> FastAPI:
    """
    Make the service, to be run by an ASGI server in one process.

    | Request | Answer |
    |---|---|
    | `POST /search` | documents for one or many questions, each in its own language |
    | `GET /packs` | languages of the open packs |
    | `POST /packs` | opens a pack from a folder or the Hub |
    | `DELETE /packs/{language}` | closes a pack |
    | `GET /health` | status 200, or 503 when the service cannot answer |
    | `GET /metrics` | counts and times for Prometheus |
    | `GET /docs` | all of these, with their fields |

    Questions that arrive together are encoded and searched together. When the server stops, requests that it has
    accepted are answered first.

    Args:
        retriever ([`OpticalRetriever`]): Encodes the questions. Its active language is that of questions without one.
        index ([`~index.Index`]): The documents, encoded by the base of the retriever.
        limits ([`Limits`], *optional*): What is accepted.
        token (`str`, *optional*):
            Secret that opens and closes packs, as `Authorization: Bearer TOKEN`. Without it, the packs stay those of
            the retriever.

    Raises:
        ValueError: If another base encoded the index.
    """
    retriever.check_index(index)
    limits = limits or Limits()
    metrics = Metrics()
    batcher = Batcher(retriever, index, limits, metrics)
    # One thread opens all packs, since glibc keeps freed memory for each thread, and opening takes tens of megabytes.
    opener = ThreadPoolExecutor(1, "hf_optical-packs")
    default_language = retriever.language
    metrics.waiting.set_function(lambda: batcher.waiting)
    metrics.packs.set_function(lambda: len(retriever.languages))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(batcher.close)
        opener.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="hf_optical", version=__version__, description=__doc__ or "", lifespan=lifespan)
    app.add_middleware(LimitBody, limit=limits.max_bytes)
    app.add_middleware(Measure, metrics=metrics)
    SearchRequest: Any = search_request(limits)

    def check_token(authorization: Annotated[str, Header()] = "") -> None:
        if token is None:
            raise HTTPException(403, "packs cannot be changed; start the service with a token")
        if not secrets.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "pass the token as `Authorization: Bearer TOKEN`", {"WWW-Authenticate": "Bearer"})

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input, which may be long and need not be valid Unicode.
        return JSONResponse(
            {"detail": [{name: each[name] for name in ("loc", "msg", "type")} for each in error.errors()]}, 422
        )

    @app.post("/search", response_model_exclude_defaults=True)
    async def search(request: SearchRequest) -> SearchResponse:
        languages = [question.language or default_language for question in request.questions]
        texts = [question.text for question in request.questions]
        try:
            rankings = await asyncio.wrap_future(
                batcher.submit(Search(texts, languages, request.top_k, request.where))
            )
        except (Overloaded, Stopped) as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
        except Refused as error:
            raise HTTPException(422, str(error)) from error
        ids = list(dict.fromkeys(str(hit.document) for hits in rankings for hit in hits)) if request.documents else []
        documents = dict(zip(ids, await run_in_threadpool(index.documents, ids), strict=True))
        return SearchResponse(
            results=[
                Result(language=language, hits=[_found(hit, documents.get(str(hit.document))) for hit in hits])
                for language, hits in zip(languages, rankings, strict=True)
            ]
        )

    @app.get("/packs")
    async def packs() -> Packs:
        return Packs(languages=retriever.languages)

    def add_pack(request: PackRequest) -> None:
        pack = LanguagePack.from_pretrained(request.pack, revision=request.revision)
        retriever.add_language(pack.language, pack)

    @app.post("/packs", status_code=201, dependencies=[Depends(check_token)])
    async def open_pack(request: PackRequest) -> Packs:
        try:
            await asyncio.wrap_future(opener.submit(add_pack, request))
        except OSError as error:
            raise HTTPException(404, error_summary(error)) from error
        except ValueError as error:
            raise HTTPException(409, error_summary(error)) from error
        return Packs(languages=retriever.languages)

    # Not async: FastAPI runs this in a thread, while questions go on being answered.
    @app.delete("/packs/{language}", dependencies=[Depends(check_token)])
    def close_pack(language: str) -> Packs:
        try:
            retriever.remove_language(language)
        except (KeyError, ValueError) as error:
            raise HTTPException(404, message_of(error)) from error
        return Packs(languages=retriever.languages)

    @app.get("/health", responses={503: {"model": Health}})
    async def health() -> Response:
        state = "ok" if batcher.running else "stopping"
        answer = Health(status=state, languages=retriever.languages, waiting=batcher.waiting)
        return JSONResponse(answer.model_dump(), 200 if batcher.running else 503)

    @app.get("/metrics", include_in_schema=False)
    def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _found(hit: Hit, document: IndexedDocument | None) -> FoundDocument:
    fields = document._asdict() if document is not None else {"id": hit.document}
    return FoundDocument(**fields, score=hit.score if math.isfinite(hit.score) else None)
