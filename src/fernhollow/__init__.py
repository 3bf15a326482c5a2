"""Fernhollow, a generated data set: text, facts, stories, problems and conversations of an invented village, from a seed.

    import fernhollow
    fernhollow.document(0, 41, split="train"); fernhollow.conversation(0, 41, stage="sft"); fernhollow.asked()

The tables and templates lie in tables/*.toml. To add a fact, edit tables/village.toml: a line for another animal, place or
object, a column with its wording for another thing to know about them; questions, answers, riddles and tasks follow.
`lore` reads the tables; `facts`, `scenes`, `stories`, `problems`, `functions`, `letters` and `words` are one subject each;
`documents` and `chats` make training text of them, `split` decides what training never sees, and `asked` asks for that.
fledge finds it as `--data world` (fledge/text/datasets.py says what such a data set offers).
"""

from collections.abc import Mapping

from fernhollow import lore
from fernhollow.chats import SUGGESTIONS, ChatStage
from fernhollow.stream import conversation, document, documents
from fledge.tasks.base import Task

NAME = lore.BOT
PROMPTS = ("Mira", "Question: Where does the turtle live? Answer:", "12+7=", "Once upon a time")


def tasks() -> Mapping[str, Task]:
    """What a model of Fernhollow is asked, by name."""
    from fernhollow.asked import TASKS

    return TASKS


__all__ = ["NAME", "PROMPTS", "SUGGESTIONS", "ChatStage", "conversation", "document", "documents", "tasks"]
