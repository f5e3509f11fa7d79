"""Many rows as tokens: one long array of ids, and a view for each row that is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from solotune.modeling.chat import Encoded, Tokens

Numbers = NDArray[np.int64]


class TokenisedRows(Sequence[Encoded]):
    """Rows as tokens and labels; lists are made when a row is asked for, and not kept.

    Args:
        ids: of all rows, one behind the other.
        spans: (start, end) of each trained stretch, counted from its row's beginning.
        row_ends: for each row, where its ids end.
        span_ends: for each row, where its spans end.
        rows: which of them this view shows, in its order; None: all.
        lengths: of each row shown, how many tokens are shown; None: all.
    """

    def __init__(
        self,
        ids: NDArray[np.int32],
        spans: NDArray[np.int32],
        row_ends: Numbers,
        span_ends: Numbers,
        rows: Numbers | None = None,
        lengths: Numbers | None = None,
    ) -> None:
        self._all = (ids, spans, row_ends, span_ends)
        self._starts = _starts(row_ends)
        self._span_starts = _starts(span_ends)
        self.rows: Numbers = np.arange(len(row_ends)) if rows is None else rows
        """Numbers of the rows shown, as they stand in the split."""
        self.lengths: Numbers = (row_ends - self._starts)[self.rows] if lengths is None else lengths
        """Tokens of each row shown."""

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> TokenisedRows: ...
    def __getitem__(self, index: int | slice) -> Encoded | TokenisedRows:
        if isinstance(index, slice):
            return self._view(self.rows[index], self.lengths[index])
        return self.tokens(index).with_labels()

    def tokens(self, index: int) -> Tokens:
        """Ids and trained stretches of one row."""
        ids = self._all[0]
        row, length = int(self.rows[index]), int(self.lengths[index])
        start = int(self._starts[row])
        return Tokens(ids[start : start + length].tolist(), self.spans(index))

    def spans(self, index: int) -> list[tuple[int, int]]:
        """Start and end of each trained stretch of one row."""
        _, spans, _, span_ends = self._all
        row, length = int(self.rows[index]), int(self.lengths[index])
        of_row = spans[self._span_starts[row] : span_ends[row]].tolist()
        return [(start, min(end, length)) for start, end in of_row if start < length]

    def prompt(self, index: int) -> list[int]:
        """The ids before the last answer: what `ChatEncoder.encode_prompt` gives for the messages before it."""
        row = self.tokens(index)
        return row.ids[: row.spans[-1][0]]

    @property
    def tokens_in_all(self) -> int:
        return int(self.lengths.sum())

    @property
    def trained_tokens(self) -> int:
        """Tokens with a label, over all rows shown."""
        _, spans, _, span_ends = self._all
        sums = np.concatenate([[0], np.cumsum(spans[:, 1] - spans[:, 0], dtype=np.int64)])
        whole = self.lengths == (self._all[2] - self._starts)[self.rows]
        rows = self.rows[whole]
        cut = sum(end - start for i in np.flatnonzero(~whole).tolist() for start, end in self.spans(i))
        return int((sums[span_ends[rows]] - sums[self._span_starts[rows]]).sum()) + cut

    def keep(self, lengths: Mapping[int, int]) -> TokenisedRows:
        """A view with some rows shorter or gone: index -> tokens kept, from the beginning; 0: the row isn't shown."""
        kept = self.lengths.copy()
        for index, length in lengths.items():
            kept[index] = length
        return self._view(self.rows[kept > 0], kept[kept > 0])

    def _view(self, rows: Numbers, lengths: Numbers) -> TokenisedRows:
        return TokenisedRows(*self._all, rows, lengths)


def _starts(ends: Numbers) -> Numbers:
    starts: Any = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    return starts[: len(ends)]  # type: ignore[no-any-return]
