"""Which failures another try may mend: those of a network, of a store, of a folder that is in use for now.

What a person has to mend (a recipe, a full disk, a permission, a damaged dataset) comes back the same, and so does what
is decided by the data (too many rows dropped, a loss that is no number): such a run fails at once.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from penstock.errors import FolderInUseError, InputError, StorageError
from penstock.model_server import TryAgain

_FOR_A_PERSON = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENAMETOOLONG,
}
_NETWORK = ("aiohttp", "botocore", "aiobotocore", "httpcore", "httpx", "requests", "urllib3")
_REFUSED_FOR_GOOD = {400, 401, 403, 404, 405, 410, 411, 413, 414, 415, 422, 451}


def worth_again(error: BaseException) -> bool:
    """Whether the same call may succeed a little later.

    Args:
        error: with its causes (``raise … from``).
    """
    if isinstance(error, FolderInUseError):
        return True  # the other run ends, or the lease of a dead one runs out
    if not isinstance(error, (StorageError, InputError)):
        return False
    return any(_passing(cause, isinstance(error, StorageError)) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _passing(cause: BaseException, of_storage: bool) -> bool:
    if isinstance(cause, (ConnectionError, TimeoutError, TryAgain)):
        return True
    status = _status(cause)
    if status is not None:
        return status not in _REFUSED_FOR_GOOD
    if type(cause).__module__.partition(".")[0] in _NETWORK:
        return True
    if isinstance(cause, OSError) and of_storage:
        return cause.errno is not None and cause.errno not in _FOR_A_PERSON
    return False


def _status(cause: BaseException) -> int | None:
    """The HTTP status that an error of a client carries."""
    answer = getattr(cause, "response", None)  # httpx, huggingface_hub; botocore: a dict
    found = [getattr(answer, "status_code", None), getattr(cause, "status", None), getattr(cause, "code", None)]
    if isinstance(answer, dict):
        found = [answer.get("ResponseMetadata", {}).get("HTTPStatusCode")]
    # aiohttp has it as status, gcsfs as code
    return next((status for status in found if isinstance(status, int)), None)
