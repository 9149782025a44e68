"""Every error a user can meet, as one tree.

    PenstockError
    ├── ConfigError          a recipe or an argument is wrong
    ├── InputError           a source is missing, unreadable or holds the wrong columns
    ├── DropGuardError       row work or a step dropped more rows than the recipe allows
    ├── DatasetError         a dataset folder is incomplete or does not match its manifest
    │   └── OtherRecipeError the folder belongs to another recipe
    ├── FolderInUseError     another process is writing into the folder
    ├── StorageError         the disk is full, read-only or gone
    ├── WorkerError          a worker process died or ran out of memory, or a runner's job failed
    ├── TrainingError        training cannot go on: the loss is no finite number, gradients are refused step after step
    │   └── LostRanksError   another process of the run ended or hangs
    ├── BudgetError          as many requests, tokens or money as allowed are spent; what is done stands
    └── MissingExtraError    an optional package is not installed

A message says what was got, what is allowed and what to do next.
"""

from __future__ import annotations


class PenstockError(Exception):
    """Base of all errors that are the user's to mend; the command line prints it without a traceback."""


class ConfigError(PenstockError):
    """A recipe key, an override or an argument is not acceptable."""


class InputError(PenstockError):
    """A source cannot be found, opened or understood."""


class DropGuardError(PenstockError):
    """More rows were dropped than ``max_dropped`` allows; nothing was committed, the work done is kept."""


class DatasetError(PenstockError):
    """A dataset folder has no manifest, or its files disagree with it."""


class OtherRecipeError(DatasetError):
    """The output folder was made by a recipe of another name."""


class FolderInUseError(PenstockError):
    """Another live process holds the folder."""


class StorageError(PenstockError):
    """Bytes could not be written: disk full, no permission, store unreachable."""


class WorkerError(PenstockError):
    """A worker died or ran out of memory, or the job of a Beam runner failed."""


class TrainingError(PenstockError):
    """Training cannot go on: the loss or the gradient is not a finite number, or a spike, too often in a row."""


class LostRanksError(TrainingError):
    """Another process of the run ended or hangs; why is for that one to say."""


class BudgetError(PenstockError):
    """Another request would pass a budget; what was asked before is kept, a larger budget goes on from there."""


class MissingExtraError(PenstockError):
    """An optional package is needed; the message carries the command that installs it."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        return cls(f"{package} is not installed; run: pip install 'penstock[{extra}]'")
