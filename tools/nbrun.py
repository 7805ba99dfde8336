"""Run the notebooks from the first cell to the last, each in a fresh kernel.

    python tools/nbrun.py                     # run them all in place and clean them: this makes the committed outputs
    python tools/nbrun.py nbs/05_layer.ipynb  # only this one
    python tools/nbrun.py --check             # change nothing; fail where a committed output is not what a run gives

A run fails on an exception and on anything written to stderr. Cells marked `#| eval: false`, `#| notest` or
`#| slow` keep the outputs they have.
"""

import argparse
import difflib
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.process import extract_directives

ROOT = Path(__file__).resolve().parents[1]

KERNEL_ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "IN_TEST": "1",  # nbdev: a cell that exports the package does nothing
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "OMP_NUM_THREADS": "1",  # the models are small: threads would wait for each other more than they compute
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
# Shapes in the signatures of minibert are checked while a notebook runs. A reader's own kernel does without.
CHECK_SHAPES = "from tools import shapes; shapes.install(); del shapes"

MEMORY_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class NotebookFailed(Exception):
    """A cell raised, or wrote to stderr."""


class Client(NotebookClient):
    """Runs a notebook, leaving out the cells that nbdev leaves out."""

    async def async_execute_cell(self, cell, cell_index, **kwargs):
        if is_skipped(cell):
            return cell
        return await super().async_execute_cell(cell, cell_index, **kwargs)


def is_skipped(cell) -> bool:
    if cell.cell_type != "code":
        return False
    directives = extract_directives(cell, remove=False)
    evaluates = directives.get("eval:", ["true"])[0].lower() != "false"
    return not evaluates or bool(directives.keys() & set(get_config(path=ROOT).tst_flags.split()))


def notebooks() -> list[Path]:
    """The notebooks in the order of reading; names with a leading underscore or dot are nobody's business."""
    paths = [path.relative_to(ROOT) for path in (ROOT / "nbs").rglob("*.ipynb")]
    return sorted(ROOT / path for path in paths if not any(part.startswith(("_", ".")) for part in path.parts))


def execute(path: Path):
    """Run the notebook at `path` in its own folder and return it with the outputs of this run."""
    nb = nbformat.read(path, as_version=4)
    client = Client(
        nb,
        kernel_name="python3",
        timeout=600,
        coalesce_streams=True,  # or what one print wrote may come in two pieces
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=[f"--IPKernelApp.exec_lines={CHECK_SHAPES}", "--IPKernelApp.log_level=ERROR"],
    )
    try:
        client.execute(env={**os.environ, **KERNEL_ENVIRONMENT})
    except CellExecutionError as error:
        raise NotebookFailed(f"{path.name}: a cell failed\n{error}") from None
    complaints = [f"cell {i}: {output.text}" for i, output in outputs(nb) if output.get("name") == "stderr"]
    if complaints:
        raise NotebookFailed("\n".join([f"{path.name} wrote to stderr:", *complaints]))
    return nb


def outputs(nb):
    for i, cell in enumerate(nb.cells):
        for output in cell.get("outputs", []):
            yield i, output


def describe(nb) -> list[str]:
    """Every output, in order, as lines to compare: text as it is, images by kind (their bytes depend on fonts)."""
    lines = []
    for i, output in outputs(nb):
        lines.append(f"cell {i}: {output.output_type} {output.get('name', '')}".rstrip())
        if output.output_type == "error":
            lines.append(f"{output.ename}: {output.evalue}")
        if "text" in output:
            lines += output.text.split("\n")
        for kind, content in sorted(output.get("data", {}).items()):
            lines.append(f"<{kind}>")
            if not kind.startswith("image/"):
                text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
                lines += text.split("\n")
    return [MEMORY_ADDRESS.sub("", line) for line in lines]


def stale(committed, fresh) -> list[str]:
    """The lines in which two runs of a notebook differ; none if the committed outputs are what a run gives."""
    diff = difflib.unified_diff(describe(committed), describe(fresh), "committed", "fresh", lineterm="", n=2)
    return [line[:300] for line in diff]


def check(path: Path) -> None:
    """Raise if the notebook at `path` fails, or gives other outputs than the committed ones."""
    difference = stale(nbformat.read(path, as_version=4), execute(path))
    if difference:
        name = path.relative_to(ROOT)
        raise NotebookFailed("\n".join([f"{name}: stale outputs; run python tools/nbrun.py {name}", *difference]))


def refresh(path: Path) -> None:
    """Run the notebook at `path`, and write it back with the outputs of this run, cleaned."""
    nbformat.write(execute(path), path)
    nbdev_clean(fname=str(path))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=lambda text: Path(text).resolve(), default=notebooks())
    parser.add_argument("--check", action="store_true", help="change nothing; fail on stale outputs")
    args = parser.parse_args()
    failed = 0
    for path in args.paths:
        start = time.perf_counter()
        try:
            (check if args.check else refresh)(path)
        except NotebookFailed as error:
            print(error, file=sys.stderr)
            failed += 1
        else:
            print(f"{path.relative_to(ROOT)}: {time.perf_counter() - start:.1f} s")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
