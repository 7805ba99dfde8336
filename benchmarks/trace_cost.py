"""What recording costs, in time and in memory: prints two Markdown tables.

    python benchmarks/trace_cost.py             # both
    python benchmarks/trace_cost.py --rounds 5  # quicker, and noisier

Time: MiniLM, one thread. A plain forward, `record` and a copy of every recorded tensor take turns, so that whatever
else the machine does falls on all three; what is counted is the processor time of this process.
Memory: a random BERT of bert-base's size, 512 tokens, each in a process of its own: by how much `record` raises the
highest resident memory over that of the plain forward before it.
"""

import argparse
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import torch

from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.trace import record
from minibert.walk import minilm_folder

BYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss


def random_inputs(config: BertConfig, seq: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (1, seq), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


def seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def time_row(model: BertModel, seq: int, rounds: int) -> str:
    inputs = random_inputs(model.config, seq)
    trace = record(model, **inputs)
    tasks: list[Callable[[], Any]] = [
        lambda: model(**inputs),
        lambda: record(model, **inputs),
        lambda: [tensor.clone() for tensor in trace.values()],
    ]
    times = [[seconds(task) for task in tasks] for _ in range(rounds)]
    plain, recorded, copies = ([1000 * row[i] for row in times] for i in range(3))
    ratios = [(b - c) / a for a, b, c in zip(plain, recorded, copies, strict=True)]
    low, _, high = quantiles(ratios, n=4)
    cells = [f"{median(each):.1f}" for each in (plain, recorded, copies)] + [f"{median(ratios):.2f}"]
    return f"| {seq} | {' | '.join(cells)} | {low:.2f} to {high:.2f} |"


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES


def memory_row(keep: str) -> str:
    "Run in a process of its own, as the peak of a process never falls."
    model = BertModel(BertConfig()).eval()
    inputs = random_inputs(model.config, 512)
    model(**inputs)
    before = peak()
    trace = record(model, keep=keep, **inputs)
    more = peak() - before
    if keep == "values":
        size = sum(tensor.numel() * tensor.element_size() for tensor in trace.values())
    else:
        size = len(pickle.dumps(dict(trace)))
    return f"| `{keep}` | {len(trace)} | {size / 1e6:.2f} | {before / 1e6:.0f} | {more / 1e6:.0f} |"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31, help="how often each is timed")
    parser.add_argument("--memory", choices=["stats", "values"], help="print this row of the second table alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(memory_row(options.memory))
        return
    model = BertModel.from_pretrained(minilm_folder())
    print("| tokens | plain (ms) | `record` (ms) | copies (ms) | (`record` - copies) / plain | middle half |")
    print("|---|---|---|---|---|---|")
    for seq in (16, 64, 128):
        print(time_row(model, seq, options.rounds), flush=True)
    print("\n| `keep` | tensors | record (MB) | peak of the plain forward (MB) | beyond it (MB) |")
    print("|---|---|---|---|---|", flush=True)
    for keep in ("stats", "values"):
        subprocess.run([sys.executable, __file__, "--memory", keep], check=True)


if __name__ == "__main__":
    main()
