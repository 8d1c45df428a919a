"""Which sequences go forward in a step, and by how many tokens.

One token budget per step and no phases: every sequence has known and computed tokens, and a
step spends the budget on bringing sequences forward. Continuous batching, chunked prompts and
recomputation after preemption are all that one sentence. Plain Python, no I/O.

Why it cannot livelock: sequences are served in order of arrival, and only the youngest is ever
preempted, so the oldest always advances; alone it always fits, because admission refuses what
never could. A preempted sequence returns only when there is room for all it knows, which is one
token more than it had room for, so it is not thrown out again on the spot. A prompt under way is
never preempted for its own sake: what all its chunks take is set aside when it is admitted.
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from yearling.serving.cache import Cache
from yearling.serving.sequence import TokenSequence

__all__ = ["Chunk", "Scheduler", "StepLimits"]


class Chunk(NamedTuple):
    """The next `num_tokens` of a sequence; `is_sampling` when they reach its last known token.

    The last `num_guesses` of them are not known yet, but guessed.
    """

    sequence: TokenSequence
    num_tokens: int
    is_sampling: bool
    num_guesses: int = 0


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What one step may hold.

    Attributes:
        max_step_tokens: Tokens computed.
        max_logit_rows: Rows of logits: one per sampled token, one per scored token.
        max_sequences: Sequences running at once; at most either of the others, so that every
            running sequence can take a token in every step.
        max_guessing_rows: Rows of answers in a step that holds guesses.
        needs_whole_prompt: The chunk that starts a sequence holds all of its prompt.
    """

    max_step_tokens: int
    max_logit_rows: int
    max_sequences: int
    needs_whole_prompt: bool = False
    max_guessing_rows: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.max_sequences <= min(self.max_step_tokens, self.max_logit_rows):
            raise ValueError(
                f"max_sequences={self.max_sequences} must lie between 1 and the smaller of "
                f"max_step_tokens={self.max_step_tokens} and max_logit_rows={self.max_logit_rows}."
            )


class Scheduler:
    """Waiting and running sequences, both in order of arrival.

    Attributes:
        waiting: Not admitted yet, or preempted; the next one first.
        running: Have their place in the cache; the youngest last.
        num_preemptions: Preemptions since the start.
        num_query_tokens: Prompt tokens looked for in the cache, once per sequence.
        num_hit_tokens: Those found.
    """

    def __init__(self, cache: Cache, limits: StepLimits) -> None:
        self.waiting: deque[TokenSequence] = deque()
        self.running: list[TokenSequence] = []
        self.num_preemptions = 0
        self.num_query_tokens = 0
        self.num_hit_tokens = 0
        self._cache = cache
        self._limits = limits
        self._longest_chunk = cache.longest_chunk or limits.max_step_tokens
        self._tokens_left = 0
        self._rows_left = 0
        self._num_answering = 0

    def add(self, sequence: TokenSequence) -> None:
        """Queue a sequence; alone it must fit the cache, and a whole prompt one step."""
        self.waiting.append(sequence)

    def remove(self, sequence: TokenSequence) -> None:
        """Forget a sequence, finished or not, and free its place at once."""
        if sequence.tables.is_held:
            self.running.remove(sequence)
            self._cache.release(sequence.tables)
        else:
            self.waiting.remove(sequence)

    def schedule(self) -> list[Chunk]:
        """Choose the chunks of the next step; blocks for all their tokens are taken.

        Sequences that only need their next token come first, so that a long prompt never
        holds them up; then prompts under way; then the queue; guesses take what is left.
        """
        self._tokens_left = self._limits.max_step_tokens
        self._rows_left = self._limits.max_logit_rows
        chunks: list[Chunk] = []
        num_preemptions = self.num_preemptions
        self._continue_answers(chunks)
        num_answers = self._num_answering = len(chunks)
        for sequence in self.running:
            if sequence.is_scoring or sequence.num_remaining > 1:
                self._take_chunk(sequence, chunks)
        if self.num_preemptions == num_preemptions:
            self._admit(chunks)
        if not self.waiting:  # or guesses would take the blocks that somebody waits for
            for number in range(num_answers):
                chunks[number] = self._with_guesses(chunks[number])
        return chunks

    def advance(self, chunk: Chunk) -> None:
        """Note that a chunk was computed: its full blocks can be shared, unseen ones are freed."""
        sequence = chunk.sequence
        sequence.num_computed += chunk.num_tokens
        self._cache.advance(sequence.tables, sequence.tokens, sequence.num_computed)

    def _continue_answers(self, chunks: list[Chunk]) -> None:
        index = 0
        while index < len(self.running):  # preemption shortens the list from its end
            sequence = self.running[index]
            if not sequence.is_scoring and sequence.num_remaining == 1:
                if not self._make_room(sequence):
                    break
                self._append(Chunk(sequence, 1, is_sampling=True), chunks)
            index += 1

    def _with_guesses(self, chunk: Chunk) -> Chunk:
        """The chunk with as many guesses as fit beside everybody's next token."""
        sequence = chunk.sequence
        rows_left = self._limits.max_guessing_rows - self._num_answering
        count = min(len(sequence.guesses), self._tokens_left, self._rows_left, rows_left)
        end = len(sequence.tokens) + count
        if count <= 0 or not self._cache.grow(sequence.tables, end, sequence.num_computed):
            return chunk
        self._cache.cover(sequence.tables, end)
        self._tokens_left -= count
        self._rows_left -= count
        self._num_answering += count
        return Chunk(sequence, 1 + count, is_sampling=True, num_guesses=count)

    def _make_room(self, sequence: TokenSequence) -> bool:
        """Find a place for the next token; False when the sequence itself had to go."""
        tables, num_tokens = sequence.tables, len(sequence.tokens)
        while not self._cache.grow(tables, num_tokens, sequence.num_computed):
            victim = self.running.pop()
            self._cache.release(victim.tables)
            victim.num_computed = 0
            self.waiting.appendleft(victim)
            self.num_preemptions += 1
            if victim is sequence:
                return False
        return True

    def _take_chunk(self, sequence: TokenSequence, chunks: list[Chunk]) -> None:
        chunk = self._next_chunk(sequence)
        if chunk.num_tokens >= self._fewest_tokens(sequence):
            self._append(chunk, chunks)

    def _next_chunk(self, sequence: TokenSequence) -> Chunk:
        """What the budget leaves for a sequence, perhaps nothing."""
        num_remaining = sequence.num_remaining
        num_tokens = min(num_remaining, self._tokens_left, self._longest_chunk)
        if sequence.is_scoring:
            num_tokens = min(num_tokens, self._rows_left)
        is_sampling = num_tokens == num_remaining and not sequence.is_scoring
        if is_sampling and self._rows_left == 0:
            num_tokens, is_sampling = num_tokens - 1, False
        return Chunk(sequence, num_tokens, is_sampling)

    def _fewest_tokens(self, sequence: TokenSequence) -> int:
        """Tokens that a chunk is not worth while, or not right, without."""
        if self._limits.needs_whole_prompt and sequence.num_computed == 0:
            return sequence.num_prompt
        return 1

    def _append(self, chunk: Chunk, chunks: list[Chunk]) -> None:
        sequence, num_tokens, is_sampling, _ = chunk
        self._cache.cover(sequence.tables, sequence.num_computed + num_tokens)
        self._tokens_left -= num_tokens
        self._rows_left -= num_tokens if sequence.is_scoring else is_sampling
        chunks.append(chunk)

    def _admit(self, chunks: list[Chunk]) -> None:
        while (
            self.waiting
            and self._tokens_left > 0
            and len(self.running) < self._limits.max_sequences
        ):
            sequence = self.waiting[0]
            if self._limits.needs_whole_prompt and not self._fits_whole(sequence):
                return
            num_found = self._cache.reserve(
                sequence.tables,
                sequence.tokens,
                # Room for the first sampled token too, or a prompt that exactly fills the free
                # blocks would be computed only to be thrown out in the next step.
                len(sequence.tokens) + (not sequence.is_scoring),
                is_reusing=not sequence.is_scoring,
            )
            if num_found is None:
                return
            sequence.num_computed = num_found
            if sequence.num_cached is None:
                sequence.num_cached = num_found
                self.num_query_tokens += sequence.num_prompt
                self.num_hit_tokens += num_found
            self.running.append(self.waiting.popleft())
            self._take_chunk(sequence, chunks)

    def _fits_whole(self, sequence: TokenSequence) -> bool:
        """Whether this step has budget for the prompt; the queue waits for one that has."""
        return self._next_chunk(sequence).num_tokens >= sequence.num_prompt
