"""What requests and answers look like; the service's OpenAPI page is made from it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from .limits import Limits


class Strict(BaseModel):
    """A request, in which a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid")


class FoundDocument(BaseModel):
    id: str
    score: float | None = Field(description="MaxSim; null for a document without tokens")
    title: str = ""
    text: str = ""
    columns: dict[str, Any] = {}


class Result(BaseModel):
    language: str
    hits: list[FoundDocument] = Field(description="Best first")


class SearchResponse(BaseModel):
    results: list[Result] = Field(description="One for each question, in their order")


class PackRequest(Strict):
    pack: str = Field(description="Folder on the server, or Hub id", min_length=1, max_length=1_000)
    revision: str | None = Field(None, description="Branch, tag or commit on the Hub", max_length=200)


class Packs(BaseModel):
    languages: list[str] = Field(description='Codes of the open packs; "base" is always there in addition')


class Health(BaseModel):
    status: str = Field(description='"ok", or "stopping" with status code 503')
    languages: list[str]
    waiting: int = Field(description="Questions that wait for their turn")


def search_request(limits: Limits) -> type[BaseModel]:
    """The body of a search within these limits."""
    question = create_model(
        "Question",
        __base__=Strict,
        text=(str, Field(min_length=1, max_length=limits.max_characters)),
        language=(str | None, Field(None, description='Code of an open pack, or "base"', max_length=100)),
    )
    where = Field(None, description="Filter, if the index takes one", max_length=limits.max_characters)
    return create_model(
        "SearchRequest",
        __base__=Strict,
        questions=(list[question], Field(min_length=1, max_length=limits.max_questions)),  # type: ignore[valid-type]
        top_k=(int, Field(10, ge=1, le=limits.max_top_k, description="Documents for each question")),
        where=(str | None, where),
        documents=(bool, Field(True, description="Whether to return titles, texts and columns")),
    )
