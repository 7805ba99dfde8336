"""The glossary has every size name of the signatures; each entry has a Chinese term and a link that leads somewhere."""

import ast
import functools
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from minibert.config import BertConfig
from minibert.walk import minilm_folder

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")

GROUP = re.compile(r"^```\{glossary\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
CHINESE = re.compile(r"[\u4e00-\u9fff]+")  # letters of another script would end up in the address of the term
TERM = re.compile(r"\*\*([^*]+)\*\* \{index\}`([^`]+)`")
ROW = re.compile(r"^\| \[(\w+)\]\(#term-(\w+)\) \| (\d+) \| (\d+) \| `([^`]+)` \|$", re.MULTILINE)
ARRAYS = {"Float", "Int", "Bool", "Shaped"}


def parse(text):
    """For each entry its term, in English and in Chinese, and its definition."""
    entries = []
    for block in "\n\n".join(GROUP.findall(text)).strip().split("\n\n"):
        term, *definition = block.strip().split("\n")
        assert (found := TERM.fullmatch(term)) and all(line.startswith("  ") for line in definition), block
        entries.append((*found.groups(), " ".join(line.strip() for line in definition)))
    return entries


ENTRIES = parse(GLOSSARY)
TERMS = {english for english, *_ in ENTRIES}
ROWS = {name: (field, int(minilm), int(base)) for name, _, minilm, base, field in ROW.findall(GLOSSARY)}
every_entry = pytest.mark.parametrize("english, chinese, definition", ENTRIES, ids=[entry[0] for entry in ENTRIES])


def shape_strings(source):
    """The strings in Float[Tensor, "batch seq"] and its like."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in ARRAYS:
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
            yield from (part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))


def size_names(source):
    """The names in them, without the signs that jaxtyping knows; a name in braces is an argument's value."""
    words = {word.lstrip("#*").strip("{}") for shape in shape_strings(source) for word in shape.split()}
    return {word for word in words if not re.fullmatch(r"_|\d*|\.\.\.", word)}


@functools.cache
def headings(path):
    """How a link names the headings of a page: in lower case, hyphens for spaces, and hardly any signs."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    titles = re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def test_size_names_are_found_in_annotations():
    source = 'def f(x: Float[Tensor, "#batch *_ {query} 1 ..."] | None, y=list[str]) -> Int[Tensor, " seq"]: ...'
    assert size_names(source) == {"batch", "query", "seq"}


def test_every_size_name_of_the_package_is_explained():
    sources = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "minibert").glob("*.py"))]
    used = set().union(*map(size_names, sources))
    assert {"batch", "seq", "hidden", "heads", "head_dim", "vocab"} < used
    assert sorted(used - TERMS) == []


def test_no_term_stands_twice():
    assert len(ENTRIES) > 100
    counts = Counter(term.lower() for english, chinese, _ in ENTRIES for term in (english, chinese))
    assert [term for term, count in counts.items() if count > 1] == []


@every_entry
def test_an_entry_is_a_term_its_chinese_and_a_sentence(english, chinese, definition):
    assert not CHINESE.search(english) and CHINESE.fullmatch(chinese)
    sentence = LINK.sub("", definition).strip()
    assert len(sentence) > 10 and sentence.endswith(".") and not CHINESE.search(sentence)


@every_entry
def test_an_entry_links_to_a_page_and_a_heading_that_exist(english, chinese, definition):
    links = LINK.findall(definition)
    assert links
    for page, heading in links:
        path = ROOT / (page if page.startswith("nbs/") else f"docs/{page}")
        assert path.is_file(), page
        assert not heading or heading in headings(path), f"{page}#{heading}"


def number(config, field):
    first, *divisor = (getattr(config, name) for name in field.split(" / "))
    return first // divisor[0] if divisor else first


@pytest.mark.parametrize("name", ["vocab", "positions", "hidden", "layers", "heads", "head_dim", "intermediate"])
def test_the_table_has_the_size(name):
    assert name in ROWS


def test_the_numbers_are_those_of_the_models():
    minilm, base = BertConfig.from_json_file(minilm_folder() / "config.json"), BertConfig()
    assert len(ROWS) == GLOSSARY.count("| [") and all(name == anchor for name, anchor, *_ in ROW.findall(GLOSSARY))
    assert ROWS == {name: (field, number(minilm, field), number(base, field)) for name, (field, *_) in ROWS.items()}


def test_every_size_of_the_table_is_explained():
    assert ROWS.keys() <= TERMS
