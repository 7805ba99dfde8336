"""Every notebook runs from the first cell to the last, and its committed outputs are what that run gives."""

import copy

import nbrun
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

COMMITTED = new_notebook(
    cells=[
        new_code_cell(
            outputs=[
                new_output("stream", text="one\ntwo\n"),
                new_output("display_data", {"text/plain": "<Figure>", "image/png": "AAAA"}),
                new_output("execute_result", {"text/plain": "<object at 0x7f00>"}),
            ]
        )
    ]
)


@pytest.mark.parametrize("path", nbrun.notebooks(), ids=lambda path: path.relative_to(nbrun.ROOT / "nbs").as_posix())
def test_runs_and_is_fresh(path):
    nbrun.check(path)


@pytest.mark.parametrize(
    "drift",
    [
        lambda outputs: outputs[0].update(text="one\ntwo"),
        lambda outputs: outputs[0].update(name="stderr"),
        lambda outputs: outputs[1].data.pop("image/png"),
        lambda outputs: outputs[1].data.update({"image/svg+xml": "<svg/>"}),
        lambda outputs: outputs[2].data.update({"text/plain": "<other at 0x7f00>"}),
        lambda outputs: outputs.reverse(),
        lambda outputs: outputs.append(outputs[-1]),
        lambda outputs: outputs.pop(),
    ],
)
def test_stale_outputs_are_found(drift):
    fresh = copy.deepcopy(COMMITTED)
    drift(fresh.cells[0].outputs)
    assert nbrun.stale(COMMITTED, fresh)


def test_images_are_compared_by_kind_and_addresses_not_at_all():
    fresh = copy.deepcopy(COMMITTED)
    fresh.cells[0].outputs[1].data["image/png"] = "BBBB"
    fresh.cells[0].outputs[2].data["text/plain"] = "<object at 0x7fff>"
    assert not nbrun.stale(COMMITTED, fresh)
