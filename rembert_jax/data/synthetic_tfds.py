"""The labelled synthetic sets as TFDS builders; tags and pairs have the feature specs of `xtreme_pos` and `paws_x_wiki`.

They are read by the same code as the real datasets. Importing this module registers them with TFDS; they are written in
array_record files and need no TensorFlow. `synthetic_pos/qaa` is language qaa of world 0, `synthetic_pos/qaa-7` of world 7,
`synthetic_pos/qaa-7-80` the first 80 of its training examples, with an eighth as many of each other split.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import pathlib
from typing import Any, ClassVar, cast

import tensorflow_datasets as tfds

from rembert_jax.data import synthetic, synthetic_world, tokenized
from rembert_jax.errors import RemBertError

logger = logging.getLogger(__name__)

EXAMPLES = 4000
"""Training examples of a language with labels; an eighth as many for validation and for test."""
UPOS_NAMES = (*synthetic_world.UPOS, "_")
"""TFDS's part-of-speech classes: the 17 universal ones and "_" for tokens that are not words."""


@dataclasses.dataclass(eq=False)
class _Tongue(tfds.core.BuilderConfig):
    """A language of the world `seed`, and its training examples; 0 for as many as there are."""

    code: str = ""
    seed: int = 0
    examples: int = 0


def _tongue(name: str) -> _Tongue:
    """The language called "qaa", "qaa-7" or "qaa-7-80"."""
    code, *numbers = name.split("-")
    if code not in synthetic_world.LANGUAGES or len(numbers) > 2 or not all(map(str.isdecimal, numbers)):
        known = ", ".join(synthetic_world.LANGUAGES)
        raise RemBertError(
            f"synthetic language {name!r}: expected one of {known}, for the world of another seed {code}-SEED, and for fewer "
            f"examples {code}-SEED-EXAMPLES"
        )
    seed, examples = (*map(int, numbers), 0, 0)[:2]
    description = f"synthetic language {name}"
    return _Tongue(name=name, version="1.0.0", description=description, code=code, seed=seed, examples=examples)


class _SyntheticBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Splits of a language: a training split only where labels are given."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[_Tongue]] = [_tongue(code) for code in synthetic_world.LANGUAGES]
    FEATURES: ClassVar[dict[str, Any]]
    DESCRIPTION: ClassVar[str]

    @classmethod
    def get_builder_config(cls, name: str, version: Any = None) -> tfds.core.BuilderConfig:
        """Also of the worlds that are not listed."""
        return super().get_builder_config(name, version) or _tongue(name)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(self.FEATURES)
        return tfds.core.DatasetInfo(builder=self, description=self.DESCRIPTION, features=features)

    def _tongue(self) -> _Tongue:
        return cast(_Tongue, self.builder_config)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        labelled = self._tongue().code == synthetic_world.LABELLED_LANGUAGE
        splits = ("train", "validation", "test") if labelled else ("validation", "test")
        return {split: self._generate_examples(split) for split in splits}

    def _example(self, code: str, split: str, index: int, seed: int) -> dict[str, Any]:
        raise NotImplementedError

    def _generate_examples(self, split: str) -> Any:
        tongue = self._tongue()
        count = tongue.examples or EXAMPLES
        for index in range(count if split == "train" else max(1, count // 8)):
            yield index, self._example(tongue.code, split, index, tongue.seed)


class SyntheticPawsX(_SyntheticBuilder):
    """Sentence pairs: are both about the same topic? Features of TFDS `paws_x_wiki`."""

    DESCRIPTION = "Sentence pairs of a synthetic language."
    FEATURES: ClassVar[dict[str, Any]] = {
        "sentence1": tfds.features.Text(),
        "sentence2": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["different_meaning", "paraphrase"]),
    }

    def _example(self, code: str, split: str, index: int, seed: int) -> dict[str, Any]:
        first, second, label = synthetic.sentence_pair(code, split, index, seed)
        return {"sentence1": first, "sentence2": second, "label": label}


class SyntheticTopic(_SyntheticBuilder):
    """Sentences and their topics."""

    DESCRIPTION = "Sentences of a synthetic language with their topics."
    FEATURES: ClassVar[dict[str, Any]] = {
        "text": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=[f"topic {number}" for number in range(synthetic_world.TOPICS)]),
    }

    def _example(self, code: str, split: str, index: int, seed: int) -> dict[str, Any]:
        text, label = synthetic.topic_sentence(code, split, index, seed)
        return {"text": text, "label": label}


class SyntheticPos(_SyntheticBuilder):
    """Parts of speech. Features of TFDS `xtreme_pos`."""

    DESCRIPTION = "Tagged sentences of a synthetic language."
    FEATURES: ClassVar[dict[str, Any]] = {
        "tokens": tfds.features.Sequence(tfds.features.Text()),
        "upos": tfds.features.Sequence(tfds.features.ClassLabel(names=list(UPOS_NAMES))),
    }

    def _example(self, code: str, split: str, index: int, seed: int) -> dict[str, Any]:
        tokens, upos = synthetic.tagged_sentence(code, split, index, seed)
        return {"tokens": tokens, "upos": upos}


BUILDERS = {builder.name: builder for builder in (SyntheticPawsX, SyntheticPos, SyntheticTopic)}


def prepare(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """A synthetic dataset, written unless it is already there.

    Args:
      name: of the dataset with its language and, for another world than 0, its seed: "synthetic_pos/qaa-7".
      data_dir: TFDS data folder; empty takes TFDS's own.

    Raises:
      RemBertError: if there is no such dataset or language.
    """
    dataset, _, tongue = name.partition("/")
    if dataset not in BUILDERS:
        raise RemBertError(f"unknown synthetic dataset {dataset!r}: expected one of {', '.join(BUILDERS)}")
    make = functools.partial(BUILDERS[dataset], config=tongue, data_dir=data_dir or None)
    builder = make()
    with tokenized.made_once(pathlib.Path(builder.data_dir)) as missing:
        if not missing:
            return make()  # Which sees what another process has just written.
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints, also what it only generates.
            builder.download_and_prepare(
                file_format="array_record",
                download_config=tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP),
            )
    logger.info("wrote %s to %s", name, builder.data_dir)
    return builder
