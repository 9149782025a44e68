"""Language models that answer requests: in this process, behind an HTTP endpoint, and kept answers."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "AnswerStore": "penstock.generators.answers",
        "ChatEndpoint": "penstock.generators.endpoint",
        "Completion": "penstock.generators.base",
        "GeneratorConfig": "penstock.generators.config",
        "LanguageModel": "penstock.generators.base",
        "LocalModel": "penstock.generators.local",
        "Request": "penstock.generators.base",
        "complete_kept": "penstock.generators.answers",
    },
)
