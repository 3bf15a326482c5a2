"""`fledge sft`: fine-tune on clean conversations, learning the assistant's words alone."""

from fledge.train.converse import main, prepare

__all__ = ["main", "prepare"]
