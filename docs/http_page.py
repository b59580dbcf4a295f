"""The page docs/http.md: the gateway's addresses and answers, from its OpenAPI document."""

from collections.abc import Iterator
from typing import Any

from page_parts import prose, table

from deployments.gateway.app import create_app
from deployments.gateway.prefect_api import PrefectApi
from tasks.settings import Settings

Document = dict[str, Any]


def document() -> Document:
    """The OpenAPI document of a gateway with the defaults; nothing is asked or started."""
    return create_app(Settings.model_construct(), PrefectApi("http://127.0.0.1:9/api")).openapi()


def http_page(notice: str) -> str:
    """The page, with the notice that it is generated."""
    told = document()
    parts = [
        "# HTTP",
        notice,
        prose(
            "The gateway's addresses. A running gateway has the same at `/docs`, to try out, and "
            "at `/openapi.json`, for programs; how it is started and what each address is for is "
            "on the page [operations](operations.md#starting-a-job), and a first walk in "
            "[a tutorial](developer.md). What a request may hold is the list of "
            "[options](options.md#the-request)."
        ),
        prose(
            "Where the gateway has tokens, every address but `/healthz` wants one: "
            "`Authorization: Bearer TOKEN`."
        ),
        "## Addresses",
        table(("address", "what it does", "answer", "may be refused with"), addresses(told)),
        "## Refusals",
        prose(
            "A refusal is a `Problem`: a sentence, and where it is an [error](errors.md) of ours "
            "its code and remedy."
        ),
        table(("status", "meaning"), refusals(told)),
        "## Answers",
    ]
    for name, schema in told["components"]["schemas"].items():
        parts += [f"### {name}", table(("field", "type", "meaning"), fields(schema))]
    return "\n\n".join(parts) + "\n"


def operations(told: Document) -> Iterator[tuple[str, str, Document]]:
    """(method, path, operation) of every address."""
    for path, by_method in told["paths"].items():
        for method, operation in by_method.items():
            yield method.upper(), path, operation


def addresses(told: Document) -> Iterator[tuple[str, ...]]:
    """One row for each address."""
    for method, path, operation in operations(told):
        said = operation["summary"]
        good = next(code for code in operation["responses"] if code.startswith("2"))
        bad = [code for code in operation["responses"] if not code.startswith("2")]
        kinds = operation["responses"][good].get("content", {"headers alone": {}})
        kind, media = next(iter(kinds.items()))
        schema = media.get("schema", {})
        answer = _kind(schema) if "$ref" in schema else kind
        yield f"`{method} {path}`", said, f"{good}: {answer}", ", ".join(bad)


def refusals(told: Document) -> list[tuple[str, str]]:
    """One row for each status of a refusal."""
    found = {
        code: answer["description"]
        for _, _, operation in operations(told)
        for code, answer in operation["responses"].items()
        if not code.startswith("2")
    }
    return sorted(found.items())


def fields(schema: Document) -> Iterator[tuple[str, ...]]:
    """One row for each field of an answer."""
    for name, field in schema["properties"].items():
        yield f"`{name}`", _kind(field), field.get("description", "")


def _kind(schema: Document) -> str:
    """A type in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "prefixItems" in schema:
        return f"[{', '.join(map(_kind, schema['prefixItems']))}]"
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    return schema.get("format", schema.get("type", "anything"))
