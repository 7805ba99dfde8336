"""Files with mutations: they load, and then as a whole, or meet a typed error; FUZZ_EXAMPLES says how many files."""

import functools
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import tempfile
from pathlib import Path

import forked
import pytest
import safetensors.torch
import torch

from minibert.check import lively_
from minibert.config import BertConfig, parameter_shapes
from minibert.files import CheckpointError, Folder
from minibert.model import BertModel
from minibert.weights import open_weights

EXAMPLES, SEED, CHUNK = int(os.environ.get("FUZZ_EXAMPLES", 600)), int(os.environ.get("FUZZ_SEED", 0)), 200
MOST_SECONDS, MOST_BYTES = 2, 200_000_000
SIZES = {
    **{"vocab_size": 11, "hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 7},
    **{"max_position_embeddings": 5, "type_vocab_size": 2},
}
EDGES = [
    0,
    1,
    2,
    3,
    7,
    8,
    127,
    128,
    255,
    256,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
]
ODD = [
    None,
    True,
    False,
    -1,
    0,
    0.5,
    1e400,
    -0.0,
    "",
    "a",
    "F16",
    "I64",
    "../x",
    "/dev/zero",
    "\ud800",
    [],
    [[]],
    {},
    {"a": 1},
    [0, 1],
]
KINDS = ["safetensors", "shards", "zip", "legacy"]


@functools.cache
def good(kind):
    """The files of a good checkpoint of this kind: name to content."""
    state = lively_(BertModel(BertConfig(**SIZES))).state_dict()
    files = {"config.json": json.dumps(SIZES | {"model_type": "bert", "torch_dtype": "float32"}).encode()}
    if kind == "safetensors":
        return files | {"model.safetensors": safetensors.torch.save(state, {"format": "pt"})}
    if kind == "shards":
        names = sorted(state)
        parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
        files |= {shard: safetensors.torch.save({name: state[name] for name in part}) for shard, part in parts.items()}
        index = {"metadata": {"total_size": 1}, "weight_map": {name: shard for shard in parts for name in parts[shard]}}
        return files | {"model.safetensors.index.json": json.dumps(index).encode()}
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=kind == "zip")
    return files | {"pytorch_model.bin": buffer.getvalue()}


def mutate_bytes(content, rng):
    """Some bytes flipped, inserted, deleted, copied or cut off."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        place, length = rng.randrange(len(content) + 1), rng.choice([1, 1, 2, 4, 8, 60])
        if rng.random() < 0.3:
            place = min(place, rng.choice([8, 64, 512]))  # where headers are
        if rng.random() < 0.2:
            place = max(0, len(content) - 1 - rng.randrange(100))  # where archives have theirs
        way = rng.randrange(7)
        if way == 0 and place < len(content):
            content[place] ^= 1 << rng.randrange(8)
        elif way == 1 and place < len(content):
            content[place] = rng.randrange(256)
        elif way == 2:
            content[place:place] = rng.randbytes(length)
        elif way == 3:
            del content[place : place + length]
        elif way == 4:
            del content[place:]
        elif way == 5:
            start = rng.randrange(len(content) + 1)
            content[place : place + length * rng.randrange(2)] = content[start : start + length]
        else:
            value = rng.choice(EDGES) % 2**64
            content[place : place + 8] = struct.pack(rng.choice("<>") + "Q", value)[: rng.choice([2, 4, 8])]
    return bytes(content)


def mutate_json(value, rng):
    """The value with one thing in it exchanged, removed, doubled or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        way, rest = rng.randrange(8), {k: v for k, v in value.items() if k != key}
        if way == 0:
            return rest
        if way == 1:
            return rest | {rng.choice([key + "x", key[1:], key.upper(), "bert." + key, "\ud800", *value]): value[key]}
        if way == 2:
            return value | {key + ".more": value[key]}
        if way == 3:
            return value | {key: value[rng.choice(list(value))]}
        return value | {key: mutate_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place, way = rng.randrange(len(value)), rng.randrange(4)
        new = [[], [value[place]] * 2, [mutate_json(value[place], rng)], [mutate_json(value[place], rng)]][way]
        return value[:place] + new + value[place + 1 :]
    if type(value) is int and rng.random() < 0.5:
        return rng.choice([value + 1, value - 1, -value, float(value), str(value), value * 2, rng.choice(EDGES)])
    return rng.choice([*EDGES, *ODD])


def mutate_text(value, rng):
    """The value as JSON with a mutation in it, sometimes one that no value has."""
    text = json.dumps(mutate_json(value, rng))
    way = rng.randrange(12)
    if way == 0:
        text = text.replace(
            "{", "{" + rng.choice(['"a": NaN,', '"a": 1, "a": 2,', '"a":' + "[" * 50, '"__metadata__": 3,']), 1
        )
    if way == 1:
        text = text.replace("0", rng.choice(["-0", "0.0", "0e0", "00", "9" * 5000, "[" * 2000]), 1)
    if way == 2:
        text = rng.choice([" ", "\n", "\ufeff"]) + text + rng.choice(["", " ", "\0"])
    return text.encode("utf-8", "surrogatepass")


def mutate(name, content, rng):
    """The content of a file with a mutation."""
    if name.endswith(".json") and rng.random() < 0.8:
        return mutate_text(json.loads(content), rng)
    if name.endswith(".safetensors") and rng.random() < 0.6:
        length = struct.unpack("<Q", content[:8])[0]
        header = mutate_text(json.loads(content[8 : 8 + length]), rng)
        return struct.pack("<Q", len(header)) + header + content[8 + length :]
    return mutate_bytes(content, rng)


def check_model(model):
    """Every parameter has the shape that the config asks for, and finite values."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes == parameter_shapes(model.config)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def check_against_the_library(folder):
    """What our reader accepts, the library accepts, with the same tensors."""
    try:
        with open_weights(Folder(folder)) as stored:
            mine = {name: source.read() for name, source in stored.items()}
    except (CheckpointError, FileNotFoundError):
        return
    theirs = {}
    for path in folder.glob("*.safetensors"):
        theirs |= safetensors.torch.load_file(path)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert tensor.dtype == theirs[name].dtype and tensor.shape == theirs[name].shape
        mine_bytes, their_bytes = (x.reshape(-1).view(torch.uint8) for x in (tensor, theirs[name]))
        assert torch.equal(mine_bytes, their_bytes)


def try_one(seed, folder):
    """Load one mutated checkpoint; whether it loaded."""
    rng = random.Random(seed)
    kind = rng.choice(KINDS)
    files = dict(good(kind))
    for _ in range(rng.choice([1, 1, 1, 2])):
        name = rng.choice([name for name in files for _ in range(1 if name == "config.json" else 3)])
        files[name] = mutate(name, good(kind)[name], rng)
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if kind in KINDS[:2]:
        check_against_the_library(folder)
    try:
        model = BertModel.from_pretrained(folder, dtype=rng.choice([torch.float32, "auto"]), mmap=rng.random() < 0.2)
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        assert str(folder) in str(error) or "in config.json" in str(error), f"no file named: {error}"
        assert len(str(error)) < 3000, "a message of a book's length"
        return False
    check_model(model)
    return True


def try_many(seeds, folder, progress):
    """Load so many; how many loaded, and what went wrong with which seed."""
    loaded, wrong, start = 0, [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in seeds:
        os.pwrite(progress, struct.pack("<q", seed), 0)
        signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)  # which ends the process
        try:
            loaded += try_one(seed, folder)
        except Exception as error:
            wrong.append(f"seed {seed}: {type(error).__name__}: {error}"[:500])
        signal.setitimer(signal.ITIMER_REAL, 0)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - start * 1024
        if grown > MOST_BYTES:
            return loaded, [*wrong, f"seed {seed}: {grown:,} bytes more"]
    return loaded, wrong


@pytest.mark.parametrize("chunk", range(-(-EXAMPLES // CHUNK)))
def test_mutated_files(chunk, as_a_user):
    first = SEED * 1_000_000_000 + chunk * CHUNK
    seeds = range(first, first + min(CHUNK, EXAMPLES - chunk * CHUNK))
    room = Path(tempfile.mkdtemp(prefix="minibert-mutated-"))
    with tempfile.TemporaryFile() as progress:
        try:
            loaded, wrong = forked.in_child(
                lambda: try_many(seeds, room, progress.fileno()), 10 + MOST_SECONDS * len(seeds)
            )
        except AssertionError as error:
            raise AssertionError(f"seed {struct.unpack('<q', os.pread(progress.fileno(), 8, 0))[0]}: {error}") from None
        finally:
            shutil.rmtree(room)
    assert not wrong, "\n".join(wrong)
    assert 0 < loaded < len(seeds) or len(seeds) < CHUNK  # mutations of both kinds: harmless ones, and others
