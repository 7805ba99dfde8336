"""Time and memory against length and batch, and the roofline: writes scale.json, .md and two figures to results/.

    python benchmarks/scale.py                                       # about five minutes, one thread
    python benchmarks/scale.py --models minilm --lengths 16 128 --batches 4 --rounds 2 --out /tmp/a
    python benchmarks/scale.py --report                              # the tables and the figures again, from the JSON

Random weights of two sizes, and a position table of 4,096. The reading path is the plain model with eager attention on
a padded batch, the others are `packed` on prepared weights. Each point is a process of its own that begins with the
model ready: by how much its first forward raises the highest resident memory, and the median time of those after it;
where the first takes more than ALONE seconds, it is the only one. The rates of the machine, and the floor, which is
what the matrix products of a forward take by themselves, are measured with the kernels that `prepare` calls.
"""

import argparse
import ctypes
import json
import multiprocessing
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch
from scale_report import PATHS, SEQ, write_report
from speed import HERE, machine
from torch import Tensor

from minibert.config import BertConfig, forward_flops
from minibert.model import BertModel
from minibert.prepare import ready_float

BYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss
FORK: Any = multiprocessing.get_context("fork")
ALONE = 1.5  # seconds
LARGEST = 512e6  # bytes: the eager path stops where the probabilities of a layer are larger
LONGEST = 4096
MODELS: dict[str, dict[str, Any]] = {
    "bert-base": {},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
}
LENGTHS = [16, 64, 128, 256, 512, 1024, 2048, 4096]
BATCHES = [1, 4, 16, 64]
SHAPES = [(512, 768, 768), (1024, 768, 3072), (1024, 3072, 768), (2048, 1024, 1024), (1024, 384, 1536)]
BUFFER = 2**28  # bytes: much more than a cache has
FLOOR = 8, 128


class Products(NamedTuple):
    "As many products as `number`, of `rows` × `inner` with `inner` × `columns`."

    number: int
    rows: int
    inner: int
    columns: int
    weights: bool = True  # or the queries, keys and values of a text

    def flops(self) -> int:
        return 2 * self.number * self.rows * self.inner * self.columns


def config_of(model: str) -> BertConfig:
    return BertConfig(max_position_embeddings=LONGEST, **MODELS[model])


def products_of(config: BertConfig, batch: int, seq: int) -> list[Products]:
    "Those of a forward pass with prepared weights."
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    heads, tokens = config.num_attention_heads, batch * seq
    shapes = [(hidden, 3 * hidden), (hidden, hidden), (hidden, inner), (inner, hidden)]
    found = [Products(layers, tokens, *shape) for shape in shapes] + [Products(1, batch, hidden, hidden)]
    pairs = [(seq, hidden // heads, seq), (seq, seq, hidden // heads)]
    found += [Products(layers * batch * heads, *shape, weights=False) for shape in pairs]
    if sum(each.flops() for each in found) != sum(forward_flops(config, batch, seq).values()):
        raise RuntimeError("the products are not those of the forward pass")
    return found


def traffic(config: BertConfig, batch: int, seq: int, precision: str) -> int:
    "Bytes that a forward must move: of each product with weights all three matrices, of the attention q, k, v, result."
    given, result = {"float32": (4, 4), "bfloat16": (2, 2), "int8": (1, 4)}[precision]
    moved = config.num_hidden_layers * 4 * batch * seq * config.hidden_size * result
    for number, rows, inner, columns, weights in products_of(config, batch, seq):
        moved += weights * number * ((rows + columns) * inner * given + rows * columns * result)
    return moved


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES


def apart(function: Callable[..., Any], *args: Any) -> Any:
    "What a function returns in a process of its own; a `MemoryError` if that is killed."
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=lambda: theirs.send(function(*args)))
    process.start()
    theirs.close()
    with suppress(EOFError):
        result = ours.recv()
    process.join()
    if process.exitcode == -signal.SIGKILL:
        raise MemoryError(f"{function.__name__} was killed")
    if process.exitcode:
        raise RuntimeError(f"{function.__name__} failed, see above")
    return result


def forward_of(model: Any, path: str, batch: int, seq: int) -> Callable[[], Any]:
    ids = torch.randint(1000, model.config.vocab_size, (batch, seq), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    return lambda: (model if path == "eager" else model.packed)(ids, mask)


def point(model: Any, path: str, batch: int, seq: int, rounds: int) -> dict[str, float]:
    "Time and memory of one workload, in a process that does nothing else."
    forward_of(model, path, 1, 8)()  # the code of the kernels is memory, too
    forward, before = forward_of(model, path, batch, seq), peak()
    times = [seconds(forward)]
    more = peak() - before
    if times[0] <= ALONE:
        times = [seconds(forward) for _ in range(rounds)]
    return {"ms": 1000 * median(times), "least": 1000 * min(times), "most": 1000 * max(times), "mb": more / 1e6}


def ready(name: str, path: str) -> Any:
    "A model whose weights are ready, with no memory left over from making them so."
    torch.manual_seed(0)
    model: Any = BertModel(config_of(name)).eval()
    if path != "eager":
        model.prepare(getattr(torch, path))
    forward_of(model, path, 1, 8)()
    with suppress(AttributeError, OSError):  # it is glibc that keeps some
        ctypes.CDLL(None).malloc_trim(0)
    return model


def points_of(name: str, path: str, workloads: list[tuple[int, int]], rounds: int) -> list[dict[str, Any]]:
    "All points of a model on one path, each in a process of its own."
    model, found = ready(name, path), []
    for batch, seq in workloads:
        row: dict[str, Any] = {"model": name, "path": path, "batch": batch, "seq": seq}
        size = 4 * batch * model.config.num_attention_heads * seq**2
        if path == "eager" and size > LARGEST:
            row["left_out"] = f"not run: {size / 1e6:.0f} MB of probabilities in each layer"
        else:
            try:
                row |= apart(point, model, path, batch, seq, rounds)
            except MemoryError:
                row["left_out"] = "killed: too little memory"
        if path != "eager":
            row["flop_per_byte"] = sum(forward_flops(model.config, batch, seq).values())
            row["gflops"] = row["flop_per_byte"] / row["ms"] / 1e6 if "ms" in row else None
            row["flop_per_byte"] /= traffic(model.config, batch, seq, path)
        found.append(row)
        print(f"  {name}, {path}, {batch} × {seq}: {row.get('left_out') or '{ms:.1f} ms, {mb:.0f} MB'.format(**row)}")
        sys.stdout.flush()
    return found


def multiplier(precision: str, products: Products) -> Callable[[], Tensor]:
    "One of these products as `prepare` computes it, or all those of a layer's attention at once."
    number, rows, inner, columns, weights = products
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    if not weights:
        left, right = (torch.randn(number, *shape, generator=generator) for shape in [(rows, inner), (inner, columns)])
        left, right = left.to(dtype), right.to(dtype)
        return lambda: torch.bmm(left, right)
    x, weight, bias = torch.randn(rows, inner), torch.randn(columns, inner, generator=generator), torch.zeros(columns)
    if precision != "int8":
        x, product = x.to(dtype), ready_float(weight, bias, dtype, "none")
        return lambda: product(x)
    tokens = torch.randint(256, x.shape, generator=generator).to(torch.uint8)
    whole = torch.randint(-127, 128, weight.shape, generator=generator).to(torch.int8)
    ordered, steps = torch.ops.onednn.qlinear_prepack(whole, None), torch.ones(columns)
    zeros = torch.zeros(columns, dtype=torch.int32)
    wanted: Any = 1.0, 0, torch.float32, "none", [], "none"
    multiply: Any = torch.ops.onednn.qlinear_pointwise
    return lambda: multiply(tokens, 1.0, 128, ordered, steps, zeros, bias, *wanted)


def rate(precision: str, rounds: int) -> dict[str, Any]:
    "The best rate of several shapes."
    best: dict[str, Any] = {"gflops": 0.0}
    for shape in SHAPES:
        products = Products(1, *shape)
        multiply = multiplier(precision, products)
        multiply()
        fastest = min(seconds(multiply) for _ in range(5 * rounds))
        if products.flops() / fastest / 1e9 > best["gflops"]:
            best = {"gflops": products.flops() / fastest / 1e9, "shape": shape}
    return best


def bandwidth(rounds: int) -> dict[str, float]:
    "Gigabytes in a second: reading, and copying, which reads and writes."
    source = torch.ones(BUFFER // 4)
    target = torch.zeros_like(source)
    read = min(seconds(source.sum) for _ in range(rounds + 1))
    copied = min(seconds(lambda: target.copy_(source)) for _ in range(rounds + 1))
    return {"read": BUFFER / read / 1e9, "copy": 2 * BUFFER / copied / 1e9}


def floor(precision: str, rounds: int) -> dict[str, float]:
    "Of bert-base's forward the share that its matrix products take by themselves, at the same shapes."
    model = ready("bert-base", precision)
    forward = forward_of(model, precision, *FLOOR)
    parts = []
    for each in products_of(model.config, *FLOOR):
        turns = each.number if each.weights else model.config.num_hidden_layers  # a layer's attention is one call
        parts.append((turns, multiplier(precision, each._replace(number=each.number // turns))))
    for run in [forward, *(multiply for _, multiply in parts)]:
        run()
    times, floors = [], []
    for _ in range(rounds):
        times.append(seconds(forward))
        floors.append([turns * median(seconds(multiply) for _ in range(3)) for turns, multiply in parts])
    shares = [sum(alone) / whole for alone, whole in zip(floors, times, strict=True)]
    low, share, high = quantiles(shares, n=4, method="inclusive")
    attention = median(sum(alone[-2:]) for alone in floors)  # scores and context
    figures = {"ms": median(times), "products_ms": median(map(sum, floors)), "attention_ms": attention}
    return {name: 1000 * value for name, value in figures.items()} | {"share": share, "low": low, "high": high}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    rounds: int = options.rounds
    results: dict[str, Any] = {"date": date.today().isoformat(), "machine": machine()}
    workloads = [(1, seq) for seq in options.lengths] + [(batch, SEQ) for batch in options.batches]
    workloads = list(dict.fromkeys(workloads))
    results |= {"torch": torch.__version__, "threads": 1, "rounds": rounds, "points": []}
    for name in options.models:
        for path in PATHS:
            results["points"] += apart(points_of, name, path, workloads, rounds)
    precisions = [path for path in PATHS if path != "eager"]
    results["rates"] = {precision: rate(precision, rounds) for precision in precisions}
    results["bandwidth"] = bandwidth(rounds)
    print("  the floor", flush=True)
    results["floor"] = {precision: apart(floor, precision, 2 * rounds + 1) for precision in precisions}
    return results


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS, help=f"of one text, at most {LONGEST}")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, help=f"texts of {SEQ} tokens")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="the folder of the results")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "scale.json"
    if not options.report:
        path.write_text(json.dumps(measure(options), indent=1) + "\n")
    write_report(json.loads(path.read_text()), options.out)


if __name__ == "__main__":
    main()
