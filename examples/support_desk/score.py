"""Ask served models every question of a CSV file, and count the answers that are exactly right.

    python score.py held_out.csv smollm2 desk [--system desks.txt] [--url http://127.0.0.1:8000]

`--system` puts a text before every question: the list of desks, as one would try first.
"""

import argparse
import csv
import json
from pathlib import Path
from urllib.request import Request, urlopen


def ask(url: str, model: str, messages: list[dict[str, str]]) -> str:
    """Give the model's likeliest answer, without spaces around it."""
    body = {"model": model, "messages": messages, "max_tokens": 16, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    request = Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urlopen(request, timeout=60) as response:
        answer: str = json.load(response)["choices"][0]["message"]["content"]
    return answer.strip()


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--system", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    chosen = parser.parse_args()
    with chosen.rows.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    told = chosen.system and [{"role": "system", "content": chosen.system.read_text("utf-8")}]
    for model in chosen.models:
        num_right = 0
        for row in rows:
            messages = [*(told or ()), {"role": "user", "content": row["question"]}]
            num_right += ask(chosen.url, model, messages) == row["answer"]
        print(f"{model}: {num_right} of {len(rows)} right, {100 * num_right / len(rows):.1f} %")


if __name__ == "__main__":
    main()
