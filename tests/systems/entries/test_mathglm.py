"""What MathGLM's arms are taught: whole texts, loss behind the first sign of equality alone."""

import torch

from yearling.models.torch_decoder import NO_LABEL
from yearling.systems.entries import mathglm

ALPHABET = "\n=0123456789+-*()"


def written(codes: torch.Tensor) -> str:
    return "".join(ALPHABET[code] for code in codes.tolist())


def test_rows_hold_whole_texts_and_label_what_is_to_be_found() -> None:
    texts = [mathglm.text_of(expression, "steps") for expression in ("1+2-3", "40*2+1", "7-9+8")]
    rows = mathglm.rows_of_texts([*texts, "1+1=2\n"], 2, 30)
    assert rows.tokens.shape == rows.labels.shape == (2, 30)
    assert written(rows.tokens[0]).rstrip("\n") == "\n" + texts[0] + texts[1].rstrip("\n")
    assert written(rows.tokens[1]).startswith("\n" + texts[2])
    labelled = rows.labels[0] != NO_LABEL
    assert written(rows.labels[0][labelled]) == "3-3=0\n" + "80+1=81\n"
    assert torch.equal(rows.labels[0][:-1][labelled[:-1]], rows.tokens[0][1:][labelled[:-1]])


def test_only_the_last_number_counts() -> None:
    assert mathglm.exact_share(["80+1=81", "80+1=82", "81=80"], ["40*2+1"] * 3) == 100 / 3
