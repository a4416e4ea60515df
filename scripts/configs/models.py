"""The pretrained models of the shipped configs: where each comes from and which parts read it."""

from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Model:
    """One pretrained model.

    Args:
        repo: its repository on the Hugging Face Hub.
        component: the builder below `torchtune.models`.
        model_type: how checkpoints of this kind are named in configs; None leaves it to their config.json.
        skip: the files of the repository that are not needed; None if all are.
        tokenizer: the tokenizer builder below `torchtune.models`.
        tokenizer_files: pairs of an argument of that builder and a path below the model's folder.
        weights: what the folder holds the weights as.
        checkpoint_folder: path of the weights below the model's folder.
        tied: whether its output projection is its embedding, so that it gets no adapter.
        any: whether it stands for every model that the config's checkpoint_dir may hold.
    """

    title: str
    repo: str
    component: str
    model_type: str | None
    skip: str | None = None
    tokenizer: str = "llama3.llama3_tokenizer"
    tokenizer_files: tuple[tuple[str, str], ...] = (("path", "original/tokenizer.model"),)
    checkpointer: str = "FullModelHFCheckpointer"
    weights: str = "*.safetensors or *.bin"
    checkpoint_folder: str = ""
    tied: bool = False
    any: bool = False

    @property
    def folder(self) -> str:
        return f"/tmp/{self.repo.split('/')[1]}"


ANY = Model(
    "Any model of a supported family",
    "Qwen/Qwen3-0.6B",
    "auto",
    None,
    tokenizer="auto_tokenizer",
    tokenizer_files=(("path", ""),),
    any=True,
)

_SENTENCEPIECE = (("path", "tokenizer.model"),)
_BYTE_PAIRS = (("path", "vocab.json"), ("merges_file", "merges.txt"))

_llama2 = partial(
    Model, model_type="LLAMA2", skip="*.bin", tokenizer="llama2.llama2_tokenizer", tokenizer_files=_SENTENCEPIECE
)
LLAMA2_7B = _llama2("Llama 2 7B", "meta-llama/Llama-2-7b-hf", "llama2.llama2_7b")
LLAMA2_13B = _llama2("Llama 2 13B", "meta-llama/Llama-2-13b-hf", "llama2.llama2_13b")
LLAMA2_70B = _llama2("Llama 2 70B", "meta-llama/Llama-2-70b-hf", "llama2.llama2_70b")
CODE_LLAMA2_7B = _llama2("Code Llama 2 7B", "codellama/CodeLlama-7b-hf", "code_llama2.code_llama2_7b")

_llama3 = partial(Model, model_type="LLAMA3", skip="original/consolidated*")
_llama3_2 = partial(_llama3, model_type="LLAMA3_2", tied=True)
LLAMA3_8B = _llama3(
    "Llama 3 8B",
    "meta-llama/Meta-Llama-3-8B-Instruct",
    "llama3.llama3_8b",
    skip="*.safetensors",
    checkpointer="FullModelMetaCheckpointer",
    weights="consolidated.*.pth",
    checkpoint_folder="/original",
)
LLAMA3_70B = _llama3("Llama 3 70B", "meta-llama/Meta-Llama-3-70B-Instruct", "llama3.llama3_70b")
LLAMA3_1_8B = _llama3("Llama 3.1 8B", "meta-llama/Meta-Llama-3.1-8B-Instruct", "llama3_1.llama3_1_8b")
LLAMA3_1_70B = _llama3("Llama 3.1 70B", "meta-llama/Meta-Llama-3.1-70B-Instruct", "llama3_1.llama3_1_70b")
LLAMA3_1_405B = _llama3(
    "Llama 3.1 405B",
    "meta-llama/Meta-Llama-3.1-405B-Instruct",
    "llama3_1.llama3_1_405b",
    skip="original/*consolidated*",
    tokenizer_files=(("path", "original/mp8/tokenizer.model"),),
)
LLAMA3_2_1B = _llama3_2("Llama 3.2 1B", "meta-llama/Llama-3.2-1B-Instruct", "llama3_2.llama3_2_1b")
LLAMA3_2_3B = _llama3_2("Llama 3.2 3B", "meta-llama/Llama-3.2-3B-Instruct", "llama3_2.llama3_2_3b")
LLAMA3_3_70B = _llama3("Llama 3.3 70B", "meta-llama/Llama-3.3-70B-Instruct", "llama3_3.llama3_3_70b")

MISTRAL_7B = Model(
    "Mistral 7B",
    "mistralai/Mistral-7B-v0.1",
    "mistral.mistral_7b",
    "MISTRAL",
    skip="*.bin",
    tokenizer="mistral.mistral_tokenizer",
    tokenizer_files=_SENTENCEPIECE,
)

_gemma = partial(
    Model,
    model_type="GEMMA",
    skip="*.gguf",
    tokenizer="gemma.gemma_tokenizer",
    tokenizer_files=_SENTENCEPIECE,
    tied=True,
)
_gemma2 = partial(_gemma, model_type="GEMMA2", skip=None)
GEMMA_2B = _gemma("Gemma 2B", "google/gemma-2b", "gemma.gemma_2b")
GEMMA_7B = _gemma("Gemma 7B", "google/gemma-7b", "gemma.gemma_7b")
GEMMA2_2B = _gemma2("Gemma 2 2B", "google/gemma-2-2b", "gemma2.gemma2_2b")
GEMMA2_9B = _gemma2("Gemma 2 9B", "google/gemma-2-9b", "gemma2.gemma2_9b")
GEMMA2_27B = _gemma2("Gemma 2 27B", "google/gemma-2-27b", "gemma2.gemma2_27b")

PHI3_MINI = Model(
    "Phi 3 mini",
    "microsoft/Phi-3-mini-4k-instruct",
    "phi3.phi3_mini",
    "PHI3_MINI",
    tokenizer="phi3.phi3_mini_tokenizer",
    tokenizer_files=_SENTENCEPIECE,
)
PHI4_14B = Model(
    "Phi 4 14B",
    "microsoft/phi-4",
    "phi4.phi4_14b",
    "PHI4",
    tokenizer="phi4.phi4_tokenizer",
    tokenizer_files=(("vocab_path", "vocab.json"), ("merges_path", "merges.txt")),
)

_qwen2 = partial(Model, model_type="QWEN2", tokenizer="qwen2.qwen2_tokenizer", tokenizer_files=_BYTE_PAIRS)
QWEN2_0_5B = _qwen2("Qwen 2 0.5B", "Qwen/Qwen2-0.5B-Instruct", "qwen2.qwen2_0_5b", tied=True)
QWEN2_1_5B = _qwen2("Qwen 2 1.5B", "Qwen/Qwen2-1.5B-Instruct", "qwen2.qwen2_1_5b", tied=True)
QWEN2_7B = _qwen2("Qwen 2 7B", "Qwen/Qwen2-7B-Instruct", "qwen2.qwen2_7b")

_qwen2_5 = partial(_qwen2, tokenizer="qwen2_5.qwen2_5_tokenizer")
QWEN2_5_0_5B = _qwen2_5("Qwen 2.5 0.5B", "Qwen/Qwen2.5-0.5B-Instruct", "qwen2_5.qwen2_5_0_5b", tied=True)
QWEN2_5_1_5B = _qwen2_5("Qwen 2.5 1.5B", "Qwen/Qwen2.5-1.5B-Instruct", "qwen2_5.qwen2_5_1_5b_instruct", tied=True)
QWEN2_5_3B = _qwen2_5("Qwen 2.5 3B", "Qwen/Qwen2.5-3B-Instruct", "qwen2_5.qwen2_5_3b", tied=True)
QWEN2_5_7B = _qwen2_5("Qwen 2.5 7B", "Qwen/Qwen2.5-7B-Instruct", "qwen2_5.qwen2_5_7b_instruct")
QWEN2_5_14B = _qwen2_5("Qwen 2.5 14B", "Qwen/Qwen2.5-14B-Instruct", "qwen2_5.qwen2_5_14b_instruct")
QWEN2_5_32B = _qwen2_5("Qwen 2.5 32B", "Qwen/Qwen2.5-32B-Instruct", "qwen2_5.qwen2_5_32b_instruct")
QWEN2_5_72B = _qwen2_5("Qwen 2.5 72B", "Qwen/Qwen2.5-72B-Instruct", "qwen2_5.qwen2_5_72b_instruct")

_qwen3 = partial(Model, model_type="QWEN3", tokenizer="qwen3.qwen3_tokenizer", tokenizer_files=_BYTE_PAIRS)
QWEN3_0_6B = _qwen3("Qwen 3 0.6B", "Qwen/Qwen3-0.6B", "qwen3.qwen3_0_6b_instruct", tied=True)
QWEN3_1_7B = _qwen3("Qwen 3 1.7B", "Qwen/Qwen3-1.7B", "qwen3.qwen3_1_7b_instruct", tied=True)
QWEN3_4B = _qwen3("Qwen 3 4B", "Qwen/Qwen3-4B", "qwen3.qwen3_4b_instruct", tied=True)
QWEN3_8B = _qwen3("Qwen 3 8B", "Qwen/Qwen3-8B", "qwen3.qwen3_8b_instruct")
QWEN3_14B = _qwen3("Qwen 3 14B", "Qwen/Qwen3-14B", "qwen3.qwen3_14b_instruct")
QWEN3_32B = _qwen3("Qwen 3 32B", "Qwen/Qwen3-32B", "qwen3.qwen3_32b")
