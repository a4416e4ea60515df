"""A model as lm_eval asks for it: log-likelihoods and generated text. Importing this needs lm_eval."""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from tqdm import tqdm

from torchtune.errors import ConfigError, DataError
from torchtune.evaluation._text import NamedTokens
from torchtune.generation import answer_text, contains_stop, decode
from torchtune.modules import TransformerDecoder

T = TypeVar("T")
_MAX_NEW_TOKENS = 256  # for tasks that do not say; lm_eval's number for all its models

logger = logging.getLogger(__name__)


class HarnessModel(TemplateLM):
    """Answers lm_eval's requests as its own Hugging Face model does: same tokens, same truncation, same scores.

    Args:
        max_seq_length: tokens; of a longer text only the end is read.
        enable_kv_cache: False generates without; see :func:`torchtune.generation.stream`.

    Raises:
        ConfigError: the model has fewer positions than ``max_seq_length``.
    """

    def __init__(
        self,
        model: TransformerDecoder,
        tokenizer: Any,
        *,
        max_seq_length: int,
        batch_size: int = 1,
        enable_kv_cache: bool = True,
    ) -> None:
        super().__init__()
        if max_seq_length > model.max_seq_len:
            raise ConfigError(
                f"max_seq_length is {max_seq_length}, but the model has {model.max_seq_len} positions; set it to at "
                f"most {model.max_seq_len}"
            )
        self._model, self._tokenizer = model, tokenizer
        self._text = NamedTokens(tokenizer, model.tok_embeddings.num_embeddings)
        self._device = model.tok_embeddings.weight.device
        self.max_length, self.batch_size, self.enable_kv_cache = max_seq_length, batch_size, enable_kv_cache

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What the first token of a text is predicted from."""
        return self.eot_token_id if self._tokenizer.bos_id is None else self._tokenizer.bos_id

    @property
    def tokenizer_name(self) -> str:
        """What lm_eval tells the requests of different dialogue formats apart by."""
        return type(self._tokenizer).__name__

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text.

        Args:
            add_special_tokens: begin with the token that begins a text; None does so unless its name is there already.
        """
        bos, name = self._tokenizer.bos_id, self._text.bos_name
        if add_special_tokens is None:
            add_special_tokens = name is None or not string.startswith(name)
        return ([bos] if add_special_tokens and bos is not None else []) + self._text.encode(string)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A dialogue as text, open for the model's answer, or for the rest of the one that it ends with."""
        return self._text.dialogue(chat_history)

    # Log-likelihoods -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """For each (_, context, continuation): the continuation's log-likelihood, and whether greedy decoding gives it.

        Raises:
            DataError: a continuation alone is longer than ``max_length``.
        """
        self._check_lengths(requests)
        inputs: dict[tuple[int, ...], list[int]] = defaultdict(list)  # what the model reads -> whom that answers
        for number, (_, context, continuation) in enumerate(requests):
            inputs[tuple((context + continuation)[-self.max_length - 1 : -1])].append(number)
        answers = [(0.0, True)] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            for batch in _batches(inputs, len, self.batch_size):
                for row, hidden in zip(batch, self._hidden_states(batch)):
                    continuations = {number: requests[number][2] for number in inputs[row]}
                    scored = max(map(len, continuations.values()))
                    # Of a long context the logits can take more memory than the model, and nobody asks for them.
                    logits = self._model.project(hidden[None, len(row) - scored : len(row)])[0].float()
                    for number, continuation in continuations.items():
                        answers[number] = _score(logits[scored - len(continuation) :], continuation)
                    bar.update(len(continuations))
        return answers

    def _check_lengths(self, requests: Sequence[tuple[Any, list[int], list[int]]]) -> None:
        longest = max((len(continuation) for _, _, continuation in requests), default=0)
        if longest > self.max_length:
            raise DataError(f"an answer has {longest} tokens, max_seq_length is {self.max_length}; set it to as many")
        cut = sum(len(context) + len(continuation) > self.max_length + 1 for _, context, continuation in requests)
        self._say_cut(cut, len(requests), self.max_length)

    def _hidden_states(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        """[B, S, D], normed; short rows are filled up at their end, where no token before looks."""
        tokens = torch.tensor([[*row, *[0] * (len(rows[0]) - len(row))] for row in rows], device=self._device)
        self._model.skip_output_layer = True
        try:
            return self._model(tokens)
        finally:
            self._model.skip_output_layer = False

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each text, read in windows of ``max_length`` that share as little as they can."""
        owners, windows = [], []
        for number, request in enumerate(requests):
            # A text that begins with a token of its own is scored with that, after the prefix: so does lm_eval's model.
            ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1):
                owners.append(number)
                windows.append((None, *make_disjoint_window(window)))
        totals = [0.0] * len(requests)
        for owner, (score, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)):
            totals[owner] += score
        return totals

    # Generation ------------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each text, up to the first of the strings that the task names.

        Raises:
            ConfigError: a task has a setting that :func:`torchtune.generation.decode` has not, or wants as many new
                tokens as ``max_length``.
        """
        alike: dict[str, list[int]] = defaultdict(list)  # only texts with the same settings share a batch
        for number, request in enumerate(requests):
            alike[json.dumps(request.args[1], sort_keys=True)].append(number)
        answers: dict[int, str] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for numbers in alike.values():
                until, options = _generation_options(requests[numbers[0]].args[1])
                prompts = self._prompts([requests[number].args[0] for number in numbers], options["max_new_tokens"])
                for batch in _batches(zip(numbers, prompts), lambda item: len(item[1]), self.batch_size):
                    for (number, _), text in zip(batch, self._continue([ids for _, ids in batch], until, options)):
                        answers[number] = text
                    bar.update(len(batch))
        return [answers[number] for number in range(len(requests))]

    def _prompts(self, texts: Sequence[str], max_new_tokens: int) -> list[list[int]]:
        room = self.max_length - max_new_tokens
        if room < 1:
            raise ConfigError(
                f"a task wants {max_new_tokens} new tokens, and max_seq_length is {self.max_length}, which leaves no "
                "room for prompts; set it to more"
            )
        prompts = [self.tok_encode(text) for text in texts]
        self._say_cut(sum(len(ids) > room for ids in prompts), len(prompts), room)
        return [ids[-room:] for ids in prompts]

    def _continue(self, prompts: Sequence[list[int]], until: list[str], options: Mapping[str, Any]) -> list[str]:
        written = decode(
            self._model,
            prompts,
            stop_tokens=self._tokenizer.stop_tokens,
            ends=contains_stop(self._tokenizer, until),
            enable_kv_cache=self.enable_kv_cache,
            **options,
        )
        return [answer_text(self._tokenizer, tokens, until) for tokens in written]

    @staticmethod
    def _say_cut(count: int, total: int, limit: int) -> None:
        if count:
            logger.warning("Only the last %d tokens are read of %d texts out of %d.", limit, count, total)


def _batches(items: Iterable[T], length: Callable[[T], int], size: int) -> Iterator[list[T]]:
    """The items, longest first: those of a batch are of like length, and too little memory shows at once."""
    ordered = sorted(items, key=length, reverse=True)
    return (ordered[first : first + size] for first in range(0, len(ordered), size))


def _score(logits: Tensor, continuation: Sequence[int]) -> tuple[float, bool]:
    """Log-likelihood of tokens [S] under logits [S, V], and whether each is the likeliest."""
    tokens = torch.tensor(continuation, dtype=torch.long, device=logits.device)
    score = logits.log_softmax(-1).gather(-1, tokens[:, None]).sum()
    return score.item(), bool((logits.argmax(-1) == tokens).all())


def _generation_options(given: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """(the strings that end an answer, options of ``decode``) for the ``generation_kwargs`` of a task."""
    rest = dict(normalize_gen_kwargs(given, _MAX_NEW_TOKENS))
    until = [string for string in rest.pop("until") if string]
    options = {"max_new_tokens": rest.pop("max_gen_toks"), "temperature": float(rest.pop("temperature", 0))}
    options |= {name: rest.pop(name) or None for name in ("top_k", "top_p") if name in rest}
    rest = {name: value for name, value in rest.items() if (name, value) != ("num_beams", 1) and name != "do_sample"}
    if rest:
        raise ConfigError(
            f"generation_kwargs of a task: {', '.join(rest)} cannot be followed; of the settings besides until and "
            "max_gen_toks only do_sample, temperature, top_k and top_p can"
        )
    return until, options
