"""A served model without weights: a real engine over an executor that recites a text."""

from collections.abc import Sequence
from typing import Any

from tests.serving.fake_embedder import WIDTH, FakeEmbedder
from tests.serving.fake_executor import FakeExecutor
from tests.serving.fake_tokenizer import ByteTokenizer
from yearling.core.errors import TemplateError
from yearling.core.messages import Message
from yearling.server.generation import Admission
from yearling.server.limits import Limits
from yearling.server.models import ServedModel
from yearling.serving.async_engine import AsyncEngine, LocalEngine
from yearling.serving.encoder_engine import EncoderEngine
from yearling.serving.engine import Engine, EngineConfig
from yearling.serving.executor import SampleInput, SampleOutput, SequenceInput, SequenceOutput

ANSWER = "The héron waits — 元年 — and then 😀 flies. "
CONTEXT = 2048
NUM_BLOCKS = 2048
ENCODER_CONTEXT = 64
END = ByteTokenizer.eos_id


class RecitingExecutor(FakeExecutor):
    """Samples the bytes of `ANSWER` over and over, and the end token after `length` bytes."""

    def __init__(self, *, length: int | None = None, **options: Any) -> None:
        super().__init__(NUM_BLOCKS, **options)
        self.length = len(ANSWER.encode()) if length is None else length

    def execute(self, step: Sequence[SequenceInput]) -> list[SequenceOutput]:
        outputs = super().execute(step)
        return [
            SequenceOutput(
                sample=None if part.sample is None else self._recite(part.sample),
                scores=tuple(
                    score and self._with_top(score.token, part.num_score_logprobs)
                    for score in output.scores
                ),
                error=output.error,
            )
            for part, output in zip(step, outputs, strict=True)
        ]

    def _recite(self, sample: SampleInput) -> SampleOutput:
        text = ANSWER.encode()
        index = sample.output_index
        token = END if index >= self.length else text[index % len(text)]
        return self._with_top(token, sample.num_logprobs or 0)

    def _with_top(self, token: int, num_top: int) -> SampleOutput:
        others = tuple(((token + step) % 256, -1.0 - step) for step in range(1, num_top))
        top = ((token, -0.5), *others) if num_top else ()
        return SampleOutput(token, -0.5, top)


class FakeTemplate:
    """`<turn>role` before every message; refuses a conversation that starts with the assistant."""

    source = "no place for tools"

    def __init__(self, tokenizer: ByteTokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(
        self, messages: Sequence[Message], *, tools: None = None, add_generation_prompt: bool = True
    ) -> list[int]:
        if messages[0].role == "assistant":
            raise TemplateError("the conversation must not start with the assistant.")
        turn = self._tokenizer.special_tokens["<turn>"]
        tokens = []
        for message in messages:
            tokens += [turn, *f"{message.role}\n{message.text}".encode()]
        return [*tokens, turn] if add_generation_prompt else tokens


def build_engine(**executor: Any) -> Engine:
    """The engine, for this process or as a worker's entry."""
    return Engine(
        RecitingExecutor(**executor),
        ByteTokenizer(),
        context=CONTEXT,
        eos_token_ids=[END],
        config=EngineConfig(max_sequences=256),
        vocabulary=ByteTokenizer.vocabulary_size,
    )


def served_model(
    engine: AsyncEngine | None = None, limits: Limits | None = None, **executor: Any
) -> ServedModel:
    """The model as the server sees it."""
    tokenizer: Any = ByteTokenizer()
    template: Any = FakeTemplate(tokenizer)
    limits = limits or Limits()
    return ServedModel(
        name="reciter",
        tokenizer=tokenizer,
        chat_template=template,
        context=CONTEXT,
        engine=engine or LocalEngine(build_engine(**executor)),
        admission=Admission(limits),
        limits=limits,
        fingerprint="fp_test",
    )


def served_encoder(limits: Limits | None = None, **embedder: Any) -> ServedModel:
    """An encoder as the server sees it, with its engine in this process."""
    tokenizer: Any = ByteTokenizer()
    limits = limits or Limits()
    executor = FakeEmbedder(max_step_tokens=2 * ENCODER_CONTEXT, **embedder)
    engine = EncoderEngine(
        executor, context=ENCODER_CONTEXT, vocabulary=ByteTokenizer.vocabulary_size
    )
    return ServedModel(
        name="encoder",
        tokenizer=tokenizer,
        chat_template=None,
        context=ENCODER_CONTEXT,
        engine=LocalEngine(engine),
        admission=Admission(limits),
        limits=limits,
        fingerprint="fp_test",
        embedding_width=WIDTH,
    )
