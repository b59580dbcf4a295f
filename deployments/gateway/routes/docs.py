"""GET /docs and /openapi.json: the API as a page to read and to try out.

Everything on the page comes from this server, so it works without the internet, and its requests go
to this server. Swagger UI itself comes with the package fastapi-offline, of which nothing else is
used.
"""

import html
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel

from deployments.gateway.auth import Authenticate, Caller
from deployments.gateway.problems import Problem
from tasks.request.sections import SECTIONS

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""
_HEADERS = {
    # The page may load and ask nothing but this server; Swagger UI sets styles by itself.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_GROUPS = {
    "Before a job": ("What a job would make and take.", ("plan",)),
    "Jobs": (
        "Submit a video, watch its job, and fetch what it has made.",
        (
            *("upscale", "status", "events", "logs", "jobs", "cancel", "retry", "whole"),
            *("preview", "files"),
        ),
    ),
    "Uploads": ("Send a file so that it goes on after a cut (tus 1.0).", ("uploads",)),
    "The service": ("Whether all is well.", ("healthz", "readyz", "metrics")),
}
"""Heading on the page -> what is below it, and how the addresses begin that are."""
_SWAGGER = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}


def add_docs(app: FastAPI, authenticate: Authenticate, shown: tuple[type[BaseModel], ...]) -> None:
    """Add GET /docs, what the page is made of, and GET /openapi.json.

    Args:
        app: the gateway's application.
        authenticate: dependency that takes the token as a password too.
        shown: models whose examples hold nulls.
    """

    generated = app.openapi

    def openapi_with_nulls() -> dict[str, Any]:
        # FastAPI drops every null from the document, those of examples as well.
        document = generated()
        for model in shown:
            schema = document["components"]["schemas"][model.__name__]
            schema["examples"] = model.model_json_schema()["examples"]
        if "tags" not in document:  # FastAPI keeps it, and gives it out again
            _arrange(document)
        return document

    app.openapi = openapi_with_nulls  # type: ignore[method-assign]

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(_: Annotated[Caller, Depends(authenticate)]) -> JSONResponse:
        return JSONResponse(app.openapi(), headers=_HEADERS)

    @app.get("/docs", include_in_schema=False)
    async def docs(_: Annotated[Caller, Depends(authenticate)]) -> HTMLResponse:
        return HTMLResponse(_PAGE.format(title=html.escape(app.title)), headers=_HEADERS)

    @app.get("/docs/{name}", include_in_schema=False)
    def part(name: str, _: Annotated[Caller, Depends(authenticate)]) -> Response:
        if name == "start.js":
            return Response(_START, media_type="text/javascript", headers=_HEADERS)
        if name not in _SWAGGER:
            raise HTTPException(404, f"the page has no part {name[:80]!r}")
        content = files("fastapi_offline").joinpath("static", name).read_bytes()
        return Response(content, media_type=_SWAGGER[name], headers=_HEADERS)


def _arrange(document: dict[str, Any]) -> None:
    """Give each operation a heading and a sentence; FastAPI would show its function's name."""
    document["tags"] = [{"name": name, "description": said} for name, (said, _) in _GROUPS.items()]
    headings = {begins: name for name, (_, all_of_it) in _GROUPS.items() for begins in all_of_it}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["tags"] = [headings[path.split("/")[1]]]
            said, _, more = operation["description"].partition("\n\n")
            operation["summary"], operation["description"] = said.replace("\n", " "), more


def json_refusals(refusals: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """The declarations of `problems` for an address whose good answer is no JSON.

    FastAPI would declare that refusals are of the good answer's type as well.
    """
    schema = {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}
    declared: dict[int | str, dict[str, Any]] = {}
    for code, one in refusals.items():
        rest = {name: value for name, value in one.items() if name != "model"}
        content = {kind: {**schema, **shown} for kind, shown in one["content"].items()}
        declared[code] = {**rest, "content": content}
    return declared


def body_schemas(request_schema: dict[str, Any]) -> dict[str, Any]:
    """What POST /upscale takes, for the OpenAPI: JSON, a form with a file, or the video itself.

    Args:
        request_schema: JSON schema of the JSON body. The page reads from it in which sections the
            fields stand.
    """
    fields = {
        name: {"type": "string", "description": field.get("description", "")}
        for name, field in request_schema["properties"].items()
        if name != "video_base64"
    }
    form = {"type": "object", "properties": {"video": _VIDEO, **fields}}
    content = {
        "application/json": {
            "schema": {**request_schema, "x-sections": SECTIONS},
            "examples": {
                "an address": {
                    "value": {"video_url": "https://example.org/a.mp4", "resolution": "1080p"}
                },
                "a small video": {"value": {"video_base64": "AAAAIGZ0eXBpc29t", "model": "span"}},
            },
        },
        "multipart/form-data": {"schema": form},
        "application/octet-stream": {"schema": _VIDEO},
        "video/*": {"schema": _VIDEO},
        "image/*": {"schema": _VIDEO},
    }
    return {"requestBody": {"required": True, "content": content}}


def file_schemas(request_schema: dict[str, Any]) -> dict[str, Any]:
    """What PUT /upscale/{filename} takes, for the OpenAPI: a video, and options in the query.

    Args:
        request_schema: JSON schema of the JSON body, whose options these are.
    """
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": field.get("description", ""),
            "schema": {k: v for k, v in field.items() if k != "description"},
        }
        for name, field in request_schema["properties"].items()
        if not name.startswith("video_")
    ]
    body = {"required": True, "content": {"application/octet-stream": {"schema": _VIDEO}}}
    return {"parameters": parameters, "requestBody": body}


_VIDEO = {"type": "string", "format": "binary", "description": "The video's file."}
