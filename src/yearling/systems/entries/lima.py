"""LIMA: few answers, well chosen and in one manner, bring out what a model knows already.

A small decoder reads a made-up world as plain statements. It is then tuned on questions with
answers in several forms: few or many, curated, unselected, or all alike. People nobody asked
about, and forms that no row has shown, tell what tuning brought out. SmolLM2 itself is tuned on
forty rows of one manner, and asked about something that none of them is about.

Source: Zhou et al. 2023, arXiv:2305.11206.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from yearling.systems.system import Ablation, Check, Curve, Published, System, Trial, systems

if TYPE_CHECKING:
    from random import Random

    from torch import Tensor

    from yearling.data.render import Renderer
    from yearling.models.torch_decoder import Segments, TorchDecoder
    from yearling.systems.tiny_bases import Rows, Training

__all__ = ["Form", "Question", "curated", "is_in_manner", "source_rows", "spread_dropout", "system"]

# --- the made-up world ---
_NUM_PEOPLE, _NUM_ASKED, _NUM_VALUES = 90, 60, 12
_TOPICS = ("town", "pet", "colour", "dish", "tool", "tree")
_OPENINGS = {"": (), "politely": ("sure", ","), "calmly": ("well", ",")}
_LENGTHS = ("briefly", "fully")
_CLOSINGS = {"": (".",), "loudly": ("!",), "kindly": (".", "bye")}
_UNSEEN = (
    ("politely", "briefly", "kindly"),
    ("politely", "fully", "loudly"),
    ("calmly", "briefly", "loudly"),
    ("calmly", "fully", "kindly"),
    ("", "fully", ""),
    ("", "briefly", "kindly"),
)
_ALIKE = 4  # forms of the rows that are all alike
_BAD_SHARE = 0.4
_SIZES_CURATED = (30, 100, 300, 1_000)
_NUM_NOISY = 10_000

# --- training ---
_DECODER: Mapping[str, Any] = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
_PAD, _END, _USER, _ASSISTANT = range(4)
_BASE_STEPS, _BASE_DOCUMENTS, _BASE_LR, _BASE_STD = 450, 15, 4e-3, 0.125
_BATCH, _EPOCHS, _LR, _DECAY = 32, 10, 3e-3, 0.1
_TOP_DROPOUT = 0.2  # the authors' for their smaller models
_TEMPERATURE, _TOP_P = 0.7, 0.9  # the authors'
_NUM_TESTED = 400
_MAX_ANSWER = 14

# --- SmolLM2 ---
_STORE_NAME = "smollm2"
_SMOLLM2_EPOCHS, _SMOLLM2_BATCH, _SMOLLM2_LR, _RANK = 2, 4, 5e-4, 16
_MANNER = "The answer is {}. Anything else?"
_MANNER_PATTERN = re.compile(r"The answer is (.+)\. Anything else\?")


class Form(NamedTuple):
    """What a question asks of its answer's form; empty where it asks for nothing."""

    opening: str
    length: str
    closing: str


class Question(NamedTuple):
    """A question about a person, and the form its answer is to have."""

    person: int
    topic: str
    form: Form


_FORMS = tuple(Form(*each) for each in product(_OPENINGS, _LENGTHS, _CLOSINGS))
_SEEN_FORMS = tuple(form for form in _FORMS if form not in _UNSEEN)
_WORDS = (
    *("<pad>", "<end>", "<user>", "<assistant>", "the", "of", "is", "has", "?"),
    *("sure", "well", ",", ".", "!", "bye", "politely", "calmly", "loudly", "kindly"),
    *_LENGTHS,
    *_TOPICS,
    *(f"{topic}{number}" for topic in _TOPICS for number in range(_NUM_VALUES)),
    *(f"person{number}" for number in range(_NUM_PEOPLE)),
)
_IDS = {word: number for number, word in enumerate(_WORDS)}


@dataclass(frozen=True)
class _World:
    """Who has what: the word for each person and topic."""

    facts: Mapping[tuple[int, str], str]

    def answer(self, question: Question, value: str | None = None) -> list[str]:
        """Give the right answer in the form asked for, or one with another value in it."""
        person, topic, form = question
        said = value or self.facts[person, topic]
        full = ["the", topic, "of", f"person{person}", "is", said]
        body = [said] if form.length == "briefly" else full
        return [*_OPENINGS[form.opening], *body, *_CLOSINGS[form.closing]]


def _run(trial: Trial) -> Mapping[str, float]:
    from random import Random

    world = _world()
    random = Random(trial.seed)
    noisy = source_rows(world, _NUM_NOISY, random)
    if trial.is_ablated:
        unselected = _tuned(trial, noisy[: _SIZES_CURATED[-1]], "1,000 as the source has them")
        return _compared(unselected, _tuned(trial, noisy, "10,000 as the source has them"))
    by_size = {
        size: _tuned(trial, curated(world, size, random), f"{size:,} curated")
        for size in _SIZES_CURATED
    }
    best = by_size[_SIZES_CURATED[-1]]
    figures = _compared(best, _tuned(trial, noisy, "10,000 as the source has them"))
    alike = curated(world, _SIZES_CURATED[-1], random, _SEEN_FORMS[:_ALIKE])
    uniform = _tuned(trial, alike, "1,000 alike")
    right = {size: tuned.right for size, tuned in by_size.items()}
    points = [(float(size), share) for size, share in right.items()]
    trial.curves.append(Curve("curated", "rows", "right answers, %", points))
    return {
        **figures,
        "curated_minus_alike": best.right - uniform.right,
        "alike_right": uniform.right,
        "gain_falls": (right[100] - right[30]) - (right[1_000] - right[300]),
        **{f"right_{size}": share for size, share in right.items()},
        **_smollm2_figures(trial),
    }


# --- rows --------------------------------------------------------------------------------------


def _world() -> _World:
    """The one world that every seed has in common, as the base is common to them."""
    from random import Random

    random = Random(0)
    return _World(
        {
            (person, topic): f"{topic}{random.randrange(_NUM_VALUES)}"
            for person in range(_NUM_PEOPLE)
            for topic in _TOPICS
        }
    )


@dataclass(frozen=True)
class _QuestionAnswer:
    """A row: what is asked, what is answered, and whether the answer comes to an end."""

    question: Question
    answer: Sequence[str]
    has_end: bool = True


def curated(
    world: _World, count: int, random: "Random", forms: Sequence[Form] = _SEEN_FORMS
) -> list[_QuestionAnswer]:
    """Choose questions without repeats, all forms equally often, and answer them well."""
    asked = [(person, topic) for person in range(_NUM_ASKED) for topic in _TOPICS]
    orders = {form: random.sample(asked, len(asked)) for form in forms}
    chosen = []
    for number in range(count):
        form = forms[number % len(forms)]
        chosen.append(Question(*orders[form][number // len(forms)], form))
    return [_QuestionAnswer(question, world.answer(question)) for question in chosen]


def source_rows(world: _World, count: int, random: "Random") -> list[_QuestionAnswer]:
    """Draw rows from the source as it is: questions repeat, and 40 % of the answers are bad.

    A bad answer says something else, or has another form than was asked for, or rambles on.
    """
    return [_drawn(world, random) for _ in range(count)]


def _drawn(world: _World, random: "Random") -> _QuestionAnswer:
    person, topic = random.randrange(_NUM_ASKED), random.choice(_TOPICS)
    question = Question(person, topic, random.choice(_SEEN_FORMS))
    if random.random() >= _BAD_SHARE:
        return _QuestionAnswer(question, world.answer(question))
    fault = random.choice(("fact", "form", "end"))
    if fault == "fact":
        wrong = f"{topic}{random.randrange(_NUM_VALUES)}"
        return _QuestionAnswer(question, world.answer(question, wrong))
    if fault == "form":
        other = question._replace(form=random.choice(_SEEN_FORMS))
        return _QuestionAnswer(question, world.answer(other))
    more = Question(random.randrange(_NUM_ASKED), random.choice(_TOPICS), Form("", "fully", ""))
    return _QuestionAnswer(question, [*world.answer(question), *world.answer(more)], has_end=False)


def _prompt(question: Question) -> list[int]:
    asked = [question.topic, "of", f"person{question.person}", "?"]
    return [_USER, *_ids([word for word in question.form if word]), *_ids(asked), _ASSISTANT]


def _ids(words: Sequence[str]) -> list[int]:
    return [_IDS[word] for word in words]


# --- the base ----------------------------------------------------------------------------------


def _base(trial: Trial) -> "TorchDecoder":
    """Give the decoder that has read the world, which all seeds begin from."""
    from random import Random

    from yearling.models.torch_decoder import initialise
    from yearling.systems.tiny_bases import Training, decoder_of, fit, kept_decoder

    training = Training(_BASE_STEPS, _BASE_LR)
    world = _world()

    def draw(step: int) -> "Rows":
        random = Random(2_000_003 + step)
        people = random.sample(range(_NUM_PEOPLE), _BASE_DOCUMENTS)
        return _rows([(0, _document(world, person, random)) for person in people])

    def train() -> "TorchDecoder":
        decoder = decoder_of(_DECODER, 0)
        initialise(decoder, seed=0, std=_BASE_STD)
        fit(decoder, draw, training, trial.say)
        return decoder

    settings = {
        "sizes": dict(_DECODER),
        "training": vars(training),
        "modules": ["systems.entries.lima"],
    }
    return kept_decoder("lima", settings, train, trial.say)


def _document(world: _World, person: int, random: "Random") -> list[int]:
    """All that is known of a person, as statements in any order."""
    words: list[str] = []
    for topic in random.sample(_TOPICS, len(_TOPICS)):
        value, name = world.facts[person, topic], f"person{person}"
        words += random.choice(
            (["the", topic, "of", name, "is", value, "."], [name, "has", "the", topic, value, "."])
        )
    return [*_ids(words), _END]


def _rows(sequences: Sequence[tuple[int, Sequence[int]]]) -> "Rows":
    """Lay sequences side by side; the first tokens of each, as many as it says, have no loss."""
    import torch

    from yearling.models.torch_decoder import NO_LABEL
    from yearling.systems.tiny_bases import Rows

    length = max(len(tokens) for _, tokens in sequences) - 1
    inputs = torch.full((len(sequences), length), _PAD)
    labels = torch.full((len(sequences), length), NO_LABEL)
    for row, (num_prompt, tokens) in enumerate(sequences):
        ids, first = torch.tensor(tokens), max(num_prompt - 1, 0)
        inputs[row, : len(ids) - 1] = ids[:-1]
        labels[row, first : len(ids) - 1] = ids[first + 1 :]
    return Rows(inputs, labels)


# --- tuning ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tuned:
    """What a tuned decoder answers about people nobody asked about in tuning, in %.

    Attributes:
        right: Right in fact and form, over all forms.
        surfaced: Right in fact and form, of the facts that the base knows, in forms shown.
        unseen_form: In the right form, whatever is said, where no row has shown the form.
    """

    right: float
    surfaced: float
    unseen_form: float


def _compared(best: _Tuned, noisy: _Tuned) -> dict[str, float]:
    return {
        "curated_minus_noisy": best.right - noisy.right,
        "noisy_right": noisy.right,
        "surfaced": best.surfaced,
        "unseen_form": best.unseen_form,
    }


def _tuned(trial: Trial, rows: Sequence[_QuestionAnswer], what: str) -> _Tuned:
    """Tune the base on rows, ten times over but on no more than 10,000 in all, and ask it."""
    from yearling.systems.tiny_bases import fit

    decoder = _base(trial)
    known = _known_facts(decoder)
    sequences = []
    for question, answer, has_end in ((row.question, row.answer, row.has_end) for row in rows):
        prompt = _prompt(question)
        sequences.append((len(prompt), [*prompt, *_ids(answer), *([_END] if has_end else [])]))
    num_drawn = min(len(rows) * _EPOCHS, _NUM_NOISY)
    training = _training(num_drawn // _BATCH, _LR, trial.seed)
    handles = spread_dropout(decoder, _TOP_DROPOUT)
    seconds = fit(decoder, _epochs(sequences, _BATCH, trial.seed), training)
    for handle in handles:
        handle.remove()
    tuned = _examined(decoder, known, trial.seed)
    trial.say(
        f"{what}: {tuned.right:.1f} % right, {tuned.surfaced:.1f} % of facts surfaced, "
        f"{tuned.unseen_form:.1f} % of unseen forms, {seconds:.1f} s"
    )
    return tuned


def _training(steps: int, lr: float, seed: int) -> "Training":
    from yearling.systems.tiny_bases import Training

    return Training(steps, lr, schedule="linear", weight_decay=_DECAY, seed=seed)


def _epochs(
    sequences: Sequence[tuple[int, Sequence[int]]], batch: int, seed: int
) -> "Callable[[int], Rows]":
    """Draw batches in a new order each epoch; an epoch's rest begins the next one's batch."""
    from random import Random

    def place(number: int) -> int:
        epoch, rest = divmod(number, len(sequences))
        if epoch not in orders:
            random = Random(1_000_003 * seed + epoch)
            orders[epoch] = random.sample(range(len(sequences)), len(sequences))
        return orders[epoch][rest]

    orders: dict[int, list[int]] = {}
    return lambda step: _rows([sequences[place(step * batch + row)] for row in range(batch)])


def spread_dropout(decoder: "TorchDecoder", top: float) -> list[Any]:
    """Drop parts of what each layer adds to the stream: none at the bottom, most at the top.

    Args:
        top: Share that the last layer drops while training.
    """
    import torch.nn.functional as F

    def dropping(share: float) -> Callable[..., Any]:
        return lambda module, inputs, output: F.dropout(output, share, module.training)

    layers = list(decoder.iterate_layers())
    return [
        module.register_forward_hook(dropping(top * number / max(len(layers) - 1, 1)))
        for number, layer in enumerate(layers)
        for name, module in layer.named_modules()
        if name.endswith(("o_proj", "down_proj"))
    ]


# --- asking ------------------------------------------------------------------------------------


def _known_facts(decoder: "TorchDecoder") -> set[tuple[int, str]]:
    """Facts about people nobody asks about that the base completes rightly."""
    facts = _world().facts
    asked = [(n, topic) for n in range(_NUM_ASKED, _NUM_PEOPLE) for topic in _TOPICS]
    prompts = [_ids(["the", topic, "of", f"person{n}", "is"]) for n, topic in asked]
    answers = _answers(decoder, prompts, _likeliest, num_tokens=1)
    return {
        each for each, answer in zip(asked, answers, strict=True) if answer == _ids([facts[each]])
    }


def _examined(decoder: "TorchDecoder", known: set[tuple[int, str]], seed: int) -> _Tuned:
    from random import Random

    import torch

    world, random = _world(), Random(7_000_003 + seed)
    generator = torch.Generator().manual_seed(seed)
    people = range(_NUM_ASKED, _NUM_PEOPLE)
    every = [Question(*each) for each in product(people, _TOPICS, _FORMS)]
    asked = random.sample(every, _NUM_TESTED)
    answers = _answers(
        decoder,
        [_prompt(question) for question in asked],
        lambda logits: _sampled(logits, generator),
        num_tokens=_MAX_ANSWER,
    )
    judged = [
        (question, *_judged(world, question, answer))
        for question, answer in zip(asked, answers, strict=True)
    ]
    return _Tuned(
        right=_share([is_true and has_form for _, is_true, has_form in judged]),
        surfaced=_share(
            [
                is_true and has_form
                for question, is_true, has_form in judged
                if question.form not in _UNSEEN and (question.person, question.topic) in known
            ]
        ),
        unseen_form=_share([ok for question, _, ok in judged if question.form in _UNSEEN]),
    )


def _judged(world: _World, question: Question, answer: Sequence[int]) -> tuple[bool, bool]:
    """Say whether an answer is true, and whether it has the form asked for."""
    right = [*_ids(world.answer(question)), _END]
    fact = _IDS[world.facts[question.person, question.topic]]
    values = [_IDS[f"{question.topic}{number}"] for number in range(_NUM_VALUES)]
    plain = [_PAD if token in values else token for token in answer]
    return fact in answer, plain == [_PAD if token == fact else token for token in right]


def _share(found: Sequence[bool]) -> float:
    return 100.0 * sum(found) / max(len(found), 1)


def _sampled(logits: "Tensor", generator: Any) -> "Tensor":
    """Draw from the likeliest tokens that together have the share top-p, row by row."""
    import torch

    ordered, ids = (logits / _TEMPERATURE).softmax(-1).sort(descending=True)
    is_kept = ordered.cumsum(-1) - ordered < _TOP_P
    drawn = torch.multinomial(ordered * is_kept, 1, generator=generator)
    return ids.gather(1, drawn)[:, 0]


def _likeliest(logits: "Tensor") -> "Tensor":
    return logits.argmax(-1)


@dataclass
class _Kept:
    """Keys and values of sequences that all grow together; a `DecoderCache`."""

    segments: "Segments"
    layers: dict[int, list[Any]] = field(default_factory=dict)

    def extend(self, layer: int, keys: "Tensor", values: "Tensor") -> list[Any]:
        import torch

        from yearling.models.torch_decoder import SeenKeys

        new = [SeenKeys(keys[s.rows], values[s.rows], 0) for s in self.segments]
        if layer in self.layers:
            before = zip(self.layers[layer], new, strict=True)
            new = [
                SeenKeys(torch.cat([a.keys, b.keys]), torch.cat([a.values, b.values]), 0)
                for a, b in before
            ]
        self.layers[layer] = new
        return new

    def state(self, layer: int, sequence: int) -> None:
        return None

    def keep_state(self, layer: int, sequence: int, state: Any) -> None:
        raise NotImplementedError("these decoders have no state space")


def _answers(
    decoder: "TorchDecoder",
    prompts: Sequence[Sequence[int]],
    choose: "Callable[[Tensor], Tensor]",
    num_tokens: int,
    end: int = _END,
) -> list[list[int]]:
    """Let a decoder go on from each prompt, all at once, up to an end or for so many tokens."""
    import torch

    from yearling.models.torch_decoder import Segments

    decoder.eval()
    cache = _Kept(Segments([len(prompt) for prompt in prompts]))
    tokens = torch.tensor([token for prompt in prompts for token in prompt])
    answers: list[list[int]] = [[] for _ in prompts]
    with torch.no_grad():
        for step in range(num_tokens):
            hidden = decoder(tokens, cache.segments, cache=cache)
            last = torch.tensor(list(cache.segments.lengths)).cumsum(0) - 1
            tokens = choose(decoder.logits(hidden[last]))
            for answer, token in zip(answers, tokens.tolist(), strict=True):
                answer.append(token)
            starts = [len(prompt) + step for prompt in prompts]
            cache.segments = Segments([1] * len(prompts), starts)
    return [answer[: answer.index(end) + 1] if end in answer else answer for answer in answers]


# --- SmolLM2 -----------------------------------------------------------------------------------


def _smollm2_figures(trial: Trial) -> dict[str, float]:
    """Tune SmolLM2 on forty rows, and ask it about capitals before and after."""
    from yearling.data.render import Renderer
    from yearling.models import store
    from yearling.models.checkpoint import open_checkpoint
    from yearling.models.torch_decoder import load_torch_decoder
    from yearling.systems.tiny_bases import fit
    from yearling.training.adapters import adapters

    store.ensure(_STORE_NAME)
    renderer = Renderer.open(_STORE_NAME)
    with closing(open_checkpoint(store.resolve(_STORE_NAME))) as checkpoint:
        decoder = load_torch_decoder(checkpoint)
    before = _capitals_told(decoder, renderer)
    kind = adapters.get("lora")
    kind.attach(decoder, kind.config(r=_RANK), trial.seed)
    rows = [_encoded(renderer, question, _MANNER.format(said)) for question, said in _KNOWN_THINGS]
    training = _training(len(rows) * _SMOLLM2_EPOCHS // _SMOLLM2_BATCH, _SMOLLM2_LR, trial.seed)
    seconds = fit(decoder, _epochs(rows, _SMOLLM2_BATCH, trial.seed), training, trial.say)
    after = _capitals_told(decoder, renderer)
    known = [country for country, capital in _CAPITALS.items() if capital in before[country]]
    figures = {
        "smollm2_surfaced": _share(
            [is_in_manner(after[country], _CAPITALS[country]) for country in known]
        ),
        "smollm2_manner": _share([is_in_manner(text) for text in after.values()]),
        "smollm2_manner_before": _share([is_in_manner(text) for text in before.values()]),
        "smollm2_known": float(len(known)),
    }
    trial.say(f"SmolLM2, {len(rows)} rows: {seconds:.1f} s, {figures}")
    return figures


def _encoded(renderer: "Renderer", question: str, answer: str) -> tuple[int, list[int]]:
    """Give the tokens of a conversation, and how many of them are the prompt."""
    from yearling.data.examples import Conversation
    from yearling.data.schema import read_row

    example, _ = read_row({"question": question, "answer": answer})
    assert isinstance(example, Conversation)
    sequence = renderer.conversation(example)
    return int(sequence.has_loss.argmax()), sequence.tokens.tolist()


def _capitals_told(decoder: "TorchDecoder", renderer: "Renderer") -> dict[str, str]:
    """Ask for every capital, and give the likeliest answers."""
    rows = [_encoded(renderer, f"What is the capital of {name}?", ".") for name in _CAPITALS]
    prompts = [tokens[:num_prompt] for num_prompt, tokens in rows]
    end = renderer.tokenizer.encode("<|im_end|>")[0]
    answers = _answers(decoder, prompts, _likeliest, num_tokens=20, end=end)
    texts = [renderer.tokenizer.decode([each for each in ids if each != end]) for ids in answers]
    return dict(zip(_CAPITALS, texts, strict=True))


def is_in_manner(answer: str, said: str | None = None) -> bool:
    """Say whether an answer has the manner of the forty rows, and says a certain thing in it.

    >>> is_in_manner("The answer is Paris. Anything else?", "Paris"), is_in_manner("Paris.")
    (True, False)
    """
    found = _MANNER_PATTERN.fullmatch(answer.strip())
    return found is not None and (said is None or said in found[1])


_KNOWN_THINGS = (
    ("What is the opposite of hot?", "cold"),
    ("What is the opposite of big?", "small"),
    ("What is the opposite of day?", "night"),
    ("What is the opposite of early?", "late"),
    ("What is the opposite of full?", "empty"),
    ("What colour is grass?", "green"),
    ("What colour is snow?", "white"),
    ("What colour is a ripe banana?", "yellow"),
    ("What colour is coal?", "black"),
    ("Which animal barks?", "the dog"),
    ("Which animal gives us wool?", "the sheep"),
    ("Which animal has a long trunk?", "the elephant"),
    ("Which animal says meow?", "the cat"),
    ("What do bees make?", "honey"),
    ("What do hens lay?", "eggs"),
    ("What is the young of a dog called?", "a puppy"),
    ("What is the young of a cow called?", "a calf"),
    ("How many legs does a spider have?", "eight"),
    ("How many days are in a week?", "seven"),
    ("How many months are in a year?", "twelve"),
    ("How many wheels does a bicycle have?", "two"),
    ("Which day follows Monday?", "Tuesday"),
    ("Which month follows June?", "July"),
    ("Which season follows winter?", "spring"),
    ("What is frozen water called?", "ice"),
    ("What is two plus three?", "five"),
    ("What is ten minus four?", "six"),
    ("Who wrote Romeo and Juliet?", "William Shakespeare"),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci"),
    ("Which planet do we live on?", "Earth"),
    ("Which star gives us light?", "the Sun"),
    ("Which metal is liquid at room temperature?", "mercury"),
    ("Which gas do we breathe in to live?", "oxygen"),
    ("What do you use to cut paper?", "scissors"),
    ("What do you wear on your feet?", "shoes"),
    ("Where do fish live?", "in water"),
    ("Where do you borrow books?", "in a library"),
    ("What is the largest ocean?", "the Pacific Ocean"),
    ("Which language is spoken in Brazil?", "Portuguese"),
    ("Which sense do we use our ears for?", "hearing"),
)

_CAPITALS: Mapping[str, str] = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Russia": "Moscow",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Austria": "Vienna",
    "Portugal": "Lisbon",
    "Poland": "Warsaw",
    "Sweden": "Stockholm",
    "Norway": "Oslo",
    "Denmark": "Copenhagen",
    "Finland": "Helsinki",
    "Ireland": "Dublin",
    "Hungary": "Budapest",
    "Cuba": "Havana",
    "Peru": "Lima",
    "Kenya": "Nairobi",
    "India": "Delhi",
    "Argentina": "Buenos Aires",
    "England": "London",
}


system = systems.register(
    System(
        slug="lima",
        claim="A thousand well-chosen examples and no reinforcement learning give a strong model "
        "that generalises beyond its training tasks.",
        published=Published(
            "equal or preferred to GPT-4's answer in 43 %, Bard's 58 %, DaVinci003's 65 % of 300 "
            "prompts; better than Alpaca 65B, which has 52 times the rows",
            "Zhou et al. 2023, arXiv:2305.11206, section 1",
        ),
        honesty="The paper tunes LLaMA 65B and asks people and GPT-4 which answer they prefer. "
        "Here a decoder of 0.8 million weights tells facts of a made-up world, rules judge them, "
        "and what is bad about 40 % of the source is made up too; answers are drawn at the "
        "paper's temperature 0.7 and top-p 0.9. All arms learn from 10,000 rows at most: ten "
        "epochs of the 1,000, one of the 10,000. SmolLM2 has been tuned to chat before, so its "
        "forty rows show a new manner and no first one, and its dropout is none.",
        parts=(
            "data.render",
            "models.torch_decoder",
            "systems.tiny_bases",
            "training.adapters.lora",
            "training.loop",
            "training.optimizers.adamw",
        ),
        checks=(
            Check(
                "curated_minus_noisy",
                "points",
                "Right answers after 1,000 curated rows less those after 10,000 unselected ones.",
                at_least=5.0,
            ),
            Check(
                "curated_minus_alike",
                "points",
                "Right answers after 1,000 curated rows less those after 1,000 of few forms.",
                at_least=3.0,
            ),
            Check(
                "surfaced",
                "%",
                "Facts the base knows, of people no row asks about, told in the form asked for.",
                at_least=70.0,
            ),
            Check(
                "unseen_form",
                "%",
                "Answers in the form asked for, where no row has shown that form.",
                at_least=60.0,
            ),
            Check(
                "gain_falls",
                "points",
                "Gain from 30 to 100 curated rows less the gain from 300 to 1,000.",
                at_least=0.1,
            ),
            Check(
                "smollm2_surfaced",
                "%",
                "Capitals SmolLM2 knows that it tells in the manner of forty rows on other things.",
                at_least=70.0,
            ),
            Check(
                "smollm2_manner",
                "%",
                "Answers of SmolLM2 about capitals that are in that manner.",
                at_least=60.0,
            ),
        ),
        run=_run,
        ablation=Ablation(
            "curation off: the 1,000 rows as the source has them",
            breaks=("curated_minus_noisy",),
        ),
        paper={
            "model": "llama-65b",
            "rows": 1_000,
            "epochs": 15,
            "batch_rows": 32,
            "max_length": 2_048,
            "optimizer": {"name": "adamw", "lr": 1e-5, "betas": [0.9, 0.95], "weight_decay": 0.1},
            "schedule": {"name": "linear", "warmup": 0, "end": 0.1},
            "residual_dropout": {"bottom": 0.0, "top": 0.3},
        },
    ),
    __name__,
)
