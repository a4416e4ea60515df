"""Writes ``goldens.json``: what torchtune 0.6.1 makes of made-up rows.

Run by a Python that has that release: ``python tests/data/make_goldens.py``. The file holds arguments and results, and
:mod:`test_goldens` holds this package to them.
"""

import json
import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from torchtune import data, datasets

sys.path.append(str(Path(__file__).parents[1]))

from letters import Letters

PATH = Path(__file__).parent / "goldens.json"
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
WORDS = "Über 1 + 1 ist zwei {so} <|im_end|> 你好 🙂 a\nb".split(" ")


def text(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))


def dialogue(draw: random.Random) -> list[dict]:
    turns = [{"role": r, "content": text(draw)} for _ in range(draw.randint(1, 3)) for r in ("user", "assistant")]
    return [{"role": "system", "content": text(draw)}, *turns] if draw.random() < 0.5 else turns


def rows_of(name: str, draw: random.Random) -> dict:
    talk = dialogue(draw)
    return {
        "AlpacaToMessages": {"instruction": text(draw), "input": draw.choice(["", text(draw)]), "output": text(draw)},
        "InputOutputToMessages": {"input": text(draw), "output": text(draw)},
        "ShareGPTToMessages": {"conversations": [{"from": SPEAKERS[t["role"]], "value": t["content"]} for t in talk]},
        "OpenAIToMessages": {"messages": talk},
        "ChosenRejectedToMessages": {"chosen": talk, "rejected": [*talk[:-1], {**talk[-1], "content": text(draw)}]},
    }[name]


def shown(messages: list) -> list:
    return [[m.role, m.text_content, m.masked, m.ipython, m.eot] for m in messages]


def transforms(draw: random.Random) -> list[dict]:
    found = []
    for name in [n for n in vars(data) if n.endswith("ToMessages")]:
        prompts = [{}] if name == "AlpacaToMessages" else [{}, {"new_system_prompt": "Be kind."}]
        for arguments in ({"train_on_input": on, **prompt} for on in (True, False) for prompt in prompts):
            for _ in range(2):
                row = rows_of(name, draw)
                made = getattr(data, name)(**arguments)(row)
                made = {key: shown(messages) for key, messages in made.items()}
                found.append({"name": name, "arguments": arguments, "row": row, "made": made})
    return found


def templates(draw: random.Random) -> list[dict]:
    own = {"user": ["<", ">"], "assistant": ["", "\n"]}
    made = {"PromptTemplate": data.PromptTemplate(own), "ChatMLTemplate": data.ChatMLTemplate()}
    for name in ("GrammarErrorCorrectionTemplate", "SummarizeTemplate", "QuestionAnswerTemplate"):
        made[name] = getattr(data, name)()
    found = []
    for name, template in made.items():
        for number in range(3):
            rows = [{**turn, "masked": number == 1, "eot": number != 2} for turn in dialogue(draw)]
            messages = template([data.Message.from_dict(row) for row in rows])
            arguments = [own] if name == "PromptTemplate" else []
            found.append({"name": name, "arguments": arguments, "rows": rows, "made": shown(messages)})
    return found


def truncated(draw: random.Random) -> list[dict]:
    found = []
    for _ in range(12):
        tokens = [draw.randint(5, 99) for _ in range(draw.randint(1, 8))]
        arguments = [tokens, draw.randint(1, 9), draw.choice([None, 3])]
        found.append({"arguments": arguments, "made": data.truncate(*arguments)})
    return found


def sample(draw: random.Random, names: tuple[str, ...] = ("tokens", "labels")) -> dict[str, list[int]]:
    length = draw.randint(1, 9)
    return {name: [draw.randint(5, 99) for _ in range(length)] for name in names}


def document(draw: random.Random) -> dict[str, list[int]]:
    """A sample whose last token is trained on; torchtune keeps documents of which none is."""
    tokens = [draw.randint(5, 99) for _ in range(draw.randint(2, 9))]
    return {"tokens": tokens, "labels": [*(draw.choice([token, -100]) for token in tokens[:-1]), tokens[-1]]}


def collated(draw: random.Random) -> list[dict]:
    """Batches and what becomes of them, each under the name of the function and its arguments."""
    pairs = ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")
    wide = {"pad_direction": "left", "keys_to_pad": ["tokens"], "padding_idx": 7}
    two = {"pad_direction": "right", "keys_to_pad": ["tokens", "labels"], "padding_idx": {"tokens": 7, "labels": -1}}
    cases = [
        ("padded_collate_sft", {}, [sample(draw) for _ in range(4)]),
        ("padded_collate_sft", {"padding_idx": 2, "ignore_idx": -5}, [sample(draw) for _ in range(3)]),
        ("padded_collate_dpo", {"padding_idx": 2}, [sample(draw, pairs) for _ in range(3)]),
        ("padded_collate", wide, [{"tokens": sample(draw)["tokens"], "number": [n]} for n in range(3)]),
        ("padded_collate", two, [sample(draw) for _ in range(3)]),
    ]
    found = [
        {"name": name, "arguments": arguments, "batch": batch, "made": plain(getattr(data, name)(batch, **arguments))}
        for name, arguments, batch in cases
    ]
    rows = {"tokens": [5, 6, 7, 8], "labels": [5, -100, 7, 8], "input_pos": [0, 1, 0, 1]}
    batch = [{**rows, "seq_lens": lengths} for lengths in ([2, 2], [1, 3], [4])]
    tensors = [{key: torch.tensor(values) for key, values in pack.items()} for pack in batch]
    made = plain(data.padded_collate_packed(tensors))
    return [*found, {"name": "padded_collate_packed", "arguments": {}, "batch": batch, "made": made}]


def packed(draw: random.Random) -> list[dict]:
    found = []
    for split in (False, True):
        for size, most in ((9, None), (16, None), (16, 2)):
            samples = [document(draw) for _ in range(16)]
            arguments = {"max_seq_len": size, "padding_idx": 1, "max_packs": most, "split_across_pack": split}
            packs = [*datasets.PackedDataset(samples, **arguments)]
            found.append({"arguments": arguments, "samples": samples, "packs": [plain(pack) for pack in packs]})
    return found


BUILDERS = {
    "alpaca_dataset": ("AlpacaToMessages", {}),
    "instruct_dataset": ("InputOutputToMessages", {}),
    "chat_dataset": ("OpenAIToMessages", {"conversation_column": "messages", "conversation_style": "openai"}),
    "slimorca_dataset": ("ShareGPTToMessages", {}),
    "preference_dataset": ("ChosenRejectedToMessages", {}),
}


def built(draw: random.Random, folder: Path) -> list[dict]:
    cases = [(name, rows, {**o, **p}) for name, (rows, o) in BUILDERS.items() for p in ({}, {"train_on_input": True})]
    found = []
    for name, kind, options in cases:
        rows = [rows_of(kind, draw) for _ in range(2)]
        made = getattr(datasets, name)(Letters(), **local(rows, folder), **options)
        found.append({"name": name, "options": options, "rows": rows, "samples": [as_text(s) for s in made]})
    rows = [{"text": text(draw)} for _ in range(3)]
    for options in ({}, {"add_eos": False}):
        made = datasets.text_completion_dataset(Letters(), **local(rows, folder), **options)
        case = {"name": "text_completion_dataset", "options": options, "rows": rows}
        found.append({**case, "samples": [as_text(s) for s in made]})
    return found


def local(rows: list[dict], folder: Path) -> dict[str, str]:
    path = folder / f"{abs(hash(json.dumps(rows)))}.json"
    path.write_text(json.dumps(rows))
    return {"source": "json", "data_files": str(path), "split": "train"}


def as_text(sample: dict) -> dict[str, str]:
    """Ids as the letters that they stand for, with ``_`` for what is masked."""
    return {k: "".join("_" if n == -100 else chr(n) for n in ids) for k, ids in sample.items() if k != "mask"}


def plain(batch: dict | tuple) -> dict | list:
    if isinstance(batch, tuple):
        return [tensor.tolist() for tensor in batch]
    found = {key: tensor.int() if tensor.dtype == torch.bool else tensor for key, tensor in batch.items()}
    return {key: tensor.tolist() for key, tensor in found.items()}


def main() -> None:
    if version("torchtune") != "0.6.1":
        raise SystemExit(f"this needs torchtune 0.6.1, and {version('torchtune')} is installed")
    draw = random.Random(0)
    parts = {part.__name__: part(draw) for part in (transforms, templates, truncated, collated, packed)}
    with tempfile.TemporaryDirectory() as folder:
        parts["built"] = built(draw, Path(folder))
    lines = (
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]"
        for name, cases in parts.items()
    )
    PATH.write_text("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    main()
