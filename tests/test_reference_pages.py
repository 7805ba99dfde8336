"""The documentation's own code: each public name has an entry in the reference, linked both ways; each page is a stop.

The functions that write the pages are tried, not the site that Sphinx makes of them.
"""

import ast
import importlib
import inspect
import json
import re
import textwrap
from pathlib import Path

import accessible
import nbdev_sphinx
import pytest
import reference
import route
import symbols
from repository import ROOT

SYMBOLS = symbols.Symbols()
PAGES = reference.reference_pages(SYMBOLS)
MODULES = [
    f"minibert.{path.stem}"
    for path in sorted((ROOT / "minibert").glob("*.py"))
    if hasattr(importlib.import_module(f"minibert.{path.stem}"), "__all__")
    if path.stem not in ("__init__", "__main__", "_modidx")
]
ENTRY = re.compile(r"^\.\. (?:auto(class|function)|py:(data)):: (\S+)$", re.MULTILINE)


def public(module):
    """What the module exports, by its full name."""
    module = importlib.import_module(module)
    return {f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__}


def methods(cls):
    """The public methods and properties that the class itself defines."""
    defined = {name: part for name, part in vars(cls).items() if not name.startswith("_") or name == "__call__"}
    source = inspect.getsource(cls)  # a dataclass or an enumeration has some that nobody wrote
    return {
        name: part
        for name, part in defined.items()
        if isinstance(part, (property, classmethod, staticmethod)) or inspect.isfunction(part)
        if re.search(rf"def {name}\(", source)
    }


def entries(page):
    """Kind by full name."""
    module = f"minibert.{Path(page).stem}"
    found = {}
    for auto, data, name in ENTRY.findall(PAGES[page]):
        found[f"{module}.{name}" if data else name] = auto or data
    return found


def described(name, what, obj):
    """What is added to the docstring of `name`."""
    lines = (inspect.getdoc(obj) or "").splitlines()
    reference.Hooks(SYMBOLS).describe(None, what, name, obj, None, lines)
    return "\n".join(lines)


def links(text):
    """The lines of the source, and the cell, that a text links to."""
    source = re.findall(r"Source <\S+/blob/\S+?/(minibert/\w+\.py)#L(\d+)-L(\d+)>", text)
    return source, re.findall(r"Explained on :ref:`.+ <cell-(\S+)>`", text)


def assert_source(found, name):
    [(path, first, last)] = found
    code = "\n".join((ROOT / path).read_text(encoding="utf-8").splitlines()[int(first) - 1 : int(last)])
    [node] = ast.parse(textwrap.dedent(code)).body
    assert name.rpartition(".")[2] in symbols.names_of(node)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_an_entry_that_links_both_ways(module):
    page = f"api/{module.rpartition('.')[2]}.rst"
    found, names = entries(page), public(module)
    assert set(found) == set(names)
    for name, obj in names.items():
        definition = SYMBOLS.definitions[name]
        if found[name] == "data":
            text = "\n".join(reference.entry(definition, SYMBOLS))
        else:
            assert inspect.isclass(obj) == (found[name] == "class")
            text = described(name, found[name], obj)
        source, [cell] = links(text)
        assert_source(source, name)
        assert cell == definition.cell
        assert f"`{definition.name} <{name}>`" in reference.back_link([definition])
        assert f":py:obj:`{definition.name} <{name}>`" in PAGES["api/index.rst"]


@pytest.mark.parametrize("module", MODULES)
def test_every_method_has_an_entry(module):
    for name, obj in public(module).items():
        if SYMBOLS.definitions[name].is_value or not inspect.isclass(obj):
            continue
        wanted = methods(obj)
        assert {part.name for part in SYMBOLS.definitions[name].methods} >= set(wanted), name
        assert ":members:\n   :undoc-members:\n   :special-members: __call__" in PAGES[f"api/{module[9:]}.rst"]
        for method in wanted:
            target = getattr(obj, method)
            assert not reference.skip_fields(None, "class", method, target, False, None)
            source, _ = links(described(f"{name}.{method}", "method", target))
            assert_source(source, method)


@pytest.mark.parametrize("module", MODULES)
def test_the_page_shows_each_definition_and_links_to_its_entry(module):
    notebook = SYMBOLS.modules[module].notebook
    page = json.loads(nbdev_sphinx.notebook_page(ROOT / "nbs" / notebook, SYMBOLS))
    cells = ["".join(cell["source"]) for cell in page["cells"]]
    for definition in SYMBOLS.modules[module].definitions:
        at = cells.index(f"(cell-{definition.cell})=")
        defined = [name for node in ast.parse(cells[at + 1]).body for name in symbols.names_of(node)]
        assert definition.name in defined
        assert f":py:obj:`{definition.name} <{definition.full_name}>`" in cells[at + 2]


def test_explained_names_the_page_and_the_section():
    assert SYMBOLS.explained(SYMBOLS.definitions["minibert.pooler.BertPooler"]) == (
        "pooler: one vector for a sentence",
        "The class",
    )


def test_a_name_that_no_cell_defines_is_refused(tmp_path):
    module = tmp_path / "minibert" / "some.py"
    module.parent.mkdir()
    module.write_text("__all__ = ['here', 'absent']\n\n# %% ../nbs/00_some.ipynb #some-01\ndef here(): pass\n")
    with pytest.raises(ValueError, match="absent"):
        symbols.read_module(module)


def test_errors_are_read_from_the_source():
    tree = ast.parse(
        """
def some(x):
    if x: raise ValueError(f"{x}: x is {x}, expected nothing")
    if not x: raise kind("a variable")
    raise KeyError(x)
"""
    )
    assert reference.errors(tree) == [("ValueError", "x is …, expected nothing"), ("KeyError", "")]


def test_errors_of_the_package_link_to_their_entries():
    text = described("minibert.check.check_alike", "function", importlib.import_module("minibert.check").check_alike)
    assert ":raises ~minibert.check.CheckError: shape is …, expected …" in text


def test_the_route_has_every_notebook_in_the_order_of_their_names():
    parts = route.all_parts()
    for part in parts:
        assert part.title and all(stop.name and stop.question for stop in part.stops)
    found = [f"{stop.document}.ipynb" for part in parts for stop in part.stops]
    pages = [path.relative_to(ROOT).as_posix() for path in (ROOT / "nbs").rglob("[!_.]*.ipynb")]
    wanted = {page for page in pages if ".ipynb_checkpoints" not in page} - {"nbs/index.ipynb"}
    assert len(found) == len(set(found)) and set(found) == wanted
    for folder in ("nbs/", "nbs/guides/", "nbs/exercises/"):
        numbered = [page for page in found if re.fullmatch(rf"{folder}\d\w+\.ipynb", page)]
        assert numbered == sorted(numbered)


def test_minutes_follow_their_rule(tmp_path):
    def notebook(*cells):
        path = tmp_path / "some.ipynb"
        cells = [{"cell_type": kind, "source": [source]} for kind, source in cells]
        path.write_text(json.dumps({"cells": cells}))
        return route.minutes(path)

    code = "\n".join(["x = 1"] * 30)
    assert notebook(("markdown", "word " * 400)) == 2
    assert notebook(("markdown", "word " * 401)) == 3
    assert notebook(("code", code)) == 2
    assert notebook(("code", "#| code-fold: true\n" + code)) == 1
    assert notebook(("markdown", "word " * 200), ("code", code)) == 3


def test_a_page_is_mended_for_screen_readers():
    signature = '<dt class="sig sig-object py"><dl>\n<dd><em>x</em></dd>\n</dl></dt><dl><dt>a</dt><dd>b</dd></dl>'
    spans = '<dt class="sig sig-object py"><span class="sig-list">\n<span><em>x</em></span>\n</span></dt>'
    mended = accessible.accessible(signature + "<table><th></th><th>head</th></table>")
    assert mended == spans + "<dl><dt>a</dt><dd>b</dd></dl><table><td></td><th>head</th></table>"
