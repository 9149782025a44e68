"""Language models that answer requests: in this process, behind an HTTP endpoint, and kept answers."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "AnswerStore": "penstock.generators.answers",
        "Budget": "penstock.generators.budget",
        "ChatEndpoint": "penstock.generators.endpoint",
        "Completion": "penstock.generators.base",
        "GeneratorConfig": "penstock.generators.config",
        "LanguageModel": "penstock.generators.base",
        "LocalModel": "penstock.generators.local",
        "Message": "penstock.generators.base",
        "Meter": "penstock.generators.meter",
        "ModelSession": "penstock.generators.session",
        "Prices": "penstock.generators.prices",
        "Request": "penstock.generators.base",
        "ServedModel": "penstock.generators.served",
        "Structured": "penstock.generators.structured",
        "VLLMModel": "penstock.generators.vllm",
        "VLLMServer": "penstock.generators.served",
        "ask_structured": "penstock.generators.structured",
    },
)
