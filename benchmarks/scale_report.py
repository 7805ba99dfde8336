"""The results of scale.py as tables in Markdown and as two figures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from speed_report import MARKERS

PATHS = {
    "eager": "reading path, eager, float32",
    "float32": "packed, prepared, float32",
    "bfloat16": "packed, prepared, bfloat16",
    "int8": "packed, prepared, int8",
}
TITLES = {"bert-base": "bert-base's size", "minilm": "MiniLM's size"}
COLOURS = {"eager": "#555555", "float32": "#0072B2", "bfloat16": "#D55E00", "int8": "#009E73"}
SIGNS = {"eager": "x", **MARKERS}
SEQ = 128  # tokens of each text of a batch

Row = dict[str, Any]


def rows_of(results: Row, model: str, path: str, axis: str) -> list[Row]:
    "The points of a line: along the lengths of one text, or along the texts of a batch."
    rows = [row for row in results["points"] if (row["model"], row["path"]) == (model, path)]
    if axis == "seq":
        return sorted((row for row in rows if row["batch"] == 1), key=lambda row: row["seq"])
    return sorted((row for row in rows if row["seq"] == SEQ), key=lambda row: row["batch"])


def cell(row: Row) -> str:
    if "left_out" in row:
        return row["left_out"]
    digits = 1 if row["ms"] < 100 else 0
    return f"{row['ms']:,.{digits}f} ms, {row['mb']:,.0f} MB"


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def models_of(results: Row) -> list[str]:
    return [name for name in TITLES if any(row["model"] == name for row in results["points"])]


def costs(results: Row) -> list[str]:
    "Two tables for each model."
    lines = []
    for model in models_of(results):
        for axis, title in (
            ("seq", "one text, by its tokens"),
            ("batch", f"texts of {SEQ} tokens, by their number"),
        ):
            heads = [str(row[axis]) for row in rows_of(results, model, "eager", axis)]
            rows = [[label, *map(cell, rows_of(results, model, path, axis))] for path, label in PATHS.items()]
            lines += ["", f"### {TITLES[model]}: {title}", "", *table(["", *heads], rows)]
    return lines


def reached(results: Row, row: Row) -> float:
    "What the roof allows at a point, in GFLOP/s."
    most = results["rates"][row["path"]]["gflops"]
    return min(most, row["flop_per_byte"] * max(results["bandwidth"].values()))


def roofs(results: Row) -> list[str]:
    "The machine's rates; the share of a forward that is products; each workload beside what the roof allows."
    band = results["bandwidth"]
    rows = []
    for path, found in results["rates"].items():
        share = results["floor"][path]
        spread = f"{share['low']:.2f} to {share['high']:.2f}"
        shape = " × ".join(map(str, found["shape"]))
        names = ("ms", "products_ms", "attention_ms")
        times = [*(f"{share[name]:.0f} ms" for name in names), f"{share['share']:.2f}", spread]
        rows.append([path, f"{found['gflops']:.0f} GFLOP/s", shape, *times])
    heads = [
        "precision",
        "best rate",
        "at",
        "forward of 8 × 128",
        "its products alone",
        "of these attention",
        "share",
        "middle half",
    ]
    lines = ["", "### The machine, and bert-base's products at its own rate", ""]
    lines += [f"Memory: {band['read']:.1f} GB/s read, {band['copy']:.1f} GB/s read and written by a copy.", ""]
    lines += [*table(heads, rows), "", "### What the roof allows", ""]
    found = []
    for row in results["points"]:
        if row.get("gflops"):
            cells = [row["model"], f"{row['batch']} × {row['seq']}", row["path"], f"{row['flop_per_byte']:.1f}"]
            allowed = reached(results, row)
            found.append([*cells, f"{row['gflops']:.0f}", f"{allowed:.0f}", f"{row['gflops'] / allowed:.2f}"])
    return lines + table(["model", "texts", "precision", "FLOP/byte", "GFLOP/s", "roof", "share of it"], found)


LEGEND = """Time is the median of the forwards after the first; where the first took more than 1.5 seconds, it is that
one. Memory is by how much the first forward raised the highest resident memory of its process over that of the loaded
model with its weights ready. Both with random weights. The share is what the products of a forward take by themselves,
at the same shapes and through the same kernels, in parts of the forward's time. The roof is the lower of the best rate
and of the memory's bandwidth times FLOP/byte, where every product reads its matrices from memory and writes its result.
What fits into the caches can be above it."""


def markdown(results: Row) -> str:
    machine = results["machine"]
    text = [f"Measured on {results['date']} with {results['rounds']} rounds, one thread, torch {results['torch']}."]
    text += [f"Processor: {machine['processor']}, with {', '.join(machine['flags'])}."]
    return "\n".join(["\n".join(text), "", LEGEND, *costs(results), *roofs(results)]) + "\n"


def save(draw: Callable[[Any], Any], path: Path) -> None:
    "A figure that `draw` makes with pyplot; the same bytes each time."
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": path.stem, "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot as plt

    fig = draw(plt)
    fig.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(fig)


def plain_ticks(axis: Any) -> None:
    "Numbers without exponents on a logarithmic axis."
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def headline(results: Row, model: str, axis: str, value: str) -> str:
    "What a panel shows: the reading path beside another at its last point."
    lines = {path: rows_of(results, model, path, axis) for path in PATHS}
    last = max((row[axis] for row in lines["eager"] if value in row), default=None)
    found = {path: row[value] for path, rows in lines.items() for row in rows if row[axis] == last and value in row}
    if "eager" not in found or len(found) < 2 or not min(found.values()):
        return TITLES[model]
    best = min((path for path in found if path != "eager"), key=lambda path: found[path])
    ratio, count = found["eager"] / found[best], f"{last} {'tokens' if axis == 'seq' else 'texts'}"
    if value == "ms":
        return f"{TITLES[model]}, {count}:\n{best} is {ratio:.1f} × as fast as the reading path"
    return f"{TITLES[model]}, {count}:\nthe reading path needs {ratio:.1f} × the MB of {best}"


def draw_scale(results: Row, plt: Any) -> Any:
    "A row of panels for each model: time and memory by length, time and memory by batch."
    models = models_of(results)
    size = {"figsize": (15, 3.3 * len(models) + 0.5), "layout": "constrained"}
    fig, grid = plt.subplots(len(models), 4, squeeze=False, **size)
    names = {"seq": "tokens of one text", "batch": f"texts of {SEQ} tokens"}
    values = {"ms": "milliseconds", "mb": "MB above the loaded model"}
    for model, line in zip(models, grid, strict=True):
        panels = [(axis, value) for axis in names for value in values]
        for (axis, value), axes in zip(panels, line, strict=True):
            for path, label in PATHS.items():
                rows = [row for row in rows_of(results, model, path, axis) if row.get(value)]  # no logarithm of 0
                style = {"color": COLOURS[path], "marker": SIGNS[path], "markersize": 5, "linewidth": 1.2}
                axes.plot([row[axis] for row in rows], [row[value] for row in rows], label=label, **style)
            ticks = sorted({row[axis] for row in rows_of(results, model, "float32", axis)})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.set_yscale("log")
            plain_ticks(axes.yaxis)
            axes.set(xlabel=names[axis], ylabel=values[value])
            axes.set_title(headline(results, model, axis, value), fontsize=9)
            axes.grid(color="#DDDDDD", linewidth=0.6)
    fig.legend(*grid[0, 0].get_legend_handles_labels(), ncols=4, loc="outside upper center", frameon=False)
    return fig


def draw_roofline(results: Row, plt: Any) -> Any:
    "A panel for each model: the roofs, and each workload in each precision."
    models, band = models_of(results), max(results["bandwidth"].values())
    size = {"figsize": (6 * len(models) + 1, 4.6), "layout": "constrained"}
    fig, grid = plt.subplots(1, len(models), squeeze=False, sharey=True, **size)
    for model, axes in zip(models, grid[0], strict=True):
        points = [row for row in results["points"] if row["model"] == model and row.get("gflops")]
        ends = [row["flop_per_byte"] for row in points]
        reach = [min(ends) / 2, max(ends) * 2]
        place: Row = {"textcoords": "offset points", "fontsize": 8}
        axes.annotate(f"{band:.0f} GB/s", (reach[0], band * reach[0]), (14, -2), va="center", **place)
        for path, rate in results["rates"].items():
            knee = rate["gflops"] / band
            xs = sorted({*reach, min(max(knee, reach[0]), reach[1])})
            axes.plot(xs, [min(rate["gflops"], band * x) for x in xs], color=COLOURS[path], linewidth=1.2)
            label = f"{path}\n{rate['gflops']:.0f} GFLOP/s"
            axes.annotate(label, (reach[1], rate["gflops"]), (4, 0), va="center", **place)
            mine = [row for row in points if row["path"] == path]
            for is_batch, face in ((False, COLOURS[path]), (True, "white")):
                rows = [row for row in mine if (row["batch"] > 1) == is_batch]
                style = {"color": COLOURS[path], "marker": SIGNS[path], "markerfacecolor": face, "linestyle": ""}
                name = f"{path}, {f'texts of {SEQ} tokens' if is_batch else 'one text'}"
                axes.plot([r["flop_per_byte"] for r in rows], [r["gflops"] for r in rows], label=name, **style)
        axes.set(xscale="log", yscale="log", xlabel="FLOP per byte that must move", ylabel="GFLOP/s", xlim=reach)
        plain_ticks(axes.xaxis)
        plain_ticks(axes.yaxis)
        shares = {path: [r["gflops"] / reached(results, r) for r in points if r["path"] == path] for path in COLOURS}
        most = ", ".join(f"{path} {max(found):.0%}" for path, found in shares.items() if found)
        axes.set_title(f"{TITLES[model]}: of what the roof allows,\n{most} at most", fontsize=10)
        axes.grid(color="#DDDDDD", linewidth=0.6)
    fig.legend(*grid[0, 0].get_legend_handles_labels(), ncols=3, loc="outside upper center", frameon=False)
    return fig


def write_report(results: Row, folder: Path) -> None:
    "scale.md, scale.svg and roofline.svg."
    (folder / "scale.md").write_text(markdown(results))
    save(lambda plt: draw_scale(results, plt), folder / "scale.svg")
    save(lambda plt: draw_roofline(results, plt), folder / "roofline.svg")
