"""What it costs to get from nothing to the first output: prints a Markdown table.

    python benchmarks/cold_start.py             # all rows
    python benchmarks/cold_start.py --rounds 3  # quicker, and noisier

Each row is a new process with one thread: it imports, loads a checkpoint from a local folder and computes the vectors
of 16 tokens. The floor imports torch and reads the bytes of the weights, which no program can do without. The
processes take turns, so that whatever else the machine does falls on all of them; what is counted is processor time
and the highest resident memory.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles

from minibert.walk import minilm_folder

BYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss
FORWARD = "with torch.no_grad(): model(torch.arange(1, 17)[None])"
LOADED = "model = BertModel.from_pretrained({folder!r}{options})\n" + FORWARD
PROGRAMS = {
    "torch alone": "",
    "torch, and the bytes": "open({folder!r} + '/model.safetensors', 'rb').read()",
    "minibert": "from minibert.model import BertModel\n" + LOADED.replace("{options}", ""),
    "minibert, `mmap=True`": "from minibert.model import BertModel\n" + LOADED.replace("{options}", ", mmap=True"),
    "transformers": "from transformers import BertModel\n"
    + LOADED.replace("{options}", ", attn_implementation='eager'"),
}
SAVED = """from minibert.config import BertConfig
from minibert.model import BertModel
BertModel(BertConfig()).save_pretrained({folder!r})"""
REPORT = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


def run(program: str, folder: Path) -> tuple[float, float]:
    "Processor time in seconds and peak memory in megabytes of a new process."
    lines = ["import torch; torch.set_num_threads(1)", program.format(folder=str(folder)), REPORT]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, stdout=subprocess.PIPE).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, int(output.split()[-1]) * BYTES / 1e6


def table(name: str, folder: Path, rounds: int) -> None:
    "Print the rows of one checkpoint."
    results: dict[str, list[tuple[float, float]]] = {program: [] for program in PROGRAMS}
    for _ in range(rounds + 1):
        for program, text in PROGRAMS.items():
            results[program].append(run(text, folder))
    size = (folder / "model.safetensors").stat().st_size / 1e6
    floor = [seconds for seconds, _ in results["torch, and the bytes"][1:]]
    empty = median(memory for _, memory in results["torch alone"][1:])
    for program, pairs in results.items():
        seconds, memory = zip(*pairs[1:], strict=True)  # the first round warms the system's cache
        low, ratio, high = quantiles([a / b for a, b in zip(seconds, floor, strict=True)], n=4)
        above = (median(memory) - empty) / size
        row = f"{name} | {program} | {median(seconds):.2f} | {ratio:.2f} | {low:.2f} to {high:.2f} | {above:.2f}"
        print(f"| {row} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, help="how often each program is run")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    print("| checkpoint | program | processor time (s) | to the floor | middle half | memory above torch / weights |")
    print("|---|---|---|---|---|---|")
    table("MiniLM, 91 MB", minilm_folder(), options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        run(SAVED, Path(folder))  # in a process of its own: a new process inherits the peak of the one that starts it
        table("bert-base, 438 MB", Path(folder), options.rounds)


if __name__ == "__main__":
    main()
