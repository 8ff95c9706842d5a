"""Text to tokens and back, as the trainers do it (adapter over tokenizers).

A completion that is text ends with the end-of-text token; a conversation is closed by its chat template. Prompts begin with
the token that the tokenizer itself puts at the beginning of a text, if it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hpctrain.errors import RecipeError, first_line
from hpctrain.evaluate.batching import common_prefix
from hpctrain.evaluate.examples import Messages, Pair, Prompt
from hpctrain.evaluate.hugging_face import load_tokenizer
from hpctrain.evaluate.model_directory import ModelDirectory

Tools = list[dict[str, Any]] | None


class Codec(Protocol):
    """What measuring needs of a tokenizer.

    Attributes:
        begin: tokens that begin a text, none for most.
        end: the token that ends a text.
        padding: fills up batches.
        template: of chats, "" for none.
        tokenizer: transformers' object, None for the byte tokenizer of older runs.
    """

    begin: list[int]
    end: int
    padding: int
    template: str
    tokenizer: Any

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, nothing added."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; special ones are left out."""

    def chat(self, messages: Messages, tools: Tools, *, answer_follows: bool) -> list[int]:
        """The tokens of a conversation.

        Raises:
            RecipeError: there is no chat template, or it does not take these messages.
        """


class TransformersCodec:
    """A transformers tokenizer.

    Args:
        folder: of tokenizer files.
        template: of chats, where the tokenizer has none of its own.

    Raises:
        NotFoundError: it cannot be loaded.
        RecipeError: it has no end-of-text token.
    """

    def __init__(self, folder: str, template: str = "", *, trust_remote_code: bool = False) -> None:
        self.tokenizer: Any = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        if self.tokenizer.eos_token_id is None:
            raise RecipeError("the tokenizer has no end-of-text token", where=folder)
        if template and not self.tokenizer.chat_template:
            self.tokenizer.chat_template = template
        self._folder = folder
        self.template = str(self.tokenizer.chat_template or "")
        self.end = int(self.tokenizer.eos_token_id)
        pad = self.tokenizer.pad_token_id
        self.padding = self.end if pad is None else int(pad)
        first_token = self.tokenizer("x")["input_ids"][:1]
        starts = self.tokenizer.bos_token_id is not None and first_token == [self.tokenizer.bos_token_id]
        self.begin: list[int] = first_token if starts else []

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, nothing added."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; special ones are left out."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def chat(self, messages: Messages, tools: Tools, *, answer_follows: bool) -> list[int]:
        """The tokens of a conversation; see :class:`Codec`."""
        if not self.template:
            raise RecipeError(
                "rows are conversations, and the tokenizer has no chat template", where=self._folder,
                hint="give rows with text as prompt, or a tokenizer with a chat_template (chat.template in the recipe)",
            )
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tools=tools, add_generation_prompt=answer_follows, tokenize=False)
        except Exception as error:  # noqa: BLE001 - a template may raise anything; most raise jinja's TemplateError
            raise RecipeError(f"the chat template refuses a conversation: {first_line(error)}", where=self._folder) from None
        return self.encode(str(text))


class ByteCodec:
    """One token per byte, as a model directory says that holds only ``hpctrain_tokenizer.json``."""

    begin: list[int] = []  # noqa: RUF012 - never changed
    end, padding, template = 256, 257, ""
    tokenizer: Any = None

    def encode(self, text: str) -> list[int]:
        """The bytes."""
        return list(text.encode("utf-8", errors="surrogatepass"))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text; special tokens are left out, broken UTF-8 is replaced."""
        return bytes(token for token in tokens if token < self.end).decode("utf-8", errors="replace")

    def chat(self, messages: Messages, tools: Tools, *, answer_follows: bool) -> list[int]:
        """Refused: nothing says how."""
        del messages, tools, answer_follows
        raise RecipeError("rows are conversations, and the byte tokenizer of this model has no chat template",
                          hint="train it again with this version of hpctrain, or give rows with text as prompt")


def codec_of(directory: ModelDirectory, template: str = "", *, trust_remote_code: bool = False) -> Codec:
    """The tokenizer of a model; of an adapter without one: that of its base.

    Raises:
        NotFoundError, RecipeError: see :class:`TransformersCodec`.
    """
    if not directory.has_tokenizer and directory.is_adapter:
        return TransformersCodec(directory.base, template, trust_remote_code=trust_remote_code)
    if not directory.has_tokenizer and directory.has_bytes:
        return ByteCodec()
    return TransformersCodec(directory.path, template, trust_remote_code=trust_remote_code)


def prompt_tokens(codec: Codec, prompt: Prompt, tools: Tools = None) -> list[int]:
    """A prompt after which the model is to answer.

    Raises:
        RecipeError: see :class:`Codec`.
    """
    if isinstance(prompt, str):
        return [*(codec.begin or ([] if prompt else [codec.end])), *codec.encode(prompt)]
    return codec.chat(prompt, tools, answer_follows=True)


def pair_tokens(codec: Codec, pair: Pair) -> tuple[list[int], int]:
    """Tokens of a prompt and its completion together, and the index of the first one that is predicted.

    They are made into tokens together and then divided, since a tokenizer may join the end of one to the beginning of the
    other; the template of a chat may also leave out things from earlier turns.

    Raises:
        RecipeError: see :class:`Codec`; or prompt and completion are not both text or both messages.
    """
    before, after = pair.before, pair.after
    if isinstance(before, str) and isinstance(after, str):
        # A document begins where another one has ended; so each of its tokens is predicted.
        start = codec.begin or ([] if before else [codec.end])
        head = [*start, *codec.encode(before)]
        whole = [*start, *codec.encode(before + after), codec.end]
    elif isinstance(before, str):
        raise RecipeError("a row has text as prompt and a message as answer; both must be of one kind")
    else:
        said = [{"role": "assistant", "content": after}] if isinstance(after, str) else after
        head = codec.chat(before, pair.tools, answer_follows=True)
        whole = codec.chat([*before, *said], pair.tools, answer_follows=False)
    return whole, max(1, common_prefix(head, whole))
