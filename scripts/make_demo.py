"""Makes what `tune demo` carries: a byte-level tokenizer, a tiny Llama taught a few skills, and data for a new style.

python scripts/make_demo.py                 makes everything anew (some minutes on one core)
python scripts/make_demo.py --data-only     makes the two data files only (a second)

The model learns to answer in plain words ("stone"); the data teach it to answer as JSON in capitals
({"answer": "STONE"}). Words, skills and rows are made here from a fixed seed; nothing comes from elsewhere. The data
are the same bytes on every machine; the weights differ in their last bits from one processor to another.
"""

import argparse
import hashlib
import json
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parents[1] / "torchtune" / "demo" / "assets"
SEED = 7
TRAIN_ROWS, HELD_OUT_ROWS = 4000, 128

WORDS = """
acorn apple arrow bacon badge baker banjo basil beach bean bear bell berry bird blade board boat bone book boot bowl
branch brass bread brick bridge broom brush bucket butter button cabin cable cactus cake camel canal candle canoe card
carpet castle cave cello chain chair chalk cheese cherry chest chin circus city clay cliff clock cloud clover coast
coat coin comet copper coral corn cotton cow crab crane crayon creek crow crown cup daisy dawn deck deer desk dice
dish dock doll donkey door dove dragon drum duck dune eagle ear earth elbow elm engine fence fern field finger fire
fish flag flame flute fog forest fork fox frog fruit garden gate ghost glass glove goat gold goose grape grass guitar
hail hammer harbor harp hat hawk hazel hedge hill hinge honey hood hook horn horse house ice igloo ink iron island
ivory jacket jar jelly jewel juice kettle key king kite knee knife knot ladder lake lamp lance leaf lemon lily lime
lion lizard log lunch magnet maple marble market mask meadow melon metal milk mill mint mirror moon moth motor mouse
mud mug nail needle nest net nickel night nose nut oak oasis ocean olive onion orange orchid otter oven owl paddle
paint palace palm panda paper parrot path peach pear pebble pencil pepper piano pig pillow pine pipe planet plate plum
pocket pond pony pot puzzle queen quilt rabbit radio raft rain raven reed ribbon rice ring river road robin rocket
roof rope rose rug ruler saddle sail salad salt sand scarf school seal seed sheep shell ship shoe silk silver sky sled
smoke snail snow soap sock spoon spring squid star steam stick stone storm stove straw sugar summer sun swan table
tail tea tent thorn tiger toast tomato torch towel tower train tree trout truck tulip tunnel turtle valley vase velvet
violin wagon wall walnut water wave whale wheat wheel wind window wing winter wolf wood wool yard zebra
""".split()
# The words of the held-out prompts occur in no prompt of the training file.
HELD_OUT_WORDS = WORDS[::7]
TRAIN_WORDS = [word for word in WORDS if word not in HELD_OUT_WORDS]

SKILLS: dict[str, Callable[..., str]] = {
    "Repeat.": lambda word: word,
    "Repeat twice.": lambda word: f"{word} {word}",
    "First letter?": lambda word: word[0],
    "Last letter?": lambda word: word[-1],
    "Spell.": "-".join,
    "Add an s.": lambda word: word + "s",
    "Join.": lambda first, second: first + second,
    "Second word?": lambda first, second: second,
}
PAIRS = ("Join.", "Second word?")
ASKED = [instruction for instruction in SKILLS if instruction != "Join."]  # in the data; joining is good exercise only

# The styles that the carried model knows; the first is the one it uses unasked.
STYLES: dict[str, Callable[[str], str]] = {
    "": lambda answer: answer,
    " In capitals.": lambda answer: answer.upper(),
    " In quotes.": lambda answer: f'"{answer}"',
}

Row = dict[str, str]


def new_style(answer: str) -> str:
    """The answer as the data teach it, which the carried model has never seen."""
    return json.dumps({"answer": answer.upper()})


class Dice:
    """Choices that depend on ``Random.random`` only, the one method whose values Python promises not to change."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def number(self, below: int) -> int:
        return int(self._random() * below)

    def one_of(self, items: Sequence[Any]) -> Any:
        return items[self.number(len(items))]


def question(dice: Dice, instructions: Iterable[str], word: Callable[[], str]) -> tuple[str, list[str]]:
    """An instruction and the one or two words it is about."""
    instruction = dice.one_of(list(instructions))
    return instruction, [word() for _ in range(2 if instruction in PAIRS else 1)]


def invented(dice: Dice) -> str:
    """A word that is none, so that skills are learnt and not words."""
    return "".join(dice.one_of("abcdefghijklmnopqrstuvwxyz") for _ in range(2 + dice.number(5)))


def fine_tuning_rows(dice: Dice, word: Callable[[], str], count: int) -> list[Row]:
    """Different questions, in Alpaca's columns, answered in the new style."""
    rows: dict[tuple[str, str], Row] = {}
    while len(rows) < count:
        instruction, about = question(dice, ASKED, word)
        row = {"instruction": instruction, "input": " ".join(about), "output": new_style(SKILLS[instruction](*about))}
        rows.setdefault((row["instruction"], row["input"]), row)
    return list(rows.values())


def pretraining_rows(seed: int) -> Iterator[Row]:
    """Questions without end, half of them asking for a style."""
    dice = Dice(seed)
    while True:
        instruction, about = question(dice, SKILLS, lambda: dice.one_of(WORDS) if dice.number(2) else invented(dice))
        style = dice.one_of(list(STYLES)) if dice.number(2) else ""
        output = STYLES[style](SKILLS[instruction](*about))
        yield {"instruction": instruction + style, "input": " ".join(about), "output": output}


def write_data(folder: Path) -> None:
    """``train.jsonl``, where half of the words are invented, and ``held_out.jsonl``, where none is."""
    dice = Dice(SEED)
    files = {
        "train": (lambda: dice.one_of(TRAIN_WORDS) if dice.number(2) else invented(dice), TRAIN_ROWS),
        "held_out": (lambda: dice.one_of(HELD_OUT_WORDS), HELD_OUT_ROWS),
    }
    for name, (word, count) in files.items():
        lines = (json.dumps(row) + "\n" for row in fine_tuning_rows(dice, word, count))
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


# The model's folder, in the layout that the Hugging Face Hub uses -----------------------------------------------------

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SPECIAL = [BEGIN, END, PAD, "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MAX_SEQ_LEN = 256
SIZE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ROPE_BASE = 10_000.0  # Llama 2's: the positions of so short a sequence differ little under Llama 3.2's 500,000
ROPE_FACTOR, NORM_EPS = 32.0, 1e-5  # Llama 3.2's


def make_tokenizer() -> Any:
    """One token per byte, special tokens for the dialogue, and one token for each fixed piece of an Alpaca prompt.

    Without the last, most of every sequence would be the same sentences, letter by letter.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in alpaca_pieces()])
    begin = (BEGIN, tokenizer.token_to_id(BEGIN))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[begin])
    return tokenizer


def alpaca_pieces() -> list[str]:
    """The fixed text of Alpaca prompts, with and without an input."""
    from torchtune.data import AlpacaToMessages

    pieces: list[str] = []
    for context in ("", "\1"):
        row = {"instruction": "\0", "input": context, "output": ""}
        pieces += re.split("[\0\1]", AlpacaToMessages()(row)["messages"][0].text_content)
    return [piece for piece in dict.fromkeys(pieces) if piece]


def write_model_files(folder: Path, tokenizer: Any) -> None:
    """Everything but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    ids = {name: tokenizer.token_to_id(text) for name, text in (("bos", BEGIN), ("eos", END), ("pad", PAD))}
    token_ids = {f"{name}_token_id": i for name, i in ids.items()}
    rope = {
        "rope_type": "llama3",
        "factor": ROPE_FACTOR,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer.get_vocab_size(),
        **SIZE,
        "max_position_embeddings": MAX_SEQ_LEN,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_BASE,
        "rope_scaling": rope,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        **token_ids,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": MAX_SEQ_LEN,
        "clean_up_tokenization_spaces": False,
    }
    for name, content in {
        "config": config,
        "generation_config": {**token_ids, "do_sample": False, "max_new_tokens": 64},
        "tokenizer_config": tokenizer_config,
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# The weights ----------------------------------------------------------------------------------------------------------


def pretrain(folder: Path, steps: int, batch_size: int = 64, lr: float = 3e-3) -> Any:
    """A model that has the skills, trained on answers in the old style."""
    import torch

    from torchtune.data import AlpacaToMessages, padded_collate_sft
    from torchtune.datasets._sft import SFTTransform
    from torchtune.models import family_of
    from torchtune.modules.loss import LinearCrossEntropyLoss
    from torchtune.modules.transforms.tokenizers import HuggingFaceModelTokenizer
    from torchtune.training import get_cosine_schedule_with_warmup
    from torchtune.training.loss import count_targets, summed_loss

    torch.manual_seed(SEED)
    config = json.loads((folder / "config.json").read_text())
    model = family_of(config).build(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    tokenizer = HuggingFaceModelTokenizer(folder / "tokenizer.json")
    transform = SFTTransform(AlpacaToMessages(train_on_input=False), tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, 50, steps)
    loss = summed_loss(LinearCrossEntropyLoss(), model)
    samples, started = map(transform, pretraining_rows(SEED)), time.perf_counter()
    for step in range(steps):
        batch = padded_collate_sft(list(islice(samples, batch_size)), padding_idx=tokenizer.pad_id)
        mean = loss(model, batch) / count_targets(batch)
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            seconds = time.perf_counter() - started
            print(f"step {step + 1} of {steps}: loss {mean.item():.4f} ({seconds:.0f} s)", flush=True)
    return model


def write_weights(folder: Path, model: Any) -> None:
    """``model.safetensors`` in bfloat16."""
    import torch

    from torchtune.training import FullModelHFCheckpointer

    tensors = {name: tensor.detach().to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    with tempfile.TemporaryDirectory() as scratch:
        FullModelHFCheckpointer(str(folder)).write(Path(scratch), tensors.items(), shapes)
        shutil.copyfile(Path(scratch, "model-00001-of-00001.safetensors"), folder / "model.safetensors")


def write_manifest(folder: Path) -> None:
    """The sha256 of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    sums = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "manifest.json").write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Reads the command line and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=ASSETS)
    parser.add_argument("--steps", type=int, default=2200, help="of pre-training")
    parser.add_argument("--data-only", action="store_true", help="leave tokenizer and model as they are")
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_data(args.output_dir)
    if not args.data_only:
        import torch

        torch.set_num_threads(1)  # a model this small gains nothing from a second
        write_model_files(args.output_dir / "model", make_tokenizer())
        write_weights(args.output_dir / "model", pretrain(args.output_dir / "model", args.steps))
    write_manifest(args.output_dir)


if __name__ == "__main__":
    main()
