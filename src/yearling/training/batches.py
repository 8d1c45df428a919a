"""Optimizer steps of packed micro-batches by a budget of tokens, and the place in the data.

A step takes rows in an order that the seed and the epoch decide, until its budget is full. They
are packed into micro-batches without padding, longest first into the first that has room, so a
micro-batch takes a known amount of memory and no token is spent on nothing.

Where micro-batches are computed side by side (`lanes.py`), those of a step are in two halves.

The place in the data is a handful of numbers, and a resumed run goes on with exactly the steps
that would have come. Ranks deal the same step's micro-batches out among themselves.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from yearling.core.errors import CheckpointError, DataError
from yearling.data.encoded import EncodedRow
from yearling.training.batch import PackedBatch, pack_rows

__all__ = ["BatchSize", "StreamedBatches", "TokenBatches", "pack_step"]

_ROWS_OF_HASH = 64
_WORST_SHARE = 0.58  # of a step in one lane; beyond it both lanes together are no faster than none


@dataclass(frozen=True, slots=True)
class BatchSize:
    """How much one optimizer step learns from, over all ranks.

    Attributes:
        tokens: Rows are taken while they fit in this many tokens, at least one row a step.
        micro_batch_tokens: Most tokens of one forward and backward pass; a longer row stands
            alone in one.
        rows: Takes this many rows a step instead, whatever their length; None goes by tokens.
        max_row_tokens: Longest row there may be; None for any.
        has_lanes: Whether micro-batches of half the tokens are computed two at a time.
    """

    tokens: int
    micro_batch_tokens: int
    rows: int | None = None
    max_row_tokens: int | None = None
    has_lanes: bool = False

    def __post_init__(self) -> None:
        """Check that sizes are positive.

        Raises:
            ValueError: one is not.
        """
        for name in ("tokens", "micro_batch_tokens", "rows", "max_row_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")

    def check_world(self, world: int) -> None:
        """Refuse a fixed number of rows that processes cannot share.

        Raises:
            DataError: it is not a multiple of their number.
        """
        if self.rows is not None and self.rows % world:
            raise DataError(
                f"{self.rows} rows a step cannot be shared by {world} processes: give a multiple."
            )

    def is_full(self, num_rows: int, num_tokens: int, following: EncodedRow) -> bool:
        """Whether a step of these rows and tokens ends before the row that follows."""
        if self.rows is not None:
            return num_rows >= self.rows
        return num_rows > 0 and num_tokens + following.num_tokens > self.tokens

    def check(self, row: EncodedRow) -> None:
        """Refuse a row that no memory was planned for.

        Raises:
            DataError: it is longer than `max_row_tokens`.
        """
        if self.max_row_tokens is not None and row.num_tokens > self.max_row_tokens:
            raise DataError(
                f"{row.id}: the row has {row.num_tokens} tokens, and one pass takes at most "
                f"{self.max_row_tokens}: set data.max_length lower, or "
                "training.micro_batch_tokens higher."
            )


def pack_step(rows: Sequence[EncodedRow], budget: int, world: int = 1) -> list[list[EncodedRow]]:
    """Split the rows of a step into micro-batches: longest first, into the first with room.

    Args:
        rows: Of one step, at least `world`.
        budget: Most tokens of a micro-batch that holds more than one row. The rest of an epoch
            may pass it where several ranks have too few rows to share.
        world: Ranks; the number of micro-batches is a multiple of it, since sharded models need
            every rank to compute as often as the others.
    """
    longest_first = sorted(range(len(rows)), key=lambda index: (-rows[index].num_tokens, index))
    bins: list[list[int]] = []
    room: list[int] = []
    for index in longest_first:
        size = rows[index].num_tokens
        place = next((i for i, left in enumerate(room) if size <= left), None)
        if place is None:
            bins.append([index])
            room.append(budget - size)
        else:
            bins[place].append(index)
            room[place] -= size
    _make_divisible(bins, rows, world)
    return [[rows[index] for index in sorted(indices)] for indices in bins]


def _make_divisible(bins: list[list[int]], rows: Sequence[EncodedRow], world: int) -> None:
    """Split bins, or where each holds one row join the smallest, until ranks get equally many."""
    while len(bins) % world:
        fullest = max(range(len(bins)), key=lambda i: (len(bins[i]), -i))
        if len(bins[fullest]) > 1 and not _needs_joining(len(bins), len(rows), world):
            half = len(bins[fullest]) // 2
            bins.append(bins[fullest][half:])
            bins[fullest] = bins[fullest][:half]
        else:
            bins.sort(key=lambda indices: -sum(rows[index].num_tokens for index in indices))
            last = bins.pop()
            bins[-1] += last


def _needs_joining(num_bins: int, num_rows: int, world: int) -> bool:
    """Whether there are too few rows for the next number of bins that ranks can share."""
    return -(-num_bins // world) * world > num_rows


def _is_dealable(rows: Sequence[EncodedRow], budget: int, world: int) -> bool:
    """Whether each rank can get equally many micro-batches within the budget."""
    if world == 1 or len(rows) % world == 0:
        return True
    return not _needs_joining(len(pack_step(rows, budget)), len(rows), world)


class TokenBatches:
    """Steps over rows in memory, shuffled anew in every epoch.

    An epoch ends with a smaller step where rows are left over, so each row is seen once in it.
    """

    def __init__(
        self,
        rows: Sequence[EncodedRow],
        size: BatchSize,
        *,
        seed: int = 0,
        epochs: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Take the rows.

        Args:
            rows: All of them, the same on every rank.
            size: Of a step.
            seed: Of the order of rows.
            epochs: Passes over the rows; None never ends.
            rank: This process's number.
            world: Number of processes.

        Raises:
            DataError: there are fewer rows than processes, or a row is longer than allowed.
        """
        if len(rows) < world:
            raise DataError(
                f"{len(rows)} rows cannot train on {world} processes: each step gives every "
                "process at least one row. Add rows, or start fewer processes."
            )
        size.check_world(world)
        for row in rows:
            size.check(row)
        self._rows = rows
        self._size = size
        self._seed = seed
        self._epochs = epochs
        self._rank, self._world = rank, world
        self._fingerprint = _fingerprint(rows)
        self._epoch = 0
        self._cursor = 0
        self._ordered_epoch: int | None = None
        self._order: list[int] = []

    @property
    def epoch(self) -> int:
        """Passes over the rows that are complete."""
        return self._epoch

    @property
    def progress(self) -> float:
        """Epochs done, with the part of the present one."""
        return self._epoch + self._cursor / len(self._rows)

    def num_steps(self) -> int:
        """Count the steps of all epochs, without taking any.

        Raises:
            ValueError: the epochs have no end.
        """
        if self._epochs is None:
            raise ValueError("batches without a number of epochs have no number of steps.")
        return sum(self._epoch_steps(epoch) for epoch in range(self._epochs))

    def next_step(self) -> list[PackedBatch]:
        """Give this rank's micro-batches of the next step; empty after the last epoch."""
        if self._epochs is not None and self._epoch >= self._epochs:
            return []
        order = self._shuffled(self._epoch)
        end = self._step_end(order, self._cursor)
        rows = [self._rows[index] for index in order[self._cursor : end]]
        self._cursor = end
        if end == len(order):
            self._epoch, self._cursor = self._epoch + 1, 0
        return _own_share(rows, self._size, self._rank, self._world)

    def row_names(self, batch: PackedBatch) -> list[str]:
        """Name the rows of a micro-batch: `train.jsonl:17`."""
        return [str(row_id) for row_id in batch.row_ids]

    def state_dict(self) -> dict[str, Any]:
        """Give the place in the data; it is the same on every rank."""
        return {
            "epoch": self._epoch,
            "cursor": self._cursor,
            "seed": self._seed,
            "num_rows": len(self._rows),
            "fingerprint": self._fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a place.

        Raises:
            CheckpointError: the rows or the seed are not those of the saved run.
        """
        _check_state(state, self.state_dict(), ("seed", "num_rows", "fingerprint"))
        self._epoch, self._cursor = int(state["epoch"]), int(state["cursor"])

    def _shuffled(self, epoch: int) -> list[int]:
        if self._ordered_epoch != epoch:
            order = np.random.default_rng((self._seed, epoch)).permutation(len(self._rows))
            self._order, self._ordered_epoch = order.tolist(), epoch
        return self._order

    def _step_end(self, order: Sequence[int], start: int) -> int:
        """Where the step that starts at a place ends; a rest too small for all ranks joins it."""
        end = start
        num_tokens = 0
        while end < len(order):
            row = self._rows[order[end]]
            if end - start >= self._world and self._size.is_full(end - start, num_tokens, row):
                break
            num_tokens += row.num_tokens
            end += 1
        while not self._is_dealable(order[start:end]):
            end -= 1
        return len(order) if len(order) - end < self._world else end

    def _is_dealable(self, indices: Sequence[int]) -> bool:
        rows = [self._rows[index] for index in indices]
        return _is_dealable(rows, self._size.micro_batch_tokens, self._world)

    def _epoch_steps(self, epoch: int) -> int:
        order, cursor, count = self._shuffled(epoch), 0, 0
        while cursor < len(order):
            cursor, count = self._step_end(order, cursor), count + 1
        return count


class StreamedBatches:
    """Steps over rows that do not fit in memory, mixed in a buffer as they pass.

    The stream is read again in every epoch. Resuming reads it from its start to the place, so it
    costs the reading but nothing else.
    """

    def __init__(
        self,
        stream: Callable[[int], Iterable[EncodedRow]],
        size: BatchSize,
        *,
        seed: int = 0,
        epochs: int | None = None,
        buffer_rows: int = 1_000,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Take what opens the stream.

        Args:
            stream: Gives all rows of an epoch from the start, in the same order every time and
                on every rank; called with the epoch's number.
            size: Of a step.
            seed: Of the mixing.
            epochs: Passes over the stream; None never ends.
            buffer_rows: Rows held, from which the next is drawn at random.
            rank: This process's number.
            world: Number of processes.

        Raises:
            DataError: a step's rows cannot be shared by the processes.
        """
        size.check_world(world)
        self._stream = stream
        self._size = size
        self._seed = seed
        self._epochs = epochs
        self._buffer_rows = buffer_rows
        self._rank, self._world = rank, world
        self._epoch = 0
        self._taken = 0
        self._rows: Iterator[EncodedRow] | None = None
        self._waiting: list[EncodedRow] = []

    @property
    def epoch(self) -> int:
        """Passes over the stream that are complete."""
        return self._epoch

    def next_step(self) -> list[PackedBatch]:
        """Give this rank's micro-batches of the next step; empty after the last epoch.

        Raises:
            DataError: the stream has no rows, fewer than processes, or one longer than allowed.
        """
        if self._epochs is not None and self._epoch >= self._epochs:
            return []
        rows = self._take()
        if len(rows) < self._world:
            raise DataError(
                f"the stream gave {len(rows)} rows in epoch {self._epoch}, and a step needs one "
                f"for each of {self._world} processes."
            )
        if not self._fill(1):
            self._epoch, self._taken, self._rows = self._epoch + 1, 0, None
        return _own_share(rows, self._size, self._rank, self._world)

    def row_names(self, batch: PackedBatch) -> list[str]:
        """Name the rows of a micro-batch: `train.jsonl:17`."""
        return [str(row_id) for row_id in batch.row_ids]

    def state_dict(self) -> dict[str, Any]:
        """Give the place in the stream; it is the same on every rank."""
        return {
            "epoch": self._epoch,
            "taken": self._taken,
            "seed": self._seed,
            "buffer_rows": self._buffer_rows,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read the stream up to a place and go on from there.

        Raises:
            CheckpointError: the seed or the buffer are not those of the saved run, or the stream
                has become shorter.
        """
        _check_state(state, self.state_dict(), ("seed", "buffer_rows"))
        self._epoch, self._taken = int(state["epoch"]), int(state["taken"])
        self._rows, self._waiting = None, []
        if self._epochs is not None and self._epoch >= self._epochs:
            return
        passed = sum(1 for _ in itertools.islice(self._opened(), self._taken))
        if passed < self._taken:
            raise CheckpointError(
                f"the saved run had read {self._taken} rows of epoch {self._epoch}, and the "
                f"stream has only {passed}: the data have changed since."
            )

    def _take(self) -> list[EncodedRow]:
        rows: list[EncodedRow] = []
        num_tokens = 0
        # A rest too small for all ranks joins the last step, so that many more are looked at.
        while len(ahead := self._fill(self._world + 1)) > 0:
            is_enough = len(rows) >= self._world and len(ahead) >= self._world
            if is_enough and self._size.is_full(len(rows), num_tokens, ahead[0]):
                break
            row = self._waiting.pop(0)
            self._size.check(row)
            self._taken += 1
            num_tokens += row.num_tokens
            rows.append(row)
        self._put_back(rows)
        return rows

    def _put_back(self, rows: list[EncodedRow]) -> None:
        """Leave rows that ranks cannot share for the next step, if there is to be one."""
        keep = len(rows)
        while not _is_dealable(rows[:keep], self._size.micro_batch_tokens, self._world):
            keep -= 1
        if len(rows) - keep + len(self._waiting) >= self._world:
            self._waiting[:0] = rows[keep:]
            self._taken -= len(rows) - keep
            del rows[keep:]

    def _fill(self, count: int) -> list[EncodedRow]:
        """Have that many rows waiting, or all that are left."""
        rows = self._opened()
        self._waiting += itertools.islice(rows, max(count - len(self._waiting), 0))
        return self._waiting

    def _opened(self) -> Iterator[EncodedRow]:
        if self._rows is None:
            generator = random.Random(f"{self._seed}/{self._epoch}")
            self._rows = _mixed(self._stream(self._epoch), self._buffer_rows, generator)
        return self._rows


def _mixed(
    rows: Iterable[EncodedRow], buffer_rows: int, generator: random.Random
) -> Iterator[EncodedRow]:
    """Draw each row at random from a buffer of those read."""
    buffer: list[EncodedRow] = []
    for row in rows:
        if len(buffer) < buffer_rows:
            buffer.append(row)
            continue
        place = generator.randrange(buffer_rows)
        yield buffer[place]
        buffer[place] = row
    generator.shuffle(buffer)
    yield from buffer


def _own_share(
    rows: Sequence[EncodedRow], size: BatchSize, rank: int, world: int
) -> list[PackedBatch]:
    """Pack a step and take one rank's micro-batches of it."""
    if size.has_lanes:
        return _side_by_side(rows, size.micro_batch_tokens)
    micro_batches = pack_step(rows, size.micro_batch_tokens, world)
    return [pack_rows(micro_batch) for micro_batch in micro_batches[rank::world]]


def _side_by_side(rows: Sequence[EncodedRow], budget: int) -> list[PackedBatch]:
    """Pack a step for two lanes; rows longer than half of the budget come first, each alone."""
    alone = [row for row in rows if row.num_tokens > budget // 2]
    halves = _halves([row for row in rows if row.num_tokens <= budget // 2])
    first, second = (sum(map(_cost, half)) for half in halves)
    packed = [pack_rows([row]) for row in alone]
    if max(first, second) > _WORST_SHARE * (first + second):
        return packed + [pack_rows(each) for each in pack_step([*halves[0], *halves[1]], budget)]
    lanes = [
        [pack_rows(each, lane) for each in pack_step(half, budget // 2)]
        for lane, half in enumerate(halves)
    ]
    pairs = itertools.zip_longest(*lanes)
    return packed + [batch for pair in pairs for batch in pair if batch is not None]


def _cost(row: EncodedRow) -> float:
    """Time in that of a token without a label; a label adds the head, a quarter in small models."""
    return row.num_tokens + row.num_labels / 4


def _halves(rows: Sequence[EncodedRow]) -> tuple[list[EncodedRow], list[EncodedRow]]:
    """Split rows into two lists that take nearly as long.

    Source: Karmarkar and Karp 1982, "The differencing method of set partitioning".
    """
    heap: list[tuple[float, int, list[EncodedRow], list[EncodedRow]]]
    heap = [(-_cost(row), number, [row], []) for number, row in enumerate(rows)]
    heapq.heapify(heap)
    while len(heap) > 1:
        more, number, left, right = heapq.heappop(heap)
        less, _, other_left, other_right = heapq.heappop(heap)
        heapq.heappush(heap, (more - less, number, left + other_right, right + other_left))
    return (heap[0][2], heap[0][3]) if heap else ([], [])


def _fingerprint(rows: Sequence[EncodedRow]) -> str:
    """SHA-256 over names and lengths of rows, and the tokens of some."""
    digest = sha256()
    spread = max(1, len(rows) // _ROWS_OF_HASH)
    for number, row in enumerate(rows):
        digest.update(f"{row.id} {row.num_tokens} {row.num_labels}\n".encode())
        if number % spread == 0:
            for sequence in row.sequences:
                digest.update(sequence.tokens.tobytes())
    return digest.hexdigest()


def _check_state(state: Mapping[str, Any], own: Mapping[str, Any], fields: Sequence[str]) -> None:
    for name in fields:
        if state.get(name) != own[name]:
            raise CheckpointError(
                f"the checkpoint's place in the data has {name}={state.get(name)!r}, and these "
                f"data have {name}={own[name]!r}: a run goes on only with the rows, the order and "
                "the settings it began with."
            )
