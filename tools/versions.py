"""Write the tables of docs/versions.md from what `nox` found: a file for each version in build/versions.

python tools/versions.py   # or `make versions`, which runs nox before
"""

import ast
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "versions.md"
RESULTS = ROOT / "build" / "versions"
BEGIN, END = "<!-- from here on written by tools/versions.py: run make versions -->", "<!-- to here -->"
WEIGHTS = {"lively": "Small models, lively weights", "MiniLM": "all-MiniLM-L6-v2"}


def in_noxfile(name: str) -> list[str]:
    """The list of that name in noxfile.py, without importing nox."""
    for node in ast.parse((ROOT / "noxfile.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise KeyError(name)


def read(version: str) -> dict:
    """What the session of this version found."""
    path = RESULTS / f"{version}.json"
    if not path.exists():
        sys.exit(f"{path.relative_to(ROOT)} is missing: run make versions, with Python 3.10 to 3.12")
    return json.loads(path.read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(size: float) -> str:
    """One digit; small ones as 3e-5."""
    return f"{size:.1g}" if size >= 0.01 else re.sub("e-0*", "e-", f"{size:.0e}")


def cell(run: dict) -> str:
    """How many tensors are equal, by how much the others differ, and the letters of the notes."""
    notes = f" ({', '.join(run['notes'])})" if run["notes"] else ""
    if run["gone"]:
        return f"gone{notes}"
    size = f", {number(run['largest'])}" if run["largest"] else ""
    return f"{run['equal']} of {run['tensors']}{size}{notes}"


def by_case(result: dict, weights: str) -> dict[str, dict]:
    return {run["case"]: run for run in result["runs"] if run["weights"] == weights}


def tensor_tables(results: dict[str, dict]) -> list[str]:
    """A table for each kind of weights: a row for a case, a column for a version."""
    parts = []
    for weights, title in WEIGHTS.items():
        columns = [by_case(result, weights) for result in results.values()]
        rows = [[case, *(cell(column[case]) for column in columns)] for case in columns[0]]
        parts += [f"### {title}", table(["case", *results], rows)]
    return parts


def notes(results: dict[str, dict], runs: list[dict]) -> str:
    """The lines that explain the letters which these runs bear."""
    texts = next(iter(results.values()))["notes"]
    used = {letter for run in runs for letter in run["notes"]}
    return "\n".join(f"- ({letter}) {text}" for letter, text in texts.items() if letter in used)


def feature_table(results: dict[str, dict]) -> str:
    questions = next(iter(results.values()))["questions"]
    rows = [[text, *(result["answers"][key] for result in results.values())] for key, text in questions.items()]
    return table(["what", *results], rows)


def name_table(version: str, names: dict[str, str]) -> list[str]:
    """What a record calls the steps of this version, where minibert calls them something else."""
    if not names:
        return []
    rows = [[f"`{theirs}`", f"`{ours}`"] for theirs, ours in names.items()]
    return [f"### Names in a record of {version}", table(["step", "in the tables above"], rows)]


def wrong_table(first: str, reference: dict, version: str, result: dict) -> list[str]:
    """The cases in which this version differs from the reference in more than the steps of the fused mask."""
    rows, shown = [], []
    for weights, title in WEIGHTS.items():
        expected = by_case(reference, weights)
        for case, run in by_case(result, weights).items():
            if run["notes"] != expected[case]["notes"]:
                output = f"{run['output']:.2g}"
                rows.append([case, title, cell(expected[case]), cell(run), output])
                shown.append(run)
    head = ["case", "weights", first, version, "largest difference in the last hidden state"]
    return [table(head, rows), notes({version: result}, shown)]


def render(good: dict[str, dict], wrong: dict[str, dict]) -> str:
    """All that stands between the markers."""
    runs = [run for result in good.values() for run in result["runs"]]
    parts = ["## Tensors", *tensor_tables(good), notes(good, runs)]
    for version, result in good.items():
        parts += name_table(version, result["names"])
    parts += ["## What can be asked for", "*Swallowed*: no error, and no effect.", feature_table(good)]
    parts += ["## Versions that must not be the reference"]
    first, reference = next(iter(good.items()))
    for version, result in wrong.items():
        parts += wrong_table(first, reference, version, result)
    return "\n\n".join(parts)


def main() -> None:
    good, wrong = ({version: read(version) for version in in_noxfile(name)} for name in ("VERSIONS", "WRONG"))
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{render(good, wrong)}\n\n{END}{after}")


if __name__ == "__main__":
    main()
