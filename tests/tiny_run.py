"""A model, a tokenizer, data and a config small enough to train in a second, and ways to run the recipe on them."""

import hashlib
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from tokenizer_files import byte_tokenizer

from torchtune.cli import main as tune
from torchtune.utils import get_logger
from torchtune.utils.exit_codes import exits_cleanly

REPO = Path(__file__).parents[1]
COSINE = "lr_scheduler._component_=torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"
SPECIAL_TOKENS = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
]  # fmt: skip
SIZES = {"vocab_size": 271, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}  # an odd vocabulary
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 320}
ROPE = {
    "rope_theta": 500000.0,
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass
class Ended:
    """How processes ended: exit code (minus a signal's number), and what they said."""

    code: int
    out: str = ""
    err: str = ""
    codes: list[int] = field(default_factory=list)


class TinyRun:
    """Folders ``model`` (tied) and ``untied``, ``rows.jsonl``, ``val.jsonl`` and ``config.yaml`` below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.model, self.untied = make_model(root / "model"), make_model(root / "untied", tied=False)
        make_rows(root / "rows.jsonl", 48, seed=0)
        make_rows(root / "val.jsonl", 7, seed=1)
        self.config.write_text(yaml.safe_dump(self._content(), sort_keys=False))

    def _content(self) -> dict[str, Any]:
        return {
            "recipe": "full_finetune_single_device",
            "output_dir": str(self.root / "out"),
            "model": {
                "_component_": "torchtune.models.llama3_2.llama3_2",
                "vocab_size": 271,
                "num_layers": 2,
                "num_heads": 4,
                "num_kv_heads": 2,
                "embed_dim": 64,
                "intermediate_dim": 128,
                "max_seq_len": 320,
            },
            "tokenizer": {
                "_component_": "torchtune.models.llama3.llama3_tokenizer",
                "path": str(self.model / "tokenizer.json"),
                "max_seq_len": 320,
            },
            "checkpointer": {
                "_component_": "torchtune.training.FullModelHFCheckpointer",
                "checkpoint_dir": str(self.model),
                "output_dir": "${output_dir}",
                "model_type": "LLAMA3_2",
            },
            "dataset": {
                "_component_": "torchtune.datasets.alpaca_dataset",
                "source": "json",
                "data_files": str(self.root / "rows.jsonl"),
            },
            "batch_size": 2,
            "gradient_accumulation_steps": 2,
            "seed": 7,
            "epochs": 1,
            "optimizer": {"_component_": "torch.optim.AdamW", "lr": 2e-3},
            "device": "cpu",
            "dtype": "fp32",
        }

    @staticmethod
    def adapters(**model: Any) -> list[str]:
        """Settings that give the model adapters; ``model`` changes its arguments."""
        lora = {"_component_": "torchtune.models.llama3_2.lora_llama3_2", "lora_attn_modules": "[q_proj,v_proj]"}
        lora |= {"apply_lora_to_mlp": True, "lora_rank": 4, "lora_alpha": 8, **model}
        return ["recipe=lora_finetune_single_device", *(f"model.{key}={value}" for key, value in lora.items())]

    def run(self, out: str, *words: str, processes: int = 1, **keys: Any) -> Ended:
        """Run the recipe to its end in forked processes, which saves importing torch in each."""
        return wait_for(self.start(out, *words, processes=processes, **keys))

    def start(self, out: str, *words: str, processes: int = 1, **keys: Any) -> list["Child"]:
        """Start the recipe in forked processes."""
        argv = ["--config", str(self.config), f"output_dir={self.root / out}", *words]
        argv += [f"{key}={value}" for key, value in keys.items()]
        port = free_port()
        return [Child(argv, rank, processes, port, self.root) for rank in range(processes)]

    def command(self, out: str, *words: str, processes: int = 1) -> list[str]:
        """The command line of a run through the CLI."""
        launch = ["--nproc_per_node", str(processes), "full_finetune_distributed"] if processes > 1 else []
        settings = ["--config", str(self.config), f"output_dir={self.root / out}", *words]
        return [sys.executable, "-m", "torchtune.cli", "run", *launch, *settings]

    def cli(self, out: str, *words: str, processes: int = 1, **env: str) -> Ended:
        """Run through the CLI to the end."""
        return self.call(self.command(out, *words, processes=processes), **env)

    def tune(self, *words: str) -> Ended:
        """A command line of `tune` to its end, in a forked process."""
        return wait_for([Child(list(words), 0, 1, 0, self.root, tune)])

    def call(self, command: list[str], **env: str) -> Ended:
        """Run a command line to the end."""
        done = subprocess.run(command, env=environment(**env), cwd=self.root, capture_output=True, text=True)
        return Ended(done.returncode, done.stdout, done.stderr)

    def popen(self, out: str, *words: str, processes: int = 1) -> subprocess.Popen:
        """Start through the CLI, in a process group of its own, with stderr in ``<out>.err``."""
        with open(self.root / f"{out}.err", "w") as err:
            return subprocess.Popen(
                self.command(out, *words, processes=processes),
                env=environment(),
                cwd=self.root,
                stdout=err,
                stderr=err,
                start_new_session=True,
            )

    def stop_after(self, out: str, step: int, children: list["Child"], number: int = signal.SIGTERM) -> Ended:
        """Send a signal to running children when a step is done, and wait until they end."""
        self.wait_for_step(out, step)
        for child in children:
            os.kill(child.pid, number)
        return wait_for(children)

    @staticmethod
    def descendants(pid: int) -> list[int]:
        """Processes that a process started, and those that they started (Linux)."""
        found = []
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, task.read_text().split()):
                found += [child, *TinyRun.descendants(child)]
        return found

    @staticmethod
    def command_of(pid: int) -> str:
        """The command line of a process."""
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()

    def wait_for_step(self, out: str, step: int, seconds: float = 60) -> None:
        """Wait until a run has taken a step."""
        path, deadline = self.root / out / "metrics.jsonl", time.monotonic() + seconds
        while not path.is_file() or path.read_text().count('"loss"') < step:
            assert time.monotonic() < deadline, f"{out} has not come to step {step}"
            time.sleep(0.005)

    def metrics(self, out: str, name: str = "loss") -> dict[int, float]:
        """Step -> value; of a step that ran twice, the later one."""
        records = map(json.loads, (self.root / out / "metrics.jsonl").read_text().splitlines())
        return {r["step"]: r[name] for r in records if name in r}

    def weights(self, out: str, folder: str = "epoch_0") -> dict[str, torch.Tensor]:
        """The tensors of a saved checkpoint."""
        from safetensors.torch import load_file

        return {k: v for f in sorted((self.root / out / folder).glob("*.safetensors")) for k, v in load_file(f).items()}

    def sha(self, out: str, folder: str = "epoch_0") -> dict[str, str]:
        """Hashes of the files with weights of a saved checkpoint."""
        files = sorted((self.root / out / folder).glob("*.safetensors"))
        assert files, f"no weights in {out}/{folder}"
        return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    def state(self, out: str) -> dict[str, Any]:
        """``run_state.json``."""
        return json.loads((self.root / out / "run_state.json").read_text())


class Child:
    """A forked process that runs the recipe as one of ``size``, or another program."""

    def __init__(
        self, argv: list[str], rank: int, size: int, port: int, root: Path, program: Callable | None = None
    ) -> None:
        self.files = [root / f"fork-{rank}.out", root / f"fork-{rank}.err"]
        sys.stdout.flush(), sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become_worker(argv, rank, size, port, self.files, program)

    def wait(self) -> Ended:
        _, status = os.waitpid(self.pid, 0)
        out, err = (f.read_text() for f in self.files)
        return Ended(os.waitstatus_to_exitcode(status), out, err)


def _become_worker(
    argv: list[str], rank: int, size: int, port: int, files: list[Path], program: Callable | None
) -> None:
    code = 1
    try:
        for number, path in zip((1, 2), files):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        if size > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        _fresh_logging()
        os.chdir(files[0].parent)
        get_logger("INFO")
        (program or exits_cleanly(recipe_module().main))(argv)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def _fresh_logging() -> None:
    import logging

    for name in (None, "torchtune"):
        for handler in list(logging.getLogger(name).handlers):
            logging.getLogger(name).removeHandler(handler)


def wait_for(children: list[Child]) -> Ended:
    """What the children said, rank 0's first, and the first exit code that is not 0."""
    ended = [child.wait() for child in children]
    codes = [e.code for e in ended]
    first = next((c for c in codes if c), 0)
    return Ended(first, "".join(e.out for e in ended), "".join(e.err for e in ended), codes)


def recipe_module(name: str = "finetune") -> ModuleType:
    """A file of ``recipes`` as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_recipe", REPO / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment(**more: str) -> dict[str, str]:
    """The environment of a run through the CLI: this tree, one thread."""
    return {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **more}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make_model(folder: Path, *, tied: bool = True, vocab_size: int = 271, dtype: torch.dtype = torch.float32) -> Path:
    """A random Llama 3.2 in Hugging Face's layout."""
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **SIZES, **HEADS}
    config |= {"vocab_size": vocab_size, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": tied}
    config |= {"rope_theta": ROPE["rope_theta"], "rope_scaling": {k: v for k, v in ROPE.items() if k != "rope_theta"}}
    config |= {"torch_dtype": str(dtype).removeprefix("torch."), "bos_token_id": 256, "eos_token_id": 257}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text('{"bos_token_id": 256, "eos_token_id": 257}')
    (folder / "LICENSE.txt").write_text("free\n")
    byte_tokenizer(folder / "tokenizer.json", SPECIAL_TOKENS)
    generator = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.1).to(dtype)

    dim, wide = SIZES["hidden_size"], SIZES["intermediate_size"]
    tensors = {"model.embed_tokens.weight": matrix(vocab_size, dim), "model.norm.weight": matrix(dim) + 1}
    for i in range(SIZES["num_hidden_layers"]):
        at = f"model.layers.{i}"
        rows = {"q": (dim, dim), "k": (dim // 2, dim), "v": (dim // 2, dim), "o": (dim, dim)}
        tensors |= {f"{at}.self_attn.{k}_proj.weight": matrix(*shape) for k, shape in rows.items()}
        tensors |= {f"{at}.mlp.{k}_proj.weight": matrix(wide, dim) for k in ("gate", "up")}
        tensors[f"{at}.mlp.down_proj.weight"] = matrix(dim, wide)
        tensors |= {f"{at}.{k}_layernorm.weight": matrix(dim) + 1 for k in ("input", "post_attention")}
    if not tied:
        tensors["lm_head.weight"] = matrix(vocab_size, dim)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_rows(path: Path, count: int, seed: int) -> None:
    """Alpaca rows of different lengths."""
    draw = random.Random(seed)
    words = ["red", "blue", "tree", "river", "stone", "light", "seven", "quiet"]
    rows = [
        {
            "instruction": "Say " + " ".join(draw.choices(words, k=draw.randint(1, 3))),
            "input": "" if i % 3 else draw.choice(words),
            "output": " ".join(draw.choices(words, k=draw.randint(1, 8))),
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
