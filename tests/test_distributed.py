"""One run is one run: alone, on two processes with DDP, on two with FSDP2, and stopped and continued in between.

Twelve steps on CPU. The sums come in another order on two processes, so the numbers agree closely, not bit for bit.
Measured: losses, lengths of gradients and weights to 2e-7. If each process divides by its own number of labels, losses
are off by 1e-2, lengths by 1e-1 and weights by 5e-3.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from minibert.pretrain import language_batches, pretrain, train_tokenizer
from minibert.tasks import IGNORED, BertForPreTraining

STEPS, HALF, ROWS = 12, 6, 16
OPTIONS = ["--steps", str(STEPS), "--save-every", str(HALF), "--rows", str(ROWS), "--json"]
NUMBERS = ("words", "pairs", "norm")
CLOSE = 5e-6


def steps_of(printed: str) -> list[dict]:
    return [json.loads(line) for line in printed.splitlines()]


def run_alone(folder, capsys) -> list[dict]:
    assert pretrain(["--folder", str(folder), *OPTIONS]) == 0
    return steps_of(capsys.readouterr().out)


def torchrun(folder, *options: str) -> subprocess.CompletedProcess:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = [*start, "-m", "minibert.pretrain", "--folder", str(folder), *OPTIONS, *options]
    return subprocess.run(run, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def run_two(folder, kind: str) -> list[dict]:
    done = torchrun(folder, "--parallel", kind)
    assert done.returncode == 0, done.stderr
    return steps_of(done.stdout)


def from_half(folder, new):
    """A folder with what a run that was stopped in the middle leaves."""
    new.mkdir()
    shutil.copytree(folder / f"step-{HALF:08}", new / f"step-{HALF:08}")
    shutil.copy(folder / "vocab.txt", new)
    return new


def assert_close(one: list[dict], other: list[dict]) -> None:
    assert [step["step"] for step in one] == [step["step"] for step in other] != []
    for mine, theirs in zip(one, other, strict=True):
        assert [mine[name] for name in NUMBERS] == pytest.approx([theirs[name] for name in NUMBERS], rel=CLOSE)


def assert_same_model(folder, other) -> None:
    mine, theirs = (BertForPreTraining.from_pretrained(path / "model") for path in (folder, other))
    for name, weight in mine.named_parameters():
        torch.testing.assert_close(theirs.get_parameter(name), weight, rtol=0, atol=CLOSE, msg=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An unbroken run of each kind: where, and what it printed."""
    folder = tmp_path_factory.mktemp("runs")
    return {kind: (folder / kind, run_two(folder / kind, kind)) for kind in ("ddp", "fsdp")}


@pytest.fixture
def alone(tmp_path, capsys):
    return tmp_path / "alone", run_alone(tmp_path / "alone", capsys)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_make_the_run_of_one(kind, runs, alone):
    folder, steps = runs[kind]
    assert len(steps) == STEPS
    assert_close(steps, alone[1])
    assert_same_model(folder, alone[0])


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_one_process_goes_on_where_two_stopped(kind, runs, tmp_path, capsys):
    folder, steps = runs[kind]
    new = from_half(folder, tmp_path / "new")
    assert_close(run_alone(new, capsys), steps[HALF:])
    assert_same_model(new, folder)


def test_two_processes_go_on_where_one_stopped(alone, tmp_path):
    folder, steps = alone
    new = from_half(folder, tmp_path / "new")
    assert_close(run_two(new, "fsdp"), steps[HALF:])
    assert_same_model(new, folder)


def test_each_process_has_another_number_of_labels(tmp_path):
    batch_of = language_batches(train_tokenizer(tmp_path), ROWS)
    labels = [(batch_of(step)["labels"] != IGNORED).sum(1) for step in range(STEPS)]
    assert sum(rows[0::2].sum() != rows[1::2].sum() for rows in labels) > STEPS / 2


def test_processes_that_do_not_work_together_are_refused(tmp_path):
    done = torchrun(tmp_path, "--parallel", "none")
    assert done.returncode != 0
    assert "ValueError: --parallel is none, but there are 2 processes" in done.stderr
    assert not (tmp_path / "model").exists()
