"""Distillation: a student learns what a teacher says, or how likely the teacher holds each token (service over trl).

A teacher behind an endpoint gives words only: it answers the prompts once, and its answers are learned as by ``sft``. A
local teacher gives its whole distribution at every token, which says more; student and teacher must share a vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from hpctrain.data.read import resolve_format
from hpctrain.errors import NotFoundError, RecipeError
from hpctrain.recipe import schema
from hpctrain.recipe.schema_method import Teacher
from hpctrain.train.distributed import disconnect
from hpctrain.train.environment import EXIT_STOPPED
from hpctrain.train.tune.context import TuneContext
from hpctrain.train.tune.distill_batch import PromptsAndAnswers
from hpctrain.train.tune.engine import run_trainer
from hpctrain.train.tune.model import load_model, load_trained
from hpctrain.train.tune.rows import tokenise_rows
from hpctrain.train.tune.teacher import ask_teacher, with_rows
from hpctrain.train.tune.tokenizer import load_tokenizer
from hpctrain.train.tune.tokens import IGNORED, Writer, fit


def run(context: TuneContext) -> int:
    """Distil the recipe's teacher into its model; return the exit code.

    Raises:
        EndpointError: the teacher does not answer after all tries.
        RecipeError: teacher and student do not fit together, or the rows do not fit the method.
    """
    teacher = context.recipe.teacher
    if teacher is None:
        raise RecipeError("method 'distill' needs a 'teacher' section", where="teacher")
    if teacher.endpoint is None:
        return _learn_distributions(context, teacher)
    answered = ask_teacher(context, teacher.endpoint)
    if answered.stopped:
        context.report.close()
        disconnect()
        return EXIT_STOPPED
    with_rows(context, answered)
    from hpctrain.train.tune import sft

    return sft.run(context)


def _learn_distributions(context: TuneContext, teacher: Teacher) -> int:
    longest = context.data.sequence_length
    writer = Writer.of(context.tokenizer, learn_all=False, longest=longest)
    form = resolve_format(context.data, "distill")

    def encode(row: dict[str, Any], where: str) -> dict[str, list[int]] | None:
        if form == "chat":
            return fit(writer.chat(row, where), longest)
        if form == "prompt_completion":
            return fit(writer.pair(row, where), longest)
        nothing: Any = "" if isinstance(row["prompt"], str) else [{"role": "assistant", "content": ""}]
        prompt, _ = writer.question_and_answer(row, nothing, where)
        return {"input_ids": prompt, "labels": [IGNORED] * len(prompt)} if 0 < len(prompt) <= longest else None

    tokenise_rows(context, encode, ["distill", form, writer.template])
    if form == "prompts":
        context.eval_rows = None  # there is no answer to measure a distance on
    load_trained(context)
    return run_trainer(context, partial(_make, teacher=teacher, has_answers=form != "prompts"))


def _load_teacher(context: TuneContext, teacher: Teacher) -> Any:
    """The teacher, frozen, where the student is.

    Raises:
        RecipeError: its tokens are others than the student's.
        NotFoundError: there is no such model.
    """
    context.heartbeat.beat("init", detail="loading the teacher")
    source = schema.Model(path=teacher.path, attention=context.source.attention,
                          trust_remote_code=context.source.trust_remote_code)
    try:
        its = load_tokenizer(context.recipe.model_copy(update={
            "model": source, "tokenizer": schema.Tokenizer(), "chat": schema.Recipe.model_fields["chat"].default}))
    except NotFoundError as error:
        raise NotFoundError(error.message, where="teacher.path", hint=error.advice) from None
    if its.get_vocab() != context.tokenizer.get_vocab():
        raise RecipeError(
            f"the teacher's {len(its)} tokens are not the student's {len(context.tokenizer)}: their probabilities cannot be "
            "compared", where="teacher.path", hint="serve the teacher and give teacher.endpoint: then its words are learned")
    model = load_model(context, source, frozen=True)
    sizes = [config.get_text_config().vocab_size for config in (context.model.config, model.config)]
    if sizes[0] != sizes[1]:
        raise RecipeError(f"the student's output has {sizes[0]} numbers and the teacher's {sizes[1]}", where="teacher.path",
                          hint="serve the teacher and give teacher.endpoint: then its words are learned")
    return model.requires_grad_(False).eval()


def _make(
    context: TuneContext, common: dict[str, Any], callbacks: list[Any], *, teacher: Teacher, has_answers: bool
) -> Any:
    """Trl's trainer for generalised distillation, on rows that are tokens already; it alone holds the teacher.

    Raises:
        NotFoundError, RecipeError: see :func:`_load_teacher`.
    """
    from hpctrain.train.tune.distill_trainer import distiller  # first: it keeps the next one quiet
    from trl.experimental import gkd  # isort: skip

    trainer = distiller()
    arguments = gkd.GKDConfig(
        **common, max_length=context.data.sequence_length, lmbda=teacher.on_policy_share, temperature=teacher.temperature,
        max_new_tokens=context.recipe.generation.max_new_tokens, seq_kd=not has_answers, disable_dropout=False,
    )
    return trainer(
        model=context.model, teacher_model=_load_teacher(context, teacher), args=arguments, train_dataset=context.train_rows,
        eval_dataset=context.eval_rows, processing_class=context.tokenizer, peft_config=context.peft_config,
        callbacks=callbacks, data_collator=PromptsAndAnswers(context.tokenizer.pad_token_id),
    )
