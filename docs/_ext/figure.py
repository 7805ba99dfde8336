"""The figure on the first page: what each token looks at, in one attention head of a real BERT."""

from html import escape

import torch
from docutils import nodes
from explorers import SENTENCES
from sphinx.util.docutils import SphinxDirective

from minibert.model import BertModel
from minibert.tokenizer import BertTokenizer
from minibert.walk import minilm_folder

LAYER, HEAD = 5, 11  # counted from 0
LOOKS, AT = "it", "cat"
STEP, TOP, LEFT, RIGHT, WIDTH = 27, 44, 104, 256, 360
FAINT = 0.04  # probabilities below this are not drawn


def attention() -> tuple[list[str], list[list[float]]]:
    """The tokens, and for each the probabilities with which it looks at all of them."""
    inputs = BertTokenizer.from_pretrained(minilm_folder())(SENTENCES["cat"], return_tensors="pt")
    model = BertModel.from_pretrained(minilm_folder())
    with torch.no_grad():
        probs = model(**inputs, output_attentions=True).attentions[LAYER][0, HEAD]
    return inputs.tokens(), probs.tolist()


def draw(tokens: list[str], probs: list[list[float]]) -> str:
    """Tokens on the left look at tokens on the right; the wider a line, the larger the probability."""

    def y(place: int) -> int:
        return TOP + STEP * place

    lit = tokens.index(LOOKS)
    what = f"Lines from each token to those that it looks at; of the lines from {LOOKS}, the widest goes to {AT}."
    parts = [
        f'<svg class="attention" viewBox="0 0 {WIDTH} {y(len(tokens))}" role="img" aria-label="{what}">',
        f'<g class="head"><text x="{LEFT - 12}" y="16" text-anchor="end">token</text>'
        f'<text x="{RIGHT + 12}" y="16">looks at</text></g>',
    ]
    for i, row in sorted(enumerate(probs), key=lambda pair: pair[0] == lit):
        for j, share in enumerate(row):
            if share >= FAINT:
                curve = f"M{LEFT} {y(i)}C{LEFT + 76} {y(i)} {RIGHT - 76} {y(j)} {RIGHT} {y(j)}"
                lit_class = ' class="lit"' if i == lit else ""
                width, opacity = f"{0.6 + 5 * share:.1f}", f"{0.25 + 0.75 * share:.2f}"
                parts.append(f'<path{lit_class} d="{curve}" stroke-width="{width}" stroke-opacity="{opacity}"/>')
    for i, token in enumerate(tokens):
        for x, anchor, is_lit in ((LEFT - 12, "end", i == lit), (RIGHT + 12, "start", token == AT)):
            lit_class = ' class="lit"' if is_lit else ""
            parts.append(f'<text{lit_class} x="{x}" y="{y(i) + 5}" text-anchor="{anchor}">{escape(token)}</text>')
    return "".join(parts) + "</svg>"


class AttentionFigure(SphinxDirective):
    """The drawing and its caption; the build fails if the caption is not true."""

    def run(self):
        tokens, probs = attention()
        favourites = [tokens[row.index(max(row))] for row in probs]
        if favourites[tokens.index(LOOKS)] != AT or favourites.count(AT) < 0.8 * len(tokens):
            raise self.error(f"the tokens look most at {favourites}, expected “{AT}” for “{LOOKS}” and for most others")
        share, address = probs[tokens.index(LOOKS)][tokens.index(AT)], f"encoder.layer.{LAYER}.attention.self.probs"
        caption = (
            f"Layer {LAYER}, head {HEAD} of all-MiniLM-L6-v2, counted from 0: <strong>{LOOKS}</strong> gives "
            f"<strong>{AT}</strong> {share:.0%} of its attention. But so do most of the others. "
            f'<a href="explorer/cat.html#{address};head={HEAD};token={tokens.index(LOOKS)}">Look closer</a>.'
        )
        html = f'<figure class="hero-figure">{draw(tokens, probs)}<figcaption>{caption}</figcaption></figure>'
        return [nodes.raw("", html, format="html")]


def setup(app):
    app.add_directive("attention-figure", AttentionFigure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
