"""Distillation losses against torch's own KL divergence in float64."""

import pytest
import torch
import torch.nn.functional as F

from torchtune.modules.loss.kd_losses import (
    ForwardKLLoss,
    ForwardKLWithChunkedOutputLoss,
    ReverseKLLoss,
    ReverseKLWithChunkedOutputLoss,
    SymmetricKLLoss,
    SymmetricKLWithChunkedOutputLoss,
)

PAIRS = [
    (ForwardKLLoss(), ForwardKLWithChunkedOutputLoss(4)),
    (ReverseKLLoss(), ReverseKLWithChunkedOutputLoss(4)),
    (SymmetricKLLoss(0.3), SymmetricKLWithChunkedOutputLoss(4, 0.3)),
]
WHOLE = [whole for whole, _ in PAIRS]


def name(value):
    return type(value).__name__


def example(sequence=8):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, sequence, 11), torch.randn(2, sequence, 11)
    labels = torch.randint(0, 11, (2, sequence))
    labels[0, :3] = -100
    return student.requires_grad_(), teacher, labels


def kl(p, q):
    """KL(p || q) of two sets of logits, by torch."""
    return F.kl_div(q.double().log_softmax(-1), p.double().log_softmax(-1), reduction="sum", log_target=True)


def oracle(loss, student, teacher):
    entropy = torch.distributions.Categorical(logits=teacher.double()).entropy().sum()
    forward, reverse = kl(teacher, student) + entropy, kl(student, teacher)
    share = {"ForwardKLLoss": 1, "ReverseKLLoss": 0}.get(name(loss), getattr(loss, "sym_kd_ratio", None))
    return share * forward + (1 - share) * reverse


@pytest.mark.parametrize("loss", WHOLE, ids=name)
def test_value_and_gradient_equal_torchs(loss):
    student, teacher, labels = example()
    counts = labels != -100
    expected = oracle(loss, student[counts], teacher[counts])
    total = loss(student, teacher, labels, normalize=False)
    torch.testing.assert_close(total, expected.float())
    torch.testing.assert_close(loss(student, teacher, labels), (expected / counts.sum()).float())
    torch.testing.assert_close(*(torch.autograd.grad(v, student)[0] for v in (total, expected)))


@pytest.mark.parametrize(("whole", "chunked"), PAIRS, ids=name)
@pytest.mark.parametrize("sequence", [8, 10])
def test_pieces_give_the_same(whole, chunked, sequence):
    student, teacher, labels = example(sequence)
    expected = whole(student, teacher, labels)
    for cut in (lambda t: t.chunk(4, dim=1), lambda t: t.tensor_split(4, dim=1)):
        torch.testing.assert_close(chunked(list(cut(student)), list(cut(teacher)), labels), expected)


@pytest.mark.parametrize("loss", WHOLE, ids=name)
def test_half_precision_is_summed_in_float32(loss):
    student, teacher, labels = example()
    half = loss(student.bfloat16(), teacher.bfloat16(), labels)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(student.bfloat16().float(), teacher.bfloat16().float(), labels))


@pytest.mark.parametrize("loss", WHOLE, ids=name)
def test_no_labelled_token_is_zero_loss_and_zero_gradient(loss):
    student, teacher, labels = example()
    loss(student, teacher, torch.full_like(labels, -100)).backward()
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize("loss", WHOLE, ids=name)
def test_words_ruled_out_by_both_count_nothing(loss):
    student, teacher, labels = example()
    expected = loss(student[..., :10], teacher[..., :10], labels)
    ruled_out = torch.tensor([0.0] * 10 + [float("-inf")])
    value = loss(student + ruled_out, teacher + ruled_out, labels)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("loss", WHOLE, ids=name)
def test_a_word_that_one_side_rules_out_keeps_it_finite(loss):
    student, teacher, labels = example()
    ruled_out = torch.tensor([0.0] * 10 + [float("-inf")])
    assert (
        loss(student + ruled_out, teacher, labels).isfinite() and loss(student, teacher + ruled_out, labels).isfinite()
    )


def test_another_ignore_index():
    student, teacher, labels = example()
    moved = labels.masked_fill(labels == -100, 7)
    counts = moved != 7
    torch.testing.assert_close(
        ReverseKLLoss(ignore_index=7)(student, teacher, moved),
        (oracle(ReverseKLLoss(), student[counts], teacher[counts]) / counts.sum()).float(),
    )


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_ratios_outside_are_refused(ratio):
    with pytest.raises(ValueError, match="from 0 to 1"):
        SymmetricKLWithChunkedOutputLoss(sym_kd_ratio=ratio)


def test_pieces_that_do_not_fit_are_refused():
    student, teacher, labels = example()
    with pytest.raises(ValueError, match="cut all three alike"):
        ForwardKLWithChunkedOutputLoss(2)(list(student.chunk(2, 1)), list(teacher.chunk(4, 1)), labels)


def test_compiling_returns_the_loss_with_the_same_value():
    student, teacher, labels = example()
    loss = ReverseKLWithChunkedOutputLoss(2)
    pieces = list(student.chunk(2, 1)), list(teacher.chunk(2, 1)), labels
    expected = loss(*pieces)
    compiled = loss.apply_compile_strategy(backend="eager")
    assert compiled is loss
    torch.testing.assert_close(compiled(*pieces), expected)
