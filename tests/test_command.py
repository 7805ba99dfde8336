"""The command line: rows, JSON and files of a text; a reader's own BERT, right, wrong and broken."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from minibert import command as cli
from minibert import walk
from minibert.check import SIZES, lively_
from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.slips import SLIPS
from minibert.tokenizer import BertTokenizer
from minibert.trace import record

ROOT = Path(__file__).resolve().parents[1]
TEXT = "The cat sat on the mat."
PAGE = nbformat.read(ROOT / "nbs" / "27_command.ipynb", as_version=4)
RIGHT = "\n".join(cell.source.split("\n", 1)[1] for cell in PAGE.cells if cell.source.startswith("%%writefile"))
MISTAKES = {
    "scale_missing": (" / q.shape[-1] ** 0.5", ""),
    "mask_missing": ("** 0.5 + hidden", "** 0.5"),
    "softmax_over_queries": ("scores.softmax(-1)", "scores.softmax(-2)"),
    "merge_not_transposed": (".transpose(1, 2).flatten(2)", ".reshape(x.shape)"),
    "gelu_tanh": ("gelu(part.intermediate.dense(x))", 'gelu(part.intermediate.dense(x), approximate="tanh")'),
}


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs a command line in an empty folder: its exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def run(*words):
        path, modules = sys.path.copy(), set(sys.modules)
        status = cli.command(list(words))
        assert sys.path == path
        left = [name for name in sys.modules.keys() - modules if "your" in name or name.startswith(("mine", "course"))]
        assert not left and torch.get_default_dtype() == torch.float32 and torch.get_num_threads() == threads
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def mine(tmp_path):
    """Writes mine.py: the page's own BERT, with the first text replaced by the second."""

    def write(old="", new="", name="mine.py"):
        assert old in RIGHT
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(RIGHT.replace(old, new) if old else RIGHT + new)
        return name

    return write


def strict(text):
    """JSON without the words that are not JSON."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@torch.no_grad()
def expected_record():
    folder = walk.minilm_folder()
    return record(BertModel.from_pretrained(folder), **walk.encode(TEXT, folder, limit=512)[1])


@pytest.fixture
def spoilt(monkeypatch):
    """minibert with one wrong number in it."""
    load = BertModel.from_pretrained

    def from_pretrained(folder):
        model = load(folder)
        model.encoder.layer[3].attention.output.LayerNorm.eps = 0.1
        return model

    monkeypatch.setattr(BertModel, "from_pretrained", from_pretrained)


@pytest.fixture
def few_slips(monkeypatch):
    """The whole catalogue, which takes a while where no slip fits, is for tests/test_slips.py."""
    monkeypatch.setattr(cli, "watched_slips", lambda: [SLIPS[name] for name in MISTAKES])


def test_rows_are_those_of_the_demo(run, capsys):
    walk.main([TEXT])
    _, tokens, _, *demo, empty, counts = capsys.readouterr().out.splitlines()
    status, out, err = run("trace", TEXT)
    assert (status, err) == (0, "")
    assert out.splitlines() == [tokens, "", *(row.rsplit(maxsplit=1)[0] for row in demo)]
    status, out, err = run("trace", TEXT, "--against", "transformers")
    assert (status, err) == (0, "")
    assert out.splitlines() == [tokens, "", *demo, empty, counts]


def test_a_difference_is_told(run, spoilt):
    status, out, _ = run("trace", TEXT, "--against", "transformers")
    first = next(row for row in out.splitlines() if row.endswith("<- differs"))
    assert status == 1 and first.startswith("encoder.layer.3.attention.output.LayerNorm")
    status, out, _ = run("trace", TEXT, "--against", "transformers", "--json")
    rows = [row for row in strict(out)["rows"] if not row["same"]]
    assert status == 1 and first.startswith(rows[0]["name"]) and rows[0]["difference"] > 0
    assert run("trace", TEXT)[0] == 0


def test_a_tensor_that_one_side_lacks_is_told(run, monkeypatch):
    load = BertModel.from_pretrained

    def shortened(folder):
        model = load(folder)
        del model.encoder.layer[5]
        return model

    monkeypatch.setattr(BertModel, "from_pretrained", shortened)
    status, out, _ = run("trace", TEXT, "--against", "transformers")
    assert status == 1 and out.count("missing in minibert") == 16
    status, out, _ = run("trace", TEXT, "--against", "transformers", "--json")
    assert status == 1 and sum(row["difference"] is None for row in strict(out)["rows"]) == 16


def test_json_is_the_record(run):
    status, out, err = run("trace", TEXT, "--json")
    assert (status, err) == (0, "")
    found, expected = strict(out), expected_record()
    assert found["tokens"][:3] == ["[CLS]", "the", "cat"] and found["cut_off"] == 0
    assert found["config"]["hidden_size"] == 384 and found["against"] is None
    assert [row["name"] for row in found["rows"]] == list(expected)
    for row, (name, tensor) in zip(found["rows"], expected.items(), strict=True):
        assert (row["shape"], row["dtype"], row["odd"]) == (list(tensor.shape), "float32", 0)
        assert (row["smallest"], row["largest"]) == (tensor.min().item(), tensor.max().item())
        assert row["mean"] == pytest.approx(tensor.double().mean().item())
        assert row["std"] == pytest.approx(tensor.double().std().item())
        assert tuple(row["sources"]) == expected.sources[name]


def test_json_has_no_word_for_infinity():
    row = cli.json_row("x", torch.tensor([1.0, torch.inf, torch.nan]), [])
    assert row["odd"] == 2 and row["largest"] is None
    assert strict(json.dumps(row, allow_nan=False)) == row


def test_npz_is_the_record(run, tmp_path):
    status, out, err = run("trace", TEXT, "--npz", "t.npz", "--json")
    assert status == 0 and err == "106 tensors written to t.npz\n" and strict(out)
    expected = expected_record()
    with np.load(tmp_path / "t.npz") as stored:
        assert list(stored) == list(expected)
        assert all(np.array_equal(stored[name], tensor.numpy()) for name, tensor in expected.items())
    assert os.listdir(tmp_path) == ["t.npz"]


def test_npz_replaces_a_file_only_if_told(run, tmp_path):
    file = tmp_path / "t.data"
    file.write_text("precious")
    status, out, err = run("trace", TEXT, "--npz", "t.data")
    assert (status, out) == (2, "") and err.startswith("FileExistsError: t.data") and err.count("\n") == 1
    assert file.read_text() == "precious"
    assert run("trace", TEXT, "--npz", "t.data", "--force")[0] == 0
    assert len(np.load(file)) == 106


def test_npz_is_whole_or_not_there(run, tmp_path, monkeypatch):
    def full_disk(file, **arrays):
        file.write(b"some")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full_disk)
    (tmp_path / "old.npz").write_text("precious")
    for name in ("new.npz", "old.npz"):
        status, out, err = run("trace", TEXT, "--npz", name, "--force")
        assert (status, out, err) == (2, "", "OSError: no space left\n")
    assert os.listdir(tmp_path) == ["old.npz"] and (tmp_path / "old.npz").read_text() == "precious"


@pytest.fixture
def small(tmp_path_factory):
    """A small checkpoint with MiniLM's tokenizer."""
    folder = tmp_path_factory.mktemp("small")
    lively_(BertModel(BertConfig(**SIZES | {"vocab_size": 30522}))).save_pretrained(folder)
    BertTokenizer.from_pretrained(walk.minilm_folder()).save_pretrained(folder)
    return folder


def told(page):
    """What a page of `explore` was told, by the tensors' names, and the rest of it."""
    story = strict(re.search(r'id="story" type="application/json">(.*?)</script>', page.read_text(), re.S)[1])
    return {tensor["name"]: tensor for tensor in story.pop("tensors")}, story


def test_a_page_is_written(run, tmp_path):
    assert run("explore", TEXT, "-o", "cat.html") == (0, "cat.html is written: open it in a browser\n", "")
    assert os.listdir(tmp_path) == ["cat.html"]
    tensors, story = told(tmp_path / "cat.html")
    assert list(tensors) == list(expected_record()) and story["text"] == TEXT
    assert {tensor["difference"] for tensor in tensors.values()} == {"not compared"}


def test_a_page_of_another_model(run, tmp_path, small):
    assert run("explore", TEXT, "--output", "small.html", "--model", str(small), "--against", "transformers")[0] == 0
    tensors, story = told(tmp_path / "small.html")
    assert len(tensors) == 74 and tensors["pooler.dense"]["shape"] == [1, 30] and story["heads"] == 5
    assert {tensor["difference"] for tensor in tensors.values()} == {"equal, bit for bit"}


def test_a_page_tells_a_difference(run, tmp_path, spoilt):
    assert run("explore", TEXT, "-o", "cat.html", "--against", "transformers")[0] == 0
    differ = [name for name, tensor in told(tmp_path / "cat.html")[0].items() if "largest" in tensor["difference"]]
    assert differ[0] == "encoder.layer.3.attention.output.LayerNorm" and differ[-1] == "pooler.activation"


def test_a_page_replaces_a_file_only_if_told(run, tmp_path, small):
    file = tmp_path / "cat.html"
    file.write_text("precious")
    status, out, err = run("explore", TEXT, "-o", "cat.html", "--model", str(small))
    assert (status, out) == (2, "") and err.startswith("FileExistsError: cat.html") and err.count("\n") == 1
    assert file.read_text() == "precious"
    assert run("explore", TEXT, "-o", "cat.html", "--model", str(small), "--force")[0] == 0
    assert told(file)[1]["text"] == TEXT


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["trace", "  "], "ValueError: text is"),
        (["trace", TEXT, "--model", "nowhere"], "FileNotFoundError: nowhere does not exist"),
        (["trace", TEXT, "--npz", "nowhere/t.npz"], "FileNotFoundError: nowhere does not exist"),
        (["trace", TEXT, "--npz", ".", "--force"], "ValueError: . is no ordinary file"),
        (["explore", "  ", "-o", "cat.html"], "ValueError: text has 2 tokens"),
        (["explore", "cat " * 63, "-o", "cat.html"], "ValueError: text has 65 tokens"),
        (["explore", TEXT, "-o", "cat.html", "--model", "nowhere"], "FileNotFoundError: nowhere does not exist"),
        (["explore", TEXT, "-o", "nowhere/cat.html"], "FileNotFoundError: nowhere does not exist"),
        (["explore", TEXT, "-o", ".", "--force"], "ValueError: . is no ordinary file"),
        (["compare", "nowhere"], "FileNotFoundError: there is neither a file nor a module 'nowhere'"),
        (["compare", "nowhere.py:Bert"], "FileNotFoundError: nowhere.py does not exist"),
        (["compare", "no/where"], "FileNotFoundError: no/where does not exist"),
        (["compare", "."], "FileNotFoundError: config.json does not exist"),
        (["compare", ".:Bert"], "ValueError: . is a checkpoint"),
        (["compare", ".", "--small"], "ValueError: . is a checkpoint"),
        (["compare", "math"], "Complaint: math has no BertModel"),
    ],
)
def test_nothing_to_show_or_compare(run, tmp_path, words, error):
    status, out, err = run(*words)
    assert (status, out) == (2, "") and err.startswith(error) and err.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [
        *("trace", "compare", "paint", "trace x --against numpy", "compare a.py --npz x"),
        *("explore", "explore x", "explore -o x.html", "explore x -o x.html --against numpy"),
    ],
)
def test_bad_usage(run, line):
    with pytest.raises(SystemExit, match="2"):
        run(*shlex.split(line))


def test_help(run):
    status, out, err = run()
    assert (status, err) == (0, "") and "trace" in out and "compare" in out and "explore" in out


def test_progress_is_for_terminals(run, mine, monkeypatch):
    mine(*MISTAKES["scale_missing"])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    status, out, err = run("trace", TEXT)
    assert status == 0 and "layers" in err and "layers" not in out
    status, out, err = run("explore", TEXT, "-o", "cat.html")
    assert status == 0 and "layers" in err and "layers" not in out
    status, out, err = run("compare", "mine.py", "--small")
    assert status == 1 and "slips" in err and "slips:" not in out


@pytest.mark.parametrize("words", [[], ["--small"], ["--small", "--against", "transformers"]], ids=" ".join)
def test_a_right_one_agrees(run, mine, words):
    status, out, err = run("compare", mine(), *words)
    assert (status, err) == (0, "")
    assert out in {f"{n} of {n} tensors agree, bit for bit\n" for n in (106, 74)}


@pytest.mark.parametrize("slip", MISTAKES)
def test_a_wrong_one_is_named(run, mine, slip, few_slips):
    status, out, err = run("compare", mine(*MISTAKES[slip]), "--small", "--json")
    found = strict(out)
    assert (status, err) == (1, "") and not found["agrees"]
    assert [each["name"] for each in found["slips"]] == [slip]
    assert found["explained_up_to"] is None and found["first"].startswith("encoder.layer.0.")
    assert found["compared"] == len(found["rows"]) == 74 and found["right"] < 74


def test_a_wrong_one_is_named_in_words(run, mine):
    status, out, _ = run("compare", mine(*MISTAKES["scale_missing"]), "--small")
    assert status == 1
    assert out.startswith("first divergence: encoder.layer.0.attention.self.scores_scaled") and "scale_missing" in out


def test_eps_matters_in_the_small_one(run, mine, few_slips):
    assert run("compare", mine("c.layer_norm_eps", "1e-12"), "--small")[0] == 1


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("hidden, pooled", "does not return last_hidden_state, of shape (3, 7, 30)"),
        ("x", "does not return pooler_output"),
        ("None", "does not return last_hidden_state"),
        ("(x, pooled)", ""),
        ('{"a": [pooled], "b": x}', ""),
        ("Output(x, pooled)", ""),
    ],
)
def test_what_is_returned(run, mine, returned, says):
    old = "return x, self.pooler.dense(x[:, 0]).tanh()"
    output = "from dataclasses import dataclass\n@dataclass\nclass Output:\n    a: object\n    b: object\n"
    name = mine(old, f"pooled = self.pooler.dense(x[:, 0]).tanh()\n        return {returned}")
    Path(name).write_text(output + Path(name).read_text())
    status, out, _ = run("compare", name, "--small")
    assert status == bool(says) and says in out
    assert strict(run("compare", name, "--small", "--json")[1])["agrees"] == (not says)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("query=", "q=", ["lacks encoder.layer.0.attention.self.query.weight", "and 5 more", "unknown encoder."]),
        ("c.hidden_size, c.hidden_size)", "c.hidden_size, 31)", ["pooler.dense.weight has shape (31, 30), expected"]),
        ("", "\nx = 1 / 0\n", ["importing mine.py raised ZeroDivisionError", "(mine.py, line", "<module>: x = 1 / 0)"]),
        ("", "\nx = (\n", ["importing mine.py raised SyntaxError", "mine.py, line"]),
        ("", "\nraise SystemExit(0)\n", ["importing mine.py raised SystemExit: 0"]),
        ("", "\nimport nowhere\n", ["ModuleNotFoundError: No module named 'nowhere'", "(mine.py, line"]),
        ("super().__init__()", "c.nothing", ["building BertModel from its config raised", "in __init__: c.nothing"]),
        ("self.heads, -1", "self.heads, 4", ["calling BertModel in float64 raised RuntimeError", "q, k, v ="]),
        ("token_type_ids", "segments", ["calling BertModel in float64 raised TypeError", "token_type_ids"]),
        ("class BertModel", "class Bert", ["mine.py has no BertModel", "expected one of its classes", "Bert"]),
        ("class BertModel", "BertModel = 3\nclass Bert", ["no class derived from torch.nn.Module, but a int"]),
    ],
)  # fmt: skip
def test_a_broken_one_is_explained(run, mine, old, new, says):
    status, out, err = run("compare", mine(old, new), "--small")
    assert (status, out) == (2, "") and err.startswith("Complaint: ") and err.count("\n") == 1
    assert all(text in err for text in says), err


def test_what_it_prints_goes_to_stderr(run, mine):
    name = mine("        e, places", '        print("calling")\n        e, places')
    Path(name).write_text('print("importing")\n' + Path(name).read_text())
    status, out, err = run("compare", name, "--small", "--json")
    assert status == 0 and strict(out)["agrees"] and err == "importing\ncalling\n"


def test_where_it_may_lie(run, mine, tmp_path, monkeypatch, few_slips):
    mine(name="course/week_3/bert.py")
    (tmp_path / "course" / "week_3" / "__init__.py").write_text("from .bert import BertModel as Bert")
    (tmp_path / "course" / "__init__.py").touch()
    mine(name="my-bert.py")
    mine(name="random.py")
    (tmp_path / "mine2.py").write_text("from mine3 import BertModel")
    mine(name="mine3.py")
    files = ["course/week_3/bert.py", "my-bert.py", "random.py", "mine2.py", str(tmp_path / "course/week_3") + ":Bert"]
    for target in [*files, "course/week_3:Bert", "course.week_3:Bert", "course.week_3.bert", "mine2"]:
        assert run("compare", target, "--small")[0] == 0, target
    monkeypatch.chdir(tmp_path / "course")
    assert run("compare", "../mine2.py", "--small")[0] == 0
    mine("** 0.5 + hidden", "** 0.5", "mine3.py")
    assert run("compare", "../mine2.py", "--small")[0] == 1, "an edited file is read anew"


def test_an_error_in_a_file_beside_it_is_placed_there(run, mine, tmp_path):
    (tmp_path / "mine.py").write_text("import mine_too\n")
    (tmp_path / "mine_too.py").write_text("\n\n[][1]\n")
    assert "(mine_too.py, line 3, in <module>: [][1])" in run("compare", "mine.py")[2]


def test_a_file_that_is_no_python(run, tmp_path):
    (tmp_path / "mine.txt").touch()
    assert run("compare", "mine.txt")[2].startswith("ValueError: mine.txt is neither a Python file")


def test_a_checkpoint(run, spoilt, few_slips):
    status, out, err = run("compare", str(walk.minilm_folder()), "--json")
    assert (status, err) == (1, "") and strict(out)["against"] == "transformers"
    assert strict(out)["first"] == "encoder.layer.3.attention.output.LayerNorm"


def test_from_the_shell(tmp_path, mine):
    mine(*MISTAKES["scale_missing"])

    def run(line, status):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = f"set -o pipefail; {sys.executable} -m minibert {line}"
        result = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == status, result
        return result.stdout, result.stderr

    assert "usage: python -m minibert" in run("", 0)[0]
    out, err = run(f"trace '{TEXT}' | head -1", 141)
    assert out.startswith("11 tokens: [CLS] the") and out.count("\n") == 1 and err == ""
    out, err = run("compare mine.py --small", 1)
    assert "scale_missing" in out and err == ""
    assert run("compare nowhere.py", 2)[0] == ""


def test_with_torch_alone(run, mine, monkeypatch):
    for name in ("transformers", "tokenizers", "tqdm"):
        monkeypatch.setitem(sys.modules, name, None)
    assert run("compare", mine(), "--small")[0] == 0
    status, _, err = run("trace", TEXT)
    assert status == 2 and "tokenizers" in err
    status, _, err = run("compare", "mine.py", "--small", "--against", "transformers")
    assert status == 2 and "transformers" in err


def test_an_import_runs_nothing(capsys):
    runpy.run_module("minibert.__main__", run_name="minibert.__main__")
    assert capsys.readouterr() == ("", "")
