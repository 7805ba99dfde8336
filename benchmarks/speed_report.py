"""The results of speed.py as a table in Markdown and as a figure for each number of threads."""

from pathlib import Path
from typing import Any

from peers import ENGINES

CLOSE = 0.999  # the lowest cosine that counts as the same vectors
TITLES = {"bert-base": "bert-base (random weights)", "minilm": "MiniLM (all-MiniLM-L6-v2)"}
WORKLOADS = {
    "1x16": "1 × 16",
    "1x128": "1 × 128",
    "8x128": "8 × 128",
    "1x512": "1 × 512",
    "ragged-32": "ragged 32",
    "ragged-64": "ragged 64",
    "encode-512": "`encode`, 512 sentences",
    "encode-64-alone": "`encode`, 64 one by one",
}
MARKERS = {"float32": "o", "bfloat16": "s", "int8": "^"}
COLOURS = {"base": "#555555", "minibert": "#0072B2", "peers": "#D55E00"}
LEGEND = f"""A ratio is how many times as fast as the base an engine is: the median of the rounds, and their middle
half. The base has the ratio 1; its time stands above it. **Bold**: the fastest in float32. ★: the fastest in any
precision whose vectors all have a cosine of at least {CLOSE} to those of the base. The last columns are the lowest
cosine and the largest difference to the base's vectors, over all workloads of the table. An empty cell was not
measured. bert-base has random weights, with which int8 passes; with real ones (MiniLM) none does on all workloads."""

Row = dict[str, Any]


def fastest(row: Row) -> tuple[str, str]:
    "The fastest engine of a row in float32, and in any precision that is close to the base."
    engines = row["engines"]
    full = [name for name in engines if ENGINES[name].precision == "float32"]
    close = [name for name, figures in engines.items() if figures["cosine"] >= CLOSE]
    first, best = (max(names, key=lambda name: engines[name]["ratio"]) for names in (full, close))
    return first, best


def cell(row: Row, name: str) -> str:
    "An engine's ratio on a workload, with its marks."
    if name in row["failed"]:
        return "failed"
    if name not in row["engines"]:
        return ""
    figures, (first, best) = row["engines"][name], fastest(row)
    ratio = f"{figures['ratio']:.2f}"
    ratio = f"**{ratio}**" if name == first else ratio
    return f"{ratio}{' ★' * (name == best)} ({figures['low']:.2f} to {figures['high']:.2f})"


def table(title: str, rows: list[Row]) -> list[str]:
    "The lines of one table: an engine a line, a workload a column."
    heads, lines = [], []
    for row in rows:
        base = next(iter(row["engines"].values()))
        heads.append(f"{WORKLOADS[row['workload']]}<br>{base['ms']:.1f} ms")
    for name, entry in ENGINES.items():
        found = [row["engines"][name] for row in rows if name in row["engines"]]
        if found or any(name in row["failed"] for row in rows):
            cells = [entry.label, entry.precision, *(cell(row, name) for row in rows)]
            lowest = f"{min(x['cosine'] for x in found):.6f}" if found else ""
            largest = f"{max(x['difference'] for x in found):.1e}" if found else ""
            lines.append(f"| {' | '.join([*cells, lowest, largest])} |")
    heads = ["engine", "precision", *heads, "cosine", "difference"]
    return [f"### {title}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *lines]


def groups(results: Row) -> list[tuple[str, int, list[Row]]]:
    "Rows that share the model, the task and the number of threads: their title, the threads, and they."
    found: dict[tuple[int, int, str], list[Row]] = {}
    for row in results["rows"]:
        found.setdefault((row["threads"], "encode" in row["workload"], row["model"]), []).append(row)
    tables = []
    for (threads, encodes, model), rows in sorted(found.items()):
        rows.sort(key=lambda row: list(WORKLOADS).index(row["workload"]))
        title = f"{TITLES[model]}{', sentences to vectors' * encodes}, {threads} thread{'s' * (threads > 1)}"
        tables.append((title, threads, rows))
    return tables


def markdown(results: Row) -> str:
    "The tables, and what they were measured with."
    machine, days = results["machine"], sorted({row["date"] for row in results["rows"]})
    rounds = sorted({row["rounds"] for row in results["rows"]})
    found = [(name, pair) for name, packages in results["versions"].items() for pair in packages.items()]
    pairs = {" ".join(pair) for name, pair in found if pair[0] != "sentence-transformers" or name.startswith("st")}
    text = [f"Measured on {' to '.join(days[:1] + days[1:][-1:])} with {' or '.join(map(str, rounds))} rounds."]
    text += [f"Processor: {machine['processor']}, with {', '.join(machine['flags'])}."]
    text += [f"Versions: {', '.join(sorted(pairs))}."]
    lines = ["\n".join(text), "", LEGEND]
    for title, _, rows in groups(results):
        lines += ["", *table(title, rows)]
    return "\n".join(lines) + "\n"


def panel(axes: Any, row: Row, names: list[str], title: str) -> None:
    "The ratios of one workload, an engine a line."
    for y, name in enumerate(names):
        if name in row["engines"]:
            entry, figures = ENGINES[name], row["engines"][name]
            ours, base = entry.label.startswith("minibert"), next(iter(row["engines"]))
            style = {"marker": MARKERS[entry.precision], "markersize": 6, "capsize": 2}
            style["color"] = COLOURS["base" if name == base else "minibert" if ours else "peers"]
            style["markerfacecolor"] = style["color"] if figures["cosine"] >= CLOSE else "white"
            spread = [[figures["ratio"] - figures["low"]], [figures["high"] - figures["ratio"]]]
            axes.errorbar(figures["ratio"], y, xerr=spread, **style)
    axes.axvline(1, color=COLOURS["base"], linewidth=0.8)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelbottom=True)
    axes.set_yticks(range(len(names)), [f"{ENGINES[name].label}, {ENGINES[name].precision}" for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_title(f"{title}\n{WORKLOADS[row['workload']].replace('`', '')}", fontsize=10)


def figure(tables: list[tuple[str, list[Row]]], path: Path) -> None:
    "A panel for each workload, three a line, the ratios on a logarithmic axis that all share."
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "speed", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import NullLocator

    lines = [(title.split(" (")[0], rows[i : i + 3]) for title, rows in tables for i in range(0, len(rows), 3)]
    names = [[name for name in ENGINES if any(name in row["engines"] for row in rows)] for _, rows in lines]
    heights = [0.2 * len(each) + 1 for each in names]
    size: dict[str, Any] = {"figsize": (11, sum(heights) + 1), "height_ratios": heights}
    fig, grid = plt.subplots(len(lines), 3, squeeze=False, sharex="all", sharey="row", layout="constrained", **size)
    for (title, rows), engines, line in zip(lines, names, grid, strict=True):
        for axes in line[len(rows) :]:
            axes.set_visible(False)
        for row, axes in zip(rows, line, strict=False):
            panel(axes, row, engines, title)
    ticks = [0.25, 0.5, 1, 2, 4, 8, 16, 32]
    grid[0, 0].set_xscale("log")
    low, high = grid[0, 0].get_xlim()
    grid[0, 0].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    grid[0, 0].xaxis.set_minor_locator(NullLocator())
    grid[0, 0].set_xlim(low, high)
    looks: list[dict[str, Any]] = [{"label": name, "color": colour, "marker": "o"} for name, colour in COLOURS.items()]
    looks += [{"label": name, "color": "black", "marker": marker} for name, marker in MARKERS.items()]
    looks += [{"label": f"cosine below {CLOSE}", "color": "black", "marker": "o", "markerfacecolor": "white"}]
    handles = [Line2D([], [], linestyle="", **look) for look in looks]
    fig.legend(handles=handles, ncols=len(handles), loc="outside upper center", frameon=False)
    fig.supxlabel("times as fast as the base: the median of the rounds, and their middle half")
    fig.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(fig)


def write_report(results: Row, folder: Path) -> None:
    "speed.md; speed.svg for one thread, and speed-N-threads.svg for more."
    (folder / "speed.md").write_text(markdown(results))
    for threads in sorted({row["threads"] for row in results["rows"]}):
        tables = [(title, rows) for title, number, rows in groups(results) if number == threads]
        figure(tables, folder / ("speed.svg" if threads == 1 else f"speed-{threads}-threads.svg"))
