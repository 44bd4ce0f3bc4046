"""Token ids to class logits: padding changes nothing, answers are read where the text ends."""

from __future__ import annotations

import pytest
import torch

from mad.errors import ConfigError, DataError, FitError
from mad.models.architectures import llama
from mad.models.text_classifier import PAD, TextClassifier, answer_tokens, check_labels, continuation, pad

TEXTS = ["The film was good.", "No.", "We saw a very long film about the sea, the harbour and the town."] * 3
SMALL = llama.Config(hidden=16, layers=2, heads=2, vocabulary=300, context=64)


def make(head="causal", answers=(), seed=0, classes=3, config=SMALL):
    model, tokenizer = llama.build_language(config, TEXTS, classes, head, seed, "cpu")
    return TextClassifier(model, tokenizer, head, answers).eval()


@pytest.mark.parametrize("head", ["causal", "classification"])
@torch.inference_mode()
def test_logits_of_a_text_are_the_same_alone_in_a_batch_and_padded_on_either_side(head):
    model = make(head)
    rows = model.tokens(TEXTS[:3])
    together = model(model.encode(TEXTS[:3]))
    right = model(pad(rows, "right")) if head == "causal" else together
    for number in range(3):
        alone = model(torch.tensor([rows[number]]))
        assert torch.allclose(together[number], alone[0], atol=1e-5)
        assert torch.allclose(right[number], alone[0], atol=1e-5)
    assert together.shape == (3, len(model.tokenizer) if head == "causal" else 3)


@torch.inference_mode()
def test_logits_of_answers_are_those_of_their_first_token_after_the_text():
    answers = ["yes", "no", "perhaps"]
    model, plain = make(answers=answers), make()
    logits = plain.network(torch.tensor(plain.tokens(TEXTS[:1]))).logits[:, -1]
    assert torch.allclose(model(model.encode(TEXTS[:1])), logits[:, answer_tokens(model.tokenizer, answers)], atol=1e-5)


def test_encoding_pads_on_the_left_with_no_token():
    model = make()
    x = model.encode(TEXTS[:3])
    lengths = torch.tensor([len(row) for row in model.tokens(TEXTS[:3])])
    assert x.dtype == torch.int64 and ((x == PAD).sum(1) == x.shape[1] - lengths).all()
    assert (x[:, -1] >= 0).all() and (x[:, 0] == PAD).sum() == 2
    given = model.inputs(x)
    assert (given.position_ids.max(1).values == lengths - 1).all()
    assert (given.input_ids >= 0).all()
    with pytest.raises(DataError, match=r"a text has \d+ tokens, the model's context 64: shorten it \('long long"):
        model.encode(["long " * 100])


def test_the_tokenizer_knows_every_text_and_begins_each_with_its_mark():
    tokenizer = llama.train_tokenizer(TEXTS, 300, 64)
    again = llama.train_tokenizer(TEXTS, 300, 64)
    assert tokenizer.get_vocab() == again.get_vocab() and len(tokenizer) <= 300
    for text in ("Überraschung 🎉\n\ttabs", "plain text"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.convert_ids_to_tokens(continuation(tokenizer, " x")) == ["Ġ", "x"]


def test_weights_depend_on_the_seed_only():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two, other = make(seed=1), make(seed=1), make(seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs) and not all(torch.equal(a, c) for a, _, c in pairs)


def test_mistakes_are_one_line():
    with pytest.raises(FitError, match="the answers 'yes' and 'yet' begin with the same token"):
        make(answers=["yes", "yet"])
    with pytest.raises(ConfigError, match=r"labels up to 4, the model's head has 3 classes \(0 to 2\)"):
        check_labels(4, 3)
    for options, said in (({"hidden": 20, "heads": 4}, "multiple of 2 heads"), ({"vocabulary": 100}, "259 or more")):
        with pytest.raises(ConfigError, match=said):
            llama.Config(**options)


def test_activations_computed_again_give_the_same_gradients(recwarn):
    found = []
    for again in (False, True):
        model = make(classes=2, head="classification")
        if again:
            model.checkpoint_activations()
        calls = []
        model.network.model.layers[0].input_layernorm.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        model.train()(model.encode(TEXTS[:3])).square().sum().backward()
        found.append(([p.grad for p in model.parameters()], len(calls)))
    assert [calls for _, calls in found] == [1, 2]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found[0][0], found[1][0], strict=True))
    assert not [w for w in recwarn if issubclass(w.category, FutureWarning)]
