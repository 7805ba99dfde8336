"""How fast minibert is beside its peers, on the same weights: writes benchmarks/results/speed.json, .md and .svg.

    python benchmarks/speed.py                                    # all rows, one thread
    python benchmarks/speed.py --threads 2
    python benchmarks/speed.py --models minilm --workloads 1x16 ragged-32 --engines eager packed --rounds 3 --out /tmp/a
    python benchmarks/speed.py --report                           # the table and the figures again, from the JSON

Each engine is a process (peers.py) in an environment of its own, which is made on the first run in .bench (TORCH and
PIP_FLAGS mean what they mean in the Makefile). One engine computes at a time while the others sleep. A round runs each
of them once, the first one another each time, and a ratio is that of two times of the same round. `eager` is the base
of all ratios, and for `encode` it is `st`: these two are always run.
"""

import argparse
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
from peers import ENGINES, TENSORS
from speed_report import write_report

from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.walk import minilm_folder

HERE = Path(__file__).resolve().parent
BENCH = HERE.parent / ".bench"
TORCH = os.environ.get("TORCH", "torch==2.13.0")
REFERENCE = "4.43.4"
CONVERTS = [TORCH, f"transformers=={REFERENCE}"]
PINS = {
    "new": [TORCH, "transformers==5.24.0", "sentence-transformers==6.2.0"],
    "onnx": [*CONVERTS, "onnxruntime==1.32.0", "onnx==1.23.2", "onnxscript==0.7.2"],
    "openvino": [*CONVERTS, "openvino==2026.4.1", "nncf==3.4.0"],
    "ct2": [*CONVERTS, "ctranslate2==4.8.5"],
}
MODELS = ["bert-base", "minilm"]
BATCHES: dict[str, Any] = {
    "1x16": [16],
    "1x128": [128],
    "8x128": [128] * 8,
    "1x512": [512],
    "ragged-32": 32,
    "ragged-64": 64,
}
ENCODES: dict[str, Any] = {"encode-512": 512, "encode-64-alone": 64}  # sentences
BASES = {"forward": "eager", "encode": "st"}
SHORTEST = 0.03  # seconds: what takes less is repeated
FLAGS = ("avx2", "fma", "avx512", "avx_vnni", "amx")


def ragged(rows: int, rng: np.random.Generator) -> list[int]:
    "Log-normal around 25 tokens; the longest row has 100."
    lengths = np.clip(rng.lognormal(math.log(25), 0.6, rows).round().astype(int), 4, 100)
    lengths[lengths.argmax()] = 100
    return lengths.tolist()


def write_inputs(folder: Path) -> None:
    "One file for each workload."
    rng = np.random.default_rng(0)
    for name, rows in BATCHES.items():
        lengths = np.array(ragged(rows, rng) if isinstance(rows, int) else rows)
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = rng.integers(1000, 30522, mask.shape) * mask  # 0 is [PAD]
        ids[:, 0], ids[np.arange(len(ids)), lengths - 1] = 101, 102  # [CLS] and [SEP]
        tensors: dict[str, Any] = dict(zip(TENSORS, [ids, mask, np.zeros_like(ids)], strict=True))
        np.savez(folder / f"{name}.npz", **tensors)
    texts = np.array((HERE / "sentences.txt").read_text(encoding="utf-8").splitlines())
    for name, count in ENCODES.items():
        np.savez(folder / f"{name}.npz", texts=texts[:count], alone=np.array("alone" in name))


def write_checkpoint(model: str, folder: Path) -> None:
    "MiniLM, or random weights of bert-base's sizes beside its tokenizer, which one of the converters reads."
    shutil.copytree(minilm_folder(), folder)
    if model == "bert-base":
        torch.manual_seed(0)
        BertModel(BertConfig()).save_pretrained(folder)


def python_of(environment: str, given: dict[str, str]) -> Path:
    "The interpreter of an environment, which is made if it isn't there with these pins."
    if not environment:
        return Path(sys.executable)
    folder = Path(given.get(environment, BENCH / environment))
    python, stamp, pins = folder / "bin" / "python", folder / "pins.txt", "\n".join(PINS[environment])
    if environment not in given and not (stamp.is_file() and stamp.read_text() == pins):
        print(f"making {folder.relative_to(HERE.parent)}: {', '.join(PINS[environment])}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        flags = shlex.split(os.environ.get("PIP_FLAGS", ""))
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *flags]
        subprocess.run([*install, *PINS[environment]], check=True)
        stamp.write_text(pins)
    return python


class Worker:
    "An engine's process. Where that fails, `failed` is the last line of its log, and the others go on."

    def __init__(self, name: str, task: str, folder: Path, given: dict[str, str], threads: int):
        entry, source = ENGINES[name], folder / "checkpoint"
        kind = entry.encode if task == "encode" else entry.forward
        target = folder / name / kind.saved if kind and kind.saved else None
        variables = {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        variables["TOKENIZERS_PARALLELISM"] = str(threads > 1).lower()
        self.name, self.failed = name, ""
        self.vectors, self.log = folder / f"{name}.npy", open(folder / f"{name}.log", "w+")
        peers = [str(python_of(entry.environment, given)), str(HERE / "peers.py")]
        options: dict[str, Any] = {"stderr": self.log, "env": os.environ | variables}
        command = [*peers, task, name, str(target.parent if target else source), str(threads)]
        if target:
            target.parent.mkdir()
            conversion = [*peers, "convert", name, str(source), str(target)]
            if subprocess.run(conversion, stdout=self.log, **options).returncode:
                command = [sys.executable, "-c", ""]  # ends at once: the log says why
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process: Any = subprocess.Popen(command, **pipes, **options)
        self.versions = self.answer().get("versions", {})

    def answer(self) -> dict[str, Any]:
        "The next line of the process, or nothing if it has ended."
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.log.seek(0)
            self.failed = (self.log.read().strip().splitlines() or [f"exit code {code}"])[-1]
            print(f"    {self.name} failed: {self.failed}", flush=True)
        return json.loads(line) if line else {}

    def run(self, inputs: Path, repeats: int = 1, save: bool = False) -> float:
        "The seconds of one forward; infinite if the process has ended."
        if not self.failed:
            asked = {"inputs": str(inputs), "repeats": repeats, "save": str(self.vectors) if save else None}
            with suppress(BrokenPipeError):  # then there is no answer, either
                self.process.stdin.write(json.dumps(asked) + "\n")
                self.process.stdin.flush()
            return self.answer().get("seconds", math.inf)
        return math.inf

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.log.close()


def accuracy(vectors: Path, base: Path) -> tuple[float, float]:
    "The lowest cosine and the largest difference of an engine's vectors to those of the base."
    ours, theirs = np.load(vectors).astype(np.float64), np.load(base).astype(np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(1) / norms).min()), float(abs(ours - theirs).max())


def measure(workers: list[Worker], inputs: Path, rounds: int) -> dict[str, dict[str, float]]:
    "The figures of each engine that works; the first is the base."
    base, repeats = workers[0], {}
    for worker in workers:
        repeats[worker] = max(1, math.ceil(SHORTEST / worker.run(inputs, save=True)))  # warms it up, too
    times: dict[Worker, list[float]] = {worker: [] for worker in workers}
    for start in range(rounds):
        first = start % len(workers)
        for worker in workers[first:] + workers[:first]:
            time.sleep(0.02)  # until the threads of the one before sleep
            times[worker].append(worker.run(inputs, repeats[worker]))
    if base.failed:
        raise RuntimeError(f"the base of the ratios, {base.name}, failed: {base.failed}")
    results = {}
    for worker in workers:
        if worker.failed:
            continue
        ratios = [theirs / ours for ours, theirs in zip(times[worker], times[base], strict=True)]
        low, ratio, high = quantiles(ratios, n=4, method="inclusive") if rounds > 1 else ratios * 3
        cosine, difference = accuracy(worker.vectors, base.vectors)
        results[worker.name] = {"ratio": ratio, "low": low, "high": high, "ms": 1000 * median(times[worker])}
        results[worker.name] |= {"cosine": cosine, "difference": difference}
    return results


def machine() -> dict[str, Any]:
    "The processor, and those of its instructions that decide the speed."
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {"processor": platform.processor() or platform.machine(), "flags": []}
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = [flag for flag in fields.get("flags", "").split() if flag.startswith(FLAGS)]
    return {"processor": fields.get("model name", platform.machine()), "flags": flags}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--workloads", nargs="+", choices=[*BATCHES, *ENCODES], default=[*BATCHES, *ENCODES])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=11, help="how often each is timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="the folder of the results")
    parser.add_argument("--env", nargs="+", default=[], metavar="NAME=FOLDER", help=f"in place of {', '.join(PINS)}")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if version("transformers") != REFERENCE:
        parser.error(f"here is transformers {version('transformers')}, and the base of the ratios is {REFERENCE}")
    given = dict(pair.split("=", 1) for pair in options.env)
    options.out.mkdir(parents=True, exist_ok=True)
    path, now = options.out / "speed.json", machine()
    kept: dict[str, Any] = {"machine": now, "versions": {}, "rows": []}
    if path.is_file():
        found = json.loads(path.read_text())
        if options.report or found["machine"] == now:
            kept = found
        else:
            print(f"{path.name} is of another machine and is begun anew", flush=True)
    tasks = {"forward": BATCHES, "encode": ENCODES}
    for model, task in [] if options.report else product(options.models, tasks):
        workloads = [name for name in tasks[task] if name in options.workloads]
        if not workloads or (model, task) == ("bert-base", "encode"):  # random weights tell nothing about sentences
            continue
        base = BASES[task]
        names = [base, *(name for name in options.engines if getattr(ENGINES[name], task) and name != base)]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_inputs(folder)
            write_checkpoint(model, folder / "checkpoint")
            print(f"{model}, {task}: starting {len(names)} engines", flush=True)
            workers = [Worker(name, task, folder, given, options.threads) for name in names]
            kept["versions"] |= {worker.name: worker.versions for worker in workers if worker.versions}
            for workload in workloads:
                print(f"  {workload}", flush=True)
                key = {"model": model, "workload": workload, "threads": options.threads}
                engines = measure(workers, folder / f"{workload}.npz", options.rounds)
                failed = [worker.name for worker in workers if worker.failed]
                kept["rows"] = [row for row in kept["rows"] if any(row[name] != key[name] for name in key)]
                day = {"date": date.today().isoformat(), "rounds": options.rounds}
                kept["rows"].append(key | day | {"engines": engines, "failed": failed})
                path.write_text(json.dumps(kept, indent=1) + "\n")
            for worker in workers:
                worker.close()
    write_report(kept, options.out)


if __name__ == "__main__":
    main()
