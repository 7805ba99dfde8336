"""What the package exports, read from the source of its modules: no module is imported.

nbdev writes the notebook and the cell above whatever it exports, so a name's definition, the lines of it in the module
and the cell of the page that builds it are all found in one place.
"""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

from nbdev.config import get_config

ROOT = Path(__file__).resolve().parents[2]

CELL = re.compile(r"^# %% (\S+) #(\S+)$", re.MULTILINE)
HEADING = re.compile(r"^(#+) +(.+?)\s*$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Definition:
    """A public name, where it stands in its module, and the cell that it was exported from."""

    module: str  # such as "minibert.attention"
    name: str  # such as "attend"
    node: ast.stmt  # its def, class or assignment
    notebook: str  # such as "05_attention.ipynb", from nbs/ on
    cell: str  # the id of the cell there
    source: str  # of the whole module

    @property
    def full_name(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def is_value(self) -> bool:
        """A constant or another name for a type; neither a function nor a class."""
        return isinstance(self.node, (ast.Assign, ast.AnnAssign))

    @property
    def code(self) -> str:
        """All of it; of a value also what is added to it later in the module."""
        added = [
            node
            for node in ast.parse(self.source).body
            if self.is_value and isinstance(node, ast.AugAssign) and ast.unparse(node.target) == self.name
        ]
        return "\n".join(ast.get_source_segment(self.source, node) or "" for node in [self.node, *added])

    @property
    def comment(self) -> str:
        """What stands behind a value that fits in its line."""
        last = self.source.splitlines()[self.node.end_lineno - 1]
        return without_linters(last[self.node.end_col_offset :].partition("#")[2])

    @property
    def summary(self) -> str:
        """The first line of the docstring; of a value its comment."""
        text = self.comment if self.is_value else ast.get_docstring(self.node) or ""
        return text.partition("\n")[0]

    @property
    def methods(self) -> list[ast.FunctionDef]:
        """The public methods and properties of a class, and its `__call__`."""
        body = self.node.body if isinstance(self.node, ast.ClassDef) else []
        return [part for part in body if isinstance(part, ast.FunctionDef) and is_public(part.name)]

    @property
    def lines(self) -> tuple[int, int]:
        return lines_of(self.node)


def without_linters(comment: str) -> str:
    """A comment without what it tells a linter or a formatter."""
    return re.split(r"\s*#?\s*\b(?:noqa|fmt: skip)\b", comment)[0].strip()


def is_public(method: str) -> bool:
    return not method.startswith("_") or method == "__call__"


def lines_of(node: ast.stmt) -> tuple[int, int]:
    """The first and the last line, decorators included."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(part.lineno for part in decorators)]), node.end_lineno


def names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    parts = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [part.id for part in parts if isinstance(part, ast.Name)]


@dataclass(frozen=True)
class Module:
    name: str
    summary: str  # its docstring
    notebook: str
    definitions: list[Definition]  # what it exports, in the order of the source


def read_module(path: Path) -> Module | None:
    """The module at `path`; None if no notebook exports it."""
    source = path.read_text(encoding="utf-8")
    cells = [(source.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in CELL.finditer(source)]
    if not cells:
        return None
    tree, name = ast.parse(source), f"{path.parent.name}.{path.stem}"
    exported = next(ast.literal_eval(node.value) for node in tree.body if names_of(node) == ["__all__"])
    definitions = {}
    for node in tree.body:
        above = [(notebook, cell) for line, notebook, cell in cells if line < node.lineno]
        for public in {*names_of(node)} & {*exported} if above else ():
            notebook = above[-1][0].partition("nbs/")[2]
            definitions.setdefault(public, Definition(name, public, node, notebook, above[-1][1], source))
    if missing := {*exported} - {*definitions}:
        raise ValueError(f"{path}: __all__ holds {sorted(missing)}, expected a def, class or assignment for each")
    ordered = sorted(definitions.values(), key=lambda definition: definition.node.lineno)
    return Module(name, ast.get_docstring(tree) or "", ordered[0].notebook, ordered)


class Symbols:
    """Everything that the package exports."""

    def __init__(self, root: Path = ROOT):
        self.root = root
        modules = (read_module(path) for path in sorted((root / "minibert").glob("*.py")))
        self.modules = {module.name: module for module in modules if module}
        self.definitions = {each.full_name: each for module in self.modules.values() for each in module.definitions}
        self.full_name = {}  # short name, such as "attend" or "BertModel.forward", to the full one
        for definition in self.definitions.values():
            self.full_name[definition.name] = definition.full_name
            for method in definition.methods:
                self.full_name[f"{definition.name}.{method.name}"] = f"{definition.full_name}.{method.name}"

    def explained(self, definition: Definition) -> tuple[str, str]:
        """The title of the page that builds `definition`, and the heading of the section."""
        title = heading = ""
        for cell in json.loads((self.root / "nbs" / definition.notebook).read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                for level, text in HEADING.findall(FENCE.sub("", "".join(cell["source"]))):
                    title, heading = (text, "") if level == "#" else (title, text)
            if cell["id"] == definition.cell:
                return plain(title), plain(heading)
        raise ValueError(f"nbs/{definition.notebook} has no cell {definition.cell}: export it anew")

    def in_cell(self, notebook: str, cell: str) -> list[Definition]:
        """What is exported from this cell."""
        return [each for each in self.definitions.values() if (each.notebook, each.cell) == (notebook, cell)]


def plain(markdown: str) -> str:
    return re.sub(r"[`*]", "", markdown)


def source_url(definition: Definition, node: ast.stmt | None = None) -> str:
    """The lines of a definition, or of a part of it, on the web."""
    cfg = get_config(path=ROOT)
    first, last = lines_of(node or definition.node)
    path = definition.module.replace(".", "/") + ".py"
    return f"{cfg.git_url}/blob/{cfg.branch}/{path}#L{first}-L{last}"
