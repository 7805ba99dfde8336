"""Whatever is wrong with a checkpoint: a typed error that names the file, quickly, and nothing else opened or run."""

import functools
import gzip
import io
import json
import os
import pickle
import shutil
import socket
import stat
import struct
import tempfile
import time
import zipfile
from pathlib import Path

import forked
import pytest
import torch
from safetensors.torch import load_file, save_file

from minibert.check import SIZES, lively_, sample_batch
from minibert.config import BertConfig
from minibert.files import CheckpointError
from minibert.model import BertModel

CONFIG, SAFE, BIN = "config.json", "model.safetensors", "pytorch_model.bin"
INDEX, BIN_INDEX = f"{SAFE}.index.json", f"{BIN}.index.json"
BIAS, WORDS, QUERY = (
    "pooler.dense.bias",
    "embeddings.word_embeddings.weight",
    "encoder.layer.0.attention.self.query.weight",
)
MOST_SECONDS, MOST_BYTES = 2, 200_000_000


@functools.cache
def state():
    return lively_(BertModel(BertConfig(**SIZES))).state_dict()


@functools.cache
def good():
    """A folder with a good checkpoint; it is only copied from."""
    folder = Path(tempfile.mkdtemp(prefix="minibert-good-"))
    (folder / CONFIG).write_text(json.dumps(SIZES | {"model_type": "bert"}))
    save_file(state(), folder / SAFE, {"format": "pt"})
    return folder


@pytest.fixture(scope="module", autouse=True)
def all_imported(tmp_path_factory):
    """Load all kinds once, so that what is imported late is imported, and nothing is opened for that later."""
    for i, spoil in enumerate((lambda folder: None, sharded(), saved(state), saved(state, is_zip=False))):
        folder = tmp_path_factory.mktemp("good") / str(i)
        shutil.copytree(good(), folder)
        spoil(folder)
        BertModel.from_pretrained(folder)
    for codec in ("cp437", "raw_unicode_escape"):  # of names in a zip archive, of texts in a pickle
        "".encode(codec)
    yield
    shutil.rmtree(good())
    good.cache_clear()


# ---- ways to spoil a folder; each takes it


def text(name, content):
    """A file with this text or these bytes."""
    content = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(content)


def config(**changes):
    return lambda folder: (folder / CONFIG).write_text(json.dumps(SIZES | changes))


def config_text(old, new):
    return lambda folder: (folder / CONFIG).write_text((folder / CONFIG).read_text().replace(old, new))


def tensors(**changes):
    """The tensors with some changed, or taken away where the change is None; dots are written as __."""

    def spoil(folder):
        new = state() | {name.replace("__", "."): tensor for name, tensor in changes.items()}
        save_file({name: tensor for name, tensor in new.items() if tensor is not None}, folder / SAFE, {"format": "pt"})

    return spoil


def cut(name, change):
    """A file with other bytes."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def with_length(content, length):
    return struct.pack("<Q", length % 2**64) + content[8:]


def header(change):
    """A header that says something else, given as a dictionary, text or bytes."""

    def spoil(folder):
        content = (folder / SAFE).read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        new = change(json.loads(content[8 : 8 + length]))
        new = new if isinstance(new, bytes) else (new if isinstance(new, str) else json.dumps(new)).encode()
        (folder / SAFE).write_bytes(struct.pack("<Q", len(new)) + new + content[8 + length :])

    return spoil


def entry(name=BIAS, **changes):
    """A header that says something else of one tensor."""
    return header(lambda said: said | {name: said[name] | changes})


def swap(name, make):
    """Something else under this name; `make` gets the path."""

    def spoil(folder):
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return spoil


def link(name, target):
    return swap(name, lambda path: path.symlink_to(target))


def link_out(name):
    """The good file, but moved out of the folder, and a link to it."""

    def spoil(folder):
        shutil.move(folder / name, folder.parent / "outside")
        (folder / name).symlink_to("../outside")

    return spoil


def sock(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket has to be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


def sharded(change=lambda index: index, also=lambda folder: None):
    """Two shards and an index, which says something else."""

    def spoil(folder):
        names = sorted(state())
        parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
        for shard, part in parts.items():
            save_file({name: state()[name] for name in part}, folder / shard, {"format": "pt"})
        (folder / SAFE).unlink()
        index = {"weight_map": {name: shard for shard, part in parts.items() for name in part}}
        changed = change(index)
        (folder / INDEX).write_bytes(changed if isinstance(changed, bytes) else json.dumps(changed).encode())
        also(folder)

    return spoil


def sends(name, shard):
    return sharded(lambda index: {"weight_map": index["weight_map"] | {name: shard}})


def one_more(folder):
    path = folder / "model-1.safetensors"
    save_file(load_file(path) | {"more": torch.ones(1)}, path)


def both(*spoilers):
    return lambda folder: [spoil(folder) for spoil in spoilers]


def saved(value, is_zip=True, change=lambda content: content, name=BIN):
    """What `torch.save` makes of the value, or of what it returns, and no safetensors."""

    def spoil(folder):
        buffer = io.BytesIO()
        torch.save(value() if callable(value) else value, buffer, _use_new_zipfile_serialization=is_zip)
        (folder / SAFE).unlink()
        (folder / name).write_bytes(change(buffer.getvalue()))

    return spoil


def program(code):
    """A zip archive as torch writes them, with another pickle in it."""
    return saved(state, change=lambda content: rezipped(content, {"data.pkl": code}))


def legacy(code, keys=(), numbers=b""):
    """A file of the old kind with another pickle in the place of the tensors, and these storages."""
    start = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    parts = [pickle.dumps(part, 2) for part in start] + [code, pickle.dumps(list(keys), 2), numbers]
    return both(lambda folder: (folder / SAFE).unlink(), text(BIN, b"".join(parts)))


def rezipped(content, changes=(), first=(), method=zipfile.ZIP_STORED):
    """The archive with some files changed or added; names are those within its only folder."""
    buffer = io.BytesIO()
    changes = dict(changes)
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        root = old.namelist()[0].partition("/")[0]
        for name, value in first:
            new.writestr(f"{root}/{name}", value)
        for item in old.infolist():
            new.writestr(item.filename, changes.pop(item.filename.partition("/")[2], old.read(item)))
        for name, value in changes.items():
            new.writestr(f"{root}/{name}", value)
    return buffer.getvalue()


def listed(content):
    """Where the list of files of an archive begins, and where each of its lines does."""
    begin = struct.unpack("<I", content[-6:-2])[0]
    return begin, [place for place in range(begin, len(content)) if content[place : place + 4] == b"PK\x01\x02"]


def two_lists(content):
    """One archive behind another: Python reads the second, but torch the first, where ten kilobytes unpack to many."""
    plain, packed = (
        bytearray(rezipped(content)),
        rezipped(content, {"data/3": bytes(10**7)}, method=zipfile.ZIP_DEFLATED),
    )
    (begin, places), (other, _) = listed(plain), listed(packed)
    for place in places:
        moved = struct.unpack("<i", plain[place + 42 : place + 46])[0] + other - begin
        plain[place + 42 : place + 46] = struct.pack("<i", moved)
    plain[-6:-2] = struct.pack("<I", other)
    return packed[:-22] + bytes(plain)


def overlapping(content):
    """All tensors of an archive in the bytes of the largest."""
    changed, (_, places) = bytearray(content), listed(content)
    largest = max(places, key=lambda place: changed[place + 24 : place + 28][::-1])
    for place in places[5:]:
        changed[place + 16 : place + 28] = content[largest + 16 : largest + 28]
        changed[place + 42 : place + 46] = content[largest + 42 : largest + 46]
    return bytes(changed)


# ---- pickles


def word(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return pickle.dumps(value, 2)[2:-1]


def call(function, argument):
    """A pickle of protocol 2 that calls a function, named as `module name`, with a text."""
    return b"\x80\x02c" + function.replace(" ", "\n").encode() + b"\n" + word(argument) + b"\x85R."


def storage(count=30, kind="torch FloatStorage", key="0", tag="storage", rest=b""):
    kind = b"c" + kind.replace(" ", "\n").encode() + b"\n"
    return b"(" + word(tag) + kind + word(key) + word("cpu") + number(count) + rest + b"tQ"


def tensor(stored=None, offset=0, size=(30,), stride=(1,)):
    """The part of a pickle that makes a tensor."""
    place, hooks = number(offset) + number(size) + number(stride), b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + (stored or storage()) + place + b"\x89" + hooks + b"tR"


def holding(made):
    """A pickle of a dictionary with this under `pooler.dense.bias`."""
    return b"\x80\x02}" + word(BIAS) + made + b"s."


def numbers(count=30):
    return struct.pack("<q", count) + bytes(4 * count)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("marker",)


def payload(protocol):
    return both(lambda folder: (folder / SAFE).unlink(), text(BIN, pickle.dumps({BIAS: Payload()}, protocol)))


EXECUTING = {
    "GLOBAL": b"cos\nmkdir\n(Vmarker\ntR.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x06marker\x85R.",
    "INST": b"\x80\x02(Vmarker\nios\nmkdir\n.",
    "OBJ": b"\x80\x02(cos\nmkdir\nVmarker\no.",
    "NEWOBJ": b"\x80\x02cpathlib\nPath\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04cpathlib\nPath\n)}\x92.",
    "EXT1": b"\x80\x02\x82\x01)R.",
    "EXT2": b"\x80\x02\x83\x01\x00)R.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00)R.",
    "REDUCE": call("os mkdir", "marker"),
    "BUILD": b"\x80\x02ccollections\nOrderedDict\n)Rcos\nmkdir\nb.",
    "PERSID": b"\x80\x02Pmarker\n.",
    "torch.load": call("torch.serialization load", "other"),
    "torch.hub": call("torch.hub load", "other"),
    "getattr": call("builtins getattr", "other"),
    "a dotted name": call("torch._utils _rebuild_tensor_v2.__globals__", "other"),
    "codecs.encode": call("_codecs encode", "other"),
}
TUPLES = b"".join(b"q\x01h\x01\x86" for _ in range(40))
DEEP = b"[" * 100_000
MANY = ",".join(f'"{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(16_000))
ROOM = "but the weights have room for"
ELSEWHERE = "expected a file of the same folder"
NO_FILE = "is a folder, a pipe or a device, expected a plain file"
NO_PICKLE = f"{BIN} is no pickle of weights"
NO_ZIP = f"{BIN} is no zip archive as torch writes them"
NO_TORCH = f"{BIN} is not a file of weights that torch can read"

CASES = {
    # the folder
    "no folder": (shutil.rmtree, {}, FileNotFoundError, "/checkpoint does not exist, expected a folder"),
    "a file": (
        lambda f: (shutil.rmtree(f), f.write_text("")),
        {},
        NotADirectoryError,
        "/checkpoint is a file, expected",
    ),
    "an empty folder": (lambda f: [p.unlink() for p in f.iterdir()], {}, FileNotFoundError, f"{CONFIG} does not exist"),
    "no config": (lambda f: (f / CONFIG).unlink(), {}, FileNotFoundError, f"{CONFIG} does not exist"),
    "no weights": (lambda f: (f / SAFE).unlink(), {}, FileNotFoundError, f"holds no weights, expected {SAFE} or {BIN}"),
    "only TensorFlow": (
        swap(SAFE, lambda p: (p.parent / "tf_model.h5").touch()),
        {},
        FileNotFoundError,
        "tf_model.h5, which it has",
    ),
    "both kinds of one": (both(text(INDEX, "{}")), {}, CheckpointError, f"holds {SAFE} and {INDEX}, expected one"),
    # links and what is no file
    "config linked out": (
        link_out(CONFIG),
        {},
        CheckpointError,
        f"{CONFIG} is a link to ../outside, expected a file inside",
    ),
    "weights linked out": (
        link_out(SAFE),
        {},
        CheckpointError,
        f"{SAFE} is a link to ../outside, expected a file inside",
    ),
    "index linked out": (
        sharded(also=link_out(INDEX)),
        {},
        CheckpointError,
        f"{INDEX} is a link to ../outside, expected",
    ),
    "shard linked out": (
        sharded(also=link_out("model-2.safetensors")),
        {},
        CheckpointError,
        "model-2.safetensors is a link to",
    ),
    "pickle linked out": (both(saved(state), link_out(BIN)), {}, CheckpointError, f"{BIN} is a link to ../outside"),
    "link to a device": (
        link(SAFE, "/dev/zero"),
        {},
        CheckpointError,
        f"{SAFE} is a link to /dev/zero, expected a file",
    ),
    "link to a process": (link(CONFIG, "/proc/self/environ"), {}, CheckpointError, "is a link to /proc/self/environ"),
    "link to the folder": (link(SAFE, "."), {}, CheckpointError, f"{SAFE} is a link to ., expected a file inside"),
    "link to itself": (
        link(SAFE, SAFE),
        {},
        CheckpointError,
        f"{SAFE} cannot be opened: Too many levels of symbolic links",
    ),
    "links in a circle": (
        both(link(SAFE, "b"), link("b", SAFE)),
        {},
        CheckpointError,
        f"{SAFE} cannot be opened: Too many",
    ),
    "link to nothing": (link(CONFIG, "nothing"), {}, CheckpointError, f"{CONFIG} cannot be opened: No such file"),
    "link through a link": (
        both(link("up", ".."), link_out(SAFE), link(SAFE, "up/outside")),
        {},
        CheckpointError,
        "is a link to up/",
    ),
    "a folder for weights": (swap(SAFE, Path.mkdir), {}, CheckpointError, f"{SAFE} {NO_FILE}"),
    "a folder for the config": (swap(CONFIG, Path.mkdir), {}, CheckpointError, f"{CONFIG} {NO_FILE}"),
    "a pipe for weights": (swap(SAFE, os.mkfifo), {}, CheckpointError, f"{SAFE} {NO_FILE}"),
    "a pipe for the config": (swap(CONFIG, os.mkfifo), {}, CheckpointError, f"{CONFIG} {NO_FILE}"),
    "a pipe for the index": (
        both(swap(SAFE, lambda p: None), swap(INDEX, os.mkfifo)),
        {},
        CheckpointError,
        f"{INDEX} {NO_FILE}",
    ),
    "a socket": (swap(SAFE, sock), {}, CheckpointError, f"{SAFE} {NO_FILE}"),
    # the config as a file
    "config empty": (text(CONFIG, ""), {}, CheckpointError, f"{CONFIG} is empty"),
    "config cut": (cut(CONFIG, lambda b: b[:-1]), {}, CheckpointError, f"{CONFIG} is not JSON"),
    "config of one bracket": (text(CONFIG, "{"), {}, CheckpointError, f"{CONFIG} is not JSON"),
    "config a list": (text(CONFIG, "[]"), {}, CheckpointError, f"{CONFIG} holds a list, expected an object"),
    "config null": (text(CONFIG, "null"), {}, CheckpointError, f"{CONFIG} holds a NoneType, expected an object"),
    "config UTF-16": (cut(CONFIG, lambda b: b.decode().encode("utf-16")), {}, CheckpointError, f"{CONFIG} is not JSON"),
    "config with a byte order mark": (
        cut(CONFIG, lambda b: b"\xef\xbb\xbf" + b),
        {},
        CheckpointError,
        "Unexpected UTF-8 BOM",
    ),
    "config with a key twice": (
        config_text("{", '{"vocab_size": 9,'),
        {},
        CheckpointError,
        "the key 'vocab_size' stands twice",
    ),
    "config with two of many keys": (
        text(CONFIG, "{" + ",".join(f'"{i:x}":0' for i in [*range(90_000), 7]) + "}"),
        {},
        CheckpointError,
        "the key '7' stands twice",
    ),
    "config nested": (
        config_text("{", '{"x":' + "[" * 900 + "]" * 900 + ","),
        {},
        CheckpointError,
        f"{CONFIG} is nested too deeply",
    ),
    "config of brackets": (text(CONFIG, DEEP), {}, CheckpointError, f"{CONFIG} is nested too deeply"),
    "config of half characters": (config_text("{", r'{"\ud800": 1,'), {}, CheckpointError, f"{CONFIG} is not JSON"),
    "config with trailing bytes": (
        cut(CONFIG, lambda b: b + b"\0"),
        {},
        CheckpointError,
        f"{CONFIG} is not JSON: Extra data",
    ),
    "config too long": (text(CONFIG, " " * 1_000_001), {}, CheckpointError, f"{CONFIG} has more than 1,000,000 bytes"),
    "config of a gigabyte": (
        swap(CONFIG, lambda p: (p.touch(), os.truncate(p, 10**9))),
        {},
        CheckpointError,
        f"{CONFIG} has more",
    ),
    "config a web page": (text(CONFIG, "<!DOCTYPE html>"), {}, CheckpointError, f"{CONFIG} holds HTML"),
    "config a pointer": (
        text(CONFIG, "version https://git-lfs.github.com/spec/v1"),
        {},
        CheckpointError,
        f"{CONFIG} is a git-lfs pointer",
    ),
    "config with long numbers": (
        config_text("99", "9" * 10_000),
        {},
        CheckpointError,
        f"{CONFIG} is not JSON: Exceeds the limit",
    ),
    # what the config says
    "another model": (
        config(model_type="roberta"),
        {},
        CheckpointError,
        f"{CONFIG} has model_type 'roberta', expected 'bert'",
    ),
    "no model": (config(model_type=None), {}, CheckpointError, f"{CONFIG} has model_type 'None', expected 'bert'"),
    "a hidden method": (config(to_dict=1), {}, CheckpointError, f"{CONFIG} has 'to_dict', which is no setting"),
    "a hidden class": (config(__class__=1), {}, CheckpointError, f"{CONFIG} has '__class__', which is no setting"),
    "heads that don't divide": (
        config(hidden_size=31),
        {},
        CheckpointError,
        f"{CONFIG}: The hidden size (31) is not a multiple",
    ),
    "another width": (config(intermediate_size=38), {}, CheckpointError, "(37,), expected (38,), as "),
    "a layer more": (
        config(num_hidden_layers=5),
        {},
        CheckpointError,
        "lacks 16 of the parameters of BertModel, encoder.layer.4",
    ),
    "a layer less": (
        config(num_hidden_layers=3),
        {},
        CheckpointError,
        "encoder.layer.3.attention.output.LayerNorm.bias has no place",
    ),
    "cross attention": (
        config(is_decoder=True, add_cross_attention=True),
        {},
        CheckpointError,
        "lacks 40 of the parameters",
    ),
    "relative positions": (
        config(position_embedding_type="relative_key"),
        {},
        CheckpointError,
        "lacks 4 of the parameters",
    ),
    "an activation like a module": (
        config(hidden_act="os.system"),
        {},
        CheckpointError,
        f"{CONFIG}: hidden_act is 'os.system', expected",
    ),
    "huge epsilon": (
        config_text("{", '{"layer_norm_eps": 1e400,'),
        {},
        CheckpointError,
        f"{CONFIG}: layer_norm_eps is inf, expected",
    ),
    "epsilon that is no number": (
        config(layer_norm_eps=float("nan")),
        {},
        CheckpointError,
        f"{CONFIG}: layer_norm_eps is nan",
    ),
    "minus nothing": (
        config_text("{", '{"pad_token_id": -0,'),
        {},
        CheckpointError,
        f"{CONFIG}: pad_token_id is -0.0, expected",
    ),
    "heads of no layer": (config(pruned_heads={"9" * 5000: [0]}), {}, CheckpointError, f"{CONFIG}: Exceeds the limit"),
    "a type for auto": (
        config(torch_dtype="int8"),
        {"dtype": "auto"},
        ValueError,
        f"torch_dtype in {CONFIG} is 'int8', expected",
    ),
    "a list for auto": (
        config(torch_dtype=[1] * 9999),
        {"dtype": "auto"},
        ValueError,
        f"torch_dtype in {CONFIG} is [1, 1",
    ),
    # arguments
    "unknown argument": (lambda f: None, {"trust_remote_code": True}, TypeError, "has no argument 'trust_remote_code'"),
    "misspelt argument": (lambda f: None, {"torch_dtype": "auto"}, TypeError, "did you mean 'dtype'"),
    "a type that is none": (lambda f: None, {"dtype": None}, ValueError, "dtype is None, expected 'auto' or one of"),
    "whole numbers": (
        lambda f: None,
        {"dtype": torch.int64},
        ValueError,
        "dtype is torch.int64, expected 'auto' or one of",
    ),
    "eight bits": (lambda f: None, {"dtype": "float8_e5m2"}, ValueError, "dtype is 'float8_e5m2', expected"),
    "config a dictionary": (
        lambda f: None,
        {"config": SIZES},
        TypeError,
        "config is a dict, expected an instance of minibert's",
    ),
    "config nothing": (
        lambda f: None,
        {"config": {}},
        TypeError,
        "config is a dict, expected an instance of minibert's",
    ),
    "config a class": (
        lambda f: None,
        {"config": BertConfig},
        TypeError,
        "config is a type, expected an instance of minibert's",
    ),
    "a change too far": (
        lambda f: None,
        {"num_attention_heads": 4},
        ValueError,
        "not a multiple of the number of attention heads",
    ),
    # safetensors: the header
    "weights empty": (text(SAFE, ""), {}, CheckpointError, f"{SAFE} is empty"),
    "weights a web page": (text(SAFE, "<!DOCTYPE html><p>"), {}, CheckpointError, f"{SAFE} holds HTML or XML"),
    "weights a pointer": (
        text(SAFE, "version https://git-lfs.github.com/spec/v1\n"),
        {},
        CheckpointError,
        f"{SAFE} is a git-lfs pointer",
    ),
    "weights gzip": (cut(SAFE, gzip.compress), {}, CheckpointError, f"{SAFE} is a gzip archive"),
    "weights HDF5": (text(SAFE, b"\x89HDF\r\n\x1a\n" + bytes(99)), {}, CheckpointError, f"{SAFE} is an HDF5 file"),
    "weights zip": (
        both(saved(state), lambda f: (f / BIN).rename(f / SAFE)),
        {},
        CheckpointError,
        f"{SAFE} is a zip archive",
    ),
    "weights of 7 bytes": (cut(SAFE, lambda b: b[:7]), {}, CheckpointError, f"{SAFE} says that its header has"),
    "weights of 8 bytes": (cut(SAFE, lambda b: b[:8]), {}, CheckpointError, f"{SAFE} says that its header has"),
    "weights cut in the header": (cut(SAFE, lambda b: b[:99]), {}, CheckpointError, f"{SAFE} says that its header has"),
    "weights cut": (cut(SAFE, lambda b: b[:-1]), {}, CheckpointError, "it was cut off or added to"),
    "weights added to": (cut(SAFE, lambda b: b + b"\0"), {}, CheckpointError, "it was cut off or added to"),
    "header of no length": (
        cut(SAFE, lambda b: with_length(b, 0)),
        {},
        CheckpointError,
        f"{SAFE}: the header is empty",
    ),
    "header a byte shorter": (
        cut(SAFE, lambda b: with_length(b, struct.unpack("<Q", b[:8])[0] - 1)),
        {},
        CheckpointError,
        SAFE,
    ),
    "header a byte longer": (
        cut(SAFE, lambda b: with_length(b, struct.unpack("<Q", b[:8])[0] + 1)),
        {},
        CheckpointError,
        SAFE,
    ),
    "header of 2**63": (
        cut(SAFE, lambda b: with_length(b, 2**63)),
        {},
        CheckpointError,
        "9,223,372,036,854,775,808 bytes",
    ),
    "header of -1": (cut(SAFE, lambda b: with_length(b, -1)), {}, CheckpointError, "18,446,744,073,709,551,615 bytes"),
    "header of 100 MB": (
        swap(SAFE, lambda p: (p.write_bytes(struct.pack("<Q", 10**8)), os.truncate(p, 10**8 + 8))),
        {},
        CheckpointError,
        "100,000,000 bytes",
    ),
    "header a list": (header(lambda h: "[]"), {}, CheckpointError, f"{SAFE}: the header holds a list"),
    "header not JSON": (header(lambda h: "{'a': 1}"), {}, CheckpointError, f"{SAFE}: the header is not JSON"),
    "header not UTF-8": (
        header(lambda h: b'{"\xff": 1}'),
        {},
        CheckpointError,
        f"{SAFE}: the header is not JSON: 'utf-8'",
    ),
    "header of half characters": (
        header(lambda h: h | {"\ud800": h[BIAS]}),
        {},
        CheckpointError,
        f"{SAFE}: the header is not JSON",
    ),
    "header nested": (
        header(lambda h: b'{"a":' + DEEP),
        {},
        CheckpointError,
        f"{SAFE}: the header is nested too deeply",
    ),
    "header nested a little": (
        header(lambda h: h | {"a": json.loads("[" * 90 + "]" * 90)}),
        {},
        CheckpointError,
        "nested too deeply",
    ),
    "header with a name twice": (
        header(lambda h: json.dumps(h)[:-1] + f', "{BIAS}": {json.dumps(h[BIAS])}}}'),
        {},
        CheckpointError,
        f"the key '{BIAS}' stands twice",
    ),
    "header of many entries": (
        header(lambda h: "{" + MANY + "}"),
        {},
        CheckpointError,
        f"{SAFE} has 16,000 tensors, expected at most",
    ),
    "header of a million entries": (
        header(lambda h: "{" + MANY * 63 + "}"),
        {},
        CheckpointError,
        f"{SAFE} says that its header has",
    ),
    "notes of TensorFlow": (
        header(lambda h: h | {"__metadata__": {"format": "tf"}}),
        {},
        CheckpointError,
        "the notes {'format': 'tf'}",
    ),
    "notes of Flax": (
        header(lambda h: h | {"__metadata__": {"format": "flax"}}),
        {},
        CheckpointError,
        "the notes {'format': 'flax'}",
    ),
    "notes a list": (
        header(lambda h: h | {"__metadata__": ["pt"]}),
        {},
        CheckpointError,
        f"{SAFE} has the notes ['pt']",
    ),
    "notes of numbers": (
        header(lambda h: h | {"__metadata__": {"a": 1}}),
        {},
        CheckpointError,
        f"{SAFE} has the notes {{'a': 1}}",
    ),
    # safetensors: an entry
    "entry a list": (
        header(lambda h: h | {BIAS: []}),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} is '[]', expected dtype, shape",
    ),
    "entry null": (
        header(lambda h: h | {BIAS: None}),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} is 'None', expected dtype, shape",
    ),
    "entry without a shape": (
        header(lambda h: h | {BIAS: {"dtype": "F32", "data_offsets": [0, 1]}}),
        {},
        CheckpointError,
        f"{BIAS} is \"{{'dtype': 'F32', ",
    ),
    "entry with more": (entry(more=1), {}, CheckpointError, f"{SAFE}: {BIAS} is "),
    "unknown dtype": (
        entry(dtype="F33"),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} has dtype 'F33', expected one of F64, F32",
    ),
    "dtype of eight bits": (
        entry(dtype="F8_E4M3"),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} has dtype 'F8_E4M3', expected",
    ),
    "dtype a number": (entry(dtype=3), {}, CheckpointError, f"{SAFE}: {BIAS} has dtype '3', expected"),
    "dtype a list": (entry(dtype=["F32"]), {}, CheckpointError, f"{SAFE}: {BIAS} has dtype \"['F32']\", expected"),
    "dtype of another size": (
        entry(dtype="F64"),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} has 120 bytes, expected 240 for F64",
    ),
    "shape negative": (entry(shape=[-30]), {}, CheckpointError, f"{SAFE}: {BIAS} has shape [-30] and data_offsets"),
    "shape twice negative": (entry(shape=[-5, -6]), {}, CheckpointError, f"{SAFE}: {BIAS} has shape [-5, -6]"),
    "shape of a float": (entry(shape=[30.0]), {}, CheckpointError, f"{SAFE}: {BIAS} has shape [30.0]"),
    "shape of a bool": (entry(shape=[30, True]), {}, CheckpointError, f"{SAFE}: {BIAS} has shape [30, True]"),
    "shape of text": (entry(shape=["30"]), {}, CheckpointError, f"{SAFE}: {BIAS} has shape ['30']"),
    "shape a number": (entry(shape=30), {}, CheckpointError, f"{SAFE}: {BIAS} has shape 30 and"),
    "shape null": (entry(shape=None), {}, CheckpointError, f"{SAFE}: {BIAS} has shape None and"),
    "shape of nine axes": (entry(shape=[30] + [1] * 8), {}, CheckpointError, "expected at most 8 axes and 2 places"),
    "shape of a million axes": (
        entry(shape=[1] * 300_000),
        {},
        CheckpointError,
        "expected at most 8 axes and 2 places",
    ),
    "shape larger": (
        entry(shape=[31]),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} has 120 bytes, expected 124 for F32 of shape [31]",
    ),
    "shape that overflows": (
        entry(shape=[2**62, 4]),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} has shape [4611686018427387904, 4]",
    ),
    "shape that wraps round": (
        entry(shape=[2**61 + 15, 2]),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} has 120 bytes, expected 18446",
    ),
    "shape that overflows to nothing": (
        entry(shape=[2**62, 4, 0]),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} has shape [46116",
    ),
    "shape of long numbers": (
        entry(shape=[int("9" * 4000)] * 8),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} has shape [99999",
    ),
    "shape of longer numbers": (
        header(lambda h: json.dumps(h).replace("[30]", f"[{'9' * 10_000}]")),
        {},
        CheckpointError,
        "Exceeds the limit",
    ),
    "shape of minus nothing": (
        header(lambda h: json.dumps(h).replace("[0,", "[-0,")),
        {},
        CheckpointError,
        "data_offsets [-0.0, 120]",
    ),
    "places reversed": (
        entry(data_offsets=[120, 0]),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} has -120 bytes, expected 120",
    ),
    "places negative": (
        entry(data_offsets=[-120, 0]),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} has shape [30] and data_offsets [-120",
    ),
    "places of floats": (
        entry(data_offsets=[0.0, 120.0]),
        {},
        CheckpointError,
        "and data_offsets [0.0, 120.0], expected",
    ),
    "one place": (entry(data_offsets=[0]), {}, CheckpointError, "and data_offsets [0], expected"),
    "three places": (entry(data_offsets=[0, 60, 120]), {}, CheckpointError, "and data_offsets [0, 60, 120], expected"),
    "places past the end": (
        entry(data_offsets=[10**9, 10**9 + 120]),
        {},
        CheckpointError,
        "begins at byte 113272, expected 113152, where",
    ),
    "places at 2**63": (
        entry(data_offsets=[2**63 - 120, 2**63]),
        {},
        CheckpointError,
        f"{BIAS} has shape [30] and data_offsets [9223",
    ),
    "places that overlap": (
        entry(data_offsets=[0, 120]),
        {},
        CheckpointError,
        "begins at byte 0, expected 120, where the one before",
    ),
    "a hole": (
        header(lambda h: {k: v for k, v in h.items() if k != BIAS}),
        {},
        CheckpointError,
        "where the one before ends",
    ),
    # safetensors: what is in it
    "not a number": (
        tensors(pooler__dense__bias=torch.full((30,), torch.nan)),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} has 30 values",
    ),
    "infinite": (
        tensors(pooler__dense__bias=torch.tensor([torch.inf] + [0.0] * 29)),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} has 1 values that are infinite",
    ),
    "finite until converted": (
        tensors(pooler__dense__bias=torch.full((30,), 1e6)),
        {"dtype": torch.float16},
        CheckpointError,
        f"{SAFE}: {BIAS} has 30 values",
    ),
    "whole weights": (
        tensors(pooler__dense__bias=torch.ones(30).int()),
        {},
        CheckpointError,
        f"{BIAS} is torch.int32 of shape (30,)",
    ),
    "weights true and false": (
        tensors(pooler__dense__bias=torch.ones(30) > 0),
        {},
        CheckpointError,
        f"{BIAS} is torch.bool of shape",
    ),
    "weights transposed": (
        tensors(pooler__dense__bias=torch.ones(30, 1)),
        {},
        CheckpointError,
        f"{SAFE}: {BIAS} is torch.float32 of shape (30, 1), expected (30,)",
    ),
    "a missing pooler": (
        tensors(pooler__dense__bias=None),
        {},
        CheckpointError,
        f"lacks 1 of the parameters of BertModel, {BIAS}: new_head",
    ),
    "a missing layer": (
        tensors(**{f"{QUERY}": None}),
        {"new_head": True},
        CheckpointError,
        f"lacks 1 of the parameters of BertModel, {QUERY}",
    ),
    "an unknown tensor": (
        tensors(pooler__dense__more=torch.ones(1)),
        {},
        CheckpointError,
        f"{SAFE}: pooler.dense.more has no place in BertModel",
    ),
    "gamma and weight": (
        tensors(embeddings__LayerNorm__gamma=torch.ones(30)),
        {},
        CheckpointError,
        "but both are embeddings.LayerNorm.weight",
    ),
    "with bert. and without": (
        tensors(bert__pooler__dense__bias=torch.ones(30)),
        {},
        CheckpointError,
        f"bert.{BIAS}, but both are {BIAS}",
    ),
    "a long name": (
        tensors(**{"a" * 900_000: torch.ones(1)}),
        {},
        CheckpointError,
        f"{SAFE}: {'a' * 100} has no place",
    ),
    # shards
    "index to a parent": (
        sends(BIAS, "../model-2.safetensors"),
        {},
        CheckpointError,
        f"sends {BIAS} to '../model-2.safetensors', {ELSEWHERE}",
    ),
    "index to the root": (
        sends(BIAS, "/etc/passwd"),
        {},
        CheckpointError,
        f"{INDEX} sends {BIAS} to '/etc/passwd', {ELSEWHERE}",
    ),
    "index to a device": (
        sends(BIAS, "/dev/zero"),
        {},
        CheckpointError,
        f"{INDEX} sends {BIAS} to '/dev/zero', {ELSEWHERE}",
    ),
    "index to a folder": (
        sends(BIAS, "sub/model"),
        {},
        CheckpointError,
        f"{INDEX} sends {BIAS} to 'sub/model', {ELSEWHERE}",
    ),
    "index with backslashes": (
        sends(BIAS, "..\\model"),
        {},
        CheckpointError,
        f"{INDEX} sends {BIAS} to '..\\\\model', {ELSEWHERE}",
    ),
    "index to itself": (sends(BIAS, "."), {}, CheckpointError, f"{INDEX} sends {BIAS} to '.', {ELSEWHERE}"),
    "index to nothing": (sends(BIAS, ""), {}, CheckpointError, f"{INDEX} sends {BIAS} to '', {ELSEWHERE}"),
    "index to a null byte": (
        sends(BIAS, "a\0b"),
        {},
        CheckpointError,
        f"{INDEX} sends {BIAS} to 'a\\x00b', {ELSEWHERE}",
    ),
    "index to a number": (sends(BIAS, 3), {}, CheckpointError, f"{INDEX} sends {BIAS} to '3', {ELSEWHERE}"),
    "index to a long name": (sends(BIAS, "a" * 900_000), {}, CheckpointError, f"{INDEX} sends {BIAS} to 'aaaa"),
    "a missing shard": (
        sharded(also=lambda f: (f / "model-2.safetensors").unlink()),
        {},
        FileNotFoundError,
        "model-2.safetensors does not exist",
    ),
    "index to another shard": (
        sends(BIAS, "model-1.safetensors"),
        {},
        CheckpointError,
        f"model-1.safetensors lacks {BIAS}, expected what the",
    ),
    "index with one more": (
        sends("more", "model-1.safetensors"),
        {},
        CheckpointError,
        "model-1.safetensors lacks more, expected what the index",
    ),
    "shard with one more": (
        sharded(also=one_more),
        {},
        CheckpointError,
        "model-1.safetensors has unknown more, expected what the index",
    ),
    "shard a pipe": (
        sharded(also=swap("model-2.safetensors", os.mkfifo)),
        {},
        CheckpointError,
        f"model-2.safetensors {NO_FILE}",
    ),
    "shard empty": (sharded(also=text("model-2.safetensors", "")), {}, CheckpointError, "model-2.safetensors is empty"),
    "shard the index": (
        sharded(lambda i: {"weight_map": dict.fromkeys(i["weight_map"], INDEX)}),
        {},
        CheckpointError,
        f"{INDEX} says that its header has",
    ),
    "index empty": (sharded(lambda i: b""), {}, CheckpointError, f"{INDEX} is empty"),
    "index without a map": (
        sharded(lambda i: {}),
        {},
        CheckpointError,
        f"{INDEX} has the weight_map None, expected names",
    ),
    "index with an empty map": (
        sharded(lambda i: {"weight_map": {}}),
        {},
        CheckpointError,
        f"{INDEX} has the weight_map {{}}, expected",
    ),
    "index with a list": (
        sharded(lambda i: {"weight_map": [BIAS]}),
        {},
        CheckpointError,
        f"{INDEX} has the weight_map ['{BIAS}'], expected",
    ),
    "index with a name twice": (
        sharded(lambda i: json.dumps(i).replace("{", "{" + f'"{BIAS}": 1,').encode()),
        {},
        CheckpointError,
        f"the key '{BIAS}' stands twice",
    ),
    "index of many names": (
        sharded(lambda i: {"weight_map": dict.fromkeys(map(str, range(60_000)), "a")}),
        {},
        CheckpointError,
        f"{INDEX} has 60,000 tensors",
    ),
    "index too long": (
        sharded(lambda i: b" " * 1_000_001),
        {},
        CheckpointError,
        f"{INDEX} has more than 1,000,000 bytes",
    ),
    # torch.save
    "pickle empty": (
        both(link(SAFE, "x"), swap(SAFE, lambda p: None), text(BIN, "")),
        {},
        CheckpointError,
        f"{BIN} is empty",
    ),
    "pickle a web page": (
        both(swap(SAFE, lambda p: None), text(BIN, "<html>")),
        {},
        CheckpointError,
        f"{BIN} holds HTML",
    ),
    "pickle a pointer": (
        both(swap(SAFE, lambda p: None), text(BIN, "version https://git-lfs.github.com")),
        {},
        CheckpointError,
        f"{BIN} is a git-lfs pointer",
    ),
    "pickle safetensors": (
        lambda f: (f / SAFE).rename(f / BIN),
        {},
        CheckpointError,
        f"{BIN} is not a file that torch.save writes",
    ),
    "archive cut": (saved(state, change=lambda b: b[:-1]), {}, CheckpointError, f"{BIN} is no whole zip archive"),
    "archive cut in two": (
        saved(state, change=lambda b: b[: len(b) // 2]),
        {},
        CheckpointError,
        f"{BIN} is no whole zip archive",
    ),
    "archive added to": (
        saved(state, change=lambda b: b + b"\0"),
        {},
        CheckpointError,
        f"{BIN} is no whole zip archive",
    ),
    "archive packed": (
        saved(state, change=lambda b: rezipped(b, method=zipfile.ZIP_DEFLATED)),
        {},
        CheckpointError,
        f"{NO_ZIP}: it has packed",
    ),
    "archive a bomb": (
        saved(state, change=lambda b: rezipped(b, {"data/3": bytes(10**8)}, method=zipfile.ZIP_DEFLATED)),
        {},
        CheckpointError,
        f"{NO_ZIP}: it has packed",
    ),
    "archive that overlaps": (
        saved(state, change=overlapping),
        {},
        CheckpointError,
        f"{NO_ZIP}: it has files larger than the archive",
    ),
    "archive of two lists": (saved(state, change=two_lists), {}, CheckpointError, f"{BIN} is no whole zip archive"),
    "archive of a long list": (
        saved(state, change=lambda b: rezipped(b, {f"{i:0100}": b"" for i in range(4000)})),
        {},
        CheckpointError,
        "with a list of at most 500,000",
    ),
    "archive with a program in capitals": (
        saved(state, change=lambda b: rezipped(b, first=[("DATA.PKL", call("os mkdir", "marker"))])),
        {},
        CheckpointError,
        "a name that stands twice",
    ),
    "archive without a program": (
        both(swap(SAFE, lambda p: None), lambda f: zipfile.ZipFile(f / BIN, "w").writestr("a/b", "")),
        {},
        CheckpointError,
        NO_ZIP,
    ),
    "archive with a short tensor": (
        saved(state, change=lambda b: rezipped(b, {"data/0": bytes(8)})),
        {},
        CheckpointError,
        NO_TORCH,
    ),
    "archive without a tensor": (program(holding(tensor(storage(key="x")))), {}, CheckpointError, NO_TORCH),
    "archive of scripts": (
        saved(state, change=lambda b: rezipped(b, {"constants.pkl": b""})),
        {},
        CheckpointError,
        NO_TORCH,
    ),
    "old file cut": (saved(state, False, lambda b: b[:-1]), {}, CheckpointError, "bytes of numbers, expected"),
    "old file cut in the program": (saved(state, False, lambda b: b[:999]), {}, CheckpointError, NO_PICKLE),
    "old file added to": (saved(state, False, lambda b: b + b"\0"), {}, CheckpointError, "bytes of numbers, expected"),
    "old file without numbers": (
        legacy(holding(tensor(storage(rest=b"N"))), "0"),
        {},
        CheckpointError,
        "bytes of numbers, expected 128",
    ),
    "old file that lists nothing": (
        legacy(holding(tensor(storage(rest=b"N"))), [], numbers()),
        {},
        CheckpointError,
        f"{BIN} has [] as list",
    ),
    "old file that lists twice": (
        legacy(holding(tensor(storage(rest=b"N"))), ["0", "0"], numbers() * 2),
        {},
        CheckpointError,
        f"{BIN} has ['0', '0'] as list",
    ),
    "old file of large numbers": (
        legacy(holding(tensor(storage(10**12, rest=b"N"))), "0"),
        {},
        CheckpointError,
        "more numbers than the file has",
    ),
    "old file of other sizes": (
        legacy(holding(tensor(storage(rest=b"N"))), "0", numbers(31)[:-4]),
        {},
        CheckpointError,
        NO_TORCH,
    ),
    "old file that grows": (
        legacy(holding(tensor(storage(rest=b"N"), size=(10**8,))), "0", numbers()),
        {},
        CheckpointError,
        BIN,
    ),
    "old file with a view": (
        legacy(holding(tensor(storage(rest=b"(" + word("1") + b"K\0K\x05t"))), "0", numbers()),
        {},
        CheckpointError,
        f"{NO_PICKLE}: something other than a storage",
    ),
    "a tar archive": (legacy(b"\x80\x02N."), {}, CheckpointError, f"{BIN} holds a NoneType, expected a dictionary"),
    "a list": (saved([torch.ones(1)]), {}, CheckpointError, f"{BIN} holds a list, expected a dictionary of tensors"),
    "a tensor": (saved(torch.ones(1)), {}, CheckpointError, f"{BIN} holds a Tensor, expected a dictionary of tensors"),
    "a module": (
        saved(lambda: torch.nn.Linear(2, 3)),
        {},
        CheckpointError,
        f"{BIN} asks for torch.nn.modules.linear.Linear, expected weights",
    ),
    "a checkpoint of training": (
        saved(lambda: {"model": state()}),
        {},
        CheckpointError,
        f"{BIN} holds a OrderedDict under the name 'model'",
    ),
    "a number among tensors": (
        saved(lambda: state() | {"epoch": 3}),
        {},
        CheckpointError,
        f"{BIN} holds a int under the name 'epoch'",
    ),
    "a number for a name": (saved({3: torch.ones(1)}), {}, CheckpointError, "holds a Tensor under the name '3'"),
    "a sparse tensor": (
        saved(lambda: {BIAS: torch.ones(30).to_sparse()}),
        {},
        CheckpointError,
        "asks for torch._utils._rebuild_sparse_tensor",
    ),
    "a tensor on meta": (
        saved(lambda: {BIAS: torch.ones(30, device="meta")}),
        {},
        CheckpointError,
        "_rebuild_meta_tensor_no_storage",
    ),
    "a quantized tensor": (
        saved(lambda: {BIAS: torch.quantize_per_tensor(torch.ones(30), 1, 0, torch.qint8)}),
        {},
        CheckpointError,
        f"{BIN} asks for torch.",
    ),
    "complex numbers": (
        saved({BIAS: torch.ones(30) * 1j}),
        {},
        CheckpointError,
        f"{BIN} asks for torch.ComplexFloatStorage, expected",
    ),
    "a tensor stretched": (
        saved({BIAS: torch.ones(1).expand(10**9)}),
        {},
        CheckpointError,
        f"{BIN}: {BIAS} of shape (1000000000,) has more",
    ),
    "a nested tensor": (
        saved(lambda: {BIAS: torch.nested.nested_tensor([torch.ones(2)])}),
        {},
        CheckpointError,
        f"{BIN} asks for",
    ),
    "an array": (saved(lambda: {BIAS: torch.ones(3).numpy()}), {}, CheckpointError, f"{BIN} asks for"),
    "negative strides": (program(holding(tensor(stride=(-1,)))), {}, CheckpointError, NO_TORCH),
    "a negative offset": (program(holding(tensor(offset=-1))), {}, CheckpointError, f"{BIN}"),
    "a large offset": (program(holding(tensor(offset=10**12))), {}, CheckpointError, NO_TORCH),
    "a negative size": (program(holding(tensor(size=(-30,)))), {}, CheckpointError, NO_TORCH),
    "a size that overflows": (
        program(holding(tensor(size=(2**62, 2**62), stride=(1, 1)))),
        {},
        CheckpointError,
        NO_TORCH,
    ),
    "a size of text": (program(holding(tensor(size=("a",)))), {}, CheckpointError, NO_TORCH),
    "a large storage": (
        program(holding(tensor(storage(10**15)))),
        {},
        CheckpointError,
        "more numbers than the file has room for",
    ),
    "a negative storage": (program(holding(tensor(storage(-1)))), {}, CheckpointError, "a storage of no size"),
    "a storage of two sizes": (
        program(b"\x80\x02" + storage() + storage(31) + b"\x86."),
        {},
        CheckpointError,
        "a storage of two sizes",
    ),
    "a storage of 8 bits": (
        program(holding(tensor(storage(kind="torch QInt8Storage")))),
        {},
        CheckpointError,
        "asks for torch.QInt8Storage",
    ),
    "something else sent for": (
        program(holding(tensor(storage(tag="module")))),
        {},
        CheckpointError,
        "something other than a storage was sent for",
    ),
    "a text sent for": (
        program(b"\x80\x02X\x01\0\0\0aQ."),
        {},
        CheckpointError,
        "something other than a storage was sent for",
    ),
    "tuples of tuples behind a BUILD": (
        program(b"\x80\x02})" + b"".join(b"Nbq\x01h\x01\x86" for _ in range(30)) + b"K\x01s."),
        {},
        CheckpointError,
        "something with parts used twice",
    ),
    "lists of lists": (
        program(b"\x80\x02}X\x01\x00\x00\x00a]" + b"".join(b"K\x01aq\x01h\x01a" for _ in range(30)) + b"s."),
        {},
        CheckpointError,
        "something with parts used twice",
    ),
    "tuples of tuples": (
        program(b"\x80\x02})" + TUPLES + b"K\x01s."),
        {},
        CheckpointError,
        "something with parts used twice",
    ),
    "tuples in tuples": (
        program(b"\x80\x02})" + b"\x85" * 400_000 + b"K\x01s."),
        {},
        CheckpointError,
        f"{NO_PICKLE}: too many tuples",
    ),
    "lists in lists": (
        program(b"\x80\x02" + b"]" * 49_000 + b"a" * 48_999 + b"."),
        {},
        CheckpointError,
        f"{BIN} holds a list",
    ),
    "more lists in lists": (
        program(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."),
        {},
        CheckpointError,
        "more than 100,000 steps",
    ),
    "marks": (
        program(b"\x80\x02" + b"(" * 490_000 + b"t" * 490_000),
        {},
        CheckpointError,
        "a pickle of more than 500,000 bytes",
    ),
    "many marks": (program(b"\x80\x02" + b"(" * 240_000 + b"t" * 240_000 + b"."), {}, CheckpointError, NO_PICKLE),
    "a program without an end": (program(b"\x80\x02}"), {}, CheckpointError, NO_PICKLE),
    "an unknown instruction": (program(b"\x80\x02\xff."), {}, CheckpointError, NO_PICKLE),
    "an empty stack": (
        program(b"\x80\x02\x85."),
        {},
        CheckpointError,
        f"{NO_PICKLE}: unpickling stack underflow",
    ),
    "two results": (program(b"\x80\x02NN."), {}, CheckpointError, "holds a NoneType"),
    "a memory that was never set": (program(b"\x80\x02h\x07."), {}, CheckpointError, NO_PICKLE),
    "bytes of a terabyte": (
        program(b"\x80\x02cbuiltins\nbytearray\n" + number(10**12) + b"\x85R."),
        {},
        CheckpointError,
        "builtins.bytearray",
    ),
    "text of a terabyte": (program(b"\x80\x04\x8d" + struct.pack("<Q", 10**12) + b"."), {}, CheckpointError, NO_PICKLE),
    "a number of a gigabyte": (
        program(b"\x80\x02\x8b" + struct.pack("<I", 10**9) + b"."),
        {},
        CheckpointError,
        NO_PICKLE,
    ),
    "a dictionary of pairs": (
        program(b"\x80\x02ccollections\nOrderedDict\n](X\x01\0\0\0aK\x01\x86e\x85R."),
        {},
        CheckpointError,
        "holds a int under the name 'a'",
    ),
    "a tensor set anew": (
        program(holding(tensor() + b")b")),
        {},
        CheckpointError,
        "state is not a dictionary",
    ),
    "shards of pickles": (
        both(saved(state, name="part.bin"), text(BIN_INDEX, json.dumps({"weight_map": {BIAS: "part.bin"}}))),
        {},
        CheckpointError,
        "part.bin has unknown",
    ),
    **{f"code in protocol {i}": (payload(i), {}, CheckpointError, f"{BIN} ") for i in range(6)},
    **{f"code by {name}": (program(code), {}, CheckpointError, f"{BIN} ") for name, code in EXECUTING.items()},
    **{f"code by {name}, old": (legacy(code), {}, CheckpointError, f"{BIN} ") for name, code in EXECUTING.items()},
    # sizes that a config only claims
    **{
        f"{name} of {size}": (config(**{name: size}), {}, CheckpointError, f"{CONFIG}: {name} is {size}, {ROOM}")
        for name in (
            "vocab_size",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
            "num_hidden_layers",
        )
        for size in (10**9, 2**63, 10**30)
    },
    "hidden_size of a billion": (
        config(hidden_size=10**9),
        {},
        CheckpointError,
        f"{CONFIG}: hidden_size is 1000000000, {ROOM}",
    ),
    "sizes that are made new": (
        config(vocab_size=10**6, intermediate_size=10**6, hidden_size=10**6),
        {"ignore_mismatched_sizes": True},
        CheckpointError,
        "cannot be made",
    ),
    # values of other kinds
    **{
        f"{name} {value!r}": (config(**{name: value}), {}, CheckpointError, f"{CONFIG}: {name} is {value!r}, expected")
        for name, values in {
            "vocab_size": [0, -1, 2.0, "99", None, [99], {}, True],
            "hidden_size": [0, "30", None, [30]],
            "num_hidden_layers": [-1, 1.5, "4", None],
            "num_attention_heads": [0, None, "5"],
            "hidden_act": [None, 3, ["gelu"]],
            "hidden_dropout_prob": [-0.1, 2, "0.1", None],
            "layer_norm_eps": [-1, "1e-12", None, []],
            "initializer_range": [-0.02, "0.02"],
            "pad_token_id": [99, -1, 0.5, "0"],
            "position_embedding_type": ["relative", None, []],
            "is_decoder": [1, "yes", None],
            "pruned_heads": [[0], "0", None],
            "torchscript": [0, None],
        }.items()
        for value in values
    },
}


def outcome(folder, spoil, arguments, load=BertModel.from_pretrained):
    """What happens when the folder is spoilt, in a child process, and then loaded, in another."""
    forked.in_child(lambda: spoil(folder) and None, 60)

    return forked.in_child(lambda: forked.watch(lambda: load(folder, **arguments)), 30)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, as_a_user):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(good(), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def lies_in(folder, opened):
    """Whether what was opened is the folder or a file of it, or by its number what was opened before."""
    real = Path(os.path.realpath(opened))
    return opened.isdecimal() or folder in (real, real.parent)


def check_harmless(seen, folder):
    """Quick and small, nothing opened but what lies in the folder, nothing run."""
    assert seen["seconds"] < MOST_SECONDS and seen["bytes"] < MOST_BYTES, (
        f"{seen['seconds']} s, {seen['bytes']:,} bytes"
    )
    outside = [path for path in seen["opened"] if not lies_in(folder, path)]
    assert not outside and not seen["deeds"], seen
    assert not (folder.parent / "marker").exists()


@pytest.mark.parametrize(("spoil", "arguments", "error", "message"), CASES.values(), ids=CASES.keys())
def test_bad_checkpoint(spoil, arguments, error, message, checkpoint):
    seen = outcome(checkpoint, spoil, arguments)
    assert error.__name__ in seen["error"][:1], seen
    assert message in seen["message"] and len(seen["message"]) < 2000, seen["message"][:2000]
    check_harmless(seen, checkpoint)


def test_there_are_enough():
    assert len(CASES) >= 110


@pytest.mark.parametrize("name", [None, 3, b"checkpoint", ["checkpoint"]])
def test_what_is_no_name(name, as_a_user):
    with pytest.raises(TypeError, match="name is .*, expected a folder or the name of a model"):
        BertModel.from_pretrained(name)


@pytest.mark.parametrize("name", ["", "./nowhere", "a\0b", "../" + "a" * 5000, "/nowhere/at/all"])
def test_a_name_of_nothing(name, as_a_user):
    with pytest.raises(FileNotFoundError, match="does not exist, expected a folder|is no folder here"):
        BertModel.from_pretrained(name)


@pytest.mark.parametrize("version", ["2.9.1", "1.13.0+cpu", "2.0.0a0"])
def test_a_pickle_and_an_old_torch(version, checkpoint, monkeypatch):
    saved(state)(checkpoint)
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(CheckpointError, match=f"{BIN} is a pickle, and torch {version} is too old".replace("+", r"\+")):
        BertModel.from_pretrained(checkpoint)


@pytest.mark.parametrize("name", [CONFIG, SAFE])
def test_a_file_that_may_not_be_read(name):
    with tempfile.TemporaryDirectory() as room:
        os.chmod(room, 0o755)
        folder = Path(shutil.copytree(good(), Path(room) / "checkpoint"))
        os.chmod(folder, 0o755)
        os.chmod(folder / name, 0)

        def load():
            if os.getuid() == 0:
                os.setuid(65534)  # whoever is root may read everything
            return forked.watch(lambda: BertModel.from_pretrained(folder))

        for path in folder.iterdir():
            os.chmod(path, 0 if path.name == name else 0o644)
        seen = forked.in_child(load, 30)
    assert f"{name} cannot be opened: Permission denied" in seen["message"] and seen["error"][0] == "CheckpointError"


def test_a_device_in_the_folder(checkpoint):
    """Made where that is allowed; elsewhere a link to one, which is refused for another reason."""
    path = checkpoint / SAFE
    path.unlink()
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
        message = f"{SAFE} {NO_FILE}"
    except PermissionError:
        path.symlink_to("/dev/zero")
        message = f"{SAFE} is a link to /dev/zero"
    seen = forked.in_child(lambda: forked.watch(lambda: BertModel.from_pretrained(checkpoint)), 30)
    assert seen["error"][0] == "CheckpointError" and message in seen["message"]
    check_harmless(seen, checkpoint)


def cached(room, name="models--org--name"):
    """The good checkpoint as the hub's cache keeps it: the version, and the folder with the contents."""
    version, blobs = room / name / "snapshots" / "v1", room / name / "blobs"
    version.mkdir(parents=True), blobs.mkdir()
    for path in good().iterdir():
        shutil.copy(path, blobs / path.name)
        (version / path.name).symlink_to(f"../../blobs/{path.name}")
    return version, blobs


def test_the_cache_of_the_hub(tmp_path, as_a_user):
    version, _ = cached(tmp_path)
    assert torch.equal(BertModel.from_pretrained(version).pooler.dense.bias, state()[BIAS])


ESCAPES = {
    "a blob that is a link out": lambda version, blobs: swap(SAFE, lambda p: p.symlink_to("../../other"))(blobs),
    "a blob that is a device": lambda version, blobs: link(SAFE, "/dev/zero")(blobs),
    "a link past the blobs": lambda version, blobs: link(SAFE, "../../../other")(version),
    "a link to another model": lambda version, blobs: link(SAFE, "../../../models--a--b/blobs/x")(version),
    "blobs that are a link": lambda version, blobs: (blobs.rename(blobs.parents[1] / "b"), blobs.symlink_to("../b")),
}


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES.keys())
def test_out_of_the_cache(escape, tmp_path, as_a_user):
    version, blobs = cached(tmp_path)
    (tmp_path / "other").write_text("{}")
    escape(version, blobs)
    seen = forked.in_child(lambda: forked.watch(lambda: BertModel.from_pretrained(version)), 30)
    assert seen["error"][0] == "CheckpointError" and "is a link to" in seen["message"], seen
    assert all(lies_in(blobs, path) or lies_in(version, path) for path in seen["opened"]), seen


def test_a_folder_named_like_a_cache(tmp_path, as_a_user):
    version, _ = cached(tmp_path, "mine")
    with pytest.raises(CheckpointError, match="config.json is a link to"):
        BertModel.from_pretrained(version)


def test_a_link_inside(checkpoint):
    (checkpoint / SAFE).rename(checkpoint / "real")
    (checkpoint / SAFE).symlink_to("real")
    assert torch.equal(BertModel.from_pretrained(checkpoint).pooler.dense.bias, state()[BIAS])


def test_a_good_checkpoint_loads(checkpoint):
    model = BertModel.from_pretrained(checkpoint)
    assert not model.training and model.config.model_type == "bert"
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state().items())


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_good_pickle_loads(is_zip, checkpoint):
    saved(state, is_zip)(checkpoint)
    model = BertModel.from_pretrained(checkpoint)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state().items())


def test_a_file_that_changes_later_changes_nothing(checkpoint):
    model, weights = BertModel.from_pretrained(checkpoint), checkpoint / SAFE
    before = model(**sample_batch()).last_hidden_state
    weights.write_bytes(b"\0" * weights.stat().st_size)
    assert torch.equal(model(**sample_batch()).last_hidden_state, before)


def test_half_precision_weights_load_as_float32(checkpoint):
    halves = {name: tensor.half() for name, tensor in state().items()}
    save_file(halves, checkpoint / SAFE)
    loaded = BertModel.from_pretrained(checkpoint).state_dict()
    for name, half in halves.items():
        assert loaded[name].dtype == torch.float32 and torch.equal(loaded[name], half.float())


def test_the_child_process_sees(tmp_path):
    """What the cases rely on: the child tells of files, deeds, time, memory and crashes."""
    (tmp_path / "file").touch()

    def act():
        open(tmp_path / "file").close()
        os.mkdir(tmp_path / "marker")
        block = bytearray(b"1") * 300_000_000
        raise ValueError(len(block))

    seen = forked.in_child(lambda: forked.watch(act), 30)
    assert seen["error"][0] == "ValueError" and seen["message"] == "300000000" and seen["bytes"] > MOST_BYTES
    assert str(tmp_path / "file") in seen["opened"] and seen["deeds"] == ["os.mkdir"] and seen["seconds"] > 0
    with pytest.raises(AssertionError, match="signal 9"):
        forked.in_child(lambda: os.kill(os.getpid(), 9), 30)
    with pytest.raises(AssertionError, match="no answer"):
        forked.in_child(lambda: time.sleep(9), 0.2)
