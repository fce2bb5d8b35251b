"""The labelled synthetic sets as TFDS builders with the feature specs of `paws_x_wiki` and `xtreme_pos`.

They are read by the same code as the real datasets. Importing this module registers them with TFDS; they are written in
array_record files and need no TensorFlow.
"""

from __future__ import annotations

import contextlib
import io
import logging
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from rembert_jax.data import synthetic

logger = logging.getLogger(__name__)

LABELLED_SIZES = {"train": 4000, "validation": 500, "test": 500}
UPOS_NAMES = (*synthetic.UPOS, "_")
"""TFDS's part-of-speech classes: the 17 universal ones and "_" for tokens that are not words."""


def _configs() -> list[tfds.core.BuilderConfig]:
    return [
        tfds.core.BuilderConfig(name=code, version="1.0.0", description=f"synthetic language {code}")
        for code in synthetic.LANGUAGES
    ]


class _SyntheticBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Splits of a language: a training split only where labels are given."""

    VERSION = tfds.core.Version("1.0.0")

    def _language(self) -> str:
        assert self.builder_config is not None
        return self.builder_config.name

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        labelled = self._language() == synthetic.LABELLED_LANGUAGE
        return {split: self._generate_examples(split) for split in LABELLED_SIZES if labelled or split != "train"}

    def _example(self, language: str, split: str, index: int) -> dict[str, Any]:
        raise NotImplementedError

    def _generate_examples(self, split: str) -> Any:
        for index in range(LABELLED_SIZES[split]):
            yield index, self._example(self._language(), split, index)


class SyntheticPawsX(_SyntheticBuilder):
    """Sentence pairs: do both describe the same event? Features of TFDS `paws_x_wiki`."""

    BUILDER_CONFIGS = _configs()

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Sentence pairs of a synthetic language.",
            features=tfds.features.FeaturesDict(
                {
                    "sentence1": tfds.features.Text(),
                    "sentence2": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=["different_meaning", "paraphrase"]),
                }
            ),
        )

    def _example(self, language: str, split: str, index: int) -> dict[str, Any]:
        first, second, label = synthetic.sentence_pair(language, split, index)
        return {"sentence1": first, "sentence2": second, "label": label}


class SyntheticPos(_SyntheticBuilder):
    """Parts of speech. Features of TFDS `xtreme_pos`."""

    BUILDER_CONFIGS = _configs()

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Tagged sentences of a synthetic language.",
            features=tfds.features.FeaturesDict(
                {
                    "tokens": tfds.features.Sequence(tfds.features.Text()),
                    "upos": tfds.features.Sequence(tfds.features.ClassLabel(names=list(UPOS_NAMES))),
                }
            ),
        )

    def _example(self, language: str, split: str, index: int) -> dict[str, Any]:
        tokens, upos = synthetic.tagged_sentence(language, split, index)
        return {"tokens": tokens, "upos": upos}


def prepare(name: str, data_dir: str) -> None:
    """Writes a synthetic dataset (for example "synthetic_pos/qaa") unless it is already there.

    Args:
      name: of the dataset, with its language.
      data_dir: TFDS data folder; empty takes TFDS's own.
    """
    builder = tfds.builder(name, data_dir=data_dir or None)
    if pathlib.Path(builder.data_dir).exists():
        return
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints, also what it only generates.
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP),
        )
    logger.info("wrote %s to %s", name, builder.data_dir)
