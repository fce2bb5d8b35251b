"""Packing of documents into rows of fixed length without attention between documents.

A document longer than a row is cut into pieces. Each piece is wrapped in [CLS] … [SEP] and pieces are placed whole, first
fit, into a group of open rows, so no token is lost. Each piece has its own segment id (from 1; 0 is padding) and its
positions start at 0.
"""

from __future__ import annotations

import itertools
from typing import Any

import grain
import numpy as np

from rembert_jax.data.masking import Features

OPEN_ROWS = 16
"""Rows that are filled at the same time: more leave less padding and mix documents over a longer distance."""


def split_document(ids: list[int], seq_length: int, cls_id: int, sep_id: int) -> list[list[int]]:
    """Cuts token ids into pieces of at most `seq_length`, each with its own [CLS] and [SEP]; equal sizes but for one."""
    count = -(-len(ids) // (seq_length - 2))
    ends = [-(-len(ids) * piece // count) for piece in range(count + 1)] if count else []
    return [[cls_id, *ids[start:end], sep_id] for start, end in itertools.pairwise(ends)]


def fill_row(pieces: list[list[int]], seq_length: int, pad_id: int) -> Features:
    """A row {"input_ids", "segment_ids", "position_ids"}, each [seq_length] int32, of pieces that fit into it."""
    row = {
        "input_ids": np.full(seq_length, pad_id, np.int32),
        "segment_ids": np.zeros(seq_length, np.int32),
        "position_ids": np.zeros(seq_length, np.int32),
    }
    start = 0
    for number, piece in enumerate(pieces, start=1):
        end = start + len(piece)
        row["input_ids"][start:end] = piece
        row["segment_ids"][start:end] = number
        row["position_ids"][start:end] = np.arange(len(piece))
        start = end
    return row


class PackedRows(grain.IterDataset):
    """The rows of all documents.

    One stage with `split_document`, since Grain takes longer for a stage than for most documents.

    Args:
      documents: token ids.
      seq_length: of a row.
      cls_id, sep_id, pad_id: of the special tokens.
      shuffle_seed: of the order of rows within a group, of which the first are filled best; None keeps it.
      first_rows: of the first group; all others have `OPEN_ROWS`.
    """

    def __init__(
        self,
        documents: grain.IterDataset,
        seq_length: int,
        *,
        cls_id: int,
        sep_id: int,
        pad_id: int,
        shuffle_seed: int | None = None,
        first_rows: int = OPEN_ROWS,
    ) -> None:
        super().__init__(documents)
        self.documents, self.seq_length = documents, seq_length
        self.shuffle_seed, self.first_rows = shuffle_seed, first_rows
        self.cls_id, self.sep_id, self.pad_id = cls_id, sep_id, pad_id

    def __iter__(self) -> grain.DatasetIterator:
        return _PackedRowsIterator(self)


class _PackedRowsIterator(grain.DatasetIterator):
    """Its state is where the current group began, which is packed again, and how many of its rows are out."""

    def __init__(self, dataset: PackedRows) -> None:
        self._documents = iter(dataset.documents)
        super().__init__(self._documents)
        self._dataset = dataset
        self.set_state({"documents": self._documents.get_state(), "placed": 0, "groups": 0, "out": 0})

    def __next__(self) -> Features:
        if self._out == len(self._rows):
            self._pack()
            if not self._rows:
                raise StopIteration
        self._out += 1
        return self._rows[self._out - 1]

    def _pack(self) -> None:
        """Fills a group of rows; the piece that fits into none of them is the first of the next group."""
        self._start, dataset = self._position(), self._dataset
        rows: list[list[list[int]]] = [[] for _ in range(OPEN_ROWS if self._groups else dataset.first_rows)]
        free = [dataset.seq_length] * len(rows)
        while (piece := self._next_piece()) is not None:
            row = next((number for number, room in enumerate(free) if room >= len(piece)), None)
            if row is None:
                break
            rows[row].append(piece)
            free[row] -= len(piece)
            self._placed += 1
        self._rows = [fill_row(pieces, dataset.seq_length, dataset.pad_id) for pieces in rows if pieces]
        if dataset.shuffle_seed is not None:
            order = np.random.default_rng([dataset.shuffle_seed, self._groups]).permutation(len(self._rows))
            self._rows = [self._rows[number] for number in order]
        self._out, self._groups = 0, self._groups + 1

    def _next_piece(self) -> list[int] | None:
        """The first piece that is not placed; None after the last document."""
        while self._placed >= len(self._pieces):
            self._before, self._placed = self._documents.get_state(), self._placed - len(self._pieces)
            ids = next(self._documents, None)
            if ids is None:
                self._pieces, self._placed = [], 0
                return None
            dataset = self._dataset
            self._pieces = split_document(ids, dataset.seq_length, dataset.cls_id, dataset.sep_id)
        return self._pieces[self._placed]

    def _position(self) -> dict[str, Any]:
        return {"documents": self._before, "placed": self._placed, "groups": self._groups}

    def get_state(self) -> dict[str, Any]:
        return {**self._position(), "out": 0} if self._out == len(self._rows) else {**self._start, "out": self._out}

    def set_state(self, state: dict[str, Any]) -> None:
        self._documents.set_state(state["documents"])
        # Where the documents stood before that of the pieces of which so many are placed.
        self._before, self._placed, self._pieces = state["documents"], state["placed"], []
        self._groups, self._out, self._rows = state["groups"], 0, []
        if state["out"]:
            self._pack()
            self._out = state["out"]
