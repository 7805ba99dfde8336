"""What a training step costs without padding: prints a Markdown table, writes results/training_step.json.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --rounds 5 --out /tmp/a

MiniLM with a classifier, one thread, float32: a batch of 32 ragged texts (random ids; lengths log-normal around 25
tokens, the longest 100), forward, backward and AdamW. The padded step, the same with torch's fused attention and the
packed step take turns, each on a model of its own, the first one another each round; a ratio is that of two times of
the same round.
"""

import argparse
import json
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
from speed import HERE, machine, ragged
from torch import Tensor, nn

from minibert.classify import BertForSequenceClassification
from minibert.training import parameter_groups
from minibert.walk import minilm_folder

ROWS, LABELS = 32, 2
STEPS = {"padded": "eager", "padded, fused attention": "sdpa", "packed": "eager"}


def batch(vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    "Ids, mask and labels."
    lengths = torch.tensor(ragged(ROWS, np.random.default_rng(0)))
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, vocab, mask.shape, generator=generator) * mask  # 0 is [PAD]
    return ids, mask, torch.randint(LABELS, (ROWS,), generator=generator)


def step_of(name: str, inputs: tuple[Tensor, Tensor, Tensor]) -> Callable[[], float]:
    "One training step on a model of its own, which returns the loss."
    torch.manual_seed(0)  # for the new head
    model = BertForSequenceClassification.from_pretrained(
        minilm_folder(), new_head=True, num_labels=LABELS, attn_implementation=STEPS[name]
    ).train()
    for module in model.modules():  # as on the fine-tuning page; then the losses can be compared, too
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer, (ids, mask, labels) = torch.optim.AdamW(parameter_groups(model, 0.01), lr=1e-5), inputs
    bert: Any = model.bert

    def step() -> float:
        if name == "packed":
            pooled = bert.packed(ids, mask, only_pooled=True).pooler_output
            loss = nn.functional.cross_entropy(model.classifier(model.dropout(pooled)), labels)
        else:
            loss = model(ids, mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def measure(rounds: int) -> dict[str, Any]:
    "Seconds of each step, and the ratios to the packed one."
    inputs = batch(vocab=30522)
    steps = {name: step_of(name, inputs) for name in STEPS}
    losses = [step() for step in steps.values()]  # warms up
    if max(losses) - min(losses) > 1e-5:
        raise RuntimeError(f"the losses of the first steps are {losses}, expected the same three times")
    names: list[str] = list(steps)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds):
        for name in names[i % 3 :] + names[: i % 3]:
            start = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - start)
    rows = {}
    for name in names:
        ratios = [mine / packed for mine, packed in zip(times[name], times["packed"], strict=True)]
        low, ratio, high = quantiles(ratios, n=4, method="inclusive")
        rows[name] = {"ms": 1000 * median(times[name]), "ratio": ratio, "low": low, "high": high}
    tokens = {"visible": int(inputs[1].sum()), "with padding": inputs[1].numel()}
    return {"date": date.today().isoformat(), "machine": machine(), "rounds": rounds, "tokens": tokens, "steps": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="how often each step is timed, at least 2")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="the folder of the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = measure(options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "training_step.json").write_text(json.dumps(results, indent=1) + "\n")
    tokens = results["tokens"]
    print("| step of 32 texts | token vectors in each layer | ms | times as long as packed | middle half |")
    print("|---|---|---|---|---|")
    for name, row in results["steps"].items():
        count = tokens["visible" if name == "packed" else "with padding"]
        spread = f"{row['low']:.2f} to {row['high']:.2f}"
        print(f"| {name} | {count} | {row['ms']:.0f} | {row['ratio']:.2f} | {spread} |")


if __name__ == "__main__":
    main()
