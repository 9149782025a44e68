"""Whose folder it is: a run's root names the recipe or verb that made it, so that nothing else writes into it."""

from __future__ import annotations

from penstock.errors import OtherRecipeError
from penstock.storage import Folder

NAME = "run.json"


def claim(root: Folder, owner: str, *, write: bool, hint: str = "choose another --out") -> None:
    """Refuse a folder that something else made; mark a new one as ``owner``'s.

    Args:
        write: False only looks, as a dry run does.
        hint: what to do, for the message.

    Raises:
        OtherRecipeError: the folder is another's, or its mark cannot be read.
    """
    try:
        found = root.read_json(NAME)["recipe"]
        if not isinstance(found, str):
            raise TypeError(f"recipe is {type(found).__name__}")
    except FileNotFoundError:
        found = None
    except (ValueError, KeyError, TypeError) as error:
        raise OtherRecipeError(f"{root.url}: {NAME} is damaged ({error}); choose another --out") from error
    if found not in (None, owner):
        raise OtherRecipeError(f"{root.url}: holds a run of recipe {found!r}, got {owner!r}; {hint}")
    if write and found is None:
        root.write_json(NAME, {"recipe": owner})
