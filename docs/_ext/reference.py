"""The reference: a page for each module, made from its signatures, docstrings and the comments beside parameters.

Each entry links to its source and to the section of the page that builds it; there, `back_link` leads here.
"""

import ast
import inspect
import re

from fastcore.docments import docments
from symbols import Definition, Module, Symbols, source_url, without_linters

FOLDER = "api"  # within docs/nbs/

# Code in single backticks; the roles and the double backticks of reStructuredText stay as they are.
CODE = re.compile(r"(?<![`:])`([^`]+)`(?!`)")
LONGEST_MESSAGE, LONGEST_VALUE = 140, 60


def reference_pages(symbols: Symbols) -> dict[str, str]:
    """File name in docs/nbs/ to reStructuredText."""
    pages = {f"{FOLDER}/{short(module)}.rst": module_page(module, symbols) for module in symbols.modules.values()}
    return {f"{FOLDER}/index.rst": overview_page(symbols), **pages}


def short(module: Module) -> str:
    return module.name.rpartition(".")[2]


def heading(text: str, underline: str) -> list[str]:
    text = literal(text)
    return [text, underline * len(text), ""]


def overview_page(symbols: Symbols) -> str:
    """All names by module, in the order of reading."""
    modules = sorted(symbols.modules.values(), key=lambda module: module.notebook)
    lines = heading("Reference", "=")
    lines += ["Every name that the package exports, by module, in the order of the pages that build them.", ""]
    lines += [".. toctree::", "   :hidden:", "", *(f"   {short(module)}" for module in modules), ""]
    for module in modules:
        lines += heading(module.name, "-")
        lines += [f"{code(module.summary)} → :doc:`{module.name} <{short(module)}>`", ""]
        lines += [".. list-table::", "   :widths: 30 70", "   :class: names", ""]
        for definition in module.definitions:
            lines += [f"   * - :py:obj:`{definition.name} <{definition.full_name}>`"]
            lines += [f"     - {code(definition.summary or first_line(definition.code))}"]
        lines += [""]
    return "\n".join(lines)


def module_page(module: Module, symbols: Symbols) -> str:
    title, page = symbols.explained(module.definitions[0])[0], module.notebook.removesuffix(".ipynb")
    lines = heading(module.name, "=")
    lines += [f".. py:module:: {module.name}", "", code(module.summary), ""]
    lines += [f"Built step by step on the page :doc:`{title} <../{page}>`.", ""]
    for definition in module.definitions:
        lines += [*heading(definition.name, "-"), *entry(definition, symbols), ""]
    return "\n".join(lines)


def entry(definition: Definition, symbols: Symbols) -> list[str]:
    name = definition.full_name
    if definition.is_value:
        body = [code(definition.comment), "", *code_block(definition.code), "", *links(definition, symbols)]
        return [f".. py:data:: {definition.name}", "", *indent(body)]
    if isinstance(definition.node, ast.ClassDef):
        return [f".. autoclass:: {name}", *indent([":members:", ":undoc-members:", ":special-members: __call__"])]
    return [f".. autofunction:: {name}"]


def first_line(source: str) -> str:
    """As much of a value as a table has room for."""
    line = source.partition("\n")[0][:LONGEST_VALUE].replace("`", "'").strip()
    return f"`{line}`" if line == source else f"`{line}` …"


def code_block(source: str) -> list[str]:
    return [".. code-block:: python", "", *indent(source.splitlines())]


def indent(lines: list[str]) -> list[str]:
    return [f"   {line}" if line else "" for line in lines]


def links(definition: Definition, symbols: Symbols) -> list[str]:
    """The source of a definition, and where it is explained."""
    title, section = symbols.explained(definition)
    where = f"{title}, section “{section}”" if section else title
    return [
        ".. container:: where",
        "",
        f"   `Source <{source_url(definition)}>`__ · Explained on :ref:`{where} <{label(definition)}>`",
        "",
    ]


def label(definition: Definition) -> str:
    """The name of the target before the cell that a definition was exported from."""
    return f"cell-{definition.cell}"


def back_link(definitions: list[Definition]) -> str:
    """Below an exported cell of a page: one line that leads to the reference."""
    names = ", ".join(f":py:obj:`{each.name} <{each.full_name}>`" for each in definitions)
    return f"```{{eval-rst}}\n.. container:: in-reference\n\n   In the reference: {names}\n```"


def code(text: str) -> str:
    """Single backticks mean code, as in Markdown; a star or an underscore means itself."""
    parts = CODE.split(text)
    parts[::2] = [re.sub(r"([*|]|_\b)", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{part}``\\ " for part in parts[1::2]]
    return "".join(parts)


def literal(text: str) -> str:
    """Text in which nothing is markup."""
    return re.sub(r"([\\*`|]|_\b)", r"\\\1", text)


def errors(function: ast.AST) -> list[tuple[str, str]]:
    """The types that a function raises by name, each with its message; `…` stands for what is filled in."""
    found = {}
    for node in sorted(ast.walk(function), key=lambda node: getattr(node, "lineno", 0)):
        call = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id[0].isupper():
            found[call.func.id, message(call.args[0]) if call.args else ""] = None
    return list(found)


def message(node: ast.expr) -> str:
    """The text of a literal, cut at the end of a word; empty if it is computed elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    elif isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    else:
        return ""
    text = re.sub(r"^(… *)+: ", "", " ".join(text.split()))  # whose name and what place it was
    if not re.search(r"\w{3}", text):
        return ""
    return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE].rpartition(" ")[0] + " …"


class Hooks:
    """What autodoc asks for while it writes an entry."""

    def __init__(self, symbols: Symbols):
        self.symbols = symbols

    def describe(self, app, what, name, obj, options, lines):
        """Add the comments of parameters, the errors, and the links to what the docstring says."""
        definition, method = self.find(name)
        said = "\n".join(lines)
        lines[:] = [code(line) for line in lines]
        if what in ("class", "exception", "function", "method"):
            found = {key: without_linters(comment or "") for key, comment in docments(obj).items()}
            comments = {key: comment for key, comment in found.items() if comment}
            returns = comments.pop("return", None)
            lines += ["", *(f":param {key}: {code(comment)}" for key, comment in comments.items())]
            lines += [f":returns: {code(returns)}"] if returns else []
        if definition is None:
            return
        node = method or definition.node
        lines += [*self.raised(node, said), ""]
        if method is None:
            lines += links(definition, self.symbols)
        else:
            lines += [".. container:: where", "", f"   `Source <{source_url(definition, method)}>`__", ""]

    def find(self, name):
        """The definition of a full name, and the method if it is one of a class."""
        if name in self.symbols.definitions:
            return self.symbols.definitions[name], None
        owner, _, last = name.rpartition(".")
        definition = self.symbols.definitions.get(owner)
        method = next((part for part in definition.methods if part.name == last), None) if definition else None
        return (definition, method) if method else (None, None)

    def raised(self, node, said):
        """Fields for the errors of a function, or of what makes an object of a class."""
        if isinstance(node, ast.ClassDef):
            makers = ("__init__", "__post_init__", "__new__")
            found = [each for part in node.body if getattr(part, "name", "") in makers for each in errors(part)]
        else:
            found = errors(node)
        lines = []
        for kind, text in dict.fromkeys(found):
            target = f"~{self.symbols.full_name[kind]}" if kind in self.symbols.full_name else kind
            lines.append(f":raises {target}: {literal(text)}".rstrip())
        return lines


def hide_factory(app, what, name, obj, options, signature, returns):
    """`<factory>`, the default of a field that is made anew each time, is no Python that Sphinx could read."""
    return signature and signature.replace("<factory>", "..."), returns


def skip_fields(app, what, name, obj, skip, options):
    """A class shows its methods and properties; its fields stand among its parameters."""
    return skip or not (inspect.isroutine(obj) or isinstance(obj, property))


def forget_sourceless(app, env):
    """viewcode would list a module whose source it has not found, and link to a page that is not there."""
    env._viewcode_modules = {name: found for name, found in env._viewcode_modules.items() if found}


def connect(app, symbols: Symbols) -> None:
    app.connect("autodoc-process-docstring", Hooks(symbols).describe)
    app.connect("autodoc-process-signature", hide_factory)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("env-updated", forget_sourceless)
