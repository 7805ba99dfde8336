"""The figure on the first page: what each token looks at, in one attention head of a real BERT."""

from html import escape

import torch
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from minibert.model import BertModel
from minibert.walk import encode, minilm_folder

TEXT = "The cat sat on the mat because it was tired."
LAYER, HEAD = 5, 11  # counted from 0
LOOKS, AT = "it", "cat"
STEP, TOP, LEFT, RIGHT, WIDTH = 27, 44, 104, 256, 360
FAINT = 0.04  # probabilities below this are not drawn


def attention() -> tuple[list[str], list[list[float]]]:
    """The tokens, and for each the probabilities with which it looks at all of them."""
    tokens, inputs, _ = encode(TEXT, minilm_folder(), limit=512)
    model = BertModel.from_pretrained(minilm_folder()).eval()
    with torch.no_grad():
        probs = model(**inputs, output_attentions=True).attentions[LAYER][0, HEAD]
    seen = sum(token != "[PAD]" for token in tokens)
    return tokens[:seen], probs[:seen, :seen].tolist()


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
        row = probs[tokens.index(LOOKS)]
        if row.index(max(row)) != tokens.index(AT):
            raise self.error(f"“{LOOKS}” looks most at “{tokens[row.index(max(row))]}”, expected “{AT}”")
        caption = (
            f"One of the 72 attention heads of all-MiniLM-L6-v2, the last of layer {LAYER + 1}: "
            f"<strong>{LOOKS}</strong> looks at <strong>{AT}</strong>, with {max(row):.0%} of its attention."
        )
        html = f'<figure class="hero-figure">{draw(tokens, probs)}<figcaption>{caption}</figcaption></figure>'
        return [nodes.raw("", html, format="html")]


def setup(app):
    app.add_directive("attention-figure", AttentionFigure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
