"""Show nbdev notebooks with Sphinx.

Before a build, each notebook of nbs/ is rewritten to docs/nbs/: nbdev's directives become the cell tags of myst-nb,
every exported definition is followed by its documentation, and names in backticks become links to it.
docs/nbs/api.md lists what the modules export. No cell is run.
"""

import importlib
import inspect
import re
from pathlib import Path

from execnb.nbio import nb2str
from fastcore.docments import docments
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.processors import (
    add_show_docs,
    hide_,
    hide_line,
    populate_language,
    rm_export,
    rm_header_dash,
    strip_ansi,
    strip_hidden_metadata,
)

ROOT = Path(__file__).resolve().parents[2]

DIRECTIVE_LINE = re.compile(r"^#\|.*\n?", re.MULTILINE)
SHOW_DOC = re.compile(r"^show_doc\(\s*([\w.]+)", re.MULTILINE)
LINK_OUT_OF_NBS = re.compile(r"\]\(((?:\.\./)+)([^)\s]+)")
# A name in single backticks that is not part of a role, a longer literal or a link's text.
NAME = re.compile(r"(?<![`\w{}\[])`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)")
# Code in single backticks; the roles and the double backticks of reStructuredText stay as they are.
CODE = re.compile(r"(?<![`:])`([^`]+)`(?!`)")


class Symbols:
    """What nbdev exported: `full_name` maps a short name, such as `Layer.forward`, to where it stands."""

    def __init__(self):
        namespace = {}
        exec((ROOT / "minibert" / "_modidx.py").read_text(encoding="utf-8"), namespace)
        self.modules = {module: list(names) for module, names in namespace["d"]["syms"].items() if names}
        self.full_name = {
            name.removeprefix(module + "."): name
            for module, names in self.modules.items()
            for name in names
            if not any(part.startswith("_") for part in name.removeprefix(module + ".").split("."))
        }

    def autodoc(self, name):
        """The reStructuredText that documents `name`."""
        full_name = self.full_name[name]
        module = next(module for module in self.modules if full_name.startswith(module + "."))
        target = importlib.import_module(module)
        for part in name.split("."):
            target = getattr(target, part)
        if inspect.isclass(target):
            return f".. autoclass:: {full_name}\n   :members:\n   :undoc-members:"
        return f".. auto{'method' if '.' in name else 'function'}:: {full_name}"


def write_pages(app):
    folder = Path(app.srcdir) / "nbs"
    symbols = Symbols()
    pages = {"api.md": api_page(symbols)}
    for source in sorted((ROOT / "nbs").rglob("[!_.]*.ipynb")):
        if ".ipynb_checkpoints" not in source.parts:
            pages[source.relative_to(ROOT / "nbs").as_posix()] = source
    for old in folder.rglob("*.*"):
        if old.relative_to(folder).as_posix() not in pages:
            old.unlink()
    for name, page in pages.items():
        content = page if isinstance(page, str) else notebook_page(page, symbols)
        write_if_changed(folder / name, content)


def write_if_changed(path, content):
    """Sphinx rebuilds what is newer than the last build, so an unchanged page keeps its time."""
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def notebook_page(source, symbols):
    """The notebook at `source` as myst-nb should see it."""
    folders = len(source.relative_to(ROOT / "nbs").parts) - 1

    def documentation(cell):
        """`show_doc(name)`, which nbdev adds after each exported definition, becomes autodoc's directive."""
        if cell.cell_type == "code" and (call := SHOW_DOC.search(cell.source)):
            cell.cell_type = "markdown"
            cell.source = f"```{{eval-rst}}\n{symbols.autodoc(call[1])}\n```"
            for key in ("outputs", "execution_count", "has_sd"):
                cell.pop(key, None)

    def links(cell):
        if cell.cell_type == "markdown" and "{eval-rst}" not in cell.source:
            cell.source = link_markdown(cell.source, symbols, folders)

    processors = [
        populate_language,
        add_show_docs,
        strip_ansi,
        hide_line,
        rm_header_dash,
        cell_tags,
        rm_export,
        documentation,
        hide_,
        links,
        strip_hidden_metadata,
    ]
    nb = NBProcessor(source, procs=processors, process=True).nb
    nb.metadata.setdefault("language_info", {"name": "python"})
    nb.metadata["source_map"] = list(range(len(nb.cells)))  # else myst-nb puts 10,000 empty lines before each cell
    return nb2str(nb)


def cell_tags(cell):
    """The options of a code cell, written for Quarto, as the tags and metadata of myst-nb."""
    if cell.cell_type != "code":
        return
    options = {key.rstrip(":"): " ".join(words).strip("\"'") for key, words in cell.directives_.items()}
    cell.source = DIRECTIVE_LINE.sub("", cell.source)
    cell.directives_.pop("exporti", None)  # nbdev would leave out what a module keeps to itself; a page shows it
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


def api_page(symbols):
    """A table for each module. With -W -n the build fails on a name that no page documents."""
    lines = ["# Reference", "", "Every name that the package exports, linked to the page that builds it.", ""]
    for module, names in sorted(symbols.modules.items()):
        public = importlib.import_module(module).__all__
        lines += [f"## `{module}`", "", "```{eval-rst}", ".. autosummary::", ""]
        lines += [f"   ~{name}" for name in names if name.removeprefix(module + ".") in public]
        lines += ["```", ""]
    return "\n".join(lines)


def describe_parameters(app, what, name, obj, options, lines):
    """The comments beside the parameters of a signature become fields; single backticks mean code, as in Markdown."""
    if what in ("class", "exception", "function", "method"):
        comments = {key: comment for key, comment in docments(obj).items() if comment}
        returns = comments.pop("return", None)
        lines += ["", *(f":param {key}: {comment}" for key, comment in comments.items())]
        lines += [f":returns: {returns}", ""] if returns else [""]
    lines[:] = [CODE.sub(r"``\1``\\ ", line) for line in lines]


def hide_factory(app, what, name, obj, options, signature, returns):
    """`<factory>`, the default of a field that is made anew each time, is no Python that Sphinx could read."""
    return signature and signature.replace("<factory>", "..."), returns


def skip_fields(app, what, name, obj, skip, options):
    """A class shows its methods and properties; its fields stand among its parameters."""
    return skip or not (inspect.isroutine(obj) or isinstance(obj, property))


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", describe_parameters)
    app.connect("autodoc-process-signature", hide_factory)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
