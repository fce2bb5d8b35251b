"""How rows, words and widths lie on the mesh, for computations that the compiler is not left to split."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax


class Split(NamedTuple):
    """Mesh axes that rows, words and the width of a table of embeddings are split over.

    Attributes:
      rows: of the positions that are looked up or predicted.
      vocabulary: of the words, at most one.
      width: of the embeddings, one of those of the rows, as parameters are stored.

    Where `vocabulary` does not divide the words, a table is stored split by width over `width` and it.
    """

    rows: tuple[str, ...] = ()
    vocabulary: str | None = None
    width: str | None = None

    @classmethod
    def of(cls, rows: Any, vocabulary: Any, width: Any) -> Split:
        """From the entries of a PartitionSpec."""
        return cls((rows,) if isinstance(rows, str) else rows or (), vocabulary, width)

    def on_mesh(self) -> Split:
        """What of it splits anything on the mesh that is set; nothing where none is."""
        return Split(
            tuple(axis for axis in self.rows if parts(axis) > 1),
            self.vocabulary if parts(self.vocabulary) > 1 else None,
            self.width if parts(self.width) > 1 else None,
        )


def parts(axes: str | tuple[str, ...] | None) -> int:
    """Into which these axes of the mesh that is set, if one is, split a dimension."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes.get(axis, 1) for axis in ((axes,) if isinstance(axes, str) else axes or ()))
