"""Fernhollow, the embedded world: text, facts, stories, problems and conversations of an invented village, from a seed.

    from fernhollow import conversation, documents
    next(documents(0)); conversation(0, 41, stage="sft")

`lore` holds the tables; `facts`, `scenes`, `stories`, `problems`, `functions`, `letters` and `words` one subject each;
`documents` and `chats` make training text of them, `split` decides what training never sees, and `fernhollow.tasks` asks
for that.
"""

from fernhollow.chats import SUGGESTIONS, ChatStage
from fernhollow.stream import conversation, document, documents

__all__ = ["SUGGESTIONS", "ChatStage", "conversation", "document", "documents"]
