"""What a recipe says about its rounds: the section ``refresh``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from penstock.recipe_sections import Section

# keys of ``train`` that a model keeps in all rounds, since its weights, moments or records depend on them
CARRIED = ("batch_size", "model", "policy", "reference_model", "seed", "weighting")


class Accept(Section):
    """When the new model takes the older one's place: by both models' losses on the same held-out sequences.

    It does where ``difference + errors * standard error <= tolerance`` on every split that counts; the difference is
    the new model's loss minus the older one's, in nats per token.
    """

    held_out: Literal["both", "new", "old"] = "both"
    """Validation sequences that count: of the new dataset, of that of the older model, or either."""
    tolerance: float = Field(default=0.0, allow_inf_nan=False)
    """Nats per token by which the new model may be worse; a negative number asks it to be better by so much."""
    errors: float = Field(default=0.0, allow_inf_nan=False)
    """Standard errors added to the difference: 2 takes only what is better beyond doubt, -2 leaves only what is worse
    beyond doubt."""
    sequences: Annotated[int, Field(ge=2)] = 1024
    """Most sequences of a split, of every domain as large a share as it has."""


class Coverage(Section):
    """The sample of the current corpus that what is generated has to be new beside."""

    documents: Annotated[int, Field(ge=2, le=5000)] = 1000
    """Documents drawn, by hash of their ids."""
    anchors: Annotated[int, Field(ge=1, le=1000)] = 128
    """Of them as many as tell most of the others: those that new items are measured against."""


class Refresh(Section):
    """Rounds of ``penstock refresh``: what makes one, how its model is trained, and when it is taken."""

    when: Literal["data", "signals"] = "data"
    """What makes a round: other data or settings; or also signals of the current model that no round has read."""
    train: dict[str, Any] = Field(default={})
    """Keys of `train` that are different from the second round on, such as `steps` and `learning_rate`."""
    accept: Accept = Accept()
    coverage: Coverage = Coverage()
    """What `generate` has to be new beside, from the second round on."""
    push_to: str | None = None
    """Where the dataset of every accepted round is sent, as `penstock push` does."""
