"""What an operator has set on a pool outlives a deploy; what we had set follows the site."""

import copy
from typing import Any

from deployments.deploy.apply import pool_template
from deployments.deploy.operators import merge_template
from deployments.deploy.site import Site

KEEP_30 = Site(values={"SEEDVR2_KEEP_DAYS": "30", "SEEDVR2_STORAGE": "local"}, whole=True)


def env_of(template: dict[str, Any]) -> dict[str, str]:
    return template["variables"]["properties"]["env"]["default"]


def deployed(site: Site = KEEP_30) -> dict[str, Any]:
    return merge_template(pool_template("h100"), {}, site)[0]


def test_the_same_site_again_changes_nothing_and_has_nothing_to_tell() -> None:
    first = deployed()
    assert env_of(first) == KEEP_30.values
    assert merge_template(pool_template("h100"), first, KEEP_30) == (first, [])


def test_what_an_operator_set_stays_and_is_told() -> None:
    found = deployed()
    found["variables"]["properties"]["mem_limit"]["default"] = "200g"
    found["variables"]["properties"]["env"]["default"]["TZ"] = "Europe/Berlin"
    found["job_configuration"]["env"]["HTTPS_PROXY"] = "http://proxy:3128"
    merged, notes = merge_template(pool_template("h100"), found, KEEP_30)
    assert merged == found
    assert notes == [
        "kept mem_limit = '200g', which was set there (ours is '96g')",
        "kept HTTPS_PROXY in the environment, which was set there",
        "kept TZ in the environment, which was set there",
    ]
    again, _ = merge_template(pool_template("h100"), merged, KEEP_30)
    assert again == merged


def test_a_new_version_of_ours_replaces_our_old_one() -> None:
    found = deployed()
    newer = pool_template("h100")
    newer["variables"]["properties"]["mem_limit"]["default"] = "128g"
    newer["job_configuration"]["env"]["SEEDVR2_DEVICE"] = "cuda:1"
    merged, notes = merge_template(newer, found, KEEP_30)
    assert merged["variables"]["properties"]["mem_limit"]["default"] == "128g"
    assert merged["job_configuration"]["env"]["SEEDVR2_DEVICE"] == "cuda:1"
    assert notes == []


def test_what_the_site_no_longer_sets_is_removed_from_a_whole_site_alone() -> None:
    found = deployed()
    less = {"SEEDVR2_STORAGE": "local"}
    merged, notes = merge_template(pool_template("h100"), found, Site(values=less, whole=True))
    assert env_of(merged) == less
    assert notes == ["removed SEEDVR2_KEEP_DAYS from the environment: the site no longer sets it"]
    merged, _ = merge_template(pool_template("h100"), found, Site(values={}))
    assert env_of(merged) == KEEP_30.values
    merged, _ = merge_template(pool_template("h100"), merged, Site(values=less, whole=True))
    assert env_of(merged) == less


def test_the_site_wins_over_what_was_set_by_hand_and_says_so() -> None:
    found = deployed()
    env_of(found)["SEEDVR2_KEEP_DAYS"] = "7"
    found["job_configuration"]["command"] = "sh"
    merged, notes = merge_template(pool_template("h100"), found, KEEP_30)
    assert env_of(merged)["SEEDVR2_KEEP_DAYS"] == "30"
    assert "command" not in merged["job_configuration"]
    assert notes == [
        "replaced SEEDVR2_KEEP_DAYS in the environment: the site sets it now",
        "replaced job_configuration.command",
    ]


def test_a_pool_of_the_version_before_keeps_what_an_operator_set() -> None:
    found = copy.deepcopy(pool_template("h200"))
    found["job_configuration"]["env"]["SEEDVR2_PUBLIC_URL"] = "https://videos.example.org"
    found["variables"]["properties"]["shm_size"]["default"] = "16g"
    merged, notes = merge_template(pool_template("h200"), found, Site())
    assert merged["job_configuration"]["env"]["SEEDVR2_PUBLIC_URL"] == "https://videos.example.org"
    assert merged["variables"]["properties"]["shm_size"]["default"] == "16g"
    assert len(notes) == 2
