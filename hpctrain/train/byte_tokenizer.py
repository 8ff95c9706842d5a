"""The byte tokenizer as a transformers tokenizer, so that models trained on bytes are loaded and talked to like any other
(adapter over ``tokenizers`` and ``transformers``).

A token's number is the value of its byte; 256 ends a text or a turn, 257 fills up. There are no merges and nothing is
unknown. The chat template is written in plain text, and each turn ends with the end-of-text token.
"""

from __future__ import annotations

from typing import Any

END_OF_TEXT, PADDING = "<|endoftext|>", "<|padding|>"
END_OF_TEXT_ID, PADDING_ID = 256, 257

CHAT_TEMPLATE = """\
{%- if tools %}{{ 'tools: ' + (tools | tojson) + eos_token }}{% endif %}
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- 'assistant: ' }}
{%- generation %}
{%- if message['reasoning_content'] %}{{ '<think>' + message['reasoning_content'] + '</think>' }}{% endif %}
{{- message['content'] or '' }}
{%- for call in message['tool_calls'] or [] %}
{%- set function = call['function'] or call %}
{%- set arguments = function['arguments'] %}
{{- '<tool_call>{"name": ' + (function['name'] | tojson) + ', "arguments": ' }}
{{- arguments if arguments is string else (arguments or {}) | tojson }}
{{- '}</tool_call>' }}
{%- endfor %}
{{- eos_token }}
{%- endgeneration %}
{%- else %}
{{- message['role'] + ': ' + (message['content'] or '') + eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"""
"""What an assistant says stands between ``generation`` marks: that is what is learned. Thoughts and calls of tools are
written as Qwen 3 writes them."""


def byte_tokenizer() -> Any:
    """A new tokenizer; its numbers are those of :class:`hpctrain.train.tokenizers.ByteTokenizer`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (END_OF_TEXT, PADDING)])
    kind: Any = PreTrainedTokenizerFast
    fast = kind(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=PADDING, padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def byte_characters() -> list[str]:
    """The visible character that stands for each byte in a byte-level vocabulary.

    Bytes that Latin-1 prints stand for themselves; the others get the code points from 256 on, in order.
    """
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printed else chr(next(others)) for byte in range(256)]
