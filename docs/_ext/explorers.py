"""Three sentences on their way through MiniLM, as pages of the explorer beside the built documentation."""

from pathlib import Path

from minibert.explorer import write_html
from minibert.model import BertModel
from minibert.tokenizer import BertTokenizer
from minibert.walk import load_reference, minilm_folder

PACKAGE = Path(__file__).resolve().parents[2] / "minibert"
SENTENCES = {
    "cat": "The cat sat on the mat because it was tired.",
    "bank": "The bank raised its rates while we sat on the bank.",
    "pieces": "Unbelievably, nobody unlearned snowboarding.",
}


def write_explorers(app, exception):
    """Write the pages, unless they are newer than all of the package."""
    pages = {name: Path(app.outdir) / "explorer" / f"{name}.html" for name in SENTENCES}
    newest = max(file.stat().st_mtime for file in PACKAGE.iterdir() if file.is_file())
    is_current = all(page.exists() and page.stat().st_mtime > newest for page in pages.values())
    if exception or app.builder.format != "html" or is_current:
        return
    model, reference = BertModel.from_pretrained(minilm_folder()), load_reference(minilm_folder())
    tokenizer = BertTokenizer.from_pretrained(minilm_folder())
    pages["cat"].parent.mkdir(exist_ok=True)
    for name, text in SENTENCES.items():
        write_html(model, tokenizer, text, pages[name], reference, site="..")


def setup(app):
    app.connect("build-finished", write_explorers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
