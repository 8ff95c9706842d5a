"""Asks the endpoints of a recipe one question each before anything is paid for (service).

Twice: when a recipe is submitted, so that a wrong key or a server that is down costs nothing; and when training starts,
before the model is loaded, since hours may have passed in the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hpctrain.endpoint.client import Client, Post
from hpctrain.endpoint.exchange import post
from hpctrain.endpoint.judge_text import again, mark_question, read_mark
from hpctrain.endpoint.wire import shown
from hpctrain.errors import EndpointError
from hpctrain.recipe.check_endpoint import EndpointUse, endpoints_of
from hpctrain.recipe.endpoint_url import is_loopback
from hpctrain.recipe.problem import dotted
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import Endpoint

PATIENCE_S = 30.0
"""Longest wait for one answer at submission, where a person waits."""
_SHORT_TOKENS = 16
_READY = ({"role": "user", "content": "Answer with the one word: ready"},)


@dataclass(frozen=True, slots=True)
class Probed:
    """An endpoint that answered.

    Attributes:
        seconds: from the question to the answer, tries that failed included.
    """

    use: EndpointUse
    seconds: float

    def text(self) -> str:
        """One line for people."""
        return f"the {self.use.role} {self.use.endpoint.model} at {self.use.endpoint.url} answers ({self.seconds:.1f} s)"


def probe(use: EndpointUse, *, env: Mapping[str, str] | None = None, exchange: Post = post,
          notify: Callable[[str], None] | None = None) -> Probed:
    """Ask one question. A judge must give a mark that can be read.

    Raises:
        EndpointError: it does not answer, refuses, or answers nonsense. The message begins with the place in the recipe.
    """
    started = time.monotonic()
    try:
        if use.judge is None:
            short = use.endpoint.model_copy(update={"max_new_tokens": min(_SHORT_TOKENS, use.endpoint.max_new_tokens)})
            Client(short, env=env, exchange=exchange, notify=notify).complete(_READY)
        else:
            judge = use.judge
            client = Client(judge, env=env, exchange=exchange, notify=notify)
            question = mark_question(judge.rubric, judge.scale, "What is 2 + 2?", "4")
            reply = client.complete(question)
            if read_mark(reply, judge.scale) is None:
                reply = client.complete(again(question, reply, f"MARK: number from 0 to {judge.scale}"))
            if read_mark(reply, judge.scale) is None:
                raise EndpointError(f"its reply holds no mark: {shown(reply) or 'an empty text'}", where=judge.url, hint=(
                    "use a model that follows instructions, or raise judge.max_new_tokens if its replies are cut off"))
    except EndpointError as error:
        place = dotted(use.path)
        raise EndpointError(error.message, where=f"{place}: {error.where}", hint=error.advice) from None
    return Probed(use, time.monotonic() - started)


def probe_at_submission(
    recipe: Recipe, *, one_host: bool, env: Mapping[str, str] | None = None, exchange: Post = post,
    notify: Callable[[str], None] | None = None,
) -> list[str]:
    """Probe what can be reached from here, with a person's patience; sentences about what was found.

    Args:
        one_host: the job will run on this machine, so that its loopback addresses are ours.

    Raises:
        EndpointError: one does not work; nothing has been submitted.
    """
    told = []
    for use in endpoints_of(recipe):
        if use.endpoint.check == "start":
            told.append(f"the {use.role} at {use.endpoint.url} is asked when training starts, as 'check: start' says")
        elif is_loopback(use.endpoint.url) and not one_host:
            told.append(f"the {use.role} at {use.endpoint.url} is on the job's own node: it is asked when training starts")
        else:
            try:
                told.append(probe(_hurried(use), env=env, exchange=exchange, notify=notify).text())
            except EndpointError as error:
                place = dotted(use.path)
                error.advice = f"{error.advice or 'start the server'}; {place}.check: start asks only when training starts"
                raise
    return told


def probe_at_start(
    recipe: Recipe, *, env: Mapping[str, str] | None = None, exchange: Post = post,
    notify: Callable[[str], None] | None = None,
) -> list[str]:
    """Probe the judge from where training will ask it, with all the patience that the recipe has.

    A teacher is not probed: its answers are asked for right then, before the model is loaded, and those of an earlier start
    are kept.

    Raises:
        EndpointError: it does not work.
    """
    judges = [use for use in endpoints_of(recipe) if use.judge is not None]
    return [probe(use, env=env, exchange=exchange, notify=notify).text() for use in judges]


def _hurried(use: EndpointUse) -> EndpointUse:
    endpoint: Endpoint = use.endpoint.model_copy(update={
        "timeout_s": min(use.endpoint.timeout_s, PATIENCE_S), "retries": min(use.endpoint.retries, 1)})
    return EndpointUse(use.path, endpoint)
