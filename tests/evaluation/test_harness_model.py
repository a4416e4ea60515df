"""Scores and answers beside those of lm_eval's own Hugging Face model, for the same weights and tokenizer."""

from copy import copy
from types import SimpleNamespace

import pytest
import torch

from torchtune.errors import ConfigError, DataError
from torchtune.evaluation import evaluate, load_tasks
from torchtune.evaluation._model import HarnessModel
from torchtune.models.llama3 import llama3_tokenizer
from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer

TASKS = ("choice", "joined", "perplexity", "answer")
WHOLE, CUT = 320, 48  # positions: more than any text has, and fewer than most have


@pytest.fixture(scope="session")
def tokenizer(folder):
    return llama3_tokenizer(str(folder / "tokenizer.json"))


def run(model, tokenizer, tasks, names, **options):
    loaded = load_tasks(names, str(tasks))
    return evaluate(model, tokenizer, loaded, log_samples=True, **{"max_seq_length": WHOLE, **options})


def answers(results, task):
    """What the model said to each request of each sample, in order: log-likelihoods or texts."""
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [response for sample in samples for responses in sample["resps"] for response in responses]


def assert_same(ours, theirs, task):
    for mine, other in zip(answers(ours, task), answers(theirs, task), strict=True):
        if isinstance(other, tuple):
            assert mine == (pytest.approx(other[0], abs=1e-4, rel=1e-6), other[1])
        else:
            assert mine == (other if isinstance(other, str) else pytest.approx(other, abs=1e-4, rel=1e-6))
    scores = {name: value for name, value in theirs["results"][task].items() if isinstance(value, float)}
    assert scores and {name: ours["results"][task][name] for name in scores} == pytest.approx(scores, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("max_seq_length", [WHOLE, CUT])
@pytest.mark.parametrize("task", TASKS)
def test_the_same_as_lm_evals_own_model(model, tokenizer, tasks, oracle, task, max_seq_length, batch_size):
    ours = run(model, tokenizer, tasks, [task], max_seq_length=max_seq_length, batch_size=batch_size)
    assert_same(ours, oracle(task, max_seq_length), task)


@pytest.mark.parametrize("task", ["choice", "answer"])
def test_dialogues_as_lm_evals_own_model_renders_them(model, tokenizer, tasks, oracle, task):
    ours = run(model, tokenizer, tasks, [task], batch_size=4, apply_chat_template=True)
    assert_same(ours, oracle(task, WHOLE, chat=True), task)
    assert answers(ours, task) != answers(run(model, tokenizer, tasks, [task], batch_size=4), task)


@pytest.mark.parametrize("chat", [False, True])
def test_a_tokenizer_with_a_chat_template(model, folder, tasks, oracle, chat):
    tokenizer = HuggingFaceModelTokenizer(str(folder / "tokenizer.json"))
    ours = run(model, tokenizer, tasks, ["choice", "perplexity"], batch_size=4, apply_chat_template=chat)
    assert_same(ours, oracle("choice", WHOLE, chat), "choice")
    assert_same(ours, oracle("perplexity", WHOLE), "perplexity")


def test_without_a_cache_the_same_is_written(model, tokenizer, tasks):
    cached, anew = (run(model, tokenizer, tasks, ["answer"], limit=3, enable_kv_cache=on) for on in (True, False))
    assert answers(cached, "answer") == answers(anew, "answer")


def test_answers_that_differ_in_the_last_token_share_the_reading(model, tokenizer, monkeypatch):
    read = []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, x, **kw: read.append(len(x)) or forward(self, x, **kw))
    lm = HarnessModel(model, tokenizer, max_seq_length=WHOLE, batch_size=8)
    asked = [request("red", "A"), request("red", "B"), request("red", "A"), request("red", "AB"), request("redA", "C")]
    found = lm.loglikelihood(asked, disable_tqdm=True)
    assert read == [2]
    assert found == [pytest.approx(lm.loglikelihood([one], disable_tqdm=True)[0], abs=1e-5) for one in asked]
    assert found[0] == found[2] and len(set(found)) == 4


def request(*arguments):
    return SimpleNamespace(args=arguments)


def test_few_logits_are_made_for_a_long_question(model, tokenizer, monkeypatch):
    made = []
    output = model.output
    monkeypatch.setattr(model, "output", lambda h: made.append(h.shape[1]) or output(h))
    lm = HarnessModel(model, tokenizer, max_seq_length=WHOLE, batch_size=2)
    lm.loglikelihood([request("red " * 40, "blue"), request("tree " * 30, "AB")], disable_tqdm=True)
    assert sorted(made) == [3, 5]  # the space before the answer counts as part of it


def test_a_stop_token_ends_an_answer(model, tokenizer):
    lm = HarnessModel(model, tokenizer, max_seq_length=WHOLE)
    asked = [request("red tree", {"until": [], "max_gen_toks": 24})]
    (whole,) = lm.generate_until(asked, disable_tqdm=True)
    last = whole[-1]
    lm._tokenizer = copy(tokenizer)
    lm._tokenizer.stop_tokens = tokenizer.encode(last, add_bos=False, add_eos=False)
    assert lm.generate_until(asked, disable_tqdm=True) == [whole.partition(last)[0]] != [whole]


def test_nothing_asked_and_nothing_answered(model, tokenizer):
    lm = HarnessModel(model, tokenizer, max_seq_length=WHOLE)
    assert lm.loglikelihood([]) == lm.loglikelihood_rolling([]) == lm.generate_until([]) == []
    assert lm.loglikelihood([request("red", "")], disable_tqdm=True) == [(0, True)]
    assert lm.loglikelihood([request("", "red")], disable_tqdm=True)[0][0] < 0


def test_says_when_a_text_is_cut(model, tokenizer, tasks, caplog):
    run(model, tokenizer, tasks, ["choice"], max_seq_length=CUT)
    assert f"Only the last {CUT} tokens are read of " in caplog.text and " texts out of 27." in caplog.text


def test_sampled_answers_follow_the_seed(model, tokenizer):
    lm = HarnessModel(model, tokenizer, max_seq_length=WHOLE, batch_size=2)
    settings = {"do_sample": True, "temperature": 1.5, "top_k": 0, "max_new_tokens": 12, "until": [""]}
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(lm.generate_until([request("red", settings), request("blue", settings)], disable_tqdm=True))
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"until": [], "num_beams": 4}, "num_beams cannot be followed"),
        ({"until": [], "repetition_penalty": 1.2}, "repetition_penalty cannot be followed"),
        ({"until": []}, "wants 256 new tokens, and max_seq_length is 48"),
    ],
)
def test_refuses_what_it_cannot_generate(model, tokenizer, settings, message):
    lm = HarnessModel(model, tokenizer, max_seq_length=CUT)
    with pytest.raises(ConfigError, match=message):
        lm.generate_until([request("red", settings)], disable_tqdm=True)


def test_refuses_lengths_that_do_not_fit(model, tokenizer):
    with pytest.raises(ConfigError, match="max_seq_length is 321, but the model has 320"):
        HarnessModel(model, tokenizer, max_seq_length=321)
    lm = HarnessModel(model, tokenizer, max_seq_length=4)
    with pytest.raises(DataError, match="an answer has 5 tokens, max_seq_length is 4"):
        lm.loglikelihood([request("red", "ABCDE")], disable_tqdm=True)
