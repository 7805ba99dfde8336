"""The page on other versions of transformers is about those that noxfile.py runs; `make versions` does the rest."""

import importlib.util
import re
from pathlib import Path

import versions

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "versions.md").read_text()
GOOD, WRONG = versions.in_noxfile("VERSIONS"), versions.in_noxfile("WRONG")


def other_side():
    """The tests of the other environments, as a module."""
    spec = importlib.util.spec_from_file_location("other_side", ROOT / "tests" / "versions" / "other_side.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_versions_of_noxfile():
    heads = [line for line in PAGE.splitlines() if line.startswith(("| case |", "| what |"))]
    named = [re.findall(r"\d+\.\d+\.\d+", head) for head in heads]
    assert named == [GOOD] * 3 + [[GOOD[0], version] for version in WRONG]
    generated = PAGE.partition(versions.BEGIN)[2].partition(versions.END)[0]
    assert set(re.findall(r"\b[45]\.\d+\.\d+\b", generated)) == {*GOOD, *WRONG}


def test_every_version_is_expected_and_every_case_is_on_the_page():
    module = other_side()
    assert list(module.EXPECTED) == list(module.ANSWERS) == sorted(GOOD + WRONG)
    cases = re.findall(r"^\| ([^|]+) \| \d+ of \d+", PAGE, re.MULTILINE)
    assert cases[: len(module.RUNS)] == [name for _, name in module.RUNS]
    for text in [*module.FEATURES.values(), *module.NOTES.values(), *module.NAMES]:
        assert text in PAGE
