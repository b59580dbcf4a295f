"""prefect.yaml, and how `make deploy` fits it to a site, without a server."""

import inspect
import re
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from deployments.deploy import apply
from deployments.deploy.apply import PREFECT_FILE, deployment_name, read_deployments
from flows.route import route
from flows.upscale import upscale
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.planning.sizes import NAMED
from tasks.run.routing import OWN_SIZE_LABELS, ROUTE, deployment_for
from tasks.settings import DEPLOYMENTS, Settings, use_settings

ENTRYPOINTS = (
    "flows.upscale.upscale",
    "flows.upscale_part.upscale_part",
    "flows.route.route",
    "flows.recover.recover",
    "flows.fetch_source.fetch_source",
)
"""Written in full here: runs that are already scheduled name them and must still load."""


@pytest.fixture(autouse=True)
def environment_decides() -> None:
    """Forget settings that an earlier test has put in force."""
    use_settings(None)


def test_prefect_yaml_shows_the_default_table() -> None:
    written = yaml.safe_load(PREFECT_FILE.read_text())["deployments"]
    shown = {
        resolution: deployment_name(entry)
        for entry in written
        for trigger in entry.get("triggers", [])
        for resolution in map(str.lower, trigger["match"]["resolution"])
    }
    table = Settings().deployments
    assert table == DEPLOYMENTS
    own = [label.lower() for label in OWN_SIZE_LABELS]
    assert [shown.pop(label) for label in own] == [ROUTE] * len(own)
    assert shown == {name: deployment_for(name) for name in NAMED}


def test_each_resolution_of_an_event_begins_one_run() -> None:
    """Triggers compare a label with patterns, as fnmatch does."""
    written = yaml.safe_load(PREFECT_FILE.read_text())["deployments"]
    patterns = [
        (deployment_name(entry), pattern)
        for entry in written
        for trigger in entry.get("triggers", [])
        for pattern in trigger["match"]["resolution"]
    ]
    for label, name in (
        *((name, deployment_for(name)) for name in NAMED),
        *((label, ROUTE) for label in ("2x", "1.5X", "0.25x", "16x", "1920x1080", "640X360")),
    ):
        assert [to for to, pattern in patterns if fnmatchcase(label, pattern)] == [name], label


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_the_entrypoint_of_a_run_that_was_scheduled_earlier_loads(entrypoint: str) -> None:
    flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    assert flow.name == entrypoint.rpartition(".")[2].replace("_", "-")


def test_prefect_yaml_names_these_entrypoints_and_no_other() -> None:
    written = yaml.safe_load(PREFECT_FILE.read_text())["deployments"]
    assert {entry["entrypoint"] for entry in written} == set(ENTRYPOINTS)


def test_deployments_that_people_start_have_names_of_their_own_and_say_what_they_do() -> None:
    """The UI lists them by their names; those of `upscale-part` are started by jobs alone."""
    written = yaml.safe_load(PREFECT_FILE.read_text())["deployments"]
    named = [d["name"] for d in written if d["entrypoint"] != "flows.upscale_part.upscale_part"]
    assert len(set(named)) == len(named), named
    assert all(len(entry["description"]) > 20 for entry in written)


def test_triggers_follow_the_sites_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEDVR2_DEPLOYMENTS", "*=upscale/h100")
    entries = {deployment_name(e): e for e in read_deployments()["deployments"]}
    h100 = entries["upscale/h100"]["triggers"]
    resolutions = [label for trigger in h100 for label in trigger["match"]["resolution"]]
    names = ["720p", "1080p", "2k", "4k", "short:720", "short:1080", "short:1440", "short:2160"]
    assert resolutions == [*names, *(name.upper() for name in names), *OWN_SIZE_LABELS]
    assert entries[ROUTE]["triggers"] == []
    assert entries["upscale/h200"]["triggers"] == []


@pytest.mark.parametrize("table", ["", "*=upscale/h100"], ids=["several pools", "one pool"])
def test_where_masters_are_coded_again_every_event_is_looked_at_first(
    monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """A trigger does not know whether there is a master; `route` asks."""
    monkeypatch.setenv("SEEDVR2_CODING_DEPLOYMENT", "upscale/coding")
    if table:
        monkeypatch.setenv("SEEDVR2_DEPLOYMENTS", table)
    patterns = [
        (deployment_name(entry), pattern)
        for entry in read_deployments()["deployments"]
        for trigger in entry["triggers"]
        for pattern in trigger["match"]["resolution"]
    ]
    for label in (*NAMED, "4K", "2x", "1920x1080"):
        assert [to for to, pattern in patterns if fnmatchcase(label, pattern)] == [ROUTE], label


def test_an_event_may_give_every_parameter_of_the_flow_and_no_other() -> None:
    written = yaml.safe_load(PREFECT_FILE.read_text())["deployments"]
    templates = {
        trigger["parameters"]["value"]["template"]
        for entry in written
        for trigger in entry.get("triggers", [])
    }
    (template,) = templates
    named = set(re.findall(r'"([a-z0-9_]+)"', template)) - {"in", "string", "number"}
    assert named == set(inspect.signature(upscale.fn).parameters) - {"resolution"}


@pytest.mark.parametrize("flow", [upscale, route], ids=lambda flow: flow.name)
def test_the_form_has_fields_of_text_that_begin_empty_and_show_an_example(flow: Flow) -> None:
    fields = parameter_schema(flow).model_dump()["properties"]
    for name in ("video_url", "video_path", "video_base64", "callback_url"):
        assert (fields[name]["type"], fields[name]["default"]) == ("string", ""), name
        assert name == "video_base64" or "such as" in fields[name]["description"], name


def test_there_is_nothing_to_build_or_pull() -> None:
    written = yaml.safe_load(PREFECT_FILE.read_text())
    assert "build" not in written
    assert written["pull"] == []


def test_the_image_is_named_by_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "ROOT", tmp_path)
    with pytest.raises(InvalidRequestError, match="SEEDVR2_IMAGE"):
        apply.default_image()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    clean = apply.default_image()
    assert re.fullmatch(r"seedvr2:[0-9a-f]{12}", clean)
    (tmp_path / "file").write_text("2")
    assert apply.default_image() == f"{clean}-dirty"
