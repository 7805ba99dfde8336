"""BertTokenizer against the reference on generated texts, files and calls; and what is refused, by whom, in which words.

FUZZ_EXAMPLES says how many calls are compared and how many mutated folders are read, FUZZ_SEED chooses others.
"""

import json
import os
import random
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from minibert.files import CheckpointError
from minibert.tokenizer import BertTokenizer, TextEncoder, no_panic
from minibert.walk import minilm_folder

EXAMPLES, SEED = int(os.environ.get("FUZZ_EXAMPLES", 1000)), int(os.environ.get("FUZZ_SEED", 0))
CHUNK, TEXTS = 500, 20  # examples of a test; texts that share a call
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["the", "cat", "snow", "un", "##ing", "##able", "##s", "é", "É", "e", "##e", "##é", "猫", "##猫", "Cat", "The", "ß", "ss"]
VOCAB = [*SPECIAL, *LETTERS, *(f"##{c}" for c in LETTERS), *LETTERS[:9].upper(), *"0123456789.,!?'$-()«»", *WORDS[:7], *WORDS[7:9]]
VOCAB = list(dict.fromkeys([*VOCAB, *WORDS]))
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread, so that panics of the reference do not talk over each other
transformers.utils.logging.set_verbosity(transformers.utils.logging.CRITICAL)


def write(folder, vocab=VOCAB, **files):
    """A folder with this vocab.txt, and for each further name the JSON of a value."""
    folder.mkdir(exist_ok=True, parents=True)
    if vocab is not None:
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), encoding="utf-8", newline="\n")
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


ADDED = {"content": "<ent>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": True, "special": False}
CONFIGS = {  # tokenizer_config.json of the folders that are compared
    "plain": {},
    "cased": {"do_lower_case": False},
    "cased, no accents": {"do_lower_case": False, "strip_accents": True},
    "uncased, with accents": {"strip_accents": False},
    "Chinese words": {"tokenize_chinese_chars": False},
    "left": {"padding_side": "left", "truncation_side": "left", "model_max_length": 12},
    "split special": {"split_special_tokens": True, "model_input_names": ["input_ids", "attention_mask"]},
    "eager mask": {"mask_token": {"__type": "AddedToken", "content": "[MASK]", "lstrip": True, "rstrip": True}},
    "added": {"additional_special_tokens": ["[E1]", "the"], "bos_token": "[CLS]", "clean_up_tokenization_spaces": False},
    "decoder": {"added_tokens_decoder": {str(len(VOCAB)): ADDED, str(len(VOCAB) + 1): {**ADDED, "content": "Ä b", "single_word": True}}},
}
LEGACY = {
    "special_tokens_map": {"sep_token": "[SEP]", "mask_token": {"content": "[MASK]", "lstrip": True},
                           "additional_special_tokens": ["cat", {"content": "[new]", "normalized": False}]},
    "added_tokens": {"[new]": len(VOCAB), "New Word": len(VOCAB) + 1},
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Pairs of tokenizers, ours and the reference's, from vocab.txt and from the tokenizer.json that it writes."""
    root, found = tmp_path_factory.mktemp("tokenizers"), {}
    for name, config in CONFIGS.items():
        found[f"{name}, vocab.txt"] = write(root / name, tokenizer_config=config)
    found["legacy, vocab.txt"] = write(root / "legacy", tokenizer_config={"max_len": 20}, **LEGACY)
    for name, folder in list(found.items()):
        reference = transformers.BertTokenizerFast.from_pretrained(folder)
        reference.save_pretrained(root / f"{name}, saved")
        found[name.replace("vocab.txt", "tokenizer.json")] = root / f"{name}, saved"
    stored = json.loads((root / "plain, vocab.txt, saved" / "tokenizer.json").read_text())
    stored["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    stored["truncation"] = {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Left"}
    found["BertProcessing"] = write(root / "bert", None, tokenizer=stored)
    found["MiniLM"] = minilm_folder()
    return {name: (BertTokenizer.from_pretrained(f), transformers.BertTokenizerFast.from_pretrained(f)) for name, f in found.items()}


NAMES = [f"{name}, {file}" for name in [*CONFIGS, "legacy"] for file in ("vocab.txt", "tokenizer.json")] + ["BertProcessing", "MiniLM"]
BITS = [*SPECIAL, "[E1]", "<ent>", " <ent>", "Ä b", "ä b", "[new]", "New Word", "[cls]", *WORDS, " ", "  ", "\t\n", "\u200b", "\u0301", "\0",
        "\ufeff", "can't", "İ", "ǅ", "가", "\U0001f600", "\u3000", "x" * 101, "the cat snows. "]
texts = st.lists(st.one_of(st.sampled_from(BITS), st.text(max_size=8), st.text(LETTERS + " .,'#[]ÉéßΣσς猫", max_size=12)), max_size=8).map("".join)
words = st.lists(texts, max_size=5)
options = st.fixed_dictionaries({}, optional={
    "add_special_tokens": st.booleans(),
    "padding": st.sampled_from([True, False, "longest", "max_length", "do_not_pad"]),
    "truncation": st.sampled_from([True, False, None, "longest_first", "only_first", "only_second", "do_not_truncate"]),
    "max_length": st.sampled_from([1, 2, 3, *range(6, 40, 2)]),
    "stride": st.sampled_from([0, 0, 0, 1, 2, 3]),
    "pad_to_multiple_of": st.sampled_from([None, None, None, 1, 2, 4, 5]),
    "return_tensors": st.sampled_from([None, None, None, "pt", "np"]),
    "return_token_type_ids": st.sampled_from([None, True, False]),
    "return_attention_mask": st.sampled_from([None, True, False]),
    "return_overflowing_tokens": st.booleans(),
    "return_special_tokens_mask": st.booleans(),
    "return_offsets_mapping": st.booleans(),
    "return_length": st.booleans(),
})


@st.composite
def calls(draw):
    """The arguments of a call: one text, a pair, or a batch of either; strings or words."""
    split = draw(st.integers(0, 4)) == 0
    one = words.filter(bool) if split else texts
    if draw(st.booleans()):
        batch = draw(st.lists(one, min_size=1, max_size=TEXTS))
        pair = draw(st.none() | st.lists(one, min_size=len(batch), max_size=len(batch)))
    else:
        batch, pair = draw(one), draw(st.none() | one)
    chosen = draw(options)
    if chosen.get("return_tensors") and draw(st.integers(0, 9)):  # rows of one length, nearly always
        chosen |= {"padding": True} if chosen.get("max_length", 9) > 8 else {"padding": "max_length", "truncation": True}
    return batch, pair, {**chosen, "is_split_into_words": split}


def plain(value):
    """Tensors and arrays as their dtype, shape and numbers; lists as they are. Without a token there is no dtype:
    the reference makes floats of an empty row."""
    if not isinstance(value, (torch.Tensor, np.ndarray)):
        return value
    return (str(value.dtype).removeprefix("torch."), *value.shape, value.tolist()) if 0 not in value.shape else value.shape[:2]


def outcome(tokenizer, batch, pair, options):
    """What a call returns, or the error that it ends with: of the reference's, a panic of the library, too."""
    try:
        found = tokenizer(batch, pair, **options)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return None, error
    return {name: plain(value) for name, value in found.items()}, None


def is_deviation(error, reference, has_pair, limit, options):
    """Whether minibert refuses by design what the reference takes: see test_deviations."""
    room = limit - (2 + has_pair) * options.get("add_special_tokens", True)
    if str(error).startswith("max_length"):  # the reference doesn't truncate at all then
        return room < 0
    if str(error).startswith("stride"):  # the reference panics as soon as it cuts
        return options["stride"] >= room + has_pair
    lost = any(value[0] == "object" or 0 in value for value in reference.values())  # or, with an empty row first, all
    return str(error).startswith("return_tensors") and lost


def compare(mine, theirs, batch, pair, options):
    """Both must return the same, or both refuse; but for deviations. Returns whether there was something to compare."""
    ours, error = outcome(mine, batch, pair, options)
    reference, their_error = outcome(theirs, batch, pair, options)
    limit = options.get("max_length") or mine.model_max_length
    if error is None and their_error is None:
        assert list(ours) == list(reference)
        assert ours == reference
        return True
    if error is None:  # the reference counts special tokens that are not there
        assert not options["add_special_tokens"] and options["stride"] > limit - 2, (ours, their_error)
    else:
        assert type(error) in (ValueError, TypeError), error
        assert their_error or is_deviation(error, reference, bool(pair), limit, options), (error, reference)
    return False


def fuzz(both, name, chunk_seed, examples):
    """Compare on so many random calls; returns how many texts were compared."""
    mine, theirs = both[name]
    count = [0, 0]

    @seed(chunk_seed)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(calls())
    def check(call):
        count[compare(mine, theirs, *call)] += len(call[0]) if isinstance(call[0], list) else 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check()
    return count


@pytest.mark.parametrize("chunk", range(-(-EXAMPLES // CHUNK)))
def test_calls_return_what_the_reference_returns(both, chunk):
    total = np.zeros(2, dtype=int)
    for i, name in enumerate(NAMES):
        examples = -(-min(CHUNK, EXAMPLES - chunk * CHUNK) // len(NAMES))
        total += fuzz(both, name, (SEED * 10_000 + chunk) * len(NAMES) + i, examples)
    refused, compared = total
    print(f"{compared} texts compared, {refused} refused")
    assert compared > 3 * refused


def test_calls_leave_nothing_behind(both):
    mine, _ = both["plain, vocab.txt"]
    before, plain_call = mine.backend.to_str(), mine("the cat snows")
    mine(["the cat", "snow"], truncation=True, max_length=3, padding="max_length", stride=0)
    with pytest.raises(ValueError):
        mine("the cat snows", truncation=True, max_length=1)
    assert mine.backend.to_str() == before and mine.backend.truncation is None and mine.backend.padding is None
    assert mine("the cat snows") == plain_call


def test_threads_share_a_tokenizer(both):
    mine, theirs = both["MiniLM"]
    text = "The cat sat on the mat because it was tired. " * 3
    kinds = [{"truncation": True, "max_length": n, "padding": "max_length", "pad_to_multiple_of": 1} for n in range(5, 45, 3)]
    expected, wrong = [theirs(text, **kind)["input_ids"] for kind in kinds], []

    def call(which):
        for turn in range(60):
            kind = (which + turn) % len(kinds)
            if mine(text, **kinds[kind])["input_ids"] != expected[kind]:
                wrong.append(kind)

    threads = [threading.Thread(target=call, args=(which,)) for which in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


ATTRIBUTES = [f"{name}_token{end}" for name in ("unk", "sep", "pad", "cls", "mask") for end in ("", "_id")] + [
    "all_special_tokens", "all_special_ids", "vocab_size", "model_max_length", "padding_side", "truncation_side",
]


@pytest.mark.parametrize("name", NAMES)
def test_attributes_and_the_way_back(both, name):
    mine, theirs = both[name]
    assert {x: getattr(mine, x) for x in ATTRIBUTES} == {x: getattr(theirs, x) for x in ATTRIBUTES}
    assert len(mine) == len(theirs) and mine.get_vocab() == theirs.get_vocab()
    rng = random.Random(0)
    for _ in range(40):
        ids = [rng.choice([*range(5), *range(len(mine))]) for _ in range(rng.randrange(12))]
        for skip in (False, True):
            assert mine.convert_ids_to_tokens(ids, skip) == theirs.convert_ids_to_tokens(ids, skip)
            for clean in (None, False, True):
                assert mine.decode(ids, skip, clean) == theirs.decode(ids, skip, clean)
    batch = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
    assert mine.batch_decode(batch) == theirs.batch_decode(batch) and mine.batch_decode([5, 6]) == theirs.batch_decode([5, 6])
    assert mine.decode(5) == theirs.decode(5) == mine.decode(torch.tensor(5)) and mine.convert_ids_to_tokens(5) == theirs.convert_ids_to_tokens(5)
    tokens = [*mine.convert_ids_to_tokens(range(0, 40, 3)), "no such token"]
    assert mine.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert mine.convert_tokens_to_ids("no such token") == theirs.unk_token_id
    text, pair = "The [MASK] snows, can't she? [E1]", "Ä b [SEP]"
    assert mine.tokenize(text) == theirs.tokenize(text) and mine.tokenize(text, pair, True) == theirs.tokenize(text, pair, True)
    ours, reference = mine([text, pair], [pair, text]), theirs([text, pair], [pair, text])
    for row in (0, 1):
        assert ours.tokens(row) == reference.tokens(row) and ours.word_ids(row) == reference.word_ids(row)
        assert ours.sequence_ids(row) == reference.sequence_ids(row)


@pytest.mark.parametrize("name", NAMES)
def test_saved_by_either_and_loaded_by_either(both, name, tmp_path):
    mine, theirs = both[name]
    mine.save_pretrained(tmp_path / "ours")
    assert sorted(x.name for x in (tmp_path / "ours").iterdir()) == ["tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "vocab").mkdir()
    for file in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / "vocab" / file).write_bytes((tmp_path / "ours" / file).read_bytes())
    readers = [BertTokenizer.from_pretrained, transformers.BertTokenizerFast.from_pretrained, transformers.AutoTokenizer.from_pretrained]
    again = [read(tmp_path / folder) for folder in ("ours", "theirs") for read in readers]
    if name != "BertProcessing":  # the order of what was cut off depends on it, and vocab.txt does not say it
        again += [read(tmp_path / "vocab") for read in readers[:2]]

    @seed(0)
    @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(calls())
    def check(call):
        for other in again:
            compare(mine, other, *call) if not isinstance(other, BertTokenizer) else compare(other, theirs, *call)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check()
    again[0].save_pretrained(tmp_path / "again")
    for file in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "ours" / file).read_bytes()


def test_saving_is_whole_or_not_at_all(both, tmp_path, monkeypatch):
    mine, other = both["plain, vocab.txt"][0], both["added, vocab.txt"][0]
    mine.save_pretrained(tmp_path)
    before = {x.name: x.read_bytes() for x in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        other.save_pretrained(tmp_path)
    assert {x.name: x.read_bytes() for x in tmp_path.iterdir()} == before


def test_the_result_goes_into_a_model_and_to_a_device(both):
    from minibert.model import BertModel

    mine, theirs = both["MiniLM"]
    model = BertModel.from_pretrained(minilm_folder())
    batch = mine(["The cat sat.", "On the mat, it was tired."], padding=True, return_tensors="pt")
    reference = theirs(["The cat sat.", "On the mat, it was tired."], padding=True, return_tensors="pt")
    assert torch.equal(model(**batch)[0], model(**reference)[0]) and batch.input_ids is batch["input_ids"]
    assert batch.to("meta") is batch and all(value.device.type == "meta" for value in batch.values())
    with pytest.raises(AttributeError, match="no 'labels', but input_ids, token_type_ids, attention_mask"):
        batch.labels
    with pytest.raises(TypeError, match="input_ids is a list, expected a torch.Tensor: call .* return_tensors='pt'"):
        mine("The cat").to("cpu")


def test_deviations(both, tmp_path):
    """Where the reference is silently wrong; the fuzz tests allow exactly these."""
    mine, theirs = both["plain, tokenizer.json"]
    text = "the cat snows"
    assert theirs(text, truncation=True, max_length=1) == theirs(text)  # nothing is cut
    with pytest.raises(ValueError, match="max_length is 1, expected at least 2"):
        mine(text, truncation=True, max_length=1)
    lost = theirs(["", "a"], add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert lost.shape == (2, 0) and lost.dtype == torch.float32
    with pytest.raises(ValueError, match="rows have 0 to 1 tokens"):
        mine(["", "a"], add_special_tokens=False, return_tensors="pt")
    empty = mine("", add_special_tokens=False, return_tensors="pt", return_offsets_mapping=True)
    assert empty.input_ids.dtype == torch.int64 and empty.offset_mapping.shape == (1, 0, 2)
    assert theirs(["a", "a b"], return_tensors="np")["input_ids"].dtype == object
    assert theirs.decode([5, 10**6]) == theirs.decode([5]) and theirs.convert_ids_to_tokens([10**6]) == [None]
    cased, _ = both["cased, tokenizer.json"]
    cased.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert transformers.BertTokenizerFast.from_pretrained(tmp_path).tokenize("The É") == ["the", "e"]  # lowers nevertheless
    assert BertTokenizer.from_pretrained(tmp_path).tokenize("The É") == cased.tokenize("The É") == ["The", "É"]
