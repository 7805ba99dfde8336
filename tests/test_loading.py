"""Loading: what the reference has saved, bit for bit, and what the reference loads; reports, types, memory, threads."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from minibert.check import SIZES, lively_, sample_batch
from minibert.config import BertConfig
from minibert.files import CheckpointError
from minibert.model import BertModel

ROUNDS = 100 if "FUZZ_EXAMPLES" in os.environ else 25
ROOT = Path(__file__).resolve().parents[1]
INPUTS = sample_batch()
HEADS = [
    *("BertForPreTraining", "BertLMHeadModel", "BertForMaskedLM", "BertForNextSentencePrediction"),
    *("BertForSequenceClassification", "BertForMultipleChoice", "BertForTokenClassification"),
    "BertForQuestionAnswering",
]
POOLERLESS = ("BertLMHeadModel", "BertForMaskedLM", "BertForTokenClassification", "BertForQuestionAnswering")
FORMS = {
    "safetensors": {},
    "safetensors, shards": {"max_shard_size": "15KB"},
    "pickle": {"safe_serialization": False},
    "pickle, shards": {"safe_serialization": False, "max_shard_size": "15KB"},
}
ANCIENT = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
transformers.logging.set_verbosity_error()


def theirs(name="BertModel", **fields):
    """A model of the reference with lively weights."""
    config = transformers.BertConfig(**SIZES, is_decoder=name == "BertLMHeadModel", **fields)
    return lively_(getattr(transformers, name)(config)).eval()


def same_state(one, other):
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]), name


@pytest.fixture
def saved(tmp_path):
    """The reference's bare model in a folder, as safetensors."""
    model = theirs()
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def ancient(name):
    for new, old in ANCIENT.items():
        name = name.replace(new, old)
    return name


# --- Files of the reference ---


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["BertModel", *HEADS])
def test_saved_there_loaded_here(tmp_path, name, form):
    head = theirs(name)
    head.save_pretrained(tmp_path, **FORMS[form])
    assert len(list(tmp_path.iterdir())) > 4 if "shards" in form else len(list(tmp_path.iterdir())) in (2, 3)
    base = head if name == "BertModel" else head.bert
    if name in POOLERLESS:
        with pytest.raises(CheckpointError, match=r"lacks 2 .*pooler.*new_head=True.*add_pooling_layer=False"):
            BertModel.from_pretrained(tmp_path)
        whole = BertModel.from_pretrained(tmp_path, new_head=True)
        assert whole.load_report.new == ["pooler.dense.weight", "pooler.dense.bias"]
        assert whole.pooler.dense.weight.std() > 0.01 and not whole.pooler.dense.bias.any()
        same_state({key: x for key, x in whole.state_dict().items() if "pooler" not in key}, base.state_dict())
    mine = BertModel.from_pretrained(tmp_path, add_pooling_layer=name not in POOLERLESS)
    same_state(mine.state_dict(), base.state_dict())
    outputs = [model(**INPUTS, output_attentions=True) for model in (mine, base)]  # which turns the reference eager
    assert torch.equal(outputs[0].last_hidden_state, outputs[1].last_hidden_state)
    report = mine.load_report
    assert sorted(report.used) == sorted(key for key, _ in base.named_parameters())
    assert report.renamed == ({} if name == "BertModel" else {f"bert.{key}": key for key in report.used})
    heads = {key for key in head.state_dict() if not key.startswith("bert.")} if name != "BertModel" else set()
    assert set(report.ignored) <= heads and (heads == set() or report.ignored)
    assert set(report.ignored.values()) <= {"the head of another task than BertModel's"}
    assert not report.new and not report.mismatched and not report.nonfinite


@pytest.mark.parametrize("form", ["one file", "shards"])
@pytest.mark.parametrize("name", ["BertModel", *HEADS])
def test_saved_here_loaded_there(tmp_path, name, form):
    model = lively_(BertModel(BertConfig(**SIZES)))
    model.save_pretrained(tmp_path, max_shard_size="15KB" if form == "shards" else "5GB")
    assert len(list(tmp_path.iterdir())) > 4 if form == "shards" else len(list(tmp_path.iterdir())) == 2
    loaded, notes = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    base = loaded if name == "BertModel" else loaded.bert
    expected = {key: x for key, x in model.state_dict().items() if name not in POOLERLESS or "pooler" not in key}
    same_state(base.state_dict(), expected)
    assert not any(key.removeprefix("bert.") in expected for key in notes["missing_keys"])
    assert not notes["mismatched_keys"] and not notes["error_msgs"]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_both_kinds_of_pickle(saved, zipped):
    expected = BertModel.from_pretrained(saved).state_dict()
    (saved / "model.safetensors").unlink()
    torch.save(expected, saved / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    same_state(BertModel.from_pretrained(saved).state_dict(), expected)


# --- The report ---


def test_the_report_names_every_fate(saved):
    state = load_file(saved / "model.safetensors")
    stored = {ancient(name): x for name, x in state.items() if "pooler" not in name}
    stored["embeddings.position_ids"] = torch.arange(23)[None]
    stored["embeddings.token_type_embeddings.weight"] = torch.ones(3, 30)
    stored["encoder.layer.1.output.dense.bias"][:2] = torch.tensor([torch.inf, torch.nan])
    save_file(stored, saved / "model.safetensors", {"format": "pt"})
    switches = {"new_head": True, "ignore_mismatched_sizes": True, "allow_nonfinite": True}
    report = BertModel.from_pretrained(saved, **switches).load_report
    assert report.renamed == {ancient(name): name for name in state if ancient(name) != name}
    assert len(report.renamed) == 18
    assert report.ignored == {"embeddings.position_ids": "a constant, which the model makes itself"}
    assert report.new == ["pooler.dense.weight", "pooler.dense.bias"]
    [(name, note)] = report.mismatched.items()
    assert name == "embeddings.token_type_embeddings.weight"
    assert note == f"is torch.float32 of shape (3, 30), expected (2, 30), as {saved}/config.json has it"
    assert report.nonfinite == {"encoder.layer.1.output.dense.bias": 2}
    assert len(report.used) == 71 - 2 - 1 and set(report.used).isdisjoint({*report.new, *report.mismatched})
    for shown in (repr(report), report._repr_html_()):
        for part in ("used", "68", "renamed", "18", "and 15 more", "a constant", "random", "shape (3, 30)", "2 values"):
            assert part in shown
    for switch in switches:
        with pytest.raises(CheckpointError, match=f"{switch}=True"):
            BertModel.from_pretrained(saved, **{**switches, switch: False})


# --- Options ---


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("noted", [True, False])
def test_types(tmp_path, stored, noted):
    model = theirs().to(getattr(torch, stored))
    model.save_pretrained(tmp_path)
    if not noted:
        config = json.loads((tmp_path / "config.json").read_text())
        assert config.pop("torch_dtype") == stored
        (tmp_path / "config.json").write_text(json.dumps(config))
    for dtype in ("auto", torch.float32, "float64", torch.bfloat16, "float16"):
        wanted = getattr(torch, dtype) if isinstance(dtype, str) and dtype != "auto" else dtype
        mine = BertModel.from_pretrained(tmp_path, dtype=dtype)
        same_state(mine.state_dict(), transformers.BertModel.from_pretrained(tmp_path, torch_dtype=wanted).state_dict())
    same_state(BertModel.from_pretrained(tmp_path).state_dict(), model.float().state_dict())


def test_attention_and_fields(saved):
    loaded = [
        cls.from_pretrained(saved, attn_implementation="sdpa", layer_norm_eps=1e-3)
        for cls in (BertModel, transformers.BertModel)
    ]
    outputs = [model(**INPUTS).last_hidden_state for model in loaded]
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], BertModel.from_pretrained(saved)(**INPUTS).last_hidden_state)
    assert loaded[0].config.layer_norm_eps == 1e-3 and loaded[0].attn_implementation == "sdpa"
    config = BertConfig(**SIZES, hidden_act="relu")
    mine = BertModel.from_pretrained(saved, config, output_hidden_states=True)
    reference = transformers.BertModel.from_pretrained(saved, hidden_act="relu", attn_implementation="eager")
    assert torch.equal(mine(**INPUTS).hidden_states[-1], reference(**INPUTS).last_hidden_state)
    assert config.output_hidden_states is False  # the caller's stays as it is


@pytest.mark.parametrize("form", FORMS)
def test_the_file_may_change_after_loading(tmp_path, form):
    theirs().save_pretrained(tmp_path, **FORMS[form])
    model, other = BertModel.from_pretrained(tmp_path), theirs().state_dict()
    for path in tmp_path.iterdir():
        size = path.stat().st_size
        with open(path, "r+b") as file:
            file.write(bytes(size // 2))
            file.truncate(size // 2)
    same_state(model.state_dict(), other)


def test_mapped_weights_are_the_files(saved):
    before = BertModel.from_pretrained(saved)
    mapped = BertModel.from_pretrained(saved, mmap=True)
    same_state(mapped.state_dict(), before.state_dict())
    file = saved / "model.safetensors"
    length = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + length])
    name = "encoder.layer.3.output.dense.bias"
    with open(file, "r+b") as opened:
        opened.seek(8 + length + header[name]["data_offsets"][0])
        opened.write(torch.full((30,), 7.0).numpy().tobytes())
    assert (mapped.state_dict()[name] == 7).all() and not (before.state_dict()[name] == 7).any()
    content = file.read_bytes()
    with torch.no_grad():
        mapped.pooler.dense.bias.fill_(5)  # changes the model, not the file
    assert file.read_bytes() == content
    assert len({x.untyped_storage().data_ptr() for x in mapped.parameters()}) == 1


@pytest.mark.parametrize("form", ["safetensors", "safetensors, shards"])
def test_weights_lie_where_the_references_do(tmp_path, form):
    theirs().save_pretrained(tmp_path, **FORMS[form])
    mine, reference = (cls.from_pretrained(tmp_path) for cls in (BertModel, transformers.BertModel))
    places = [[x.data_ptr() % 64 for x in model.state_dict().values()] for model in (mine, reference)]
    assert places[0] == places[1] and len(set(places[0])) > 2


def test_no_memory_is_left_as_it_was_found(saved):
    """What is not initialised is NaN here, and there is none."""
    stored = {name: x for name, x in load_file(saved / "model.safetensors").items() if "pooler" not in name}
    save_file(stored, saved / "model.safetensors", {"format": "pt"})
    (saved / "pickle").mkdir()
    shutil.copy(saved / "config.json", saved / "pickle")
    torch.save(stored, saved / "pickle" / "pytorch_model.bin")
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(3).isnan().all()
        for folder in (saved, saved / "pickle"):
            for options in ({}, {"dtype": "float16"}, {"ignore_mismatched_sizes": True, "type_vocab_size": 5}):
                model = BertModel.from_pretrained(folder, new_head=True, **options)
                assert all(x.isfinite().all() and not x.is_meta for x in model.state_dict().values())
                assert all(x.isfinite().all() and not x.is_meta for x in model.buffers())
    finally:
        torch.use_deterministic_algorithms(False)


# --- The size of the real ones ---

WRITE_BASE = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from minibert.config import BertConfig
from minibert.model import BertModel

folder, random = Path(sys.argv[1]), torch.Generator().manual_seed(0)
with torch.device("meta"):
    names = {name: x.shape for name, x in BertModel(BertConfig()).state_dict().items()}
state = {f"bert.{name}": torch.empty(shape) for name, shape in names.items()}
state |= {"cls.predictions.bias": torch.empty(30522), "cls.predictions.transform.dense.weight": torch.empty(768, 768)}
state |= {f"cls.predictions.transform.{name}": torch.empty(768) for name in
          ("dense.bias", "LayerNorm.weight", "LayerNorm.bias")}
state |= {"cls.seq_relationship.weight": torch.empty(2, 768), "cls.seq_relationship.bias": torch.empty(2)}
noise = torch.randn(1_000_003, generator=random) / 10
for number, x in enumerate(state.values()):  # other numbers in each, and quickly made
    x.view(-1).copy_(noise.roll(number).repeat(x.numel() // len(noise) + 1)[:x.numel()])
assert len(state) == 206
BertConfig().to_json_file(folder / "config.json")
state = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
         for name, x in state.items()}
save_file(state, folder / "model.safetensors", {"format": "pt"})
"""
CUT_BASE = """
import json, shutil, sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
folder, form = Path(sys.argv[1]), sys.argv[2]
state = load_file(folder.parent / "base" / "model.safetensors")
folder.mkdir()
shutil.copy(folder.parent / "base" / "config.json", folder)
ending = ".bin" if form == "pickle" else ".safetensors"
stem = "pytorch_model" if form == "pickle" else "model"
write = torch.save if form == "pickle" else save_file
if form == "pickle":
    write(state, folder / "pytorch_model.bin")
else:
    names, places = list(state), {}
    for part in range(3):
        some = names[part * 69 : (part + 1) * 69]
        write({name: state[name] for name in some}, folder / f"{stem}-0000{part + 1}-of-00003{ending}")
        places |= dict.fromkeys(some, f"{stem}-0000{part + 1}-of-00003{ending}")
    (folder / f"{stem}{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
"""
MEASURE_PEAK = """
import re, sys, torch
from pathlib import Path
import minibert.model

def peak():  # not ru_maxrss, which counts the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

before = peak()
model = minibert.model.BertModel.from_pretrained(sys.argv[1])
weights = sum(x.nbytes for x in model.parameters())
print((peak() - before) / weights, weights, len(model.load_report.used), len(model.load_report.ignored))
"""


def python(program, *arguments):
    """What a new interpreter prints for the program."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with the exact layout of bert-base-uncased on the hub, and other numbers."""
    folder = tmp_path_factory.mktemp("base-size") / "base"
    folder.mkdir()
    python(WRITE_BASE, folder)
    yield folder
    shutil.rmtree(folder.parent)


def test_the_layout_of_bert_base_uncased(base):
    mine = BertModel.from_pretrained(base)
    reference = transformers.BertModel.from_pretrained(base)
    same_state(mine.state_dict(), reference.state_dict())
    report = mine.load_report
    assert len(report.used) == len(report.renamed) == 199 and len(report.ignored) == 7
    assert set(report.ignored.values()) == {"the head of another task than BertModel's"}
    assert report.renamed["bert.encoder.layer.11.output.LayerNorm.gamma"] == "encoder.layer.11.output.LayerNorm.weight"
    assert (base / "model.safetensors").stat().st_size == pytest.approx(440_449_768, rel=1e-4)


@pytest.mark.parametrize("form", ["safetensors", "shards", "pickle"])
def test_memory(base, form):
    folder = base if form == "safetensors" else base.parent / form
    if form != "safetensors":
        python(CUT_BASE, folder, form)
    ratio, weights, used, ignored = map(float, python(MEASURE_PEAK, folder).split())
    print(f"{form}: {ratio:.3f} times the weights")
    assert (weights, used, ignored) == (437_928_960, 199, 7)
    assert 0.9 < ratio <= 1.2


# --- Threads ---


def test_threads_load_with_different_types_while_others_build(tmp_path):
    sizes = SIZES | {"num_hidden_layers": 1, "vocab_size": 23}
    types = ["float32", "float64", "bfloat16", "float16"]
    models = [lively_(BertModel(BertConfig(**sizes)), seed) for seed in (1, 2)]
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / str(number))
    expected = {
        (number, dtype): {name: x.to(getattr(torch, dtype)) for name, x in model.state_dict().items()}
        for number, model in enumerate(models)
        for dtype in types
    }
    failed, rounds, lock = [], [0, 0], threading.Lock()
    start = threading.Barrier(12)

    def work(kind, action):
        start.wait()
        try:
            for _ in range(ROUNDS):
                action()
                with lock:
                    rounds[kind] += 1
        except BaseException as error:
            failed.append(f"{type(error).__name__}: {error}")

    def load(number, dtype):
        model = BertModel.from_pretrained(tmp_path / str(number), dtype=dtype, mmap=dtype == "float64")
        same_state(model.state_dict(), expected[number, dtype])
        assert not model.training

    def build():
        model = BertModel(BertConfig(**sizes, initializer_range=0.02))
        assert not any(x.is_meta or x.dtype != torch.float32 for x in model.state_dict().values())
        for name, x in model.named_parameters():
            if x.ndim > 1:
                assert 0.01 < x.std() < 0.03, name
            else:
                assert (x == float(name.endswith("weight"))).all(), name

    def use_torch():
        assert torch.empty(5).device.type == "cpu" and (torch.zeros(5).fill_(3) == 3).all()
        layer = torch.nn.Linear(7, 5)
        assert not layer.weight.is_meta and layer.weight.std() > 0.01 and (torch.ones(3).mul_(2) == 2).all()

    jobs = [(0, lambda n=n, d=d: load(n, d)) for n in (0, 1) for d in types]
    jobs += [(1, build), (1, build), (1, use_torch), (1, use_torch)]
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and rounds == [8 * ROUNDS, 4 * ROUNDS]
