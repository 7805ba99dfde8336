"""BertTokenizer against the reference on generated texts, files and calls; and what is refused, in which words.

FUZZ_EXAMPLES says how many calls are compared and how many mutated folders are read, FUZZ_SEED chooses others.
"""

import json
import os
import random
import threading
import warnings

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from minibert.files import CheckpointError
from minibert.tokenizer import BertTokenizer
from minibert.vocabulary import no_panic
from minibert.walk import minilm_folder

EXAMPLES, SEED = int(os.environ.get("FUZZ_EXAMPLES", 1000)), int(os.environ.get("FUZZ_SEED", 0))
CHUNK, TEXTS = 500, 20  # examples of a test; texts that share a call
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [
    "the",
    "cat",
    "snow",
    "un",
    "##ing",
    "##able",
    "##s",
    "é",
    "É",
    "e",
    "##e",
    "##é",
    "猫",
    "##猫",
    "Cat",
    "The",
    "ß",
    "ss",
]
VOCAB = [
    *SPECIAL,
    *LETTERS,
    *(f"##{c}" for c in LETTERS),
    *LETTERS[:9].upper(),
    *"0123456789.,!?'$-()«»",
    *WORDS[:7],
    *WORDS[7:9],
]
VOCAB = list(dict.fromkeys([*VOCAB, *WORDS]))
os.environ["TOKENIZERS_PARALLELISM"] = (
    "false"  # one thread, so that panics of the reference do not talk over each other
)
transformers.utils.logging.set_verbosity(transformers.utils.logging.CRITICAL)


def write(folder, vocab=VOCAB, **files):
    """A folder with this vocab.txt, and for each further name the JSON of a value."""
    folder.mkdir(exist_ok=True, parents=True)
    if vocab is not None:
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab), encoding="utf-8", newline="\n")
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


ADDED = {
    "content": "<ent>",
    "lstrip": True,
    "rstrip": False,
    "single_word": False,
    "normalized": True,
    "special": False,
}
CONFIGS = {  # tokenizer_config.json of the folders that are compared
    "plain": {},
    "cased": {"do_lower_case": False},
    "cased, no accents": {"do_lower_case": False, "strip_accents": True},
    "uncased, with accents": {"strip_accents": False},
    "Chinese words": {"tokenize_chinese_chars": False},
    "left": {"padding_side": "left", "truncation_side": "left", "model_max_length": 12},
    "split special": {"split_special_tokens": True, "model_input_names": ["input_ids", "attention_mask"]},
    "eager mask": {"mask_token": {"__type": "AddedToken", "content": "[MASK]", "lstrip": True, "rstrip": True}},
    "added": {
        "additional_special_tokens": ["[E1]", "the"],
        "bos_token": "[CLS]",
        "clean_up_tokenization_spaces": False,
    },
    "decoder": {
        "added_tokens_decoder": {
            str(len(VOCAB)): ADDED,
            str(len(VOCAB) + 1): {**ADDED, "content": "Ä b", "single_word": True},
        }
    },
}
LEGACY = {
    "special_tokens_map": {
        "sep_token": "[SEP]",
        "mask_token": {"content": "[MASK]", "lstrip": True},
        "additional_special_tokens": ["cat", {"content": "[new]", "normalized": False}],
    },
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
    return {
        name: (BertTokenizer.from_pretrained(f), transformers.BertTokenizerFast.from_pretrained(f))
        for name, f in found.items()
    }


NAMES = [f"{name}, {file}" for name in [*CONFIGS, "legacy"] for file in ("vocab.txt", "tokenizer.json")] + [
    "BertProcessing",
    "MiniLM",
]
BITS = [
    *SPECIAL,
    "[E1]",
    "<ent>",
    " <ent>",
    "Ä b",
    "ä b",
    "[new]",
    "New Word",
    "[cls]",
    *WORDS,
    " ",
    "  ",
    "\t\n",
    "\u200b",
    "\u0301",
    "\0",
    "\ufeff",
    "can't",
    "İ",
    "ǅ",
    "가",
    "\U0001f600",
    "\u3000",
    "x" * 101,
    "the cat snows. ",
]
texts = st.lists(
    st.one_of(st.sampled_from(BITS), st.text(max_size=8), st.text(LETTERS + " .,'#[]ÉéßΣσς猫", max_size=12)), max_size=8
).map("".join)
words = st.lists(texts, max_size=5)
options = st.fixed_dictionaries(
    {},
    optional={
        "add_special_tokens": st.booleans(),
        "padding": st.sampled_from([True, False, "longest", "max_length", "do_not_pad"]),
        "truncation": st.sampled_from(
            [True, False, None, "longest_first", "only_first", "only_second", "do_not_truncate"]
        ),
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
    },
)


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
        chosen |= (
            {"padding": True} if chosen.get("max_length", 9) > 8 else {"padding": "max_length", "truncation": True}
        )
    return batch, pair, {**chosen, "is_split_into_words": split}


def plain(value):
    """Tensors and arrays as their dtype, shape and numbers; lists as they are. Without a token there is no dtype:
    the reference makes floats of an empty row."""
    if not isinstance(value, (torch.Tensor, np.ndarray)):
        return value
    return (
        (str(value.dtype).removeprefix("torch."), *value.shape, value.tolist())
        if 0 not in value.shape
        else value.shape[:2]
    )


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
    kinds = [
        {"truncation": True, "max_length": n, "padding": "max_length", "pad_to_multiple_of": 1} for n in range(5, 45, 3)
    ]
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
    "all_special_tokens",
    "all_special_ids",
    "vocab_size",
    "model_max_length",
    "padding_side",
    "truncation_side",
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
    assert mine.batch_decode(batch) == theirs.batch_decode(batch) and mine.batch_decode([5, 6]) == theirs.batch_decode(
        [5, 6]
    )
    assert mine.decode(5) == theirs.decode(5) == mine.decode(torch.tensor(5)) and mine.convert_ids_to_tokens(
        5
    ) == theirs.convert_ids_to_tokens(5)
    tokens = [*mine.convert_ids_to_tokens(range(0, 40, 3)), "no such token"]
    assert mine.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert mine.convert_tokens_to_ids("no such token") == theirs.unk_token_id
    text, pair = "The [MASK] snows, can't she? [E1]", "Ä b [SEP]"
    assert mine.tokenize(text) == theirs.tokenize(text) and mine.tokenize(text, pair, True) == theirs.tokenize(
        text, pair, True
    )
    ours, reference = mine([text, pair], [pair, text]), theirs([text, pair], [pair, text])
    for row in (0, 1):
        assert ours.tokens(row) == reference.tokens(row) and ours.word_ids(row) == reference.word_ids(row)
        assert ours.sequence_ids(row) == reference.sequence_ids(row)


@pytest.mark.parametrize("name", NAMES)
def test_saved_by_either_and_loaded_by_either(both, name, tmp_path):
    mine, theirs = both[name]
    mine.save_pretrained(tmp_path / "ours")
    assert sorted(x.name for x in (tmp_path / "ours").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "vocab").mkdir()
    for file in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / "vocab" / file).write_bytes((tmp_path / "ours" / file).read_bytes())
    readers = [
        BertTokenizer.from_pretrained,
        transformers.BertTokenizerFast.from_pretrained,
        transformers.AutoTokenizer.from_pretrained,
    ]
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
        assert batch.labels
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
    assert transformers.BertTokenizerFast.from_pretrained(tmp_path).tokenize("The É") == [
        "the",
        "e",
    ]  # lowers nevertheless
    assert BertTokenizer.from_pretrained(tmp_path).tokenize("The É") == cased.tokenize("The É") == ["The", "É"]


GOOD = {"tokenizer_config": {"model_max_length": 20}, "config": {"vocab_size": len(VOCAB)}}
LINES = [*SPECIAL, "cat", "dog"]
STORED: dict = {}


def tokenizer_json(**changes):
    """The JSON of a good tokenizer.json, with changes: dotted names to values, ... to leave something out."""
    if not STORED:
        options = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        STORED.update(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [
                    {"id": i, "content": token, "special": True, **options} for i, token in enumerate(SPECIAL)
                ],
                "normalizer": {
                    "type": "BertNormalizer",
                    "clean_text": True,
                    "handle_chinese_chars": True,
                    "strip_accents": None,
                    "lowercase": True,
                },
                "pre_tokenizer": {"type": "BertPreTokenizer"},
                "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
                "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
                "model": {
                    "type": "WordPiece",
                    "unk_token": "[UNK]",
                    "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100,
                    "vocab": {token: i for i, token in enumerate(LINES)},
                },
            }
        )
    parts = json.loads(json.dumps(STORED))
    for path, value in changes.items():
        *way, last = path.split("__")
        place = parts
        for name in way:
            place = place[int(name) if isinstance(place, list) else name]
        if value is ...:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(parts).encode()


def vocab_txt(*lines):
    return "".join(f"{line}\n" for line in lines).encode()


def also(name, value):
    """A good vocab.txt, and another file."""
    return {"vocab.txt": vocab_txt(*LINES), name: value if isinstance(value, bytes) else json.dumps(value).encode()}


HOLE = {token: i + (i > 5) for i, token in enumerate(LINES)}
TWICE = {**{token: i for i, token in enumerate(LINES)}, "dog": 5}
BAD_FILES = [  # name of the case, files, what the error says
    ("no files", {}, FileNotFoundError, "holds neither tokenizer.json nor vocab.txt, expected one of them"),
    (
        "repeated line",
        {"vocab.txt": vocab_txt(*LINES, "cat", "cow")},
        CheckpointError,
        "vocab.txt, line 8 repeats 'cat' from 6",
    ),
    (
        "empty line",
        {"vocab.txt": vocab_txt(*SPECIAL, "", "cat")},
        CheckpointError,
        "vocab.txt, line 6 holds '', expected a token",
    ),
    (
        "byte order mark",
        {"vocab.txt": b"\xef\xbb\xbf" + vocab_txt(*LINES)},
        CheckpointError,
        "vocab.txt begins with a byte order mark",
    ),
    (
        "UTF-16",
        {"vocab.txt": vocab_txt(*LINES).decode().encode("utf-16")},
        CheckpointError,
        "vocab.txt is not UTF-8: .* byte 0xff",
    ),
    (
        "Latin-1",
        {"vocab.txt": vocab_txt(*LINES) + "é".encode("latin-1")},
        CheckpointError,
        "vocab.txt is not UTF-8: .* byte 0xe9",
    ),
    ("empty vocab.txt", {"vocab.txt": b""}, CheckpointError, "vocab.txt, line 1 holds '', expected a token"),
    (
        "long line",
        {"vocab.txt": vocab_txt(*LINES, "x" * 1001)},
        CheckpointError,
        "vocab.txt, line 8 holds 'xxx.*', expected a token: 1 to 1,000 characters",
    ),
    ("many lines", {"vocab.txt": b"\n" * 650_001}, CheckpointError, "vocab.txt has more than 650,000 lines"),
    (
        "large vocab.txt",
        {"vocab.txt": b"x" * ((16 << 20) + 1)},
        CheckpointError,
        "vocab.txt has more than 16,777,216 bytes",
    ),
    *(
        (
            f"no {token}",
            {"vocab.txt": vocab_txt(*(line for line in LINES if line != token))},
            CheckpointError,
            rf"vocab.txt lacks '\[{token[1:-1]}\]', expected the {token[1:-1].lower()}_token among its 6 tokens",
        )
        for token in SPECIAL
    ),
    ("weights as vocab.txt", {"vocab.txt": bytes(range(256))}, CheckpointError, "vocab.txt is not UTF-8"),
    (
        "LFS pointer",
        {"vocab.txt": vocab_txt("version https://git-lfs.github.com/spec/v1", "size 7")},
        CheckpointError,
        "vocab.txt lacks",
    ),
    (
        "too large for the model",
        also("config.json", {"vocab_size": 6}),
        CheckpointError,
        "vocab.txt has 7 tokens, expected at most 6, the vocab_size of config.json",
    ),
    (
        "vocab_size no number",
        also("config.json", {"vocab_size": "7"}),
        CheckpointError,
        "config.json: vocab_size is '7', expected a whole number",
    ),
    ("config.json no JSON", also("config.json", b"{"), CheckpointError, "config.json is not JSON"),
    (
        "config no JSON",
        also("tokenizer_config.json", b"{'a': 1}"),
        CheckpointError,
        "tokenizer_config.json is not JSON",
    ),
    (
        "config a list",
        also("tokenizer_config.json", []),
        CheckpointError,
        "tokenizer_config.json holds a list, expected an object",
    ),
    (
        "config too deep",
        also("tokenizer_config.json", b'{"a":' * 9**5),
        CheckpointError,
        "tokenizer_config.json is nested too deeply",
    ),
    (
        "lower case a word",
        also("tokenizer_config.json", {"do_lower_case": "False"}),
        CheckpointError,
        "tokenizer_config.json: do_lower_case is 'False', expected True or False",
    ),
    (
        "accents a number",
        also("tokenizer_config.json", {"strip_accents": 0}),
        CheckpointError,
        "strip_accents is 0, expected True or False or None",
    ),
    (
        "Chinese null",
        also("tokenizer_config.json", {"tokenize_chinese_chars": None}),
        CheckpointError,
        "tokenize_chinese_chars is None, expected True or False",
    ),
    (
        "length negative",
        also("tokenizer_config.json", {"model_max_length": -1}),
        CheckpointError,
        "model_max_length is -1, expected a whole number from 1 up",
    ),
    (
        "length infinite",
        also("tokenizer_config.json", b'{"model_max_length": Infinity}'),
        CheckpointError,
        "model_max_length is inf, expected a whole number",
    ),
    (
        "side",
        also("tokenizer_config.json", {"padding_side": "top"}),
        CheckpointError,
        "padding_side is 'top', expected 'right' or 'left'",
    ),
    (
        "input names",
        also("tokenizer_config.json", {"model_input_names": ["pixels"]}),
        CheckpointError,
        "model_input_names is .* expected a list of some of",
    ),
    (
        "pad null",
        also("tokenizer_config.json", {"pad_token": None}),
        CheckpointError,
        "tokenizer_config.json: pad_token is None, expected a string, or a dict",
    ),
    (
        "mask elsewhere",
        also("tokenizer_config.json", {"mask_token": "<mask>"}),
        CheckpointError,
        "vocab.txt lacks '<mask>', expected the mask_token",
    ),
    (
        "cls is sep",
        also("tokenizer_config.json", {"cls_token": "[SEP]"}),
        CheckpointError,
        r"cls_token is '\[SEP\]', expected a token of its own",
    ),
    (
        "token without content",
        also("special_tokens_map.json", {"sep_token": {}}),
        CheckpointError,
        "special_tokens_map.json: sep_token: content is None, expected a token",
    ),
    (
        "switch a number",
        also("special_tokens_map.json", {"sep_token": {"content": "[SEP]", "lstrip": 1}}),
        CheckpointError,
        "sep_token: lstrip is 1, expected True or False",
    ),
    (
        "additional a word",
        also("special_tokens_map.json", {"additional_special_tokens": "[A]"}),
        CheckpointError,
        r"additional_special_tokens is '\[A\]', expected a list",
    ),
    (
        "additional too many",
        also("tokenizer_config.json", {"additional_special_tokens": ["[A]"]}) | {"config.json": b'{"vocab_size": 7}'},
        CheckpointError,
        "has 8 tokens, expected at most 7",
    ),
    (
        "added beyond a hole",
        also("added_tokens.json", {"new": 9}),
        CheckpointError,
        "the id of an added token is 9, expected 7, the id of 'new'",
    ),
    (
        "added at a taken id",
        also("added_tokens.json", {"new": 3}),
        CheckpointError,
        "the id of an added token is 3, expected 7, the id of 'new'",
    ),
    (
        "added with one id",
        also("added_tokens.json", {"new": 7, "newer": 7}),
        CheckpointError,
        "added_tokens.json: the id of 'newer' is 7, expected a whole number from 0 up that no other has",
    ),
    (
        "added with a word for an id",
        also("added_tokens.json", {"new": "7"}),
        CheckpointError,
        "added_tokens.json: the id of 'new' is '7', expected a whole number",
    ),
    (
        "many added tokens",
        also("added_tokens.json", {f"t{i}": len(LINES) + i for i in range(5001)}),
        CheckpointError,
        "added_tokens.json has 5,001 added tokens, expected at most 5,000",
    ),
    (
        "decoder a list",
        also("tokenizer_config.json", {"added_tokens_decoder": []}),
        CheckpointError,
        "added_tokens_decoder is .* expected a dictionary from id to token",
    ),
    (
        "decoder without ids",
        also("tokenizer_config.json", {"added_tokens_decoder": {"x": "y"}}),
        CheckpointError,
        "added_tokens_decoder: the id of 'y' is 'x', expected a whole number",
    ),
    (
        "half a character",
        also("tokenizer_config.json", b'{"mask_token": "\\ud800"}'),
        CheckpointError,
        "tokenizer_config.json is not JSON: .*surrogates not allowed",
    ),
    ("tokenizer.json no JSON", {"tokenizer.json": b"nonsense"}, CheckpointError, "tokenizer.json is not JSON"),
    (
        "tokenizer.json a page",
        {"tokenizer.json": b"<!doctype html>"},
        CheckpointError,
        "tokenizer.json holds HTML or XML",
    ),
    ("tokenizer.json empty", {"tokenizer.json": b""}, CheckpointError, "tokenizer.json is empty"),
    (
        "tokenizer.json a list",
        {"tokenizer.json": b"[]"},
        CheckpointError,
        "tokenizer.json holds a list, expected an object",
    ),
    (
        "tokenizer.json deep",
        {"tokenizer.json": b'{"a":' * 10**5},
        CheckpointError,
        "tokenizer.json is nested too deeply",
    ),
    (
        "tokenizer.json of many parts",
        {"tokenizer.json": b"[" + b"[]," * 10**6},
        CheckpointError,
        "tokenizer.json has too many parts",
    ),
    (
        "tokenizer.json large",
        {"tokenizer.json": b" " * ((24 << 20) + 1)},
        CheckpointError,
        "tokenizer.json has more than 25,165,824 bytes",
    ),
    (
        "tokenizer.json UTF-16",
        {"tokenizer.json": tokenizer_json().decode().encode("utf-16")},
        CheckpointError,
        "tokenizer.json is not JSON",
    ),
    (
        "no model",
        {"tokenizer.json": tokenizer_json(model=...)},
        CheckpointError,
        "tokenizer.json: model.continuing_subword_prefix is None, expected '##'",
    ),
    (
        "BPE",
        {"tokenizer.json": tokenizer_json(model__type="BPE")},
        CheckpointError,
        "tokenizer.json: model.type is 'BPE', expected 'WordPiece'",
    ),
    (
        "Unigram",
        {"tokenizer.json": tokenizer_json(model={"type": "Unigram", "vocab": [["a", 0.0]]})},
        CheckpointError,
        "model.type is 'Unigram', expected 'WordPiece'",
    ),
    (
        "a stranger's regex",
        {
            "tokenizer.json": tokenizer_json(
                normalizer={"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": ""}
            )
        },
        CheckpointError,
        "normalizer.type is 'Replace', expected 'BertNormalizer'",
    ),
    (
        "a stranger's map",
        {"tokenizer.json": tokenizer_json(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})},
        CheckpointError,
        "normalizer.type is 'Precompiled', expected 'BertNormalizer'",
    ),
    (
        "a sequence",
        {"tokenizer.json": tokenizer_json(pre_tokenizer={"type": "Sequence", "pretokenizers": []})},
        CheckpointError,
        "pre_tokenizer.type is 'Sequence', expected 'BertPreTokenizer'",
    ),
    (
        "no frame",
        {"tokenizer.json": tokenizer_json(post_processor=None)},
        CheckpointError,
        "post_processor.type is None, expected 'TemplateProcessing' or 'BertProcessing'",
    ),
    (
        "another frame",
        {"tokenizer.json": tokenizer_json(post_processor__cls=["[SEP]", 3])},
        CheckpointError,
        r"post_processor is .*, expected \[CLS\] A \[SEP\] of segment 0",
    ),
    (
        "wrong ids in the frame",
        {"tokenizer.json": tokenizer_json(post_processor__sep=["[SEP]", 4])},
        CheckpointError,
        "post_processor is .* with ids 2 and 3",
    ),
    (
        "a type that is none",
        {"tokenizer.json": tokenizer_json(decoder__type=["WordPiece"])},
        CheckpointError,
        "decoder.type is .* expected 'WordPiece'",
    ),
    (
        "prefix",
        {"tokenizer.json": tokenizer_json(model__continuing_subword_prefix="@@")},
        CheckpointError,
        "model.continuing_subword_prefix is '@@', expected '##'",
    ),
    (
        "longest word",
        {"tokenizer.json": tokenizer_json(model__max_input_chars_per_word=10**9)},
        CheckpointError,
        "model.max_input_chars_per_word is 1000000000, expected a whole number from 1 to 1,000",
    ),
    (
        "unknown token differs",
        {"tokenizer.json": tokenizer_json(model__unk_token="[PAD]")},
        CheckpointError,
        r"model.unk_token is '\[PAD\]', expected '\[UNK\]'",
    ),
    (
        "lower case null",
        {"tokenizer.json": tokenizer_json(normalizer__lowercase=None)},
        CheckpointError,
        "normalizer.lowercase is None, expected True or False",
    ),
    (
        "accents a word",
        {"tokenizer.json": tokenizer_json(normalizer__strip_accents="no")},
        CheckpointError,
        "strip_accents is 'no', expected True or False or None",
    ),
    (
        "a hole in the ids",
        {"tokenizer.json": tokenizer_json(model__vocab=HOLE)},
        CheckpointError,
        r"model.vocab\['dog'\] is 7, expected an id of its own, from 0 to 6",
    ),
    (
        "an id twice",
        {"tokenizer.json": tokenizer_json(model__vocab=TWICE)},
        CheckpointError,
        r"model.vocab\['dog'\] is 5, expected an id of its own",
    ),
    (
        "an id too few",
        {"tokenizer.json": tokenizer_json(model__vocab={"a": -1})},
        CheckpointError,
        r"model.vocab\['a'\] is -1, expected an id",
    ),
    (
        "an id that is none",
        {"tokenizer.json": tokenizer_json(model__vocab={"a": 0.0})},
        CheckpointError,
        r"model.vocab\['a'\] is 0.0, expected an id",
    ),
    (
        "vocab a list",
        {"tokenizer.json": tokenizer_json(model__vocab=LINES)},
        CheckpointError,
        "model.vocab is .* expected a dictionary from token to id",
    ),
    (
        "a token twice",
        {"tokenizer.json": tokenizer_json().replace(b'"dog": 6', b'"dog": 6, "cat": 7')},
        CheckpointError,
        "the key 'cat' stands twice",
    ),
    (
        "a token with a line break",
        {"tokenizer.json": tokenizer_json().replace(b'"dog"', b'"d\\ng"')},
        CheckpointError,
        r"model.vocab, id 6 holds 'd\\ng', expected a token",
    ),
    (
        "half a token",
        {"tokenizer.json": tokenizer_json().replace(b'"dog"', b'"\\ud800"')},
        CheckpointError,
        "tokenizer.json is not JSON: .*surrogates not allowed",
    ),
    (
        "added elsewhere",
        {"tokenizer.json": tokenizer_json(added_tokens__0__id=5)},
        CheckpointError,
        r"tokenizer.json: added_tokens: the id of an added token is 5, expected 0, the id of '\[PAD\]'",
    ),
    (
        "added without an id",
        {"tokenizer.json": tokenizer_json(added_tokens__0__id=...)},
        CheckpointError,
        r"added_tokens: the id of '\[PAD\]' is None, expected a whole number",
    ),
    (
        "added with one id in tokenizer.json",
        {"tokenizer.json": tokenizer_json(added_tokens__0__id=1)},
        CheckpointError,
        r"added_tokens: the id of '\[UNK\]' is 1, expected a whole number from 0 up that no other has",
    ),
    (
        "added a word",
        {"tokenizer.json": tokenizer_json(added_tokens="x")},
        CheckpointError,
        "added_tokens is 'x', expected a list",
    ),
    (
        "added empty",
        {"tokenizer.json": tokenizer_json(added_tokens__0__content="")},
        CheckpointError,
        r"added_tokens\[0\]: content is '', expected a token",
    ),
    (
        "padding a word",
        {"tokenizer.json": tokenizer_json(padding="max")},
        CheckpointError,
        "padding is 'max', expected a dictionary",
    ),
    (
        "direction",
        {"tokenizer.json": tokenizer_json(truncation={"direction": "Up"})},
        CheckpointError,
        "truncation.direction is 'Up', expected 'Right' or 'Left'",
    ),
    (
        "another version",
        {"tokenizer.json": tokenizer_json(version="2.0")},
        CheckpointError,
        "version is '2.0', expected '1.0'",
    ),
]


@pytest.mark.parametrize(
    ("files", "error", "says"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES]
)
def test_bad_files(files, error, says, tmp_path, as_a_user):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=says) as raised:
        BertTokenizer.from_pretrained(tmp_path)
    assert type(raised.value) is error and str(tmp_path) in str(raised.value)


def test_good_files_load(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_json())
    (tmp_path / "vocab.txt").write_bytes(vocab_txt(*LINES))
    from_json = BertTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert (
        from_json("the cat")
        == BertTokenizer.from_pretrained(tmp_path)("the cat")
        == {"input_ids": [2, 1, 5, 3], "token_type_ids": [0] * 4, "attention_mask": [1] * 4}
    )


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such-folder does not exist"):
        BertTokenizer.from_pretrained(tmp_path / "no-such-folder")
    (tmp_path / "vocab.txt").symlink_to(minilm_folder() / "vocab.txt")
    with pytest.raises(CheckpointError, match="vocab.txt is a link to .* expected a file inside the folder"):
        BertTokenizer.from_pretrained(tmp_path)


def test_a_name_is_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    version = tmp_path / "hub" / "models--org--name" / "snapshots" / "v1"
    write(version, tokenizer_config={"model_max_length": 20})
    (tmp_path / "hub" / "models--org--name" / "refs").mkdir()
    (tmp_path / "hub" / "models--org--name" / "refs" / "main").write_text("v1")
    offline = {"cache_dir": tmp_path / "hub", "local_files_only": True}
    for revision in ({}, {"revision": "main"}, {"token": False}):
        mine = BertTokenizer.from_pretrained("org/name", **offline, **revision)
        assert mine("the cat") == BertTokenizer.from_pretrained(version)("the cat") and mine.model_max_length == 20
    with pytest.raises(FileNotFoundError, match="'org/name' is no folder here, and the hub did not give it"):
        BertTokenizer.from_pretrained("org/name", **offline, revision="v2")
    with pytest.raises(FileNotFoundError, match="'org/other' is no folder here"):
        BertTokenizer.from_pretrained("org/other", **offline)
    with pytest.raises(TypeError, match="unexpected keyword argument 'subfolder'"):
        BertTokenizer.from_pretrained("org/name", **offline, subfolder="a")


def test_the_hub_is_asked_for_a_tokenizer_alone(tmp_path, monkeypatch):
    """What is fetched are the tokenizer's files and the config, and no weights."""
    import huggingface_hub

    asked = []

    def snapshot_download(name, **options):
        asked.append((name, options))
        return str(write(tmp_path))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    BertTokenizer.from_pretrained("org/name", revision="v1", token="secret")
    [(name, options)] = asked
    stored = {"tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
    assert set(options.pop("allow_patterns")) == stored | {"config.json"} and name == "org/name"
    assert options == {"revision": "v1", "token": "secret", "cache_dir": None, "local_files_only": False}


TEXT = "the cat sat on the mat"
BAD_CALLS = [  # arguments, what the error says
    (([],), {}, ValueError, "text is an empty list, expected at least one text"),
    ((None,), {}, TypeError, "text is a NoneType, expected a string"),
    ((7,), {}, TypeError, "text is a int, expected a string"),
    ((b"bytes",), {}, TypeError, "text is a bytes, expected a string"),
    ((["a", "b", None],), {}, TypeError, r"text\[2\] is a NoneType, expected a string"),
    ((["a", 7],), {}, TypeError, r"text\[1\] is a int, expected a string"),
    (
        (["a", ["b", "c", "d"]],),
        {},
        ValueError,
        r"text\[1\] is a list of 3, expected a string or a pair of strings; for words, is_split_into_words=True",
    ),
    (([("a", 7)],), {}, TypeError, r"text\[0\]\[1\] is a int, expected a string"),
    (("half \ud83d",), {}, ValueError, r"text holds '\\ud83d' at 5, half a character"),
    ((["a", "b\udc00"],), {}, ValueError, r"text\[1\] holds '\\udc00' at 1, half a character"),
    (("a", "b\udc00"), {}, ValueError, r"text_pair holds '\\udc00' at 1"),
    ((["a"], "b"), {}, TypeError, "text_pair is a str, expected a list of 1, as text is"),
    ((["a", "b"], ["c"]), {}, ValueError, "text_pair has 1 texts, expected 2, as text has"),
    (("a", ["b"]), {}, TypeError, "text_pair is a list, expected a string"),
    ((["a"], [7]), {}, TypeError, r"text_pair\[0\] is a int, expected a string"),
    (("a",), {"is_split_into_words": True}, TypeError, "text is a str, expected a list of words, as is_split"),
    ((["a", 7],), {"is_split_into_words": True}, TypeError, r"text\[1\] is a int, expected a string"),
    ((["a"],), {"is_split_into_words": "yes"}, TypeError, "is_split_into_words is 'yes', expected one of True, False"),
    (
        (TEXT,),
        {"padding": "longer"},
        ValueError,
        "padding is 'longer', expected one of True, False, 'longest', 'max_length', 'do_not_pad'",
    ),
    ((TEXT,), {"padding": 1}, TypeError, "padding is 1, expected one of True, False"),
    (
        (TEXT,),
        {"truncation": "first"},
        ValueError,
        "truncation is 'first', expected one of None, True, False, 'longest_first', 'only_first'",
    ),
    ((TEXT,), {"truncation": ["only_first"]}, TypeError, r"truncation is \['only_first'\], expected one of"),
    ((TEXT,), {"return_tensors": "tf"}, ValueError, "return_tensors is 'tf', expected one of None, 'pt', 'np'"),
    ((TEXT,), {"return_tensors": True}, TypeError, "return_tensors is True, expected one of None, 'pt', 'np'"),
    ((TEXT,), {"max_length": 8.0}, TypeError, "max_length is 8.0, expected a whole number"),
    ((TEXT,), {"max_length": True}, TypeError, "max_length is True, expected a whole number"),
    ((TEXT,), {"max_length": "8"}, TypeError, "max_length is '8', expected a whole number"),
    ((TEXT,), {"max_length": 0}, ValueError, "max_length is 0, expected a whole number from 1 up"),
    ((TEXT,), {"max_length": -3}, ValueError, "max_length is -3, expected a whole number from 1 up"),
    ((TEXT,), {"max_length": 1}, ValueError, "max_length is 1, expected at least 2: row 0 has so many special tokens"),
    ((TEXT, TEXT), {"max_length": 2, "truncation": True}, ValueError, "max_length is 2, expected at least 3: row 0"),
    ((TEXT,), {"stride": 1.5}, TypeError, "stride is 1.5, expected a whole number"),
    ((TEXT,), {"stride": -1}, ValueError, "stride is -1, expected a whole number from 0 up"),
    ((TEXT,), {"max_length": 6, "stride": 4}, ValueError, "stride is 4 and max_length 6, expected a stride below 4"),
    (
        (TEXT, TEXT),
        {"max_length": 9, "stride": 3},
        ValueError,
        "stride is 3, and row 0 has pieces of 3 tokens, expected a smaller stride",
    ),
    ((TEXT,), {"pad_to_multiple_of": 0}, ValueError, "pad_to_multiple_of is 0, expected a whole number from 1 up"),
    ((TEXT,), {"pad_to_multiple_of": "8"}, TypeError, "pad_to_multiple_of is '8', expected a whole number"),
    (
        (TEXT,),
        {"pad_to_multiple_of": 8, "padding": True, "truncation": True, "max_length": 9},
        ValueError,
        r"max_length is 9, expected a multiple of pad_to_multiple_of \(8\)",
    ),
    (
        (TEXT,),
        {"padding": "max_length", "max_length": 10**12},
        ValueError,
        "rows would be padded to 1000000000000 tokens, expected at most",
    ),
    (
        (TEXT,),
        {"truncation": "only_second", "max_length": 5},
        ValueError,
        "row 0: truncation is 'only_second' for texts of 6 and 0 tokens, and room for 3",
    ),
    (
        (["a", "b"], [TEXT, TEXT]),
        {"truncation": "only_first", "max_length": 6},
        ValueError,
        "row 0: truncation is 'only_first' for texts of 1 and 6 tokens",
    ),
    (
        (["a", TEXT],),
        {"return_tensors": "pt"},
        ValueError,
        "return_tensors is 'pt', and rows have 3 to 8 tokens, expected one length: pass padding=True",
    ),
    ((["a", TEXT],), {"return_tensors": "np"}, ValueError, "return_tensors is 'np', and rows have 3 to 8 tokens"),
    ((TEXT,), {"return_length": 1}, TypeError, "return_length is 1, expected one of True, False"),
    (
        (TEXT,),
        {"return_attention_mask": "no"},
        TypeError,
        "return_attention_mask is 'no', expected one of None, True, False",
    ),
    ((TEXT,), {"add_special_tokens": None}, TypeError, "add_special_tokens is None, expected one of True, False"),
    (
        (TEXT,),
        {"max_len": 8},
        TypeError,
        "max_len is no argument of a tokenizer's call, expected some of add_special_tokens",
    ),
]


@pytest.mark.parametrize(("texts", "options", "error", "says"), BAD_CALLS)
def test_bad_calls(both, texts, options, error, says, as_a_user):
    with pytest.raises(error, match=says) as raised:
        both["MiniLM"][0](*texts, **options)
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("ids", "error", "says"),
    [
        ([5, 30522], ValueError, r"ids\[1\] is 30522, expected less than 30522, the number of tokens"),
        (-1, ValueError, r"ids\[0\] is -1, expected a whole number from 0 up"),
        ([5.0], TypeError, r"ids\[0\] is 5.0, expected a whole number"),
        ([True], TypeError, r"ids\[0\] is True, expected a whole number"),
        ("12", TypeError, r"ids\[0\] is '1', expected a whole number"),
        (None, TypeError, r"ids\[0\] is None, expected a whole number"),
        ([[1, 2]], TypeError, r"ids\[0\] is \[1, 2\], expected a whole number"),
        (torch.tensor([0.5]), TypeError, r"ids\[0\] is 0.5, expected a whole number"),
    ],
)
def test_bad_ids(both, ids, error, says, as_a_user):
    mine = both["MiniLM"][0]
    for method in (mine.decode, mine.convert_ids_to_tokens):
        with pytest.raises(error, match=says):
            method(ids)
    with pytest.raises(error, match=says):
        mine.batch_decode([[1], ids])
    with pytest.raises(TypeError, match="tokens is a int, expected a string"):
        mine.convert_tokens_to_ids([7])


def test_a_panic_never_escapes(both):
    encoding = both["MiniLM"][0].backend.encode("the cat sat")
    with pytest.raises(ValueError, match="cutting: the library tokenizers gives up: .stride. must be strictly less"):
        with no_panic("cutting"):
            encoding.truncate(2, stride=2)
    with pytest.raises(KeyboardInterrupt), no_panic("cutting"):
        raise KeyboardInterrupt


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tokenizers"):
        BertTokenizer.from_pretrained(write(tmp_path))


def places(value, way=()):
    """The ways to all values in a JSON value."""
    yield way
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*way, key))


STRANGE = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**70,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "##x",
    "\ud800",
    "\n",
    "Left",
    "WordPiece",
    [],
    {},
    [None],
    [[]],
    {"a": 1},
    "x" * 1200,
    ["[CLS]", 2],
    {"type": "BPE"},
    {"content": "[UNK]"},
    "[SEP]",
    5,
    7,
]


def mutate_json(rng, content):
    """The bytes of a JSON file with one to three values swapped for others, moved, or left out."""
    value = json.loads(content)
    for _ in range(rng.randrange(1, 4)):
        ways = [way for way in places(value) if way]
        if not ways:
            break
        *way, last = rng.choice(ways)
        place = value
        for key in way:
            place = place[key]
        kind = rng.randrange(5)
        if kind == 0:
            del place[last]
        elif kind == 1 and isinstance(place, dict):
            place[rng.choice(["x", "[CLS]", "type", "vocab", "99", ""])] = place.pop(last)
        else:
            place[last] = json.loads(json.dumps(rng.choice(STRANGE)))
    return json.dumps(value).encode()


def mutate_bytes(rng, content):
    """The bytes of a file with some of them changed, put in or taken out, or with its end cut off."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, kind = rng.randrange(len(content) + 1), rng.randrange(5)
        if kind == 0:
            del content[at:]
        elif kind == 1:
            content[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 2:
            content[at:at] = rng.choice(
                [b"\n", b"\r", b"\xef\xbb\xbf", b'"', b"{", b"]", b",", b"\0", b"\\ud800", bytes([rng.randrange(256)])]
            )
        elif kind == 3:
            del content[at : at + rng.randrange(1, 9)]
        else:
            content[at:at] = content[at : at + rng.randrange(1, 40)]
    return bytes(content)


@pytest.mark.parametrize("chunk", range(-(-EXAMPLES // CHUNK)))
def test_mutated_files(chunk, tmp_path):
    """However a file is changed, the folder loads and the tokenizer works, or an error names it; nothing else."""
    whole = {
        "vocab.txt": vocab_txt(*LINES, "new", "Ä"),
        "tokenizer.json": tokenizer_json(padding={"direction": "Right"}, normalizer__strip_accents=True),
        "tokenizer_config.json": json.dumps(
            {
                **CONFIGS["left"],
                "do_lower_case": True,
                "mask_token": ADDED | {"content": "[MASK]"},
                "additional_special_tokens": ["cat"],
            }
        ).encode(),
        "special_tokens_map.json": json.dumps(
            {"sep_token": "[SEP]", "additional_special_tokens": [{"content": "dog"}]}
        ).encode(),
        "added_tokens.json": json.dumps({"Ö b": 7}).encode(),
        "config.json": json.dumps({"vocab_size": 12}).encode(),
    }
    decoder = json.dumps({"added_tokens_decoder": {"7": ADDED}}).encode()
    rng, loaded = random.Random(SEED * 10_000 + chunk), 0
    for _ in range(min(CHUNK, EXAMPLES - chunk * CHUNK)):
        name = rng.choice(list(whole))
        files = {**whole}
        if name == "vocab.txt" or rng.random() < 0.3:
            del files["tokenizer.json"]
            files["added_tokens.json"] = b"{}"
        if name != "tokenizer_config.json" or rng.random() < 0.7:
            name = name if name in files else "vocab.txt"
        elif rng.random() < 0.5:
            files["tokenizer_config.json"] = decoder
        change = mutate_bytes if name == "vocab.txt" or rng.random() < 0.5 else mutate_json
        files[name] = change(rng, files[name])
        for file in tmp_path.iterdir():
            file.unlink()
        for file, content in files.items():
            (tmp_path / file).write_bytes(content)
        try:
            mine = BertTokenizer.from_pretrained(tmp_path)
        except (ValueError, TypeError, FileNotFoundError) as error:
            assert any(str(tmp_path / file) in str(error) for file in files), (files[name], error)
        else:
            loaded += 1
            assert mine.decode(mine("The cat [SEP] ö b", "dog", padding=True).input_ids) is not None
    assert 0 < loaded < CHUNK
