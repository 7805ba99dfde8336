"""The picture shows every tensor and every line of what was recorded, each in its place, and no name can break it."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from itertools import combinations

import matplotlib
import pytest
import torch
import transformers
from matplotlib.figure import Figure
from torch import nn

from minibert import plot
from minibert.attention import BertSelfAttention
from minibert.check import SIZES, sample_batch
from minibert.config import BertConfig
from minibert.layer import BertLayer
from minibert.model import BertModel
from minibert.trace import record

SVG = "{http://www.w3.org/2000/svg}"
CONFIG = BertConfig(**SIZES)
X = torch.linspace(-1, 1, 3 * 7 * 30).view(3, 7, 30)


class Table(nn.Module):
    """Adds a table of its own to what it is given."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(30))

    def forward(self, x):
        return x.tanh() + self.table.exp()


class Mean(nn.Module):
    """Equal blocks, one after another, and the mean of what they made."""

    def __init__(self):
        super().__init__()
        self.block = nn.ModuleList(nn.Sequential(nn.Linear(30, 30), nn.Tanh()) for _ in range(3))

    def forward(self, x):
        return torch.stack([x := block(x) for block in self.block]).mean(0)


class Twice(nn.Module):
    """Runs one module two times."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(30, 30)

    def forward(self, x):
        return self.inner(self.inner(x)) + x


class Gate(nn.Module):
    """Multiplies what it computes by its own sigmoid: a line goes around."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(30, 11)

    def forward(self, x):
        h = self.dense(x)
        return h * h.sigmoid()


class Block(nn.Module):
    """Makes two tensors of two."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(30, 30)

    def forward(self, x, side):
        h = self.dense(x)
        return h, h.tanh() + side


class Chain(nn.Module):
    """Three equal blocks; each is given a tensor from the side, and takes up one of the two that the last one made."""

    def __init__(self, sides="aaa", takes=(1, 1)):
        super().__init__()
        self.sides, self.takes = sides, (0, *takes)
        self.side = nn.ModuleDict({name: nn.Linear(30, 30) for name in "ab"})
        self.block = nn.ModuleList(Block() for _ in sides)

    def forward(self, x):
        sides = {name: side(x) for name, side in self.side.items()}
        made = [x.tanh()]
        for block, side, take in zip(self.block, self.sides, self.takes, strict=True):
            made = block(made[take], sides[side])
        return made[1]


def bert(layers=4, training=False):
    model = BertModel(BertConfig(**SIZES | {"num_hidden_layers": layers})).train(training)
    return record(model, **sample_batch())


def uneven():
    model = BertModel(CONFIG).eval()
    model.encoder.layer[3].intermediate.dense = nn.Linear(30, 41)
    model.encoder.layer[3].output.dense = nn.Linear(41, 30)
    return record(model, **sample_batch())


def relative():
    config = transformers.BertConfig(**SIZES, attn_implementation="eager", position_embedding_type="relative_key")
    return record(transformers.BertModel(config).eval(), **sample_batch())


RECORDS = {
    "BERT": bert,
    "BERT of 6 layers": lambda: bert(layers=6),
    "BERT of 1 layer": lambda: bert(layers=1),
    "BERT in training": lambda: bert(training=True),
    "BERT with one wider layer": uneven,
    "BERT with relative positions": relative,
    "layer": lambda: record(BertLayer(CONFIG).eval(), X),
    "attention": lambda: record(BertSelfAttention(CONFIG).eval(), X, torch.zeros(3, 1, 1, 7)),
    "table": lambda: record(nn.Sequential(nn.Linear(30, 30), Table()), X),
    "mean of blocks": lambda: record(Mean(), X),
    "module that runs twice": lambda: record(Twice(), X),
    "gate": lambda: record(Gate(), X),
    "one tensor": lambda: record(nn.Linear(30, 11), X),
}


@pytest.fixture(params=RECORDS, scope="module")
def picture(request):
    return plot.flow(RECORDS[request.param](), request.param)


def numbers(element, *names):
    return [float(element.get(name)) for name in names]


class Drawing:
    """What can be read off the SVG alone: where the tensors stand, what the lines join, and what is written."""

    def __init__(self, flow):
        self.root = ElementTree.fromstring(str(flow))  # raises if it isn't well-formed
        self.words = [text.text for text in self.root.iter(f"{SVG}text")]
        self.rect = {}  # tensor → left, top, right, bottom
        for group in self.root.iter(f"{SVG}g"):
            if (tip := group.find(f"{SVG}title")) is not None:
                x, y, width, height = numbers(group.find(f"{SVG}rect"), "x", "y", "width", "height")
                self.rect[re.match(r"(.*?) \(", tip.text)[1]] = x, y, x + width, y + height
        [group] = [child for child in self.root if child.tag == f"{SVG}g"]
        self.lines = self.read(list(group.findall(f"{SVG}path")), self.joined)
        self.legend = self.read([child for child in self.root if child.tag == f"{SVG}path"], lambda start, tip: None)

    def read(self, paths, ends):
        """(source, target) or None, direction and colour of each line; a line is followed by its arrowhead."""
        found = []
        for line, head in zip(paths[::2], paths[1::2], strict=True):
            assert line.get("stroke") == head.get("fill")
            start = tuple(map(float, re.match(r"M (\S+) (\S+)", line.get("d")).groups()))
            x, y, dx, dy, axis, side = re.fullmatch(r"M(\S+) (\S+)l(\S+) (\S+)([hv])(\S+)z", head.get("d")).groups()
            base = [float(dx) + float(side) / 2 * (axis == "h"), float(dy) + float(side) / 2 * (axis == "v")]
            direction = {(0, -1): "down", (1, 0): "left", (-1, 0): "right"}[tuple((c > 0) - (c < 0) for c in base)]
            found.append((ends(start, (float(x), float(y))), direction, line.get("stroke")))
        return found

    def joined(self, start, tip):
        """The tensor at whose lower edge a line starts (None: at a dot), and the one at whose edge it ends."""

        def near(a, b):
            return abs(a - b) < 0.3  # everything is rounded to a tenth

        sources, targets = [], []
        for name, (left, top, right, bottom) in self.rect.items():
            if near(start[0], (left + right) / 2) and near(start[1], bottom):
                sources.append(name)
            on_top = near(tip[1], top) and left < tip[0] < right
            if on_top or (top < tip[1] < bottom and (near(tip[0], left) or near(tip[0], right))):
                targets.append(name)
        dots = [tuple(numbers(dot, "cx", "cy")) for dot in self.root.iter(f"{SVG}circle")]
        assert len(targets) == 1 and (len(sources) == 1 or (not sources and start in dots))
        return (sources[0] if sources else None), targets[0]


def test_names_and_shapes_are_written(picture):
    drawing = Drawing(picture)
    assert drawing.rect.keys() == picture.graph.sources.keys()
    written = "".join(drawing.words)
    for name, shape in picture.graph.shapes.items():
        assert name.rpartition(".")[2] in written and str(shape) in written


def test_every_source_is_a_line(picture):
    lines = [ends for ends, _, _ in Drawing(picture).lines]
    expected = [(source, target) for target, sources in picture.graph.sources.items() for source in sources or [None]]
    assert sorted(lines, key=str) == sorted(expected, key=str)


def test_arrows_point_the_right_way(picture):
    way = {"step": "down", "skip": "left", "aside": "right"}
    kinds = plot.edges(picture.graph)
    drawing = Drawing(picture)
    for ends, direction, colour in drawing.lines:
        kind = kinds[ends] if ends[0] else "step"
        assert direction == way[kind] and (colour == "#d55e00") == (kind == "skip")
    assert all(direction == "right" for _, direction, _ in drawing.legend)
    assert len(drawing.legend) == len({"input", *kinds.values()})


def test_nothing_overlaps_and_it_fits_a_page(picture):
    drawing = Drawing(picture)
    width, height = numbers(drawing.root, "width", "height")
    assert width <= 760
    for left, top, right, bottom in drawing.rect.values():
        assert 0 < left < right < width and 0 < top < bottom < height
    items, _, _ = plot.layout(picture.graph, plot.edges(picture.graph))
    for a, b in combinations(plot.every(items), 2):  # lanes too; a box comes before what it holds
        apart = abs(a.x - b.x) >= (a.width + b.width) / 2 or a.top >= b.bottom or b.top >= a.bottom
        inside = abs(a.x - b.x) <= (a.width - b.width) / 2 and a.top < b.top and b.bottom < a.bottom
        within = any(b is item for item in plot.every(a.items))
        assert inside if within and b.kind != "aside" else apart or within, (a, b)


def test_lines_go_down(picture):
    drawing = Drawing(picture)
    for (source, target), _, _ in drawing.lines:
        assert source is None or drawing.rect[source][3] < drawing.rect[target][1]


def test_the_lines_of_bert():
    lines = {ends: colour for ends, _, colour in Drawing(plot.flow(bert())).lines}
    layer = "encoder.layer.0"
    assert {ends for ends, colour in lines.items() if colour == "#d55e00"} == {
        ("embeddings.LayerNorm", f"{layer}.attention.output.sum"),
        (f"{layer}.attention.output.LayerNorm", f"{layer}.output.sum"),
    }
    assert {ends for ends, colour in lines.items() if colour == "#0072b2"} == {
        ("mask_additive", f"{layer}.attention.self.scores_masked")
    }


@pytest.mark.parametrize(
    ("made", "badges"),
    [
        (bert, ["encoder.layer.0–3", "× 4"]),
        (lambda: bert(layers=6), ["encoder.layer.0–5", "× 6"]),
        (lambda: bert(layers=1), []),
        (uneven, ["0–2", "× 3"]),
        (RECORDS["mean of blocks"], []),
        (lambda: record(Chain(), X), ["block.0–2", "× 3"]),
        (lambda: record(Chain(sides="abb"), X), ["1–2", "× 2"]),
        (lambda: record(Chain(sides="aab"), X), ["0–1", "× 2"]),
        (lambda: record(Chain(takes=(1, 0)), X), ["0–1", "× 2"]),
    ],
)
def test_modules_alike_are_drawn_once(made, badges):
    assert [word for word in Drawing(plot.flow(made())).words if "–" in word or "×" in word] == badges


def test_a_tensor_made_from_weights_stands_level_with_its_neighbours():
    rect = Drawing(plot.flow(RECORDS["table"]())).rect
    assert rect["1.exp"][1] == rect["1.tanh"][1] > rect["0"][3]


@pytest.mark.parametrize("text", ["a < b & c", "<b>&\"'", "]]>", "&amp;", "</svg>", "猫 \U0001f600"])
def test_names_and_titles_are_harmless(text):
    module = nn.Sequential()
    module.add_module(text, Gate())
    drawing = Drawing(plot.flow(record(module, X), text))
    assert drawing.root.find(f"{SVG}title").text == drawing.root.get("aria-label") == text
    assert f"Skip: from {text}.dense to {text}.mul." in drawing.root.find(f"{SVG}desc").text
    assert list(drawing.rect) == [f"{text}.dense", f"{text}.sigmoid", f"{text}.mul"]
    assert drawing.words.count(text) == 2  # the title of the picture and that of the box
    tags = {element.tag.removeprefix(SVG) for element in drawing.root.iter()}
    assert tags == {"svg", "title", "desc", "rect", "text", "path", "circle", "g"}


def test_the_same_record_gives_the_same_text():
    code = """
from minibert import check, config, model, plot, trace
bert = model.BertModel(config.BertConfig(**check.SIZES)).eval()
print(plot.flow(trace.record(bert, **check.sample_batch())), end="")
"""
    again = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "5"}, capture_output=True, check=True
    )
    assert again.stdout.decode() == str(plot.flow(bert())) == str(plot.flow(bert()))


def test_save_and_the_ways_to_show(tmp_path):
    picture = plot.flow(RECORDS["table"]())
    picture.save(tmp_path / "table.svg")
    assert (tmp_path / "table.svg").read_text(encoding="utf-8") == str(picture) == picture._repr_svg_()
    assert repr(picture) == "Flow(4 tensors)"


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="record holds no tensor, expected at least one"):
        plot.flow(record(nn.Identity(), X))


def test_heat_is_centred_on_zero_where_there_are_signs():
    ax = Figure().subplots()
    signed = plot.heat(ax, torch.tensor([[-3.0, 1.0], [0.0, 2.0]]), ["a", "b"], ["c", "d"], "title")
    assert signed.get_clim() == (-3, 3) and signed.get_cmap().name == "PuOr"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["c", "d"]
    positive = plot.heat(ax, torch.tensor([[1.0, 4.0]]))
    assert positive.get_clim() == (0, 4) and positive.get_cmap().name == "cividis"
    assert plot.heat(ax, torch.tensor([[1.0, 4.0]]), vmax=9).get_clim() == (0, 9)
    (red, _, blue, _), (other_red, _, other_blue, _) = matplotlib.colormaps["PuOr"]([0.1, 0.9])
    assert red > blue and other_blue > other_red  # orange below zero, purple above


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [(["a"], [], "rows holds 1 labels, expected 2"), ([], ["a", "b", "c", "d"], "columns holds 4 labels, expected 3")],
)
def test_heat_refuses_labels_that_do_not_fit(rows, columns, message):
    with pytest.raises(ValueError, match=message):
        plot.heat(None, torch.rand(2, 3), rows, columns)
