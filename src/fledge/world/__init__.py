"""Fernhollow, the embedded world: text, facts, stories, problems and conversations of an invented village, from a seed.

    from fledge.world import conversation, documents
    next(documents(0)); conversation(0, 41, stage="sft")

`lore` holds the tables; `facts`, `scenes`, `stories`, `problems`, `functions`, `letters` and `words` one subject each;
`documents` and `chats` make training text of them, `split` decides what training never sees, and `fledge.tasks.world` asks
for that.
"""

from fledge.world.chats import SUGGESTIONS, ChatStage
from fledge.world.stream import conversation, document, documents

__all__ = ["SUGGESTIONS", "ChatStage", "conversation", "document", "documents"]
