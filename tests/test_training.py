"""Pre-training in short: the best guess at a hidden word, the loop, and going on from a checkpoint."""

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from minibert.language import BestGuesser, draw_pairs
from minibert.pretrain import language_batches, small_config, train_tokenizer, word_ids
from minibert.tasks import BertForPreTraining
from minibert.training import IGNORED, Recipe, fit, load_run, mask_tokens, pretraining_losses, save_run


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(tmp_path_factory.mktemp("vocabulary"))


def small_model(tokenizer, dropout=0.0):
    config = small_config(tokenizer)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    torch.manual_seed(0)
    return BertForPreTraining(config)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_only_words_that_may_be_hidden_are_touched(seed, rate, hidden, share):
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 50, (5, 11), generator=random)
    may_hide = torch.rand(ids.shape, generator=random) < 0.7
    words = torch.arange(10, 50)
    holes, labels = mask_tokens(ids, may_hide, 3, words, random, rate, hidden, (1 - hidden) * share)
    is_chosen = labels != IGNORED
    assert not (is_chosen & ~may_hide).any()
    assert torch.equal(labels[is_chosen], ids[is_chosen]) and torch.equal(holes[~is_chosen], ids[~is_chosen])
    assert torch.isin(holes[holes != ids], torch.cat([words, torch.tensor([3])])).all()


def test_the_best_guesser_is_right_as_often_as_it_says(tokenizer):
    batch = language_batches(tokenizer, rows=4000, seed=3)(0)
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    best = BestGuesser(word_ids(tokenizer), tokenizer.mask_token_id, len(tokenizer)).guess(**inputs)
    asked = batch["labels"] != IGNORED
    claims, guesses = best.words[asked].max(-1)
    hits = (guesses == batch["labels"][asked]).double()
    for low, high in itertools.pairwise((0.0, 0.15, 0.3, 0.6, 0.95, 1.01)):
        part = (claims >= low) & (claims < high)
        deviation = (claims[part] * (1 - claims[part])).sum().sqrt() / part.sum()
        assert part.sum() > 50 and abs(hits[part].mean() - claims[part].mean()) < 5 * deviation + 1e-9
    follows = (batch["next_sentence_label"] == 0).double()
    deviation = (best.follows * (1 - best.follows)).sum().sqrt() / len(follows)
    assert abs(follows.mean() - best.follows.mean()) < 5 * deviation


def test_the_loss_falls(tokenizer):
    model, recipe = small_model(tokenizer), Recipe(steps=100, warmup=10, learning_rate=3e-3)
    run = list(fit(model, recipe.optimizer(model), language_batches(tokenizer, rows=32), recipe))
    first, last = (sum(progress.words for progress in part) / 10 for part in (run[:10], run[-10:]))
    assert first > 4 and last < 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_goes_on_bit_for_bit(tokenizer, tmp_path, dtype):
    batch_of = language_batches(tokenizer, rows=8)
    recipe = Recipe(steps=6, warmup=2, dtype=dtype)
    whole = small_model(tokenizer, dropout=0.1)
    run = list(fit(whole, recipe.optimizer(whole), batch_of, recipe))
    parts = []
    for first, last in ((0, 2), (2, 5), (5, 6)):
        model = small_model(tokenizer, dropout=0.1)
        optimizer = recipe.optimizer(model)
        assert load_run(tmp_path, model, optimizer) == first
        parts += itertools.islice(fit(model, optimizer, batch_of, recipe, first), last - first)
        save_run(tmp_path, model, optimizer, last)
    assert parts == run and all(torch.equal(p, whole.get_parameter(n)) for n, p in model.named_parameters())
    assert len({progress.words for progress in run}) == len(run)


def test_another_seed_is_another_run(tokenizer):
    batch_of = language_batches(tokenizer, rows=8)
    losses = []
    for seed in (0, 1):
        model, recipe = small_model(tokenizer, dropout=0.1), Recipe(steps=1, warmup=1, seed=seed)
        losses += [progress.words for progress in fit(model, recipe.optimizer(model), batch_of, recipe)]
    assert losses[0] != losses[1]


def test_the_losses_are_the_models_own(tokenizer):
    model, batch = small_model(tokenizer), language_batches(tokenizer, rows=8)(0)
    torch.testing.assert_close(sum(pretraining_losses(model, batch).values()), model(**batch).loss)


def test_pairs_are_the_same_for_one_seed():
    one, same, other = (list(itertools.islice(draw_pairs(seed), 20)) for seed in (4, 4, 5))
    assert one == same != other
