"""The OpenAPI, judged by a validator that is not FastAPI's, and the page that shows it."""

import re
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from deployments.gateway.app import create_app
from deployments.gateway.auth import digest
from deployments.gateway.prefect_api import PrefectApi
from tasks.request.sections import SECTIONS
from tasks.settings import Settings
from tests.kits.http.gateway import gateway, served

NOBODY = "http://127.0.0.1:9/api"
"""The address of a Prefect server that is not there: the page needs none."""


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    return create_app(Settings(), PrefectApi(NOBODY)).openapi()


def answers(spec: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every answer of every address."""
    return [
        (f"{method} {path} {status}", answer)
        for path, operations in spec["paths"].items()
        for method, operation in operations.items()
        for status, answer in operation["responses"].items()
    ]


def test_an_independent_validator_accepts_it(spec: dict[str, Any]) -> None:
    validate(spec)
    assert {
        "/upscale", "/upscale/{filename}", "/status/{job_id}", "/cancel/{job_id}", "/jobs",
        "/logs/{job_id}", "/plan", "/healthz", "/events/{job_id}", "/retry/{job_id}",
        "/whole/{job_id}", "/preview/{job_id}", "/files/{job_id}", "/jobs/{job_id}", "/readyz",
        "/metrics", "/uploads", "/uploads/{upload_id}",
    } == set(spec["paths"])  # fmt: skip


def test_every_operation_has_a_heading_and_a_sentence(spec: dict[str, Any]) -> None:
    """FastAPI shows the name of a function: "Healthz", under "default"."""
    headings = [tag["name"] for tag in spec["tags"]]
    assert headings == ["Before a job", "Jobs", "Uploads", "The service"]
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"].endswith("."), where
            assert len(operation["summary"].split()) > 3, where
            assert "\n" not in operation["summary"], where
            assert operation["tags"][0] in headings, where
            assert operation["summary"] not in operation["description"], where


def test_the_fields_stand_in_the_sections_of_the_other_forms(spec: dict[str, Any]) -> None:
    """The page makes its form from them."""
    for path in ("/upscale", "/plan"):
        body = spec["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert list(body["x-sections"].items()) == [(h, [*names]) for h, names in SECTIONS.items()]
        in_sections = [name for names in body["x-sections"].values() for name in names]
        assert sorted(in_sections) == sorted(body["properties"]), path


def test_every_answer_has_a_body_and_an_example_of_it(spec: dict[str, Any]) -> None:
    document = Resource(contents=spec, specification=DRAFT202012)
    registry = Registry().with_resource("urn:api", document)
    for where, answer in answers(spec):
        if "content" not in answer:  # what tus answers is in its headers
            assert "/uploads" in where
            assert answer["description"], where
            assert where.startswith("delete") or "Upload-Offset" in answer["headers"], where
            continue
        (kind, content), *others = answer["content"].items()
        if kind == "text/event-stream":
            assert "data: {Job" in content["example"], where
            continue
        if kind == "text/plain":
            assert "seedvr2_jobs{" in content["example"], where
            continue
        if kind == "image/jpeg":
            assert content["schema"]["format"] == "binary"
            continue
        assert (kind, others, bool(answer["description"])) == ("application/json", [], True), where
        name = content["schema"]["$ref"].rpartition("/")[2]
        schema = spec["components"]["schemas"][name]
        shown = [content["example"]] if "example" in content else schema["examples"]
        judge = Draft202012Validator(
            {"$ref": f"urn:api#/components/schemas/{name}"}, registry=registry
        )
        assert shown, f"{where} has no example"
        for one in shown:
            judge.validate(one)


def test_options_of_a_sent_file_are_declared(spec: dict[str, Any]) -> None:
    put = spec["paths"]["/upscale/{filename}"]["put"]
    names = {parameter["name"] for parameter in put["parameters"]}
    assert {"filename", "resolution", "seed", "model", "callback_url"} <= names
    form = spec["paths"]["/upscale"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert {"video", "resolution", "seed"} <= set(form["schema"]["properties"])


def test_the_page_needs_this_server_alone() -> None:
    with served(create_app(Settings(), PrefectApi(NOBODY))) as url:
        page = httpx.get(f"{url}/docs")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "//" not in page.text
        parts = re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page.text)
        assert len(parts) == 3
        for part in parts:
            answer = httpx.get(f"{url}/{part}")
            assert answer.status_code == 200, part
            assert len(answer.content) > 100
        assert httpx.get(f"{url}/docs/../../etc/passwd").status_code == 404
        assert httpx.get(f"{url}/docs/redoc.standalone.js").status_code == 404
        assert "openapi" in httpx.get(f"{url}/openapi.json").json()


def test_the_page_is_behind_the_token() -> None:
    settings = Settings(gateway_tokens=(digest("right"),))
    with gateway(settings, NOBODY) as client:
        for path in ("/docs", "/openapi.json", "/docs/start.js", "/docs/swagger-ui-bundle.js"):
            refused = client.get(path)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Basic "), "a browser asks"
            assert client.get(path, auth=("anybody", "wrong")).status_code == 401
            assert client.get(path, auth=("anybody", "right")).status_code == 200
            bearer = {"Authorization": "Bearer right"}
            assert client.get(path, headers=bearer).status_code == 200
        assert client.get("/jobs", auth=("anybody", "right")).status_code == 401


def test_every_field_of_every_answer_says_what_it_is(spec: dict[str, Any]) -> None:
    silent = {
        f"{name}.{field}"
        for name, schema in spec["components"]["schemas"].items()
        for field, told in schema["properties"].items()
        if not told.get("description")
    }
    assert not silent
