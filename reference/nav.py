"""Where each page stands in the navigation: sections in an order, and whatever is new at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Guides": (
        "guides/filter.md",
        "guides/policy.md",
        "guides/explorer.md",
        "guides/model.md",
    ),
    "Read and clean": (
        "sources.md",
        "chat.md",
        "filters.md",
        "deduplication.md",
        "decontamination.md",
        "embedding.md",
        "nightly.md",
    ),
    "Make": (
        "voyager.md",
        "voyager_evidence.md",
        "prompts.md",
        "gates.md",
        "transforms.md",
        "verification.md",
        "language_models.md",
    ),
    "Choose": (
        "criteria.md",
        "quadmix.md",
        "search.md",
        "selection.md",
        "selection_gradients.md",
        "diversity.md",
        "scoring.md",
    ),
    "Tokenise": (
        "tokenizers.md",
        "bytelevel.md",
        "fim.md",
        "dynamic.md",
        "patches.md",
    ),
    "Train": (
        "training.md",
        "loader.md",
        "mixing.md",
        "weighting.md",
        "adapters.md",
        "group_rl.md",
    ),
    "Operate": (
        "operating.md",
        "refresh.md",
        "distributed.md",
        "scaling.md",
        "view.md",
    ),
    "Commands": ("verbs/",),
    "Reference": ("recipe.md", "api/", "versioning.md"),
    "Project": (
        "architecture.md",
        "project/readme.md",
        "project/benchmarks.md",
        "project/security.md",
        "project/contributing.md",
        "project/changes.md",
    ),
}
LATER = "More"


def navigation(titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """The navigation of a site with these pages, path to title; what no section names stands under ``LATER``."""
    left = dict(titles)
    out: list[dict[str, Any]] = [{left.pop("index.md"): "index.md"}]
    for section, entries in SECTIONS.items():
        pages = []
        for entry in entries:
            names = [path for path in left if path.startswith(entry)] if entry.endswith("/") else [entry]
            names.sort(key=lambda path: (not path.endswith("/index.md"), path))
            pages += [{left.pop(name): name} for name in names if name in left]
        out.append({section: pages})
    if left:
        out.append({LATER: [{title: path} for path, title in sorted(left.items())]})
    return out
