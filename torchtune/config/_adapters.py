"""What a config may ask of a model's adapters, and what vLLM does not serve of them."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from torchtune.config._keys import AtLeast, Over, Share, check_value, yaml_of
from torchtune.config._problem import near

Node = Mapping[str, Any]
Fault = tuple[str, str]  # (dotted key, message)

_ATTENTION = ("q_proj", "k_proj", "v_proj", "output_proj")
_Rank = Annotated[int, AtLeast(1)]
_Alpha = Annotated[float, Over(0)]
_TYPES: dict[str, Any] = {
    "lora_rank": _Rank,
    "lora_alpha": _Alpha,
    "lora_dropout": Annotated[float, Share()],
    **dict.fromkeys(("apply_lora_to_mlp", "apply_lora_to_output", "use_dora", "use_rslora", "quantize_base"), bool),
}
_PATTERNS = {"rank_pattern": _Rank, "alpha_pattern": _Alpha}

# Names of targets that are not the attention's here -> how they are asked for.
_FEED_FORWARD = "is of the feed-forward, which gets adapters with apply_lora_to_mlp: True"
_ELSEWHERE: dict[str, str] = {
    "o_proj": "is called output_proj here",
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"), _FEED_FORWARD),
    **dict.fromkeys(("lm_head", "output"), "gets an adapter with apply_lora_to_output: True"),
    **dict.fromkeys(("embed_tokens", "tok_embeddings"), "is trained in full with trainable_modules: [tok_embeddings]"),
}

# The values of vLLM's max_lora_rank, and its default (vllm/config/lora.py)
_SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_SERVED_RANK = 16


def builds_adapters(node: Any) -> bool:
    """Whether a model's node asks for adapters, by the name of its builder or by an argument that only those have."""
    if not isinstance(node, Mapping):
        return False
    name = str(node.get("_component_")).rpartition(".")[2]
    return name.startswith(("lora_", "qlora_")) or "lora_attn_modules" in node


def adapter_faults(v: Node) -> Iterator[Fault]:
    """What cannot be in the adapters of a config. ``v`` has every key."""
    node = v["model"]
    if builds_adapters(node):
        yield from _target_faults(node)
        yield from _type_faults(node)
        yield from _resize_faults(node, v)


def _target_faults(node: Node) -> Iterator[Fault]:
    if "lora_attn_modules" not in node:
        return  # a builder that needs it says so
    key, known, found = "model.lora_attn_modules", ", ".join(_ATTENTION), node["lora_attn_modules"]
    if not isinstance(found, list):
        yield key, f"{key} must be a list of some of {known}, found {yaml_of(found)}"
    elif not found and not any(map(node.get, ("apply_lora_to_mlp", "apply_lora_to_output", "trainable_modules"))):
        yield key, f"{key} is empty, so nothing is trained; name some of {known}, or set apply_lora_to_mlp: True"
    else:
        for name in (n for n in found if n not in _ATTENTION):
            hint = f" {name} {_ELSEWHERE[name]}." if name in _ELSEWHERE else near(str(name), _ATTENTION)
            yield key, f"{key} takes {known}, found {name!r}.{hint}"


def _type_faults(node: Node) -> Iterator[Fault]:
    values = [(name, node[name], kind) for name, kind in _TYPES.items() if name in node]
    for pattern, kind in _PATTERNS.items():
        found = node.get(pattern)
        if isinstance(found, Mapping):
            values += [(f"{pattern}.{name}", value, kind) for name, value in found.items()]
        elif found is not None:
            yield (
                f"model.{pattern}",
                f"model.{pattern} must be a mapping from layers to numbers, found {yaml_of(found)}",
            )
    for name, value, kind in values:
        if fault := check_value(f"model.{name}", value, kind)[1]:
            yield f"model.{name}", fault
    trained = node.get("trainable_modules", [])
    if not isinstance(trained, list) or not all(isinstance(name, str) for name in trained):
        yield "model.trainable_modules", f"model.trainable_modules must be a list of modules, found {yaml_of(trained)}"


def _resize_faults(node: Node, v: Node) -> Iterator[Fault]:
    trained = node.get("trainable_modules") or ()
    if v.get("resize_token_embeddings") and "tok_embeddings" not in trained:
        message = (
            "resize_token_embeddings adds tokens, but beside adapters the embeddings are frozen; train them with "
            "trainable_modules: [tok_embeddings] under model, or set resize_token_embeddings: False"
        )
        yield "resize_token_embeddings", message


def serving_notes(v: Node) -> list[str]:
    """What vLLM does not take of the adapter that a sound config trains, or has to be told; mostly nothing."""
    node = v.get("model")
    if not builds_adapters(node):
        return []
    rank = max([node.get("lora_rank", 0), *(node.get("rank_pattern") or {}).values()])
    most = _SERVED_RANKS[-1]
    refused = {
        "use_dora": node.get("use_dora") and "no DoRA adapter",
        "trainable_modules": node.get("trainable_modules") and "no adapter that comes with other trained modules",
        "lora_rank": rank > most and f"no adapter of a rank over {most} (the largest here is {rank})",
    }
    saved = "save_adapter_weights_only: False saves" if v.get("save_adapter_weights_only") else "are saved as well"
    merged = f"it serves the merged weights, which {saved}"
    notes = [f"model.{key}: vLLM serves {what}; {merged}" for key, what in refused.items() if what]
    if not notes and rank > _SERVED_RANK:
        needed = next(r for r in _SERVED_RANKS if r >= rank)
        notes.append(
            f"model.lora_rank: to serve rank {rank}, vLLM's max_lora_rank has to be {needed} (default {_SERVED_RANK})"
        )
    return notes
