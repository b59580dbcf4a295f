"""GET /metrics: what it tells, whom, and what it costs."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import StateType
from prometheus_client.parser import text_string_to_metric_families

from deployments.gateway.auth import digest
from deployments.gateway.metrics import figures
from deployments.gateway.prefect_api import PrefectApi
from tasks.settings import Settings
from tests.kits.http.gateway import gateway, record_result, set_state, submit
from tests.kits.processes import ROOT

pytestmark = pytest.mark.usefixtures("on_the_server")
BOARD = ROOT / "deployments" / "samples" / "grafana-board.json"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(work_dir=tmp_path)


@pytest.fixture
def client(
    settings: Settings, api_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    """A gateway whose readings are not kept."""
    monkeypatch.setattr(figures, "CACHE_SECONDS", 0.0)
    with gateway(settings, api_url) as found:
        yield found


def read(client: httpx.Client, **headers: str) -> dict[tuple[str, ...], float]:
    """The samples: (name, values of its labels in the labels' order) -> value."""
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def test_jobs_queue_frames_and_errors(client: httpx.Client) -> None:
    before = read(client)
    waiting, running, done, failed, crashed = [submit(client) for _ in range(5)]
    set_state(running, StateType.RUNNING)
    record_result(done, frames=75, frames_reused=25, engine="lanczos", gpu_seconds=12.5)
    set_state(done, StateType.COMPLETED)
    told = "the video is damaged [invalid-video]"
    set_state(failed, StateType.FAILED, message=told)
    set_state(crashed, StateType.CRASHED)
    again = submit(client)
    record_result(again, frames=75, engine="lanczos", already_done=True)
    set_state(again, StateType.COMPLETED)

    after = read(client)

    def grown(*sample: str) -> float:
        return after.get(sample, 0.0) - before.get(sample, 0.0)

    assert after["seedvr2_prefect_up",] == 1
    assert grown("seedvr2_jobs", "h100", "pending") == 1
    assert grown("seedvr2_jobs", "h100", "processing") == 1
    assert after["seedvr2_queue_age_seconds", "h100"] > 0
    assert after["seedvr2_workers", "h100"] == 0
    assert after["seedvr2_gpu_busy_ratio", "h100"] == 1, "at work, with no worker that is online"
    assert grown("seedvr2_jobs_ended_last_day", "completed") == 2
    assert grown("seedvr2_jobs_ended_last_day", "failed") == 2
    assert grown("seedvr2_frames_total", "lanczos") == 50, "what was there already is not made"
    assert grown("seedvr2_gpu_seconds_total") == 12.5
    assert grown("seedvr2_output_bytes_total") == 12_250_000
    codes = {key[1]: value for key, value in after.items() if key[0] == "seedvr2_failures_total"}
    assert codes == {code_of(told): 1, "crashed": 1}
    assert grown("seedvr2_gateway_requests_total", "POST", "202") == 6
    assert read(client)["seedvr2_frames_total", "lanczos"] == 50, "counted once"
    assert waiting


def code_of(message: str) -> str:
    from seedvr2_core.errors import split_code

    _, kind = split_code(message)
    return kind.code if kind else "failed"


def test_who_may_read_them(tmp_path: Path, api_url: str) -> None:
    closed = Settings(
        work_dir=tmp_path,
        gateway_tokens=(digest("mine"),),
        gateway_operator_tokens=(digest("operator"),),
        gateway_metrics_tokens=(digest("prometheus"),),
    )
    with gateway(closed, api_url) as client:
        for token, status in (
            ("", 401),
            ("nonsense", 401),
            ("mine", 403),
            ("operator", 200),
            ("prometheus", 200),
        ):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            assert client.get("/metrics", headers=headers).status_code == status, token
        only = {"Authorization": "Bearer prometheus"}
        for path in ("/jobs", f"/status/{uuid4()}", "/openapi.json"):
            assert client.get(path, headers=only).status_code == 401, "metrics and nothing else"


def test_a_reading_costs_few_calls_and_is_shared(
    settings: Settings, api_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    ask = PrefectApi._ask

    async def counted(self: PrefectApi, method: str, path: str, body: object = None) -> object:
        calls[path] += 1
        return await ask(self, method, path, body)

    monkeypatch.setattr(PrefectApi, "_ask", counted)
    with gateway(settings, api_url) as client:
        for _ in range(20):
            read(client)
    pools = 2  # that have a deployment of the flow; other test files may have left one more
    assert calls.total() <= 5 * (pools + 1) + 3 + 1 + 2 * 2


def test_without_prefect_they_say_so(settings: Settings) -> None:
    with gateway(settings, "http://127.0.0.1:1/api") as client:
        found = read(client)
    assert found["seedvr2_prefect_up",] == 0
    assert not [key for key in found if key[0] == "seedvr2_jobs"]
    assert ("process_resident_memory_bytes",) in found


def test_the_board_asks_for_metrics_that_there_are(client: httpx.Client) -> None:
    job = submit(client)
    set_state(job, StateType.FAILED)
    record_result(submit(client), frames=1, engine="lanczos")
    known = {key[0] for key in read(client)}
    board = json.loads(BOARD.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(panels) >= 8
    for expression in asked:
        names = set(re.findall(r"\b(?:seedvr2|process)_\w+", expression))
        assert names, expression
        assert names <= known, expression
    wanted = {name for name in known if name.startswith("seedvr2_")}
    assert wanted <= set(re.findall(r"\bseedvr2_\w+", " ".join(asked))), "no metric without a panel"
