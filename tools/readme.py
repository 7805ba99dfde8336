"""Write README.md, and the images in it, from nbs/index.ipynb and its committed outputs.

python tools/readme.py           # write
python tools/readme.py --check   # change nothing; fail where README.md is not what would be written
"""

import argparse
import base64
import posixpath
import re
import sys
from pathlib import Path

import nbformat
from nbdev.process import extract_directives

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "nbs/index.ipynb"
IMAGES = "docs/images"
RELATIVE_LINK = re.compile(r"\]\((?![a-z]+:|[#/])([^)\s]+)")
DIRECTIVE_LINE = re.compile(r"^#\|.*\n?", re.MULTILINE)


def render(nb) -> dict[str, bytes]:
    """The files that README.md consists of: path in the repository to content."""
    files, parts = {}, [f"<!-- Generated from {SOURCE} by tools/readme.py: edit the notebook. -->"]
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            parts.append(relocate_links(cell.source))
        elif cell.cell_type == "code":
            parts += render_code(cell, files)
    files["README.md"] = ("\n\n".join(parts) + "\n").encode()
    return files


def relocate_links(markdown: str) -> str:
    """Links relative to the notebook's folder become links relative to the root."""
    folder = posixpath.dirname(SOURCE)
    return RELATIVE_LINK.sub(lambda link: "](" + posixpath.normpath(posixpath.join(folder, link[1])), markdown)


def render_code(cell, files: dict[str, bytes]) -> list[str]:
    """The markdown of a code cell; its images are added to `files`."""
    directives = {key.rstrip(":"): " ".join(words) for key, words in extract_directives(cell, remove=False).items()}
    if directives.keys() & {"hide", "default_exp"} or directives.get("include") == "false":
        return []
    parts = []
    if directives.get("echo") != "false":
        parts.append(fence(DIRECTIVE_LINE.sub("", cell.source), "python"))
    if directives.get("output") != "false":
        alt = directives.get("fig-alt", "").strip("\"'")
        parts += [render_output(output, alt, files) for output in cell.outputs]
    return parts


def fence(text: str, language: str) -> str:
    return f"```{language}\n{text.strip()}\n```"


def render_output(output, alt: str, files: dict[str, bytes]) -> str:
    data = output.get("data", {})
    if "image/svg+xml" in data:
        return image("svg", data["image/svg+xml"].encode(), alt, files)
    if "image/png" in data:
        return image("png", base64.b64decode(data["image/png"]), alt, files)
    for kind in ("text/markdown", "text/html"):
        if kind in data:
            return data[kind].strip()
    return fence(output.get("text") or data["text/plain"], "text")


def image(suffix: str, content: bytes, alt: str, files: dict[str, bytes]) -> str:
    path = f"{IMAGES}/index-{len(files) + 1}.{suffix}"
    files[path] = content
    return f"![{alt}]({path})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if README.md is stale")
    args = parser.parse_args()
    wanted = render(nbformat.read(ROOT / SOURCE, as_version=4))
    present = {path.relative_to(ROOT).as_posix() for path in (ROOT / IMAGES).glob("index-*")}
    stale = [path for path, content in wanted.items() if not same(ROOT / path, content)]
    stale += sorted(present - wanted.keys())
    if args.check:
        for path in stale:
            print(f"{path} is stale: run python tools/readme.py", file=sys.stderr)
        return min(len(stale), 1)
    for path in stale:
        if path in wanted:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_bytes(wanted[path])
        else:
            (ROOT / path).unlink()
    return 0


def same(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


if __name__ == "__main__":
    sys.exit(main())
