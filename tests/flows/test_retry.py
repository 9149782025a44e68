"""Which failures are tried again: real ones, raised by the code that meets them, wherever that is possible."""

import errno

import httpx
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from penstock import errors
from penstock.flows.retry import worth_again
from penstock.generators.breaker import Breaker
from penstock.lock import FolderLock
from penstock.model_server import TryAgain
from penstock.storage import Folder, storage_errors


def raised(cause, kind=None):
    """The error that our code makes of a cause: by ``storage_errors``, or as one of ``kind``."""
    try:
        if kind is None:
            with storage_errors("s3://bucket/x"):
                raise cause
        raise kind("what was got, what is allowed") from cause
    except errors.PenstockError as error:
        return error


def answered(status):
    request = httpx.Request("POST", "http://host/v1")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, request=request))


def of_store(status, code):
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


@pytest.mark.parametrize(
    "error",
    [
        raised(OSError(errno.EIO, "Input/output error")),
        raised(OSError(errno.ESTALE, "Stale file handle")),
        raised(ConnectionResetError(errno.ECONNRESET, "reset")),
        raised(TimeoutError("no answer")),
        raised(EndpointConnectionError(endpoint_url="http://host")),
        raised(of_store(503, "SlowDown")),
        raised(of_store(500, "InternalError")),
        raised(answered(502), errors.StorageError),
        raised(answered(429), errors.StorageError),
        raised(httpx.ConnectError("refused"), errors.InputError),
        raised(httpx.ReadTimeout("late"), errors.InputError),
        raised(TryAgain("503"), errors.InputError),
        raised(raised(ConnectionError("gone")), errors.InputError),
    ],
    ids=str,
)
def test_a_failure_of_the_network_or_of_a_store_is_tried_again(error):
    assert worth_again(error)


@pytest.mark.parametrize(
    "error",
    [
        *(
            raised(OSError(number, "refused"))
            for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EEXIST, errno.ENOTDIR)
        ),
        raised(OSError("of no kind")),
        raised(of_store(403, "AccessDenied")),
        raised(of_store(404, "NoSuchBucket")),
        raised(answered(401), errors.StorageError),
        raised(FileNotFoundError(errno.ENOENT, "none"), errors.InputError),
        raised(OSError(errno.EIO, "damaged"), errors.InputError),
        raised(ValueError("not JSON"), errors.InputError),
        errors.StorageError("without a cause"),
        raised(ConnectionError("gone"), errors.ConfigError),
        raised(ConnectionError("gone"), errors.DatasetError),
        raised(TimeoutError("late"), errors.WorkerError),
        errors.ConfigError("unknown key"),
        errors.DropGuardError("too many"),
        errors.TrainingError("no number"),
        errors.BudgetError("spent"),
        errors.MissingExtraError("absent"),
        KeyboardInterrupt(),
        ValueError("a bug"),
    ],
    ids=repr,
)
def test_what_a_person_has_to_mend_is_not(error):
    assert not worth_again(error)


def test_a_folder_in_use_is_waited_for(tmp_path):
    with FolderLock(Folder(str(tmp_path))), pytest.raises(errors.FolderInUseError) as error:
        FolderLock(Folder(str(tmp_path))).__enter__()
    assert worth_again(error.value)


def test_a_model_server_that_is_away_is_waited_for():
    breaker, refusal = Breaker("http://host/v1", patience=0), TryAgain("no connection", unreachable=True)
    breaker.refused(refusal)
    breaker.refused(refusal)
    with pytest.raises(errors.InputError) as error:
        breaker.refused(refusal)
    assert worth_again(error.value)


def test_a_disk_that_is_full_is_for_a_person(small_disk):
    folder, _ = small_disk
    with pytest.raises(errors.StorageError) as error:
        Folder(str(folder)).write_bytes("big", bytes(80 << 20))
    assert not worth_again(error.value)
