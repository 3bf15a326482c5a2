"""What transformers and llama.cpp are told of a tokenizer beside its tokens: which of them mark what, and how a chat becomes text.

    for_transformers()                  # the content of tokenizer_config.json, which AutoTokenizer reads
    TEMPLATE                            # its chat template, in Jinja

`text/chat.py` says the same for us; `tests/test_export.py` compares both.
"""

from __future__ import annotations

from typing import Any

TEMPLATE = (
    "{% macro prose(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{% endmacro %}"
    "{% set system = prose(messages[0].content) if messages[0].role == 'system' else '' %}"
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '<|user_start|>' }}"
    "{% if loop.index0 == 1 and system | trim %}{{ system + '\\n\\n' }}{% endif %}"
    "{{ prose(message.content) }}{{ '<|user_end|>' }}"
    "{% elif message.role == 'assistant' %}{{ '<|assistant_start|>' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}"
    "{% else %}{{ '<|' + part.type + '_start|>' + part.text + '<|' + part.type + '_end|>' }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|assistant_end|>' }}"
    "{% elif not loop.first or message.role != 'system' %}"
    "{{ raise_exception('roles are user and assistant, and system before them') }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant_start|>' }}{% endif %}"
)
"""What text/chat.py does, for other programs. Tool parts are parts of the assistant's content, of type python and output."""


def for_transformers(*, can_chat: bool = True, context: int | None = None) -> dict[str, Any]:
    """The content of tokenizer_config.json.

    Args:
        can_chat: whether a model that uses it answers. A base model has no template, and its texts end where the next begins.
        context: most tokens that the model sees. None: nobody knows yet.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "pad_token": "<|bos|>",
        "padding_side": "left",  # or the answers of a batch would go on from padding
        "eos_token": "<|assistant_end|>" if can_chat else "<|bos|>",
        **({} if context is None else {"model_max_length": context}),
        "clean_up_tokenization_spaces": False,
        **({"chat_template": TEMPLATE} if can_chat else {}),
    }
