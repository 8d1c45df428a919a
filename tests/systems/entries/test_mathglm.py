"""What MathGLM's arms are taught: whole texts, loss behind the first sign of equality alone."""

import torch

from yearling.models.torch_decoder import NO_LABEL
from yearling.systems.entries import mathglm

ALPHABET = "\n=0123456789+-*()"


def written(codes: torch.Tensor) -> str:
    return "".join(ALPHABET[code] for code in codes.tolist())


def test_rows_hold_whole_texts_and_label_what_is_to_be_found() -> None:
    texts = [mathglm.text_of(expression, "steps") for expression in ("1+2-3", "40*2+1", "7-9+8")]
    rows = mathglm.rows_of_texts([*texts, "1+1=2\n"], 2, 60)
    assert rows.tokens.shape == rows.labels.shape == (2, 60)
    assert written(rows.tokens[0]).rstrip("\n") == "\n" + texts[0] + texts[1].rstrip("\n")
    assert written(rows.tokens[1]).startswith("\n" + texts[2])
    labelled = rows.labels[0] != NO_LABEL
    assert written(rows.labels[0][labelled]) == "0003-0003=0000\n" + "0080+0001=0081\n"
    assert torch.equal(rows.labels[0][:-1][labelled[:-1]], rows.tokens[0][1:][labelled[:-1]])


def test_numbers_of_every_step_have_one_width() -> None:
    assert mathglm.text_of("12-(5-40)", "steps") == "0012-(0005-0040)=0012-(-0035)=0047\n"


def test_only_the_last_number_counts() -> None:
    answers = ["0080+0001=0081", "0080+0001=0082", "0081=0080", "0081="]
    assert mathglm.exact_share(answers, ["40*2+1"] * 4) == 25
