"""`fledge upload`: an exported folder goes to the Hugging Face hub, after what is sent was said and agreed to."""

from __future__ import annotations

import sys
from pathlib import Path

from fledge import console
from fledge.commands import Upload
from fledge.config import check
from fledge.export.out import CARD, CUSTODY, checked
from fledge.text.hub import explained

REMEDY = "Connect to the network, and log in with `hf auth login` or HF_TOKEN, with a token that may write"


def main(config: Upload) -> None:
    """Send what fledge wrote, and nothing else in the folder, in one commit."""
    check(config)
    folder = Path(config.folder)
    custody = checked(folder)
    if not custody:
        raise ValueError(
            f"{folder}: no {CUSTODY} there, so fledge did not write it; give a folder of `fledge export --to hf`"
        )
    if config.repo.count("/") != 1:
        raise ValueError(f"repo {config.repo!r} is not of the form someone/my-model")
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    names = [name for name in (*custody["files"], CUSTODY, CARD) if (folder / name).is_file()]
    console.say(f"to {api.endpoint}/{config.repo}, {'public, for everybody to see' if config.public else 'private'}:")
    for name in names:
        console.say(f"  {name} ({(folder / name).stat().st_size:,} bytes)")
    if left := sorted({path.name for path in folder.iterdir()}.difference(names)):
        console.say(f"not sent, since fledge did not write it: {', '.join(left)}")
    if not config.yes and not _agreed():
        console.say("nothing was sent")
        return
    what = f"send {folder} to {api.endpoint}/{config.repo}"
    with explained(what, remedy=REMEDY):
        api.create_repo(config.repo, private=not config.public, exist_ok=True)
        is_public = not api.repo_info(config.repo).private
    if is_public != config.public:
        found, cure = ("public", "add") if is_public else ("private", "leave out")
        raise ValueError(
            f"{config.repo}: is there already, and {found}. Nothing was sent; {cure} --public, or choose another name"
        )
    with explained(what, remedy=REMEDY):
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
        done = api.create_commit(config.repo, files, commit_message=f"{custody['run']}, {custody['stage']}")
    console.say(f"sent: {done.commit_url}")


def _agreed() -> bool:
    """Whether the user says yes. Raises ValueError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise ValueError("nobody is there to be asked whether to send this; add --yes")
    return input("Send it? [y/N] ").strip().lower() in ("y", "yes")
