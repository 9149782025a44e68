"""``penstock score`` as a function: its steps in one folder, skipped where they are up to date.

    out/
      documents/             texts of files, when the corpus is no dataset already
      reference-documents/   those of the reference corpus, likewise
      reference/             token counts, when a reference corpus was named
      scores/                one row a text
      gradients/             gradient features of each text, when they are asked for

Price: that of ``lm_scores``. By default one process reads with every thread of the machine, so the model is in memory
once; more workers take one thread and one copy each.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from penstock.dataset import Dataset, read_manifest
from penstock.errors import ConfigError, DatasetError
from penstock.lock import FolderLock
from penstock.ownership import claim
from penstock.run import Fingerprints, building
from penstock.scoring.corpus import TEXTS_PER_SPLIT, Corpus, open_corpus, read_files
from penstock.scoring.gradients_step import GRADIENTS, GradientTexts
from penstock.scoring.lm_scores import LanguageModelScores
from penstock.scoring.reference import ReferenceTokens
from penstock.scoring.step import REFERENCE, TABLE, ReferenceCounts, ScoredTexts, reference_of
from penstock.step import Check, Reporter, Settings, Silent, Step, StepResult, check_steps
from penstock.storage import Folder

if TYPE_CHECKING:
    from penstock.selectors.targeted.less import LESS

DOCUMENTS = "documents"
OWNER = "penstock score"  # no name that a recipe may have


@dataclass(frozen=True)
class Done:
    """What a verb did, in step order; the last step's dataset is what was asked for."""

    steps: tuple[StepResult, ...]

    @property
    def dataset(self) -> Dataset:
        return Dataset(self.steps[-1].folder)

    def of(self, name: str) -> Dataset | None:
        """The dataset of the step of this name, or None where it is no step of the verb."""
        return next((Dataset(done.folder) for done in self.steps if done.step.name == name), None)


def score_steps(
    corpus: str,
    work: LanguageModelScores,
    *,
    reference: str | None = None,
    text_column: str | None = None,
    text_unit: str = "file",
    texts_per_split: int = TEXTS_PER_SPLIT,
    gradients: LESS | None = None,
) -> list[Step]:
    """The steps of ``penstock score``.

    Args:
        corpus: a dataset, a run, or files.
        reference: a corpus to count tokens in, or the folder of earlier scores whose counts are taken.
        text_column, text_unit: how files are read (``corpus.read_files``).
        texts_per_split: texts that a stopped run may lose; changes no score.
        gradients: how gradient features are made; None makes none.

    Raises:
        ConfigError: an option of files beside a dataset.
        DatasetError: a dataset without texts.
    """
    steps: list[Step] = []

    def texts(path: str, name: str) -> Corpus | str:
        found = open_corpus(path)
        if found is None:
            steps.append(read_files(name, path, text_column=text_column, text_unit=text_unit))
            return name
        return found

    of_corpus = texts(corpus, DOCUMENTS)
    if not steps and (text_column is not None or text_unit != "file"):
        raise ConfigError(
            f"{corpus}: is a penstock dataset, whose column of text is known; leave out how to read files"
        )
    if texts_per_split < 1:
        raise ConfigError(f"texts_per_split: got {texts_per_split}, allowed >= 1; {TEXTS_PER_SPLIT} is usual")
    step = None
    if reference is not None:
        earlier = _earlier_reference(reference)
        if earlier is not None:
            work = replace(work, reference=reference_of(earlier))
        else:
            step = REFERENCE
            of_reference = texts(reference, f"{REFERENCE}-{DOCUMENTS}")
            counts = ReferenceTokens(model=work.model, digest=work.digest)
            steps.append(ReferenceCounts(step, of_reference, counts))
    steps.append(ScoredTexts(TABLE, of_corpus, work, reference=step, texts_per_split=texts_per_split))
    if gradients is not None:
        steps.append(GradientTexts(GRADIENTS, of_corpus, gradients, texts_per_split=texts_per_split))
    return steps


def _earlier_reference(path: str) -> Dataset | None:
    folder = Folder(path)
    if folder.is_local and not folder.exists():
        return None
    for place in (folder, folder / REFERENCE):
        manifest = read_manifest(place)
        if manifest is not None and REFERENCE in manifest.stats:
            return Dataset(place)
    return None


def check(steps: Sequence[Step], out: str) -> list[Check]:
    """What a run of the steps would do, without doing it."""
    root = Folder(out)
    own(root, write=False)
    return check_steps(steps, root, _settings(root))


def run_steps(steps: Sequence[Step], out: str, *, workers: int = 0, reporter: Reporter | None = None) -> Done:
    """Build what is not up to date. What is done when it is stopped is kept.

    Args:
        out: folder or URL that holds the steps' datasets.
        workers: processes; 0 is this one, with every thread.

    Raises:
        PenstockError: that of the step that cannot go on.
    """
    root = Folder(out)
    with ExitStack() as stack:
        stack.enter_context(FolderLock(root))
        own(root, write=True)
        together = building(steps, root, _settings(root), workers=workers, reporter=reporter or Silent())
        checks, build = stack.enter_context(together)
        _fail_early(checks, workers)
        done = [build(step) for step in steps]
    return Done(tuple(done))


def _settings(root: Folder) -> Settings:
    return Settings(fingerprint=Fingerprints.load(root))


def own(root: Folder, *, write: bool) -> None:
    """Refuse a folder that something else was made in; mark a new one.

    Raises:
        ConfigError: it is a dataset.
        OtherRecipeError: it is a run of a recipe.
    """
    if read_manifest(root) is not None:
        raise ConfigError(f"{root.url}: is a dataset; give a folder that may hold datasets")
    claim(root, OWNER, write=write)


def _fail_early(checks: Sequence[Check], workers: int) -> None:
    """Load the model before a reference is counted, when it is this process that will need it."""
    for check in checks:
        if isinstance(check.step, ScoredTexts) and not check.skip and workers == 0:
            check.step.work.setup()


def open_scores(path: str) -> Dataset:
    """The dataset of scores at ``path``, or that below the folder that ``penstock score`` wrote into.

    Raises:
        DatasetError: there is none.
    """
    folder = Folder(path)
    for place in (folder, folder / TABLE):
        manifest = read_manifest(place)
        if manifest is not None and TABLE in manifest.tables:
            return Dataset(place)
    raise DatasetError(f"{path}: no scores there; make them with: penstock score CORPUS --model MODEL --out {path}")
