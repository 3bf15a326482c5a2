"""`fledge midtrain`: teach a base model conversations, multiple choice and tool use."""

from fledge.train.converse import main, prepare

__all__ = ["main", "prepare"]
