"""The model card: what the Hub and its readers are told of a model, and how to load it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from torchtune import __version__
from torchtune.cli._card_facts import Data, Facts
from torchtune.cli._upload_files import Kind

_HUB = "https://huggingface.co"
_LIBRARIES: Mapping[Kind, str] = {"model": "transformers", "adapter": "peft"}
_NO_BASE = "path/to/its/base"
_FULL = "full fine-tuning"

_TRANSFORMERS = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({place})
tokenizer = AutoTokenizer.from_pretrained({place})
{prompt}
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50)[0]))
```"""
_TEXT_PROMPT = 'inputs = tokenizer("Once upon a time", return_tensors="pt")'
_CHAT_PROMPT = """\
messages = [{"role": "user", "content": "Tell me a joke."}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)"""
_PEFT = """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, {place})
```"""
_GGUF = """\
```text
ollama run hf.co/{repo}
llama-server -hf {repo}
```"""
_OTHER = "torchtune reads these files. `tune export PATH --to hf` makes a folder of them that transformers opens."


def card(repo: str, revision: str | None, kind: Kind, facts: Facts, has_adapter: bool = False) -> str:
    """The text of a model's ``README.md``.

    Args:
        revision: the branch that it is on; None is the main one.
        has_adapter: PEFT's files lie beside a model, in ``adapter``.
    """
    parts = [
        _front_matter(kind, facts),
        f"# {repo.rpartition('/')[2]}",
        *_introduction(kind, facts),
        "## Use",
        *_use(repo, revision, kind, facts, has_adapter),
        *_section("Training", _table(("Setting", "Value"), _training(facts))),
        *_section("Evaluation", _table(("Task", "Metric", "Value", "Examples", "Samples"), _evaluation(facts))),
        *_section("Config", _config(facts.config)),
        f"This card was made by torchtune {__version__}.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(kind: Kind, facts: Facts) -> str:
    """https://huggingface.co/docs/hub/model-cards#model-card-metadata"""
    head: dict[str, Any] = {}
    if facts.base:
        head["base_model"] = facts.base
        if kind == "adapter" or _method(facts):
            head["base_model_relation"] = "adapter" if kind == "adapter" else "finetune"
    if kind in _LIBRARIES:
        head["library_name"] = _LIBRARIES[kind]
    head |= {"pipeline_tag": "text-generation", **facts.license}
    if datasets := [data.name for data in facts.data if data.on_hub]:
        head["datasets"] = datasets
    tags = ["torchtune", "gguf" if kind == "gguf" else None, None if facts.adapter is None else _method(facts).lower()]
    head["tags"] = [tag for tag in tags if tag]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _introduction(kind: Kind, facts: Facts) -> Iterator[str]:
    base, method = _link(facts.base) if facts.base else "a language model", _method(facts)
    on = f" on {_data(facts.data)}" if facts.data else ""
    if kind == "adapter":
        yield f"A {method} adapter for {base}" + (f", trained{on}." if on else ".")
    elif method:
        yield f"{base[0].upper()}{base[1:]}, fine-tuned {'in full' if method == _FULL else f'with {method}'}{on}."
    if facts.read_with:
        programs = ", ".join(f"{name} {version}" for name, version in facts.read_with.items())
        yield f"`tune export --verify` read these files with {programs} and found the same model as in the checkpoint."


def _use(repo: str, revision: str | None, kind: Kind, facts: Facts, has_adapter: bool) -> Iterator[str]:
    place = f'"{repo}"' + (f', revision="{revision}"' if revision else "")
    if kind == "model":
        yield _TRANSFORMERS.format(place=place, prompt=_CHAT_PROMPT if facts.has_chat_template else _TEXT_PROMPT)
    if has_adapter:
        yield "The weights contain the adapter. It is also there by itself, for the model that it was trained on:"
        place += ', subfolder="adapter"'
    if has_adapter or kind == "adapter":
        yield _PEFT.format(base=facts.base or _NO_BASE, place=place)
    if kind not in _LIBRARIES:
        yield _GGUF.format(repo=repo) if kind == "gguf" else _OTHER


def _training(facts: Facts) -> Iterator[tuple[str, str]]:
    """Settings and results that are known."""
    config, state, losses = facts.config, facts.state, facts.losses
    epochs, done = state.get("epochs", config.get("epochs")), state.get("epoch")
    batch = state.get("samples_per_step")
    rows = {
        "Method": _method(facts) + _adapter(facts.adapter),
        "Data": _data(facts.data),
        "Epochs": epochs if done in (None, epochs) else f"{done} of {epochs}",
        "Steps": state.get("step", losses.last and losses.last[0]),
        "Sequences per step": batch,
        "Sequences per step and process": None if batch else _batch(config),
        "Learning rate": _learning_rate(config),
        "Optimizer": _component(config.get("optimizer")),
        "Precision": config.get("dtype"),
        "Loss": " to ".join(_at(loss) for loss in (losses.first, losses.last) if loss),
        "Validation loss": losses.validation and _at(losses.validation),
    }
    yield from ((name, str(value)) for name, value in rows.items() if value not in (None, ""))


def _method(facts: Facts) -> str:
    """How the model was trained; empty where that is not known."""
    if facts.adapter is None:
        return _FULL if facts.config else ""
    if facts.adapter.get("peft_type") != "LORA":
        return str(facts.adapter.get("peft_type"))
    model = facts.config.get("model")
    quantized = isinstance(model, Mapping) and model.get("quantize_base")
    prefix = "Q" if quantized or _component(model).startswith("qlora_") else ""
    return prefix + ("DoRA" if facts.adapter.get("use_dora") else "LoRA")


def _adapter(config: Mapping[str, Any] | None) -> str:
    if config is None or "r" not in config:
        return ""
    targets, whole = config.get("target_modules") or [], config.get("modules_to_save") or []
    some = " and others" if config.get("rank_pattern") else ""
    told = [f", rank {config['r']}{some}, alpha {config.get('lora_alpha')}"]
    told += [", scaled by the root of the rank"] * bool(config.get("use_rslora"))
    told += [f", on {targets if isinstance(targets, str) else ', '.join(sorted(targets))}"] * bool(targets)
    told += [f"; in full: {', '.join(sorted(whole))}"] * bool(whole)
    return "".join(told)


def _batch(config: Mapping[str, Any]) -> int | None:
    size, steps = config.get("batch_size"), config.get("gradient_accumulation_steps", 1)
    return size * steps if isinstance(size, int) and isinstance(steps, int) else None


def _learning_rate(config: Mapping[str, Any]) -> str:
    optimizer = config.get("optimizer")
    rate = optimizer.get("lr") if isinstance(optimizer, Mapping) else None
    schedule = _component(config.get("lr_scheduler"))
    return "" if rate is None else f"{rate}, {schedule}" if schedule else str(rate)


def _component(node: Any) -> str:
    """The last name of a config's component."""
    path = node.get("_component_") if isinstance(node, Mapping) else node
    return str(path or "").rpartition(".")[2]


def _at(loss: tuple[int, float]) -> str:
    return f"{loss[1]:.4g} at step {loss[0]}"


def _data(data: tuple[Data, ...]) -> str:
    return ", ".join(_link(f"datasets/{each.name}", each.name) if each.on_hub else each.name for each in data)


def _link(path: str, text: str | None = None) -> str:
    return f"[{text or path}]({_HUB}/{path})"


def _evaluation(facts: Facts) -> Iterator[tuple[str, ...]]:
    for score in facts.scores:
        value = f"{score.value:.4g}" + (f" ± {score.stderr:.2g}" if score.stderr is not None else "")
        yield score.task, score.metric, value, _known(score.shots), _known(score.samples)


def _known(number: int | None) -> str:
    return "" if number is None else str(number)


def _config(config: Mapping[str, Any]) -> str:
    """The run's config, without what its paths tell of whose machine it was."""
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).replace(f"{Path.home()}/", "~/")
    return f"```yaml\n{text}```" if config else ""


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines]) if lines else ""


def _section(title: str, text: str) -> tuple[str, ...]:
    return (f"## {title}", text) if text else ()
