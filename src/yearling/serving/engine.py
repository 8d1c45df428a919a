"""The engine: schedule, execute, tell. Synchronous, and used from one thread at a time."""

import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Protocol

from pydantic import Field

from yearling.core.config import Config
from yearling.core.errors import ConfigError, EngineError, RequestError
from yearling.serving.adapters import Adapters
from yearling.serving.admission import AdmissionLimits
from yearling.serving.block_pool import root_key
from yearling.serving.cache import Cache, new_group
from yearling.serving.detokenizer import Detokenizer, Pieces
from yearling.serving.drafts import Drafter, Pace, PromptLookup, Speculation
from yearling.serving.executor import Executor, RechoosingExecutor, SequenceOutput
from yearling.serving.generation import Generation
from yearling.serving.guided import Guided, Guides, GuideTokenizer
from yearling.serving.request import (
    EngineRequest,
    GenerationRequest,
    Guide,
    OutputEvent,
    SamplingParams,
)
from yearling.serving.scheduler import Chunk, Scheduler, StepLimits
from yearling.serving.sequence import TokenSequence

__all__ = ["Engine", "EngineConfig", "EngineStats", "EngineTokenizer"]

_log = logging.getLogger(__name__)


class EngineTokenizer(GuideTokenizer, Protocol):
    """What an engine needs of a tokenizer."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Text to id of the control tokens."""
        ...


class EngineConfig(Config):
    """How much an engine does at once."""

    max_sequences: int = Field(default=128, ge=1, description="Requests running at once.")
    max_step_tokens: int = Field(
        default=512, ge=1, description="Tokens per step: more is faster in all, less is smoother."
    )
    max_waiting: int | None = Field(
        default=256, ge=0, description="Requests queued beyond those running; None sets no limit."
    )
    use_prefix_cache: bool = Field(default=True, description="Reuse what equal prompts computed.")
    speculation: Speculation = Field(
        default="none", description="Where guesses at an answer's tokens come from."
    )
    max_guesses: int = Field(
        default=7, ge=1, le=63, description="Guesses that a step checks of one answer."
    )


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters and gauges of an engine; counters run from its start.

    Attributes:
        num_running: Requests that have their place in the cache.
        num_waiting: Requests queued.
        num_blocks: Cache blocks that keep whole sequences; in a model that has none, those of its
            windows and the slots of its states.
        num_free_blocks: Those of them in nobody's use.
        cache_query_tokens: Prompt tokens looked for in the prefix cache.
        cache_hit_tokens: Those found.
        prompt_tokens: Tokens of admitted prompts.
        generated_tokens: Tokens sampled.
        num_preemptions: Sequences thrown out for want of blocks, to be recomputed.
        guessed_tokens: Tokens that were guessed, and checked.
        accepted_tokens: Those that held.
        num_steps: Steps run.
        step_seconds: Time spent in steps.
        executor_seconds: The part of it spent in the executor.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_blocks: int = 0
    num_free_blocks: int = 0
    cache_query_tokens: int = 0
    cache_hit_tokens: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    num_preemptions: int = 0
    guessed_tokens: int = 0
    accepted_tokens: int = 0
    num_steps: int = 0
    step_seconds: float = 0.0
    executor_seconds: float = 0.0


class Engine:
    """Turns requests into events, many at a time.

    Every admitted request gets exactly one event with a finish reason, whatever happens to it,
    to its neighbours or to the executor.

    Attributes:
        limits: What `add` checks.
        error: Why the engine is broken, or None while it works.
    """

    def __init__(
        self,
        executor: Executor,
        tokenizer: EngineTokenizer | None,
        *,
        context: int,
        eos_token_ids: Iterable[int],
        config: EngineConfig | None = None,
        vocabulary: int | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        """Build an engine over a loaded model.

        Args:
            executor: Runs the model; owned by the caller.
            tokenizer: For text and stop strings; without one only token ids are told.
            context: Tokens the model may see.
            eos_token_ids: Ids that end every answer.
            config: How much to do at once.
            vocabulary: Refuse token ids from here on; None checks nothing.
            drafter: Guesses, where `config` takes them from a draft model.

        Raises:
            ConfigError: guesses are to come from a draft model, and there is none, or nothing can
                check them.
        """
        config = config or EngineConfig()
        self._drafter = _drafter_of(config, executor, drafter)
        max_step_tokens = min(config.max_step_tokens, executor.max_step_tokens)
        max_sequences = min(config.max_sequences, max_step_tokens, executor.max_logit_rows)
        max_waiting = config.max_waiting
        block_size = executor.block_size
        self._cache = Cache(
            [new_group(shape, block_size, max_step_tokens) for shape in executor.cache_shapes],
            block_size,
            can_share=executor.can_share_prefixes,
        )
        self.limits = AdmissionLimits(
            context=min(context, self._cache.longest_sequence or context),
            max_requests=None if max_waiting is None else max_sequences + max_waiting,
            vocabulary=vocabulary,
            whole_prompt=(
                min(max_step_tokens, self._cache.longest_chunk or max_step_tokens)
                if executor.needs_whole_prompt
                else None
            ),
            can_generate=bool(executor.cache_shapes),
        )
        self.error: str | None = None
        self._adapters = Adapters(executor)
        self._executor = executor
        self._rechooser = executor if isinstance(executor, RechoosingExecutor) else None
        self._tokenizer = tokenizer
        self._pieces = None if tokenizer is None else Pieces(tokenizer)
        self._eos_token_ids = frozenset(eos_token_ids)
        self._guides = None
        if tokenizer is not None and vocabulary is not None:
            self._guides = Guides(tokenizer, vocabulary, self._eos_token_ids, executor.threads)
        self._config = config
        limits = StepLimits(
            max_step_tokens,
            executor.max_logit_rows,
            max_sequences,
            executor.needs_whole_prompt,
            0 if self._drafter is None else config.max_guesses + 1,
        )
        self._scheduler = Scheduler(self._cache, limits)
        self._generations: dict[str, Generation] = {}
        self._news: list[OutputEvent] = []
        self._counts = _Counts()

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do or to tell."""
        return bool(self._generations or self._news)

    def add(self, request: EngineRequest) -> None:
        """Admit a request; its events come from `step`.

        Raises:
            RequestError: it can never be served as asked (`ContextLengthError` among them).
            CapacityError: too many requests are open.
            EngineError: the engine is broken.
        """
        if self.error is not None:
            raise EngineError(self.error)
        self.limits.check(request, len(self._generations))
        assert isinstance(request, GenerationRequest), "the limits let nothing else through"
        if request.request_id in self._generations:
            raise RequestError(f"request id {request.request_id!r} is already running.")
        generation = self._new_generation(request)
        self._counts.prompt_tokens += len(request.prompt)
        if generation.has_nothing_to_score:
            self._news.append(generation.end_of_scoring())
            if request.is_prompt_only:
                self._adapters.give_back(generation.adapter)
                return
        self._generations[request.request_id] = generation
        self._scheduler.add(generation.sequence)

    def cancel(self, request_id: str) -> None:
        """End a request and free its blocks at once; one that has ended already is left alone."""
        generation = self._generations.get(request_id)
        if generation is not None:
            self._news.append(generation.end("cancelled"))
            self._forget(generation)

    def cancel_all(self) -> None:
        """End every request."""
        for request_id in list(self._generations):
            self.cancel(request_id)

    def load_adapter(self, name: str, folder: Path) -> None:
        """Let requests name an adapter of low rank; several may run in one batch.

        Raises:
            ConfigError: the name is empty, or another adapter's.
            ModelError: it cannot be read, or is of another model.
            UnsupportedError: the executor serves none.
        """
        self._adapters.load(name, folder)

    def unload_adapter(self, name: str) -> None:
        """Let no further request name an adapter; those that run with it go on.

        Raises:
            RequestError: there is none of that name.
        """
        self._adapters.unload(name)

    def close(self) -> None:
        """Free what guesses; the executor is its owner's."""
        if self._drafter is not None:
            self._drafter.close()

    def step(self) -> list[OutputEvent]:
        """Bring requests forward by one step of the executor and return the news.

        When the executor raises, every open request ends with an error event and the engine is
        broken: what its cache holds is no longer known.
        """
        events, self._news = self._news, []
        try:
            self._run_step(events)
        except Exception as error:
            _log.exception("the engine failed in a step")
            self.error = f"the engine failed: {type(error).__name__}: {error}"
            for generation in list(self._generations.values()):
                events.append(generation.end("error", error=self.error))
                self._forget(generation)
        return events

    def stats(self) -> EngineStats:
        """Counters and gauges of this moment."""
        counts, scheduler = self._counts, self._scheduler
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_blocks=self._cache.num_blocks,
            num_free_blocks=self._cache.num_free,
            cache_query_tokens=scheduler.num_query_tokens,
            cache_hit_tokens=scheduler.num_hit_tokens,
            prompt_tokens=counts.prompt_tokens,
            generated_tokens=counts.generated_tokens,
            num_preemptions=scheduler.num_preemptions,
            guessed_tokens=counts.guessed_tokens,
            accepted_tokens=counts.accepted_tokens,
            num_steps=counts.num_steps,
            step_seconds=counts.step_seconds,
            executor_seconds=counts.executor_seconds,
        )

    def _run_step(self, events: list[OutputEvent]) -> None:
        started = perf_counter()
        if self._drafter is not None:
            self._guess(self._drafter)
        self._look_ahead(events)
        chunks = self._scheduler.schedule()
        if not chunks:
            return
        rows = [(self._generations[chunk.sequence.request_id], chunk) for chunk in chunks]
        # Those of one adapter lie side by side, so that its matrices are read once for all.
        rows.sort(key=lambda row: row[0].adapter_number)
        step = [generation.step_input(chunk) for generation, chunk in rows]
        called = perf_counter()
        outputs = self._executor.execute(step)
        if self._rechooser is not None:
            self._choose_again(self._rechooser, [generation for generation, _ in rows], outputs)
        returned = perf_counter()
        for (generation, chunk), output in zip(rows, outputs, strict=True):
            self._take(generation, chunk, output, events)
        self._counts.num_steps += 1
        self._counts.executor_seconds += returned - called
        self._counts.step_seconds += perf_counter() - started

    def _guess(self, drafter: Drafter) -> None:
        """Guess how the answers that wait for their next token alone go on behind it."""
        left = self._config.max_guesses + 1 - len(self._scheduler.running)
        if left <= 0 or (drafter.is_costly and self._scheduler.waiting):
            return  # the scheduler would check none, or hardly any
        running = (self._generations[s.request_id] for s in self._scheduler.running)
        waiting = [(g, g.pace) for g in running if g.pace and g.sequence.num_remaining == 1]
        share = left
        if drafter.is_costly:  # no more than will be checked
            share = max(1, left // max(1, len(waiting)))
            waiting = waiting[:left]
        found = drafter.guess(
            {
                g.sequence.request_id: (
                    g.sequence.tokens,
                    min(p.next_length(), g.most_guesses, share),
                )
                for g, p in waiting
            }
        )
        for generation, _ in waiting:
            sequence = generation.sequence
            sequence.guesses = found.get(sequence.request_id, ())

    def _look_ahead(self, events: list[OutputEvent]) -> None:
        """Find what may come next in every guided answer, all at once; end those that cannot."""
        waiting = [
            (generation, generation.guided)
            for generation in self._generations.values()
            if generation.guided is not None
            and generation.guided.is_waiting
            and not generation.chooses_first
        ]
        if not waiting:
            return
        assert self._guides is not None, "something guides them"
        self._guides.look_ahead([guided for _, guided in waiting])
        for generation, guided in waiting:
            if guided.problem is not None:
                events.append(generation.guide_failed(guided.problem))
                self._forget(generation)

    def _choose_again(
        self,
        executor: RechoosingExecutor,
        generations: Sequence[Generation],
        outputs: list[SequenceOutput],
    ) -> None:
        """Choose among the allowed in place of tokens that their guides do not permit."""
        refused = [
            (number, generation, guided)
            for number, (generation, output) in enumerate(zip(generations, outputs, strict=True))
            if generation.chooses_first
            and output.sample is not None
            and (guided := generation.guided) is not None
            and not guided.permits(output.sample.token)
        ]
        if not refused:
            return
        assert self._guides is not None, "something guides them"
        self._guides.look_ahead([guided for _, _, guided in refused])
        chosen = executor.choose_again(
            [(number, generation.second_choice()) for number, generation, _ in refused]
        )
        for (number, _, _), sample in zip(refused, chosen, strict=True):
            assert sample is not None, "its logits were finite a moment ago"
            outputs[number] = replace(outputs[number], sample=sample)

    def _take(
        self,
        generation: Generation,
        chunk: Chunk,
        output: SequenceOutput,
        events: list[OutputEvent],
    ) -> None:
        if not chunk.num_guesses:  # nearly always; the rest costs as much as the choice itself
            chunk.sequence.guesses = ()
            self._take_one(generation, chunk, output, events)
            return
        guesses, chunk.sequence.guesses = chunk.sequence.guesses[: chunk.num_guesses], ()
        known = chunk._replace(num_tokens=chunk.num_tokens - len(guesses))
        num_held = 0
        for guess, sample in zip(guesses, output.guesses, strict=False):
            # The choice after the known tokens; while it is the guess, the next one counts too.
            is_open = self._take_one(generation, known, SequenceOutput(sample), events)
            known = Chunk(chunk.sequence, 1, is_sampling=True)
            if not is_open or sample.token != guess:
                break
            num_held += 1
        else:
            self._take_one(generation, known, replace(output, guesses=()), events)
        if generation.pace is not None:
            generation.pace.learn(len(guesses), num_held)
            self._counts.guessed_tokens += len(guesses)
            self._counts.accepted_tokens += num_held

    def _take_one(
        self,
        generation: Generation,
        chunk: Chunk,
        output: SequenceOutput,
        events: list[OutputEvent],
    ) -> bool:
        """Take one choice; tell whether its answer goes on."""
        if output.error is None:  # what a failed sequence computed must not be shared
            self._scheduler.advance(chunk)
        if output.sample is not None:
            self._counts.generated_tokens += 1
        event = generation.take(output)
        if event is None:
            return True
        events.append(event)
        if event.finish_reason is not None:
            self._forget(generation)
            return False
        return True

    def _forget(self, generation: Generation) -> None:
        self._scheduler.remove(generation.sequence)
        self._adapters.give_back(generation.adapter)
        del self._generations[generation.sequence.request_id]

    def _new_generation(self, request: GenerationRequest) -> Generation:
        sampling = request.sampling
        ends = frozenset() if sampling.ignore_eos else self._eos_token_ids
        stop_ids = ends.union(sampling.stop_token_ids, self._stop_tokens(sampling))
        guided = None if sampling.guide is None else self._begin_guided(sampling.guide)
        adapter = self._adapters.take(request.adapter)
        generation = Generation(
            sequence=self._new_sequence(request, "" if adapter is None else adapter.version),
            sampling=sampling,
            seed=secrets.randbits(64) if sampling.seed is None else sampling.seed % 2**64,
            max_new_tokens=self.limits.max_new_tokens(request),
            stop_ids=stop_ids,
            is_prompt_only=request.is_prompt_only,
            detokenizer=None if self._pieces is None else Detokenizer(self._pieces, sampling.stop),
            guided=guided,
            adapter=adapter,
        )
        if self._drafter is not None and generation.can_guess:
            generation.pace = Pace(self._config.max_guesses)
        generation.chooses_first = (
            guided is not None and self._rechooser is not None and generation.may_choose_first
        )
        return generation

    def _stop_tokens(self, sampling: SamplingParams) -> list[int]:
        """Stop strings that are a control token: never shown, so they must end by their id."""
        if self._tokenizer is None:
            if sampling.stop:
                raise RequestError(
                    "stop strings need a tokenizer, and this model has none: use stop_token_ids.",
                    parameter="stop",
                )
            return []
        special_tokens = self._tokenizer.special_tokens
        return [special_tokens[text] for text in sampling.stop if text in special_tokens]

    def _begin_guided(self, guide: Guide) -> Guided:
        if self._guides is None:
            raise RequestError(
                f"{guide.field} needs a tokenizer, and this model has none.", parameter=guide.field
            )
        return self._guides.begin(guide)

    def _new_sequence(self, request: GenerationRequest, adapter: str) -> TokenSequence:
        root = root_key(
            # Without a prefix cache every request is an account of its own.
            salt=request.salt if self._config.use_prefix_cache else secrets.token_hex(),
            adapter=adapter,
            weights_version=self._executor.weights_version,
            kv_type=self._executor.kv_type,
        )
        return TokenSequence(
            request_id=request.request_id,
            tokens=list(request.prompt),
            num_prompt=len(request.prompt),
            tables=self._cache.new_tables(root),
            is_scoring=request.is_prompt_only or request.sampling.prompt_logprobs is not None,
        )


def _drafter_of(config: EngineConfig, executor: Executor, given: Drafter | None) -> Drafter | None:
    """What guesses; None where nothing does, or the executor can check no guesses."""
    if config.speculation == "draft_model":
        if given is None:
            raise ConfigError(
                "speculation='draft_model' needs the model that drafts: LLM(…, draft_model=…) and "
                "yearling serve --draft-model load one."
            )
        if not executor.takes_guesses:
            given.close()
            raise ConfigError(
                "this model's steps cannot be undone, or its executor checks no guesses: leave "
                "draft_model out."
            )
        return given
    has_lookup = config.speculation == "prompt_lookup" and executor.takes_guesses
    return PromptLookup() if has_lookup else None


@dataclass(slots=True)
class _Counts:
    prompt_tokens: int = 0
    generated_tokens: int = 0
    guessed_tokens: int = 0
    accepted_tokens: int = 0
    num_steps: int = 0
    step_seconds: float = 0.0
    executor_seconds: float = 0.0
