"""What the config files share: strict arguments, and defaults spelled out so that any of them can be overridden."""

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import ml_collections

from rembert_jax import schema
from rembert_jax.config import RemBertConfig
from rembert_jax.experiments import settings

FROM_VOCABULARY = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
"""Fields of the model that a run reads from its vocabulary."""


def experiment(stages: Mapping[str, Mapping[str, Any]], report: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config of stages that run one after the other, with every default filled in.

    `--config.stages.NAME.SECTION.KEY=value` can only override keys that are there, so all are there.

    Args:
      stages: name to sections of `settings.ExperimentConfig`, in the order to run.
      report: name to `reports.report.Comparison`.

    Raises:
      schema.SchemaError: for a key or a value that the sections do not know.
    """
    complete = {name: _with_defaults(name, stage) for name, stage in stages.items()}
    return ml_collections.ConfigDict({"stages": complete, "order": tuple(stages), "report": dict(report)})


def single(stage: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config of one stage, with every default filled in.

    Raises:
      schema.SchemaError: for a key or a value that the sections do not know.
    """
    return ml_collections.ConfigDict(_with_defaults("config", stage))


def _with_defaults(name: str, stage: Mapping[str, Any]) -> dict[str, Any]:
    resolved = schema.to_mapping(schema.from_mapping(settings.ExperimentConfig, stage, name))
    # A stage that starts from another run has that one's architecture.
    if not (resolved["init_from"] or resolved["model_from"] or resolved["predict_with"]):
        fields = {field.name: field.default for field in dataclasses.fields(RemBertConfig)}
        resolved["model"] = {k: v for k, v in fields.items() if k not in FROM_VOCABULARY} | resolved["model"]
    return {key: _tuples(value) for key, value in resolved.items() if value is not None}


def _tuples(value: Any) -> Any:
    """Lists as tuples, the only sequences that flags can override."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def tagging(path: str, labelled: str, languages: str, max_length: int) -> dict[str, Any]:
    """Section `task` of part-of-speech tagging on CoNLL-U files, trained on one language and tested on several.

    Args:
      path: pattern with {language} and {split}.
      labelled: language whose splits train and dev are used.
      languages: tested on, with spaces between.
      max_length: tokens of an example.
    """
    return {
        "kind": "token_classification",
        "source": "conllu",
        "path": path,
        "train_language": labelled,
        "test_languages": tuple(languages.split()),
        "dev_split": "dev",
        "text_fields": ("tokens",),
        "label_field": "upos",
        "max_length": max_length,
    }


def parse_arg(arg: str | None, **defaults: Any) -> SimpleNamespace:
    """Parses "name=value,flag" against defaults: booleans may be given alone, types follow the defaults.

    Raises:
      ValueError: for an unknown name or a value of another type; the known names are listed.
    """
    values = dict(defaults)
    for item in filter(None, (arg or "").split(",")):
        name, given, text = item.partition("=")
        if name not in defaults:
            raise ValueError(f"config argument {name!r} is unknown; known: {', '.join(defaults)}")
        default = defaults[name]
        if isinstance(default, bool):
            if text not in ("", "true", "false"):
                raise ValueError(f"config argument {item!r}: expected {name}, {name}=true or {name}=false")
            values[name] = text != "false"
        elif not given:
            raise ValueError(f"config argument {name!r} needs a value, as {name}={default}")
        else:
            try:
                values[name] = type(default)(text)
            except ValueError as error:
                kind = type(default).__name__
                raise ValueError(f"config argument {item!r}: expected {kind} as in {name}={default}") from error
    return SimpleNamespace(**values)
