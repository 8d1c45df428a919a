"""Small programs for kernel tests: any input rows in, any buffer out, native and reference."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from yearling.kernels import _native, ops
from yearling.kernels.program import GroupTables, NativeProgram, StepArrays
from yearling.kernels.reference import ReferenceProgram

KERNELS = ["avx512_bf16", "avx512", "avx2", "portable"]
POOLS = {threads: _native.Pool(threads) for threads in (1, 3)}


def available(kernels: str) -> bool:
    try:
        _native.kernel_name(kernels)
    except ValueError:
        return False
    return True


def packed(kind: str, matrix: NDArray[np.float32]) -> _native.Linear:
    weights = _native.Linear(kind, *matrix.shape)
    data = np.ascontiguousarray(matrix, np.float32).view(np.uint8).reshape(-1)
    weights.pack(0, len(matrix), "F32", data)
    return weights


def feed(width: int) -> list[ops.Op]:
    """Operations whose buffer `in` holds whatever rows the step injects."""
    table = packed("float32", np.zeros((1, width), np.float32))
    return [ops.Embed(table, "in"), ops.Inject("in")]


def tables_of(
    sequences: Sequence[Sequence[int]], first_blocks: Sequence[int] | None = None
) -> GroupTables:
    """One cache group's tables, padded with 0."""
    blocks = np.zeros((len(sequences), max(map(len, sequences))), np.int32)
    for row, table in zip(blocks, sequences, strict=True):
        row[: len(table)] = list(table)
    return GroupTables(blocks, np.array(first_blocks or [0] * len(sequences), np.int32))


def step_of(
    values: NDArray[np.float32],
    sequences: Sequence[tuple[int, int, Sequence[int]]] | None = None,
    logit_rows: Sequence[int] = (),
    prefixes: Sequence[int] | None = None,
    slots: Sequence[int] | None = None,
) -> StepArrays:
    """A step that injects `values`; sequences are (start, length, blocks)."""
    count = len(values)
    if sequences is None:
        sequences = [(0, count, range(-(-count // 16)))]
    if slots is None:
        slots = range(len(sequences))
    return StepArrays(
        tokens=np.zeros(count, np.int32),
        starts=np.array([start for start, _, _ in sequences], np.int32),
        lengths=np.array([length for _, length, _ in sequences], np.int32),
        tables=(tables_of([blocks for *_, blocks in sequences]),),
        logit_rows=np.array(logit_rows, np.int32),
        prefixes=None if prefixes is None else np.array(prefixes, np.int32),
        slots=np.array(slots, np.int32),
        inject_rows=np.arange(count, dtype=np.int32),
        inject_values=np.ascontiguousarray(values, np.float32),
    )


def native(
    program: list[ops.Op], kernels: str = "auto", threads: int = 1, **options
) -> NativeProgram:
    settings = {"context": 4096, "vocabulary": 1, "cache_blocks": [64], "state_slots": 8}
    return NativeProgram(program, pool=POOLS[threads], kernels=kernels, **settings | options)


def truth_of(program: list[ops.Op], cache_type: str = "float32") -> ReferenceProgram:
    return ReferenceProgram(program, cache_blocks=[64], state_slots=8, cache_type=cache_type)


def run_both(
    program: list[ops.Op],
    step: StepArrays,
    buffer: str,
    *,
    kernels: str,
    rows: int | None = None,
    cache_type: str = "float32",
    threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The buffer after one step: what the core computed, and what it should be."""
    rows = len(step.tokens) if rows is None else rows
    core = native(program, kernels, threads, cache_type=cache_type)
    core.run(step)
    truth = truth_of(program, cache_type)
    truth.run(step)
    return core.view(buffer, rows).copy(), truth.view(buffer, rows)
