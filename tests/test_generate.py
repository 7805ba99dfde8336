"""Writing against the reference, token for token: greedy, by lot and with beams; and what cannot be continued."""

import itertools
import warnings

import differential
import hypothesis.strategies as st
import pytest
import torch
import transformers
from differential import Draw
from hypothesis import given, seed, settings
from transformers.generation import logits_process

from minibert import generate
from minibert.check import SIZES, lively_, sample_batch
from minibert.config import BertConfig
from minibert.tasks import BertLMHeadModel

PROMPT = sample_batch()["input_ids"][:, :4]
MASK = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]])
ENDS = [*range(1, 99, 6)]


def build(number=0, **changes):
    """minibert's decoder and the reference's, with the same lively weights."""
    fields = SIZES | {"is_decoder": True} | changes
    config = transformers.BertConfig(attn_implementation="eager", **fields)
    theirs = lively_(transformers.BertLMHeadModel(config), number)
    with torch.no_grad():  # or both would write the same word again and again
        theirs.bert.embeddings.word_embeddings.weight.mul_(2)
        theirs.bert.embeddings.position_embeddings.weight.mul_(6)
    mine = BertLMHeadModel(BertConfig(**fields))
    mine.load_state_dict(theirs.state_dict())
    return mine.eval(), theirs.eval()


def written(model, *args, **call):
    """What the model writes, with torch's global generator in the same state each time."""
    torch.manual_seed(7)
    return model.generate(*args, **call)


def assert_same(models, *args, **call):
    """The same words from both."""
    mine = written(models[0], *args, **call)
    theirs = written(models[1], *args, **{"do_sample": False} | call)
    assert mine.dtype == theirs.dtype and mine.tolist() == theirs.tolist(), call
    return mine


@st.composite
def cases(draw):
    """Any small decoder, any prompts, and any options that the reference takes."""
    d = Draw(draw)
    fields = {
        "vocab_size": d.whole(12, 40), "num_hidden_layers": d.whole(1, 3), "pad_token_id": d.one(0, 0, 3),
        "position_embedding_type": d.one("absolute", "absolute", "relative_key", "relative_key_query"),
        "tie_word_embeddings": d.yes(),
    }  # fmt: skip
    batch, prompt, vocab = d.whole(1, 3), d.whole(1, 6), fields["vocab_size"]
    call = {"input_ids": d.ids(vocab, batch, prompt)}
    if d.yes():  # padding on the left; rarely a hole
        mask = (torch.arange(prompt) >= d.ids(prompt, batch)[:, None]).long()
        call["attention_mask"] = mask.bool() if d.yes(one_in=4) else mask
    else:
        call["input_ids"][:, -1] = call["input_ids"][:, -1].clamp(min=4)  # the padding may be anywhere else
    call |= d.one({"max_new_tokens": d.whole(1, 12)}, {"max_length": prompt + d.whole(1, 12)})
    several = sorted({int(word) for word in d.ids(vocab, 1 + vocab // 2)})
    call["eos_token_id"] = d.one(None, d.whole(4, vocab - 1), several)
    if d.yes(one_in=4):
        call["pad_token_id"] = d.whole(0, 3)
    beams = d.one(1, 2, 3, 4)
    if beams > 1:
        call |= {"num_beams": beams, "num_return_sequences": d.whole(1, beams)}
        call |= {"length_penalty": d.one(-1.5, 0.0, 0.7, 1.0, 2.0), "early_stopping": d.one(True, False, "never")}
    if d.yes(one_in=3):
        call |= {"do_sample": True, "temperature": d.one(0.4, 1.0, 2.5), "top_k": d.one(0, 1, 5, 50)}
        call |= {"top_p": d.one(0.1, 0.6, 0.95, 1.0), "num_return_sequences": d.whole(1, 3 if beams == 1 else beams)}
    return d.whole(0, 99), fields, call


def test_any_decoder_prompt_and_options():
    ended = set()

    @seed(0)
    @settings(differential.SETTINGS, max_examples=120)
    @given(cases())
    def run(case):
        number, fields, call = case
        texts = assert_same(build(number, **fields), **call)
        prompt = call["input_ids"].shape[1]
        length = call["max_length"] if "max_length" in call else prompt + call["max_new_tokens"]
        ended.add((call.get("num_beams", 1) > 1, texts.shape[1] < length))

    run()
    assert ended >= set(itertools.product((True, False), repeat=2))  # some texts end before the last word


@pytest.mark.parametrize("early", [True, False, "never"])
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 1.0, 3.0])
def test_beams_whose_texts_end(penalty, early):
    options = {"length_penalty": penalty, "early_stopping": early, "eos_token_id": ENDS, "max_new_tokens": 10}
    for number, beams in ((0, 4), (1, 2), (2, 3)):
        models = build(number)
        search = options | {"num_beams": beams, "num_return_sequences": beams}
        assert_same(models, PROMPT.clamp(min=1), attention_mask=MASK, **search)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype):
    models = [model.to(dtype) for model in build(1)]
    for call in ({}, {"num_beams": 3, "eos_token_id": ENDS}, {"do_sample": True, "top_p": 0.8}):
        assert_same(models, PROMPT, max_new_tokens=10, **call)


@pytest.mark.parametrize("fields", [{"pruned_heads": {1: [0, 3]}}, {"chunk_size_feed_forward": 1}], ids=str)
def test_other_layers(fields):
    for call in ({}, {"num_beams": 3}):
        assert_same(build(**fields), PROMPT, max_new_tokens=10, **call)


def test_the_end_in_the_config():
    models = build()
    end = models[0].generate(PROMPT, max_new_tokens=8)[2, 4].item()
    models[0].config.eos_token_id = models[1].generation_config.eos_token_id = end
    assert not assert_same(models, PROMPT, max_new_tokens=8)[2, 5:].any()


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")  # the reference's
def test_twenty_words_unless_told_otherwise():
    assert assert_same(build(), PROMPT).shape == (3, 20)


@pytest.mark.parametrize("k", [1, 3, 50, 99, 500])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_top_k_is_the_references(scale, k):
    scores = scale * torch.randn(5, 99, generator=torch.Generator().manual_seed(k))
    scores[:, 10:30] = scores[:, 40:60]  # ties
    assert torch.equal(generate.keep_top_k(scores, k), logits_process.TopKLogitsWarper(k)(None, scores))


@pytest.mark.parametrize("p", [0.0, 0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_top_p_is_the_references(scale, p):
    scores = scale * torch.randn(5, 99, generator=torch.Generator().manual_seed(1))
    scores[:, 10:30] = scores[:, 40:60]
    for least in (1, 2, 7):
        reference = logits_process.TopPLogitsWarper(p, min_tokens_to_keep=least)(None, scores)
        assert torch.equal(generate.keep_top_p(scores, p, least), reference)


def test_words_are_drawn_by_their_probability():
    mine, _ = build()
    texts = mine.generate(PROMPT[:1], max_new_tokens=1, do_sample=True, top_k=4, num_return_sequences=4000,
                          generator=torch.Generator().manual_seed(0))  # fmt: skip
    shares = torch.bincount(texts[:, -1], minlength=99) / 4000
    with torch.no_grad():
        probs = generate.keep_top_k(mine(PROMPT[:1]).logits[:, -1], 4).softmax(-1)[0]
    assert (shares > 0).sum() == 4
    assert (shares - probs).abs().max() < 4 * 0.5 / 4000**0.5  # four standard deviations


def test_a_generator_leaves_the_global_one_alone():
    mine, _ = build()
    state = torch.get_rng_state()
    one, two = (mine.generate(PROMPT, do_sample=True, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("fused", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["absolute", "relative_key", "relative_key_query"])
@pytest.mark.parametrize("search", [{}, {"num_beams": 3, "eos_token_id": ENDS}], ids=str)
def test_the_cache_changes_nothing(search, kind, fused):
    fields = {"position_embedding_type": kind, "attn_implementation": fused}
    mine = lively_(BertLMHeadModel(BertConfig(**SIZES, is_decoder=True, **fields)), 2).eval()
    call = search | {"attention_mask": MASK, "max_new_tokens": 12}
    kept, anew = (mine.generate(PROMPT, use_cache=use_cache, **call) for use_cache in (True, False))
    assert torch.equal(kept, anew)


def test_no_key_is_copied_again(monkeypatch):
    mine, _ = build()
    rooms, returned = [], []
    keep = generate.Room.keep

    def watch(room, tokens, cache):
        rooms.append([tensor.data_ptr() for layer in room.layers for tensor in layer])
        returned.append([tensor.data_ptr() for layer in cache for tensor in layer])
        keep(room, tokens, cache)

    monkeypatch.setattr(generate.Room, "keep", watch)
    mine.generate(PROMPT, max_new_tokens=9)
    assert len(rooms) == 9 and all(addresses == rooms[0] for addresses in rooms + returned[1:])


def test_rows_do_not_depend_on_each_other():
    mine, _ = build(2)
    for search in ({}, {"num_beams": 3}):
        call = search | {"max_new_tokens": 10, "eos_token_id": ENDS}
        together = mine.generate(PROMPT, attention_mask=MASK, **call)
        for row in range(3):
            alone = mine.generate(PROMPT[row : row + 1], attention_mask=MASK[row : row + 1], **call)[0]
            assert torch.equal(together[row, : len(alone)], alone) and not together[row, len(alone) :].any()


@pytest.mark.parametrize("search", [{}, {"num_beams": 3, "num_return_sequences": 3}], ids=str)
def test_states_of_an_encoder_are_looked_at(search):
    mine, theirs = build(add_cross_attention=True)
    states = torch.randn(3, 6, 30, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 6])
    others = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    call = search | {"max_new_tokens": 8}
    looking = mine.generate(PROMPT, **others, **call)
    assert torch.equal(looking, mine.generate(PROMPT, use_cache=False, **others, **call))
    deaf = theirs.generate(PROMPT, do_sample=False, **others, **call)
    assert torch.equal(deaf, theirs.generate(PROMPT, do_sample=False, **call)) and not torch.equal(deaf, looking)
    if not search:
        with torch.no_grad():
            scores = mine(looking[:, :-1], **others).logits[:, 3:]
        assert torch.equal(scores.argmax(-1), looking[:, 4:])


def test_nothing_is_left_behind():
    mine, _ = build()
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    prompt, mask = PROMPT.clone(), MASK.clone()
    texts = mine.generate(prompt, attention_mask=mask, num_beams=2)
    assert torch.equal(prompt, PROMPT) and torch.equal(mask, MASK) and not texts.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())
    assert type(mine(PROMPT).past_key_values[0][0]) is torch.Tensor


def test_a_step_is_prepared_as_in_the_reference():
    mine, theirs = build()
    with torch.no_grad():
        past = theirs(PROMPT[:, :2]).past_key_values
    for call in ({}, {"past_key_values": past}, {"attention_mask": MASK, "use_cache": False}):
        ours, expected = (model.prepare_inputs_for_generation(PROMPT, **call) for model in (mine, theirs))
        assert list(ours) == list(expected)
        assert torch.equal(ours["input_ids"], expected["input_ids"])
        assert torch.equal(ours["attention_mask"], expected["attention_mask"])
        assert ours["past_key_values"] is expected["past_key_values"] and ours["use_cache"] == expected["use_cache"]
    known = mine.prepare_inputs_for_generation(PROMPT[:, :2], past_key_values=past)
    assert torch.equal(known["input_ids"], PROMPT[:, 1:2])


BAD_OPTIONS = {
    "no temperature": ({"do_sample": True, "temperature": 0.0}, "temperature is 0.0, expected a number above 0"),
    "negative temperature": ({"do_sample": True, "temperature": -1.0}, "temperature is -1.0"),
    "temperature not a number": ({"do_sample": True, "temperature": float("nan")}, "temperature is nan"),
    "temperature without an end": ({"do_sample": True, "temperature": float("inf")}, "temperature is inf"),
    "more than everything": ({"do_sample": True, "top_p": 1.5}, "top_p is 1.5, expected a number from 0 to 1"),
    "less than nothing": ({"do_sample": True, "top_p": -0.1}, "top_p is -0.1"),
    "negative top_k": ({"do_sample": True, "top_k": -1}, "top_k is -1, expected a whole number"),
    "half a word": ({"do_sample": True, "top_k": 2.5}, "top_k is 2.5"),
    "no beam": ({"num_beams": 0}, "num_beams is 0, expected a whole number above 0"),
    "true beam": ({"num_beams": True}, "num_beams is True"),
    "more texts than beams": ({"num_beams": 2, "num_return_sequences": 3}, "expected at most num_beams (2)"),
    "several greedy texts": ({"num_return_sequences": 2}, "num_return_sequences is 2, expected 1 without do_sample"),
    "stop when?": ({"num_beams": 2, "early_stopping": "always"}, "early_stopping is 'always'"),
    "stop at 1": ({"num_beams": 2, "early_stopping": 1}, "early_stopping is 1"),
    "penalty not a number": ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty is nan"),
    "nothing new": ({"max_new_tokens": 0}, "max_new_tokens is 0, expected a whole number above 0"),
    "two lengths": ({"max_new_tokens": 3, "max_length": 9}, "max_length is 9, expected None, since max_new_tokens"),
    "shorter than the prompt": ({"max_length": 4}, "max_length is 4, expected more than the 4 tokens of the prompt"),
    "beyond the positions": ({"max_length": 25}, "take 24 positions, but max_position_embeddings is 23"),
    "end beyond the words": ({"eos_token_id": 99}, "eos_token_id is 99, expected a word, from 0 to 98"),
    "negative end": ({"eos_token_id": [3, -1]}, "eos_token_id is -1"),
    "padding beyond the words": ({"pad_token_id": 99}, "pad_token_id is 99"),
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_options_that_cannot_be_meant(options, message):
    mine, _ = build()
    with pytest.raises(ValueError) as raised:
        mine.generate(PROMPT, **options)
    assert message in str(raised.value)


def test_a_whole_temperature_is_a_number():
    mine, theirs = build()
    call = {"do_sample": True, "max_new_tokens": 6}
    assert torch.equal(written(mine, PROMPT, temperature=2, **call), written(theirs, PROMPT, temperature=2.0, **call))
    with pytest.raises(ValueError, match="strictly positive float"):
        theirs.generate(PROMPT, temperature=2, **call)


def test_the_longest_text_that_fits():
    assert assert_same(build(), PROMPT, max_length=24).shape == (3, 24)


RIGHT, STATES = MASK.flip(1), torch.ones(3, 2, 30)
BAD_PROMPTS = {
    "no tokens": ((PROMPT[:, :0],), {}, ValueError, "input_ids has shape (3, 0)"),
    "no text": ((PROMPT[:0],), {}, ValueError, "input_ids.shape is (0, 4), expected at least one text"),
    "one axis": ((PROMPT[0],), {}, ValueError, "input_ids has shape (4,)"),
    "a list": (([[1, 2]],), {}, TypeError, "input_ids is a list"),
    "numbers with a point": ((PROMPT.float(),), {}, TypeError, "input_ids has dtype torch.float32"),
    "word beyond": ((PROMPT + 90,), {}, ValueError, "but vocab_size is 99"),
    "padding on the right": ((PROMPT,), {"attention_mask": RIGHT}, ValueError, "row 1 of the prompt ends in padding"),
    "padding on the right, no mask": ((PROMPT * RIGHT,), {}, ValueError, "row 1 of the prompt ends in padding"),
    "mask too short": ((PROMPT,), {"attention_mask": MASK[:, 1:]}, ValueError, "attention_mask has shape (3, 3)"),
    "mask of rows": ((PROMPT,), {"attention_mask": MASK[:, None].expand(3, 4, 4)}, ValueError, "expected (batch, seq)"),
    "mask of halves": ((PROMPT,), {"attention_mask": MASK / 2}, ValueError, "attention_mask holds 0.5"),
    "an encoder for none": ((PROMPT,), {"encoder_hidden_states": STATES}, ValueError, "add_cross_attention"),
    "a mask for no encoder": ((PROMPT,), {"encoder_attention_mask": MASK}, ValueError, "encoder_hidden_states is None"),
}


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(("args", "call", "error", "message"), BAD_PROMPTS.values(), ids=BAD_PROMPTS.keys())
def test_prompts_that_cannot_be_continued(args, call, error, message):
    mine, _ = build()
    with pytest.raises(error) as raised:
        mine.generate(*args, max_new_tokens=3, **call)
    assert message in str(raised.value)


def test_an_encoder_does_not_write():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sees the words it is to predict
        encoder = BertLMHeadModel(BertConfig(**SIZES))
    with pytest.raises(ValueError, match="is_decoder is False, expected True in the config"):
        encoder.generate(PROMPT)


def test_a_misspelt_option():
    with pytest.raises(TypeError, match="tempurature"):
        build()[0].generate(PROMPT, tempurature=0.5)


@pytest.mark.parametrize("idle", [{"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}, {"length_penalty": 2.0}], ids=str)
def test_an_option_without_an_effect_warns(idle):
    mine, _ = build()
    with pytest.warns(UserWarning, match=f"{next(iter(idle))}=.* has no effect") as caught:
        texts = mine.generate(PROMPT, **idle)
    assert len(caught) == 1
    assert torch.equal(texts, mine.generate(PROMPT))
