"""Show nbdev notebooks with Sphinx.

Before a build, each notebook of nbs/ is rewritten to docs/nbs/: nbdev's directives become the cell tags of myst-nb,
an exported definition links to its entry in the reference, and so do names in backticks. No cell is run.
"""

import ast
import re
from pathlib import Path

import reference
from execnb.nbio import nb2str
from fastcore.basics import AttrDict
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.processors import (
    hide_,
    hide_line,
    populate_language,
    rm_export,
    rm_header_dash,
    strip_ansi,
    strip_hidden_metadata,
)
from symbols import ROOT, Symbols, names_of

DIRECTIVE_LINE = re.compile(r"^#\|.*\n?", re.MULTILINE)
LINK_OUT_OF_NBS = re.compile(r"\]\(((?:\.\./)+)([^)\s]+)")
# A name in single backticks that is not part of a role, a longer literal or a link's text.
NAME = re.compile(r"(?<![`\w{}\[])`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)")


def write_pages(app):
    folder = Path(app.srcdir) / "nbs"
    symbols = Symbols()
    pages = reference.reference_pages(symbols)
    for source in sorted((ROOT / "nbs").rglob("[!_.]*.ipynb")):
        if ".ipynb_checkpoints" not in source.parts:
            pages[source.relative_to(ROOT / "nbs").as_posix()] = notebook_page(source, symbols)
    for old in folder.rglob("*.*"):
        if old.relative_to(folder).as_posix() not in pages:
            old.unlink()
    for name, content in pages.items():
        write_if_changed(folder / name, content)


def write_if_changed(path, content):
    """Sphinx rebuilds what is newer than the last build, so an unchanged page keeps its time."""
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def notebook_page(source, symbols):
    """The notebook at `source` as myst-nb should see it."""
    path = source.relative_to(ROOT / "nbs")
    folders = len(path.parts) - 1

    def links(cell):
        if cell.cell_type == "markdown" and "{eval-rst}" not in cell.source:
            cell.source = link_markdown(cell.source, symbols, folders)

    processors = [
        populate_language,
        strip_ansi,
        hide_line,
        rm_header_dash,
        cell_tags,
        rm_export,
        hide_,
        links,
        strip_hidden_metadata,
    ]
    nb = NBProcessor(source, procs=processors, process=True).nb
    nb.cells = [*with_reference(nb.cells, path.as_posix(), symbols)]
    nb.metadata.setdefault("language_info", {"name": "python"})
    nb.metadata["source_map"] = list(range(len(nb.cells)))  # else myst-nb puts 10,000 empty lines before each cell
    return nb2str(nb)


def with_reference(cells, notebook, symbols):
    """A target before each cell that exports something, so that the reference can link to it, and a link back."""
    for cell in cells:
        exported = symbols.in_cell(notebook, cell.id)
        if not exported:
            yield cell
            continue
        yield markdown_cell(f"{cell.id}-target", f"({reference.label(exported[0])})=")
        yield cell
        yield markdown_cell(f"{cell.id}-reference", reference.back_link(exported))


def markdown_cell(id, source):
    return AttrDict(cell_type="markdown", id=id, metadata={}, source=source)


def cell_tags(cell):
    """The options of a code cell, written for Quarto, as the tags and metadata of myst-nb."""
    if cell.cell_type != "code":
        return
    options = {key.rstrip(":"): " ".join(words).strip("\"'") for key, words in cell.directives_.items()}
    cell.source = DIRECTIVE_LINE.sub("", cell.source)
    defined = plumbing(cell)
    if defined is not None:  # nbdev would leave it out; a page folds it
        options = {"code-fold": "true", "code-summary": f"Plumbing: {defined}" if defined else "Plumbing", **options}
    cell.directives_.pop("exporti", None)  # nor does a page leave out what a module keeps to itself
    tags = {
        "remove-cell": options.get("include") == "false",
        "remove-input": options.get("echo") == "false",
        "remove-output": options.get("output") == "false",
        "hide-input": options.get("code-fold") == "true",
    }
    summary = options.get("code-summary", "Code")
    figure = {"caption": options.get("fig-cap"), "name": options.get("label")}
    cell.metadata["tags"] = [tag for tag, wanted in tags.items() if wanted]
    cell.metadata["mystnb"] = {
        "code_prompt_show": summary,
        "code_prompt_hide": summary,
        "image": {"alt": options["fig-alt"]} if "fig-alt" in options else {},
        "figure": {key: value for key, value in figure.items() if value},
    }


def plumbing(cell):
    """The names that a cell marked `#| export` defines, and the mark is gone; None for other cells and for imports."""
    body = ast.parse(cell.source).body if "export" in cell.directives_ else []
    if all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body):
        return None
    del cell.directives_["export"]
    return ", ".join(name for node in body for name in names_of(node))


def link_markdown(markdown, symbols, folders):
    """Names in backticks link to their documentation, files outside nbs/ (`folders` up) to the repository."""
    lines, in_fence = [], False
    for line in markdown.splitlines():
        if line.lstrip().startswith("```"):
            in_fence = not in_fence
        elif not in_fence and not line.startswith("#"):
            line = NAME.sub(lambda match: link_name(match, symbols), line)
            line = LINK_OUT_OF_NBS.sub(lambda match: link_to_repository(match, folders), line)
        lines.append(line)
    return "\n".join(lines)


def link_name(match, symbols):
    name = match[1]
    return f"{{py:obj}}`{name} <{symbols.full_name[name]}>`" if name in symbols.full_name else match[0]


def link_to_repository(match, folders):
    if match[1].count("../") <= folders:
        return match[0]
    cfg = get_config(path=ROOT)
    return f"]({cfg.git_url}/blob/{cfg.branch}/{match[2]}"


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("builder-inited", write_pages)
    reference.connect(app, Symbols())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
