"""How visitors of the village type: fledge/text/typed.py, for an assistant with the name of ours."""

from __future__ import annotations

from fernhollow import lore
from fledge.text.typed import Typist

_VISITOR = Typist(name=lore.BOT, dear="little bird", capitals=lore.PEOPLE)
typed, CHANGES = _VISITOR.typed, _VISITOR.changes
