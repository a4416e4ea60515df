"""Whether an export is the model that was exported: weights, logits, continuations, ids of texts and of dialogues."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchtune.errors import CheckpointError
from torchtune.export._readers import OwnReader, Reader
from torchtune.export._source import Source
from torchtune.export._tokenizer import encoder, special_ids, trained_chat
from torchtune.export._write import Plan
from torchtune.training.checkpointing._safetensors import as_bytes

TOLERANCE = 1e-4
"""Of the largest logit. Two orders of the same float32 sums differ by some 1e-6 of it, a wrong weight by far more."""

_CONTINUED, _NEW_TOKENS = 3, 8  # prompts, and tokens after each
_MAX_TOKENS = 64
_FAR = 5000  # a position at which RoPE's slow pairs have turned

# None begins with a space: transformers writes sentencepiece's own space before a text of a GGUF file only without one.
TEXTS = (
    "The boat left the harbour before dawn, and nobody noticed.",
    "Two  spaces, a tab\tand\n\nan empty line.",
    "In 1987 it cost 12,345.67 dollars; now 3 times that.",
    "def area(r):\n    return 3.14159 * r ** 2  # square metres\n",
    "Größe, señor, déjà vu, naïve; 東京は雨です。 Привет!",
    "I'll say we've DON'T and they'RE \U0001f600\u200d\U0001f4bb",
)
DIALOGUES = (
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Is ice warm?"}],
    [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "And another one?"},
    ],
)


@dataclass(frozen=True)
class Answers:
    """What a model and its tokenizer make of the prompts.

    Args:
        digests: of each weight, by our names.
        logits: of each prompt [S, V], of the last one once more at positions that lie far apart.
        greedy: the tokens that follow the longest prompts; ``margins``: by how much each was likelier than the next.
        texts: their ids, ``dialogues``: their texts and ids; None without a tokenizer.
    """

    digests: Mapping[str, str]
    logits: Sequence[Tensor]
    greedy: Sequence[Sequence[int]]
    margins: Sequence[Sequence[float]]
    texts: Sequence[list[int]] | None
    dialogues: Sequence[tuple[str, list[int]] | None] | None
    faults: Sequence[str]
    notes: Sequence[str]


def verify(source: Source, plan: Plan, folder: Path, to: str) -> dict[str, Any]:
    """What was measured, for ``verify.json``. One model is in memory at a time, in float32.

    Raises:
        CheckpointError: the export differs from the checkpoint by more than rounding.
    """
    prompts, far = _prompts(source), min(_FAR, source.arch.max_seq_len - 1)
    theirs = _answers(plan.reader(folder), prompts, far)
    ours = _answers(OwnReader(source.load(plan.kept), source.folder), prompts, far)
    checks = {
        "weights": _compare_weights(ours, theirs),
        "logits": _compare_logits(ours, theirs),
        "greedy": _compare_greedy(ours, theirs),
        "texts": _compare_texts(ours, theirs),
        "dialogues": _compare_dialogues(ours, theirs, special_ids(source.folder)),
    }
    faults = [*theirs.faults, *(fault for check in checks.values() if check and (fault := check.pop("fault")))]
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise CheckpointError(f"the export to {to} is not the model in {source.path}, so it is not kept:\n{listed}")
    exact = _logits(OwnReader(source.load(), source.folder), prompts, far) if plan.kept else None
    return {
        "format": to,
        "source": str(source.path.resolve()),
        "read_with": {package: version(package) for package in plan.read_with},
        **checks,
        "rounding": _rounding(exact, ours.logits) if exact else None,
        "notes": [*theirs.notes, *([] if plan.is_as_trained else _notes(source, ours, theirs))],
    }


def _prompts(source: Source) -> list[list[int]]:
    """Texts and dialogues as ids; any ids where there is no tokenizer. The longest is the last one."""
    longest = min(_MAX_TOKENS, source.arch.max_seq_len - _NEW_TOKENS)
    encode = encoder(source.folder)
    if encode is None:
        generator = torch.Generator().manual_seed(0)
        return [torch.randint(source.arch.vocab_size, (longest,), generator=generator).tolist() for _ in range(4)]
    bos = source.config.get("bos_token_id")
    chat = trained_chat(source.folder)
    ids = [[*([bos] if isinstance(bos, int) else []), *encode(text)] for text in TEXTS]
    ids += [chat(DIALOGUES[0])] if chat else []
    return sorted((prompt[:longest] for prompt in ids), key=len)


@torch.inference_mode()
def _answers(model: Reader, prompts: Sequence[list[int]], far: int) -> Answers:
    continued = prompts[-_CONTINUED:]
    greedy = [model.greedy(prompt, _NEW_TOKENS) for prompt in continued]
    return Answers(
        digests={name: hashlib.sha256(as_bytes(tensor.float())).hexdigest() for name, tensor in model.tensors()},
        logits=_logits(model, prompts, far),
        greedy=greedy,
        margins=[_margins(model, prompt, new) for prompt, new in zip(continued, greedy)],
        texts=[model.encode(text) for text in TEXTS] if model.has_tokenizer else None,
        dialogues=[model.chat(messages) for messages in DIALOGUES] if model.has_tokenizer else None,
        faults=model.faults,
        notes=model.notes,
    )


@torch.inference_mode()
def _logits(model: Reader, prompts: Sequence[list[int]], far: int) -> list[Tensor]:
    """[S, V] of each prompt, and of the last one spread over the positions from 0 to ``far``."""
    near = [model.logits(torch.tensor(prompt), torch.arange(len(prompt))) for prompt in prompts]
    spread = torch.linspace(0, far, len(prompts[-1])).round().long()
    return [*near, model.logits(torch.tensor(prompts[-1]), spread)]


def _margins(model: Reader, prompt: Sequence[int], new: Sequence[int]) -> list[float]:
    tokens = torch.tensor([*prompt, *new])
    best = model.logits(tokens, torch.arange(len(tokens)))[len(prompt) - 1 : -1].topk(2).values
    return (best[:, 0] - best[:, 1]).tolist()


def _tolerance(logits: Sequence[Tensor]) -> float:
    return TOLERANCE * max(rows.abs().max().item() for rows in logits)


def _compare_weights(ours: Answers, theirs: Answers) -> dict[str, Any] | None:
    if not theirs.digests:
        return None
    names = sorted(ours.digests.keys() | theirs.digests.keys())
    other = [name for name in names if ours.digests.get(name) != theirs.digests.get(name)]
    fault = f"{len(other)} of {len(names)} weights have other bits, for example {other[0]}" if other else None
    return {"tensors": len(names), "different": len(other), "fault": fault}


def _compare_logits(ours: Answers, theirs: Answers) -> dict[str, Any]:
    most = max((a - b).abs().max().item() for a, b in zip(ours.logits, theirs.logits, strict=True))
    tolerance = _tolerance(ours.logits)
    fault = None if most <= tolerance else f"logits differ by up to {most:.3g}; rounding explains {tolerance:.3g}"
    tokens = sum(map(len, ours.logits))
    return {"tokens": tokens, "max_abs_difference": most, "tolerance": tolerance, "fault": fault}


def _compare_greedy(ours: Answers, theirs: Answers) -> dict[str, Any]:
    """A continuation may part from ours where two tokens are equally likely but for rounding."""
    ties, fault = 0, None
    for number, (a, b, margins) in enumerate(zip(ours.greedy, theirs.greedy, ours.margins)):
        parted = next((i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1]), None)
        if parted is not None and margins[parted] <= 2 * _tolerance(ours.logits):
            ties += 1
        elif parted is not None:
            fault = fault or f"greedy tokens after prompt {number} are {list(b)}, ours {list(a)}"
    return {"prompts": len(ours.greedy), "new_tokens": _NEW_TOKENS, "ties": ties, "fault": fault}


def _compare_texts(ours: Answers, theirs: Answers) -> dict[str, Any] | None:
    if ours.texts is None or theirs.texts is None:
        return None
    other = [i for i, ids in enumerate(ours.texts) if ids != theirs.texts[i]]
    fault = None
    if other:
        i = other[0]
        fault = (
            f"{len(other)} of {len(TEXTS)} texts become other tokens: {TEXTS[i]!r} is {_short(theirs.texts[i])}, "
            f"ours {_short(ours.texts[i])}"
        )
    return {"texts": len(TEXTS), "different": len(other), "fault": fault}


def _compare_dialogues(ours: Answers, theirs: Answers, special: frozenset[int]) -> dict[str, Any] | None:
    """Their texts and special tokens must be the same. What lies between is cut into words as other texts are, save a
    space after a special token, which some code of sentencepiece adds and some does not; that is only noted.
    """
    if ours.dialogues is None or theirs.dialogues is None or not any([*ours.dialogues, *theirs.dialogues]):
        return None
    shown = [[d and (d[0], [i for i in d[1] if i in special]) for d in side.dialogues] for side in (ours, theirs)]
    other = [i for i, pair in enumerate(zip(*shown, strict=True)) if pair[0] != pair[1]]
    fault = None
    if other:
        a, b = (side[other[0]] for side in shown)
        fault = f"{len(other)} of {len(DIALOGUES)} dialogues are written otherwise: {b}, ours {a}"
    return {"dialogues": len(DIALOGUES), "different": len(other), "fault": fault}


def _short(ids: list[int]) -> str:
    return f"{ids[:12]}{'...' * (len(ids) > 12)}"


def _rounding(exact: Sequence[Tensor], kept: Sequence[Tensor]) -> dict[str, float]:
    """What the format's numbers change, from the checkpoint's logits to those of the same weights as it keeps them."""
    before, after = torch.cat(list(exact)), torch.cat(list(kept))
    divergence = torch.nn.functional.kl_div(
        after.log_softmax(-1), before.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    return {
        "max_abs_difference": (before - after).abs().max().item(),
        "mean_kl_nats": divergence.item(),
        "same_likeliest_token": (before.argmax(-1) == after.argmax(-1)).float().mean().item(),
    }


def _notes(source: Source, ours: Answers, theirs: Answers) -> list[str]:
    """What is as in the checkpoint and yet may surprise."""
    chat = trained_chat(source.folder)
    if chat is None or ours.dialogues is None or theirs.dialogues is None:
        return []
    if not any(ours.dialogues):
        return ["there is no chat template, so other programs have to be told the format of dialogues"]
    notes = []
    if [dialogue and dialogue[1] for dialogue in ours.dialogues] != [chat(messages) for messages in DIALOGUES]:
        notes.append("the chat template writes dialogues otherwise than the tokenizer that recipes train with")
    if ours.dialogues != theirs.dialogues:
        notes.append("after some special tokens of dialogues the other program has another space than this one")
    return notes
