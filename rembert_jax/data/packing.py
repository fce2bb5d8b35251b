"""Packing of documents into rows of fixed length without attention between documents.

A document longer than a row is cut into pieces. Each piece is wrapped in [CLS] … [SEP] and pieces are placed whole, first
fit, into a group of open rows, so no token is lost. Each piece has its own segment id (from 1; 0 is padding) and its
positions start at 0.
"""

from __future__ import annotations

import dataclasses

import grain
import numpy as np

from rembert_jax.data.masking import Features

OPEN_ROWS = 16
"""Rows that are filled at the same time: more leave less padding and mix documents over a longer distance."""


def split_document(ids: list[int], seq_length: int, cls_id: int, sep_id: int) -> list[np.ndarray]:
    """Cuts token ids into pieces of at most `seq_length`, each with its own [CLS] and [SEP]; equal sizes but for one."""
    if not ids:
        return []
    room = seq_length - 2
    pieces = -(-len(ids) // room)
    return [np.array([cls_id, *part, sep_id], np.int32) for part in np.array_split(np.array(ids, np.int32), pieces)]


@dataclasses.dataclass(frozen=True)
class SplitDocuments(grain.experimental.FlatMapTransform):
    """`split_document` as a Grain transform from token ids to {"input_ids": piece}."""

    seq_length: int
    cls_id: int
    sep_id: int
    max_fan_out: int = 1 << 30

    def flat_map(self, element: list[int]) -> list[Features]:
        """One element for each piece."""
        pieces = split_document(element, self.seq_length, self.cls_id, self.sep_id)
        return [{"input_ids": piece} for piece in pieces]


def _rename(row: Features) -> Features:
    return {
        "input_ids": row["input_ids"].astype(np.int32),
        "segment_ids": row["input_ids_segment_ids"].astype(np.int32),
        "position_ids": row["input_ids_positions"].astype(np.int32),
    }


def pack(pieces: grain.IterDataset, seq_length: int, pad_id: int, seed: int, shuffle: bool) -> grain.IterDataset:
    """Packs pieces into rows {"input_ids", "segment_ids", "position_ids"}, each [seq_length] int32."""
    packed = grain.experimental.FirstFitPackIterDataset(
        pieces,
        length_struct={"input_ids": seq_length},
        num_packing_bins=OPEN_ROWS,
        seed=seed,
        shuffle_bins=shuffle,
        padding_struct={"input_ids": pad_id},
    )
    return packed.map(_rename)
