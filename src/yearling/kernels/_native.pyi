from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int32]

class Pool:
    def __init__(self, threads: int = 0) -> None: ...
    @property
    def threads(self) -> int: ...

class Table:
    def __init__(self, values: _Floats) -> None: ...

class WeightMemory:
    def __init__(self, bytes: int) -> None: ...

class Linear:
    def __init__(self, kind: str, outputs: int, inputs: int) -> None: ...
    @property
    def kind(self) -> str: ...
    @property
    def outputs(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def pack(self, first: int, rows: int, format: str, data: NDArray[np.uint8]) -> None: ...
    def unpack(self) -> _Floats: ...

class Program:
    def __init__(
        self,
        *,
        step_tokens: int,
        logit_rows: int,
        context: int,
        vocabulary: int,
        cache_blocks: Sequence[int],
        state_slots: int,
        cache_type: str,
        kernels: str,
        pool: Pool,
    ) -> None: ...
    def add_buffer(self, has_token_rows: bool, columns: int) -> int: ...
    def add_cache_layer(self, group: int, kv_heads: int, head_dim: int) -> int: ...
    def finish(self) -> None: ...
    def embed(self, table: Linear, output: int, scale: float) -> None: ...
    def inject(self, output: int) -> None: ...
    def rms_norm(self, input: int, output: int, weight: _Floats, epsilon: float) -> None: ...
    def layer_norm(
        self, input: int, output: int, weight: _Floats, bias: _Floats | None, epsilon: float
    ) -> None: ...
    def linear(
        self,
        input: int,
        output: int,
        weights: Linear,
        bias: _Floats | None,
        column: int,
        accumulates: bool,
    ) -> None: ...
    def head_norm(
        self,
        buffer: int,
        column: int,
        heads: int,
        head_dim: int,
        kind: str,
        weight: _Floats,
        bias: _Floats | None,
        epsilon: float,
    ) -> None: ...
    def copy(self, input: int, output: int, column: int) -> None: ...
    def scale(self, input: int, output: int, factor: float) -> None: ...
    def add(self, input: int, output: int, factor: float) -> None: ...
    def gather(self, input: int, output: int) -> None: ...
    def pool(self, input: int, output: int, kind: str, is_normalised: bool) -> None: ...
    def activate(self, buffer: int, activation: str) -> None: ...
    def gate(self, input: int, output: int, activation: str) -> None: ...
    def clamp(self, buffer: int, column: int, width: int, limit: float) -> None: ...
    def soft_cap(self, buffer: int, cap: float) -> None: ...
    def add_positions(
        self, output: int, table: Table, offset: int, channel: str, accumulates: bool
    ) -> None: ...
    def angles(
        self,
        output: int,
        frequencies: _Floats,
        factor: float,
        channel: str,
        stretch: str = "none",
        base: float = 0.0,
        trained: int = 0,
        stretch_factor: float = 1.0,
        has_length_factor: bool = False,
    ) -> None: ...
    def rotary(
        self,
        buffer: int,
        angles: int,
        column: int,
        heads: int,
        head_dim: int,
        layout: str,
        offset: int,
    ) -> None: ...
    def log_scale(self, buffer: int, column: int, width: int, trained: int) -> None: ...
    def write_kv(
        self,
        input: int,
        layer: int,
        key_column: int,
        value_column: int,
        kv_heads: int,
        head_dim: int,
        group: int,
    ) -> None: ...
    def attention(
        self,
        input: int,
        output: int,
        layer: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        group: int,
        window: int | None,
        sees_prefix: bool,
        soft_cap: float | None,
        slopes: _Floats | None,
    ) -> None: ...
    def convolution(
        self, input: int, output: int, weight: _Floats, bias: _Floats | None
    ) -> None: ...
    def selective_scan(
        self,
        input: int,
        time_step: int,
        parameters: int,
        input_column: int,
        output_column: int,
        gate: int,
        gate_column: int,
        output: int,
        matrix: _Floats,
        skip: _Floats,
    ) -> None: ...
    def experts(
        self,
        input: int,
        router: int,
        output: int,
        first: Sequence[Linear],
        second: Sequence[Linear],
        activation: str,
        is_gated: bool,
        active: int,
        router_kind: str,
        is_renormalised: bool,
    ) -> None: ...
    def run(
        self,
        tokens: _Ints,
        starts: _Ints,
        lengths: _Ints,
        tables: Sequence[_Ints],
        first_blocks: Sequence[_Ints],
        logit_rows: _Ints,
        prefixes: _Ints | None = None,
        slots: _Ints | None = None,
        inject_rows: _Ints | None = None,
        inject_values: _Floats | None = None,
        adapters: _Ints | None = None,
    ) -> None: ...
    def set_adapter(
        self,
        number: int,
        updates: Sequence[
            tuple[int, _Floats | NDArray[np.uint16], Sequence[tuple[int, int, Linear]]]
        ],
    ) -> None: ...
    def view(self, buffer: int, rows: int) -> _Floats: ...
    def sample(
        self,
        *,
        buffer: int,
        rows: _Ints,
        temperature: _Floats,
        top_k: _Ints,
        top_p: _Floats,
        min_p: _Floats,
        repetition: _Floats,
        presence: _Floats,
        frequency: _Floats,
        seeds: NDArray[np.uint64],
        output_indices: NDArray[np.uint64],
        history: _Ints,
        history_offsets: _Ints,
        num_generated: _Ints,
        bias_tokens: _Ints,
        bias_values: _Floats,
        bias_offsets: _Ints,
        allowed: NDArray[np.uint32],
        allowed_rows: _Ints,
        num_logprobs: _Ints,
    ) -> tuple[_Ints, _Floats, _Ints, _Floats]: ...
    def score(
        self, *, buffer: int, rows: _Ints, targets: _Ints, num_logprobs: _Ints
    ) -> tuple[_Ints, _Floats, _Ints, _Floats]: ...
    @property
    def kernels(self) -> str: ...
    @property
    def block_bytes(self) -> list[int]: ...
    @property
    def slot_bytes(self) -> int: ...

def uniform(seed: int, index: int) -> float: ...
def kernel_name(name: str = "auto") -> str: ...
def multiplies_bfloats(name: str = "auto") -> bool: ...
