"""Streams of texts: killed anywhere and gone on with, the vectors are those of a run that nothing interrupted."""

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest
import torch
from forked import in_child, watch
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert.check import SIZES, lively_
from minibert.config import BertConfig
from minibert.files import CheckpointError
from minibert.model import BertModel
from minibert.sentence import SentenceEncoder
from minibert.stream import NOTE, UNFINISHED, StreamError, Vectors, encode_to, fingerprint, path_of_part
from minibert.tokenizer import BertTokenizer
from minibert.walk import minilm_folder

PART = 4
PROGRAM = """
import sys
from minibert.sentence import SentenceEncoder
from minibert.stream import encode_to

texts = (f"text {i} " * (i % 9) for i in range(400))
encode_to(SentenceEncoder.from_pretrained(sys.argv[1]), texts, sys.argv[2], part=10)
"""


def small_encoder(hidden=SIZES["hidden_size"], kind=SentenceEncoder):
    tokenizer = BertTokenizer.from_pretrained(minilm_folder())
    config = BertConfig(**SIZES | {"vocab_size": len(tokenizer), "hidden_size": hidden})
    return kind(lively_(BertModel(config, add_pooling_layer=False)).eval(), tokenizer)


class Counting(SentenceEncoder):
    count = 0

    def encode(self, texts, *rest, **options):
        self.count += len(texts)
        return super().encode(texts, *rest, **options)


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


@pytest.fixture(scope="module")
def texts():
    return [f"{'the same words ' * (i % 5)}{i}" for i in range(14)]


@pytest.fixture(scope="module")
def whole(encoder, texts, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "vectors"
    encode_to(encoder, texts, folder, part=PART)
    return folder


def bits(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stopped(texts, number):
    """The texts before this number, and then an interruption."""
    yield from texts[:number]
    raise KeyboardInterrupt


# --- Interrupted ---


def test_killed_at_every_single_event(encoder, texts, whole, tmp_path, as_a_user):
    folder, found, expected = tmp_path / "vectors", [], bits(whole)

    def encode_until(number):
        count = itertools.count()
        with mock.patch("os.fsync"):  # no power fails here
            sys.addaudithook(lambda *_: signal.raise_signal(signal.SIGKILL) if next(count) == number else None)
            encode_to(encoder, texts, folder, part=PART)

    def status_of(number):
        child = os.fork()
        if child == 0:
            try:
                encode_until(number)
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitpid(child, 0)[1]

    while (status := status_of(len(found))) == signal.SIGKILL:
        found.append(len(Vectors(folder)) if (folder / NOTE).exists() else 0)
        assert found[-1] == 0 or np.array_equal(Vectors(folder)[:], Vectors(whole)[: found[-1]])
        with mock.patch("os.fsync"):
            encode_to(encoder, iter(texts), folder, part=PART)
        assert bits(folder) == expected
        shutil.rmtree(folder, ignore_errors=True)
    assert status == 0 and bits(folder) == expected
    assert found == sorted(found) and set(found) == {0, 4, 8, 12, 14}


def test_a_real_process_is_killed_in_the_middle(encoder, tmp_path):
    encoder.model.save_pretrained(tmp_path / "model")
    encoder.tokenizer.save_pretrained(tmp_path / "model")
    command = [sys.executable, "-c", PROGRAM, tmp_path / "model", tmp_path / "killed"]
    with subprocess.Popen(command) as process:
        while not path_of_part(tmp_path / "killed", 5).exists() and process.poll() is None:
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    left = Vectors(tmp_path / "killed")
    assert not left.finished and 50 <= len(left) < 400
    subprocess.run(command, check=True)
    subprocess.run([*command[:-1], tmp_path / "whole"], check=True)
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole") and len(Vectors(tmp_path / "whole")) == 400


@settings(max_examples=25, deadline=None)
@given(part=st.integers(1, 8), size=st.integers(0, 14), stops=st.lists(st.integers(0, 13), max_size=4))
def test_stopped_and_gone_on_with(encoder, texts, tmp_path_factory, part, size, stops):
    counting, done = Counting(encoder.model, encoder.tokenizer), 0
    folder = tmp_path_factory.mktemp("stopped") / "a" / "b"
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            encode_to(counting, stopped(texts[:size], min(size, max(stop, done))), folder, part=part)
        done = len(Vectors(folder))
        assert not Vectors(folder).finished and done % part == 0
    vectors = encode_to(counting, iter(texts[:size]), folder, part=part)
    assert vectors.finished and vectors.shape == (size, 30) and counting.count == size
    parts = [encoder.encode(texts[i : min(i + part, size)]).numpy() for i in range(0, size, part)]
    assert np.array_equal(vectors[:], np.concatenate([np.zeros((0, 30), np.float32), *parts]))
    vectors.verify()


# --- In little memory ---


class Counted(str):
    alive = most = 0

    def __init__(self, text):
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self):
        Counted.alive -= 1


def test_one_part_of_texts_is_alive(encoder, tmp_path):
    Counted.alive = Counted.most = 0
    with pytest.raises(KeyboardInterrupt):
        encode_to(encoder, map(Counted, stopped("abcdefghijklmnopqrstuvwxyz", 17)), tmp_path, part=PART)
    assert PART <= Counted.most <= PART + 1
    Counted.most = Counted.alive
    encode_to(encoder, map(Counted, "abcdefghijklmnopqrstuvwxyz"), tmp_path, part=PART)
    assert Counted.most <= PART + 1 and Counted.alive == 0


class Instant(SentenceEncoder):
    def encode(self, texts, *rest, **options):
        return torch.full((len(texts), self.model.config.hidden_size), float(len(texts)))


def test_memory_does_not_grow_with_the_number_of_texts(tmp_path):
    encoder = small_encoder(hidden=1000, kind=Instant)

    def texts(count):
        return (f"{i} " + "x" * 1000 for i in range(count))

    def grown():
        encode_to(encoder, texts(2000), tmp_path / "few", part=500)
        return watch(lambda: encode_to(encoder, texts(40_000), tmp_path / "many", part=500))

    seen = in_child(grown, 120)
    assert not seen["error"], seen["message"]
    assert len(Vectors(tmp_path / "many")) == 40_000
    assert seen["bytes"] < 20e6 < 40_000 * 1000 * 4 / 5


# --- The vectors ---


indices = st.integers(-14, 13)
steps = st.integers(-5, 5).filter(bool)
slices = st.builds(slice, st.none() | st.integers(-20, 20), st.none() | st.integers(-20, 20), st.none() | steps)


@settings(max_examples=200, deadline=None)
@given(index=indices | slices | st.lists(indices, min_size=1) | st.lists(indices, min_size=1).map(torch.tensor))
def test_indexed_like_a_matrix(whole, index):
    vectors = Vectors(whole)
    matrix = np.concatenate([np.load(path_of_part(whole, i)) for i in range(4)])
    plain = index.numpy() if isinstance(index, torch.Tensor) else index
    assert vectors[index].dtype == np.float32 and np.array_equal(vectors[index], matrix[plain])


def test_a_copy_is_given_and_the_parts_are_read_only(whole):
    vectors = Vectors(whole)
    vectors[3][:] = 0
    vectors[:][:] = 0
    assert vectors[3].any() and not any(part.flags.writeable for part in vectors.parts)
    assert len(list(vectors)) == len(vectors) == 14 and np.array_equal(np.stack(list(vectors)), vectors[:])


@pytest.mark.parametrize("index", [14, -15, [0, 14], np.array([3, -15])])
def test_no_such_vector(whole, index):
    with pytest.raises(IndexError, match="there are 14 vectors"):
        Vectors(whole)[index]


@pytest.mark.parametrize("index", [None, 1.0, "1", True, [True, False], [[1]], (1, 2, "3"), [1.5], {}])
def test_no_index(whole, index):
    with pytest.raises(TypeError, match="index is"):
        Vectors(whole)[index]


def test_as_encode_with_trained_weights(tmp_path, texts):
    encoder = SentenceEncoder.from_pretrained(minilm_folder())
    expected = encoder.encode(texts).numpy()
    assert np.abs(encode_to(encoder, iter(texts), tmp_path / "32", part=5)[:] - expected).max() < 1e-6
    half = encode_to(encoder, iter(texts), tmp_path / "16", part=5, dtype="float16", progress=True)
    assert half.dtype == half[:].dtype == np.float16 and np.abs(half[:] - expected).max() < 1e-4


def test_no_texts(encoder, tmp_path):
    vectors = encode_to(encoder, [], tmp_path)
    assert vectors.finished and vectors.shape == (0, 30) and vectors[:].shape == vectors[[]].shape == (0, 30)
    with pytest.raises(IndexError):
        vectors[0]
    with pytest.raises(StreamError, match="ended after 0"):
        encode_to(encoder, ["one"], tmp_path)


# --- Nothing is mixed, nothing is overwritten ---


def one_change(texts):
    yield "another", [*texts[:9], "another", *texts[10:]], r"texts\[8\] to texts\[11\] are not those"
    yield "exchanged", [texts[1], texts[0], *texts[2:]], r"texts\[0\] to texts\[3\] are not those"
    yield "fewer", texts[:13], "ends after 13"
    yield "none", [], "ends after 0"
    yield "more", [*texts, "one more"], "goes on"
    yield "cut elsewhere", [texts[0] + texts[1][:1], texts[1][1:], *texts[2:]], "are not those"


@pytest.mark.parametrize("number", range(6))
def test_other_texts(encoder, texts, whole, number):
    before, (_, others, says) = bits(whole), list(one_change(texts))[number]
    with pytest.raises(StreamError, match=says):
        encode_to(encoder, others, whole, part=PART)
    assert bits(whole) == before


@pytest.mark.parametrize(
    ("change", "choices", "says"),
    [
        ({"pooling": "cls"}, {}, "pooling 'mean', and this call has 'cls'"),
        ({"normalize": False}, {}, "normalize True"),
        ({"max_length": 7}, {}, "max_length 23, and this call has 7"),
        ({}, {"part": 5}, "part 4, and this call has 5"),
        ({}, {"dtype": "float16"}, "dtype 'float32'"),
    ],
)
def test_other_choices(encoder, texts, whole, change, choices, says):
    before, other = bits(whole), SentenceEncoder(encoder.model, encoder.tokenizer, **change)
    with pytest.raises(StreamError, match=says):
        encode_to(other, texts, whole, **{"part": PART} | choices)
    assert bits(whole) == before


def test_every_weight_is_in_the_fingerprint(encoder):
    before = fingerprint(encoder)
    for parameter in encoder.model.parameters():
        kept = parameter.data.clone()
        parameter.data.flatten()[-1] += 1
        assert fingerprint(encoder) != before
        parameter.data.copy_(kept)
    assert fingerprint(encoder) == before
    assert fingerprint(small_encoder()) == before


def test_a_folder_of_something_else(encoder, texts, tmp_path):
    (tmp_path / "part-00000000.npy").write_text("precious")
    with pytest.raises(StreamError, match=f"holds 'part-00000000.npy', but no {NOTE}"):
        encode_to(encoder, texts, tmp_path)
    assert bits(tmp_path) == {"part-00000000.npy": b"precious"}


def test_what_a_killed_run_left_is_in_nobodys_way(encoder, texts, whole, tmp_path):
    (tmp_path / UNFINISHED).write_text("half a no")
    encode_to(encoder, texts, tmp_path, part=PART)
    assert bits(tmp_path) == bits(whole)


def test_somebody_else_is_writing(encoder, texts, tmp_path):
    started = in_child_that_waits(encoder, texts, tmp_path / "vectors")
    with started as folder, pytest.raises(BlockingIOError, match="written by another program"):
        encode_to(encoder, texts, folder, part=PART)
    assert len(encode_to(encoder, texts, tmp_path / "vectors", part=PART)) == 14


class in_child_that_waits:
    """A child process that has written one part, and waits in the middle of the next until it is killed."""

    def __init__(self, encoder, texts, folder):
        self.encoder, self.texts, self.folder = encoder, texts, folder

    def __enter__(self):
        self.child = os.fork()
        if self.child == 0:
            waits = iter(lambda: time.sleep(60), 0)
            encode_to(self.encoder, itertools.chain(self.texts[:6], waits), self.folder, part=PART)
            os._exit(1)
        while not path_of_part(self.folder, 0).exists():
            time.sleep(0.001)
        return self.folder

    def __exit__(self, *error):
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)


# --- Bad calls ---


@pytest.mark.parametrize("wrong", [3, None, b"text 9"])
def test_a_text_that_is_none(encoder, texts, tmp_path, as_a_user, wrong):
    with pytest.raises(TypeError, match=r"texts\[9\] is a (int|NoneType|bytes)"):
        encode_to(encoder, [*texts[:9], wrong], tmp_path, part=PART)
    assert len(Vectors(tmp_path)) == 8 and not Vectors(tmp_path).finished


def test_half_a_character(encoder, texts, tmp_path):
    with pytest.raises(ValueError, match=r"texts\[5\] holds"):
        encode_to(encoder, [*texts[:5], "\udc80"], tmp_path, part=PART)
    assert len(Vectors(tmp_path)) == 4


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        ({"texts": "one text"}, TypeError, "texts is a str"),
        ({"texts": b"bytes"}, TypeError, "texts is a bytes"),
        ({"texts": {"a", "b"}}, TypeError, "texts is a set"),
        ({"texts": {"a": 1}.keys() | {"b"}}, TypeError, "texts is a set"),
        ({"texts": None}, TypeError, "texts is a NoneType"),
        ({"encoder": "MiniLM"}, TypeError, "encoder is a str"),
        ({"folder": 3}, TypeError, "folder is 3"),
        ({"folder": __file__}, NotADirectoryError, "test_stream.py is a file"),
        ({"part": 0}, ValueError, "part is 0"),
        ({"part": 1.5}, TypeError, "part is 1.5"),
        ({"part": True}, TypeError, "part is True"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"dtype": "bfloat16"}, ValueError, "dtype is 'bfloat16'"),
        ({"dtype": np.float16}, TypeError, "dtype is"),
        ({"progress": "yes"}, TypeError, "progress is 'yes'"),
    ],
)
def test_bad_calls(encoder, texts, tmp_path, as_a_user, call, error, says):
    with pytest.raises(error, match=says):
        encode_to(**{"encoder": encoder, "texts": texts, "folder": tmp_path / "new"} | call)
    assert not (tmp_path / "new").exists()


# --- Damaged ---


def changed(path, change):
    content = change(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def saved(array):
    """The bytes of an array as NumPy writes it."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda old: None, "is missing"),
        (lambda old: b"", "cannot be mapped"),
        (lambda old: old[:-1], "cannot be mapped"),
        (lambda old: old[:20], "cannot be mapped"),
        (lambda old: b"PK\x03\x04" + old[4:], "cannot be mapped"),
        (lambda old: saved(np.array([None])), "cannot be mapped"),
        (lambda old: saved(np.zeros((3, 30), np.float32)), r"\(3, 30\), expected float32 of shape \(4, 30\)"),
        (lambda old: saved(np.zeros((4, 30))), "holds float64"),
        (lambda old: saved(np.zeros((4, 30), ">f4")), "holds >f4"),
    ],
)
def test_a_damaged_part(encoder, texts, whole, tmp_path, change, says):
    folder = shutil.copytree(whole, tmp_path / "vectors")
    changed(path_of_part(folder, 1), change)
    with pytest.raises(StreamError, match=f"part-00000001.npy {says}|part-00000001.npy.*{says}"):
        Vectors(folder)
    with pytest.raises(StreamError, match="part-00000001.npy"):
        encode_to(encoder, texts, folder, part=PART)


def test_a_wrong_bit(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "vectors")
    Vectors(folder).verify()
    changed(path_of_part(folder, 3), lambda old: old[:-1] + bytes([old[-1] ^ 1]))
    with pytest.raises(StreamError, match="part-00000003.npy has the hash"):
        Vectors(folder).verify()


@pytest.mark.parametrize("key", ["made_by", "parts", "finished", "texts", "sha256_of_texts", "sha256_of_vectors"])
@pytest.mark.parametrize("wrong", [None, 0, -1, 10**30, 1.5, "", "x" * 64, [], [3], {}, {"a": 1}, "missing"])
def test_a_note_changed_by_hand(whole, tmp_path, as_a_user, key, wrong):
    note = json.loads((whole / NOTE).read_text())
    place = note if key in note else note["parts"][2]
    place[key] = {"x": 1} if (key, wrong) == ("parts", []) else wrong  # no parts at all is a note that may be
    if wrong == "missing":
        del place[key]
    for path in whole.iterdir():
        os.link(path, tmp_path / path.name)
    changed(tmp_path / NOTE, lambda old: json.dumps(note).encode())
    with pytest.raises(StreamError, match=f"{NOTE} is not as encode_to writes it"):
        Vectors(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"parts": [], "parts": []}'])
def test_no_note(whole, tmp_path, content):
    (tmp_path / NOTE).write_bytes(content)
    with pytest.raises(CheckpointError, match=NOTE):
        Vectors(tmp_path)


def test_no_folder(tmp_path, as_a_user):
    with pytest.raises(FileNotFoundError, match="expected a folder that encode_to has written"):
        Vectors(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="folder is None"):
        Vectors(None)
