"""The five questions of `seedvr2 init`, and what their answers set.

An answer is checked by the settings themselves (`tasks/settings.py`), as every command will do it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import typer

from deployments.host.exits import say
from seedvr2_core.errors import InvalidRequestError

T = TypeVar("T")

FOLDER = "folder"
STORAGES = ("local", "bunny", "s3")
POOLS: Mapping[str, str] = {
    "local": "*=upscale/local",
    "h100": "*=upscale/h100",
    "h200": "*=upscale/h200",
    "both": "720p=upscale/h100,1080p=upscale/h100,2k=upscale/h200,4k=upscale/h200",
}
"""Answer -> which pool makes which resolution."""


@dataclass(frozen=True, slots=True)
class Detail:
    """What else is asked after an answer."""

    variable: str
    words: str
    secret: bool = False
    optional: bool = False
    only_with: str | None = None
    """Another variable without which this one is not asked for."""


S3_KEYS = (
    Detail("SEEDVR2_S3_ENDPOINT", "Address of the S3 service (empty: Amazon's)", optional=True),
    Detail(
        "SEEDVR2_S3_ACCESS_KEY_ID",
        "Id of the access key (empty: the machine's role)",
        optional=True,
    ),
    Detail(
        "SEEDVR2_S3_SECRET_ACCESS_KEY",
        "Its secret (not shown)",
        secret=True,
        only_with="SEEDVR2_S3_ACCESS_KEY_ID",
    ),
)
DETAILS: Mapping[str, Sequence[Detail]] = {
    "local": (
        Detail(
            "SEEDVR2_PUBLIC_URL",
            "Address under which finished videos are served (empty: paths are told)",
            optional=True,
        ),
    ),
    "bunny": (
        Detail("BUNNY_STORAGE_ZONE", "Name of the storage zone"),
        Detail("BUNNY_BASE_URL", "Its public address (https://NAME.b-cdn.net)"),
        Detail("BUNNY_STORAGE_KEY", "Its password (not shown)", secret=True),
    ),
    "s3": (
        Detail("SEEDVR2_S3_OUTPUTS", "Bucket and folder of finished videos (s3://...)"),
        *S3_KEYS,
    ),
}
"""Storage -> its details."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What flags have answered; None: the question is asked."""

    store: str | None
    storage: str | None
    pool: str | None
    token: bool | None
    hour_price: str | None
    settings: Mapping[str, str]
    """Variable -> value, of --set."""

    @property
    def missing(self) -> list[str]:
        """The flags of the questions that are left."""
        given = {
            "--store": self.store,
            "--storage": self.storage,
            "--pool": self.pool,
            "--token": self.token,
            "--hour-price": self.hour_price,
        }
        return [flag for flag, value in given.items() if value is None]


Check = Callable[[Mapping[str, str]], object]
"""Raises InvalidRequestError where the values cannot be settings."""


class Questionnaire:
    """Asks what the flags have left open, and gathers the values.

    Args:
        answers: of the flags.
        check: of all values so far.
        asks: whether somebody can be asked.
    """

    def __init__(self, answers: Answers, check: Check, *, asks: bool) -> None:
        self._answers, self._check, self._asks = answers, check, asks
        self.values: dict[str, str] = {}
        self.token = ""
        """A new token for callers; "" if none was made."""

    def run(self) -> None:
        """Go through the five questions.

        Raises:
            InvalidRequestError: an answer of a flag cannot be.
        """
        self._until_right(self._store)
        self._until_right(self._storage)
        self._until_right(self._pool)
        self._until_right(self._gateway)
        self._until_right(self._price)
        self._add(self._answers.settings)

    def _until_right(self, question: Callable[[], Mapping[str, str]]) -> None:
        """Ask until the answer can be a setting; where nobody is asked, a wrong one ends it."""
        while True:
            try:
                self._add(question())
                return
            except InvalidRequestError as error:
                if not self._asks:
                    raise
                say(f"  {error}")
                self._answers = _without_flags(self._answers)

    def _add(self, values: Mapping[str, str]) -> None:
        given = {name: value for name, value in values.items() if value}
        self._check({**self.values, **given})
        self.values |= given

    def _store(self) -> Mapping[str, str]:
        text = self._ask(
            self._answers.store,
            "1. Where is work in progress kept? `folder`: the work directory, which all workers "
            "must see; or a bucket, s3://BUCKET/FOLDER",
            FOLDER,
        )
        if text == FOLDER:
            return {}
        self._check({**self.values, "SEEDVR2_STORE": text})  # before more is asked
        return {"SEEDVR2_STORE": text, **self._details(S3_KEYS)}

    def _storage(self) -> Mapping[str, str]:
        kind = self._choose(
            self._answers.storage,
            "2. Where do finished videos go? `local`: a folder; `bunny`: a zone of Bunny.net; "
            "`s3`: a bucket",
            STORAGES,
        )
        return {"SEEDVR2_STORAGE": kind, **self._details(DETAILS[kind])}

    def _pool(self) -> Mapping[str, str]:
        pool = self._choose(
            self._answers.pool,
            "3. Which GPUs make the videos? `local`: this machine, whatever it has; `h100`; "
            "`h200`; `both`: 2k and 4k on an H200",
            tuple(POOLS),
        )
        return {"SEEDVR2_DEPLOYMENTS": POOLS[pool]}

    def _gateway(self) -> Mapping[str, str]:
        wanted = self._answers.token
        if wanted is None:
            say("4. Who may call the gateway? With a token also other machines, without this one.")
            wanted = _prompted(lambda: typer.confirm("Make a token?", default=True, err=True))
        if not wanted:
            return {}
        from deployments.gateway.auth import digest, make_token

        self.token = make_token()
        return {"SEEDVR2_GATEWAY_TOKENS": digest(self.token)}

    def _price(self) -> Mapping[str, str]:
        text = self._ask(
            self._answers.hour_price,
            "5. What does an hour of a worker's machine cost, in your currency? `none`: no price "
            "is told",
            "none",
        )
        return {} if text == "none" else {"SEEDVR2_HOUR_PRICE": text}

    def _details(self, details: Sequence[Detail]) -> dict[str, str]:
        """What an answer needs beside itself: from --set, the environment, or asked."""
        found: dict[str, str] = {}
        for one in details:
            known = self._answers.settings.get(one.variable) or self.values.get(one.variable)
            known = known or os.environ.get(one.variable, "")
            needed = one.only_with is None or found.get(one.only_with)
            if known or not self._asks:
                found[one.variable] = known
            elif needed:
                found[one.variable] = self._asked(one, found)
        return found

    def _asked(self, one: Detail, found: Mapping[str, str]) -> str:
        """The answer to a follow-up, once it can be one."""
        while True:
            text = _typed(one)
            try:
                given = {name: value for name, value in found.items() if value}
                if text:
                    self._check({**self.values, **given, one.variable: text})
                return text
            except InvalidRequestError as error:
                say(f"  {error}")

    def _ask(self, flag: str | None, words: str, default: str) -> str:
        if flag is not None:
            return flag.strip()
        say(words)
        return _prompted(lambda: typer.prompt("Answer", default=default, err=True)).strip()

    def _choose(self, flag: str | None, words: str, choices: Sequence[str]) -> str:
        text = self._ask(flag, words, choices[0]).lower()
        if text not in choices:
            raise InvalidRequestError(f"got {text[:40]!r}; expected one of {', '.join(choices)}")
        return text


def _typed(one: Detail) -> str:
    """What is typed for a follow-up; a secret is not shown while it is typed."""
    default = "" if one.optional else None
    return _prompted(
        lambda: typer.prompt(
            f"  {one.words}",
            default=default,
            show_default=False,
            hide_input=one.secret,
            err=True,
        )
    ).strip()


def _prompted(prompt: Callable[[], T]) -> T:
    """An answer; Ctrl-C and the end of the input are an interruption."""
    try:
        return prompt()
    except typer.Abort:
        say("")
        raise KeyboardInterrupt from None


def _without_flags(answers: Answers) -> Answers:
    """After a wrong answer a person is asked, whatever a flag says."""
    return Answers(
        store=None, storage=None, pool=None, token=None, hour_price=None, settings=answers.settings
    )
