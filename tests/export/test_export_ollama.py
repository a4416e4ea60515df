"""Modelfiles. Their templates are rendered by Go where it is installed, and by an interpreter of the few words used."""

import json
import re
import shutil
import subprocess

import pytest
from export_models import edit
from family_models import READ, make
from gguf import GGUFReader
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from torchtune.data import Message
from torchtune.errors import CheckpointError
from torchtune.export._ollama import modelfile
from torchtune.export._ollama_formats import (
    GEMMA,
    LLAMA2,
    LLAMA3,
    MISTRAL_V1,
    MISTRAL_V3,
    MISTRAL_V7,
    PHI3,
    PHI4,
    QWEN2,
    QWEN2_5,
    QWEN3,
)  # fmt: skip
from torchtune.export._tokenizer import trained_tokenizer
from torchtune.export._verify import DIALOGUES
from torchtune.models.gemma import GemmaChatTemplate, GemmaTokenizer
from torchtune.models.gemma3 import Gemma3ChatTemplate
from torchtune.models.phi3 import Phi3MiniTokenizer
from torchtune.models.phi4 import Phi4Tokenizer
from torchtune.models.qwen2 import Qwen2Tokenizer
from torchtune.models.qwen2_5 import Qwen2_5Tokenizer
from torchtune.models.qwen3 import Qwen3Tokenizer
from torchtune.modules.transforms.tokenizers._tokenizer_json import encode_ids, load_tokenizer_json

LONG = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d"},
    {"role": "user", "content": "e"},
]
GO = """
package main

import (
    "encoding/json"
    "os"
    "text/template"
)

type Message struct{ Role, Content string }

func main() {
    var asked struct {
        Template string
        Messages []Message
    }
    if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
        panic(err)
    }
    if err := template.Must(template.New("").Parse(asked.Template)).Execute(os.Stdout, asked); err != nil {
        panic(err)
    }
}
"""


def by_go(template, messages, folder):
    (folder / "main.go").write_text(GO)
    rows = [{"Role": m["role"], "Content": m["content"]} for m in messages]
    asked = json.dumps({"Template": template, "Messages": rows})
    done = subprocess.run(
        ["go", "run", str(folder / "main.go")],
        input=asked, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout


class Go:
    """As much of https://pkg.go.dev/text/template as the templates use: if, else, range, variables, some functions."""

    def __init__(self, template):
        pieces = re.split(r"\{\{(-? ?.*?)\}\}", template, flags=re.DOTALL)
        self.nodes = []
        for number, piece in enumerate(pieces):
            if number % 2 == 0:
                self.nodes.append(("text", piece))
            else:
                if piece.startswith("-"):
                    self.nodes[-1] = ("text", self.nodes[-1][1].rstrip())
                self.nodes.append(("action", piece.removeprefix("-").strip()))

    def render(self, messages):
        self.messages, self.variables, self.out = messages, {}, []
        self._run(0, None, active=True)
        return "".join(self.out)

    def _run(self, at, dot, active):
        """Runs to the ``else`` or ``end`` that belongs to this level; gives its place."""
        while at < len(self.nodes):
            kind, text = self.nodes[at]
            word = text.split(" ")[0] if kind == "action" else None
            if word in ("end", "else"):
                return at
            if word == "range":
                at = self._range(at, text, active)
            elif word == "if":
                at = self._if(at, text.removeprefix("if "), dot, active)
            elif kind == "text":
                self.out += [text] * active
            elif active and (found := re.fullmatch(r"(\$\w+) :?= (.*)", text)):
                self.variables[found[1]] = self._value(found[2], dot)
            elif active:
                self.out.append(self._value(text, dot))
            at += 1
        return at

    def _range(self, at, text, active):
        names = re.fullmatch(r"range (\$\w+), (\$\w+) := \.Messages", text).groups()
        for number, message in enumerate(self.messages if active else [None]):
            self.variables |= dict(zip(names, (number, message)))
            end = self._run(at + 1, message, active)
        return end

    def _if(self, at, condition, dot, active):
        true = active and bool(self._value(condition, dot))
        at, done = self._run(at + 1, dot, true), true
        while self.nodes[at][1] != "end":
            text = self.nodes[at][1].removeprefix("else").strip().removeprefix("if ")
            now = active and not done and (not text or bool(self._value(text, dot)))
            at, done = self._run(at + 1, dot, now), done or now
        return at

    def _value(self, text, dot):
        return self._call(re.findall(r"\(|\)|\"[^\"]*\"|[^\s()]+", text), dot)

    def _call(self, words, dot):
        values = []
        while words and words[0] != ")":
            word = words.pop(0)
            if word == "(":
                values.append(self._call(words, dot))
                words.pop(0)
            else:
                values.append(self._atom(word, dot))
        functions = {
            "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "not": lambda a: not a, "len": len,
            "and": lambda *a: next((x for x in a if not x), a[-1]), "slice": lambda a, i: a[i:],
        }  # fmt: skip
        return functions[values[0]](*values[1:]) if values[0] in functions and len(values) > 1 else values[0]

    def _atom(self, word, dot):
        if word.startswith('"'):
            return word.strip('"')
        if word.startswith("."):
            return dot[word[1:].lower()]
        return (
            self.messages if word == "$.Messages" else self.variables.get(word, int(word) if word.isdigit() else word)
        )


def by_interpreter(template, messages, folder):
    return Go(template).render(messages)


RENDERERS = [
    pytest.param(by_interpreter, id="interpreter"),
    pytest.param(by_go, id="go", marks=pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")),
]


@pytest.mark.parametrize("render", RENDERERS)
@pytest.mark.parametrize("messages", [*DIALOGUES, LONG, LONG[:-1]], ids=["user", "system", "turns", "long", "open"])
@pytest.mark.parametrize(
    ("name", "chat"),
    [("llama3", LLAMA3), ("llama2", LLAMA2), ("mistral_7b", MISTRAL_V1), ("nemo", MISTRAL_V7)],
    ids=["llama3", "llama2", "mistral v1", "mistral v7"],
)
def test_template_gives_the_tokens_of_training(models, tmp_path, name, chat, messages, render):
    compare(models[name], trained_tokenizer(models[name]), chat, messages, render, tmp_path)


TOKENIZERS = {
    "qwen2": (QWEN2, lambda path: Qwen2Tokenizer(path)),
    "qwen2.5": (QWEN2_5, lambda path: Qwen2_5Tokenizer(path)),
    "qwen3": (QWEN3, lambda path: Qwen3Tokenizer(path)),
    "gemma2": (GEMMA, lambda path: GemmaTokenizer(path, prompt_template=GemmaChatTemplate())),
    "gemma3": (GEMMA, lambda path: GemmaTokenizer(path, prompt_template=Gemma3ChatTemplate())),
    "phi3": (PHI3, lambda path: Phi3MiniTokenizer(path)),
    "phi4": (PHI4, lambda path: Phi4Tokenizer(path)),
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Folders with the tokenizers of these families."""
    root = tmp_path_factory.mktemp("words")
    of_family = {name: READ[name.partition(".")[0]].tokenizer for name in TOKENIZERS}
    for name, write in of_family.items():
        (root / name).mkdir()
        write(root / name)
    return root


@pytest.mark.parametrize("render", RENDERERS)
@pytest.mark.parametrize("messages", [*DIALOGUES, LONG, LONG[:-1]], ids=["user", "system", "turns", "long", "open"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_template_of_other_families_gives_the_tokens_of_training(words, tmp_path, name, messages, render):
    chat, tokenizer = TOKENIZERS[name]
    if name == "gemma2":  # which has no system message
        messages = [m for m in messages if m["role"] != "system"]
    compare(words / name, tokenizer(str(words / name / "tokenizer.json")), chat, messages, render, tmp_path)


def compare(folder, tokenizer, chat, messages, render, place):
    text = chat.begin + render(chat.template, messages, place)
    dialogue = [Message(m["role"], m["content"]) for m in messages]
    begun = [] if messages[-1]["role"] == "assistant" else [Message("assistant", "")]
    expected, _ = tokenizer.tokenize_messages([*dialogue, *begun], add_end_tokens=False)
    assert encode_ids(load_tokenizer_json(folder / "tokenizer.json"), text) == expected


@pytest.mark.parametrize(
    ("name", "chat"), [("qwen2", QWEN2), ("qwen3", QWEN3), ("gemma3", GEMMA), ("phi3", PHI3), ("phi4", PHI4)]
)
def test_the_format_is_found_by_family_and_vocabulary(export, tmp_path, name, chat):
    written = (export(make(tmp_path / "model", READ[name]), "ollama") / "Modelfile").read_text()
    assert f'TEMPLATE """{chat.template}"""' in written and "SYSTEM" not in written


def test_the_mistrals(models, export):
    for name, chat in {"mistral_7b": MISTRAL_V1, "nemo": MISTRAL_V7}.items():
        assert chat.template in (export(models[name], "ollama", force=True) / "Modelfile").read_text()


@pytest.fixture(scope="module")
def third_version(models, tmp_path_factory):
    """Mistral Nemo without the tokens that later versions have."""
    folder = shutil.copytree(models["nemo"], tmp_path_factory.mktemp("mistral") / "v3")
    text = (folder / "tokenizer.json").read_text()
    for number, name in enumerate(("SYSTEM_PROMPT", "/SYSTEM_PROMPT", "TOOL_CONTENT")):
        text = text.replace(f"[{name}]", f"<SPARE_{number}>")
    (folder / "tokenizer.json").write_text(text)
    return folder


@pytest.mark.parametrize("render", RENDERERS)
@pytest.mark.parametrize("messages", [*DIALOGUES, LONG, LONG[:-1]], ids=["user", "system", "turns", "long", "open"])
def test_mistrals_third_version(third_version, tmp_path, messages, render):
    compare(third_version, trained_tokenizer(third_version), MISTRAL_V3, messages, render, tmp_path)


def test_mistrals_third_version_is_found(third_version, export):
    assert MISTRAL_V3.template in (export(third_version, "ollama") / "Modelfile").read_text()


def test_modelfile(models, export, tmp_path):
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    edit(folder / "generation_config.json", temperature=0.6, top_p=0.9)
    lines = (export(folder, "ollama", quantize="q8_0") / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./model-Q8_0.gguf" and (tmp_path / "ollama" / "model-Q8_0.gguf").is_file()
    assert {'PARAMETER stop "<|eot_id|>"', "PARAMETER temperature 0.6", "PARAMETER top_p 0.9"} <= set(lines)
    assert lines[1].startswith('TEMPLATE """<|begin_of_text|>{{')  # since this tokenizer does not add it


def test_the_token_that_begins_a_dialogue_comes_once(models, export, tmp_path):
    """Llama 3's own tokenizer.json adds it, and says so in the GGUF file; then the template must not."""
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    begin = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[begin])
    tokenizer.save(str(folder / "tokenizer.json"))
    target = export(folder, "ollama", quantize="f32")
    assert GGUFReader(target / "model-F32.gguf").fields["tokenizer.ggml.add_bos_token"].contents() is True
    assert '"""{{- range' in (target / "Modelfile").read_text()


def test_sentencepiece_adds_the_token_that_begins_a_dialogue(models, export):
    assert '"""{{- $system' in (export(models["llama2"], "ollama") / "Modelfile").read_text()
    assert '"""<s>{{- $system' in modelfile("x.gguf", LLAMA2, add_begin=True, sampling={})


def test_a_format_of_dialogues_that_is_not_known(models, export, tmp_path):
    folder = shutil.copytree(models["llama3"], tmp_path / "model")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<|start_header_id|>", "<|turn|>"))
    with pytest.raises(CheckpointError, match="none of the formats .*Llama 3, Llama 2, Mistral v1.*--to gguf"):
        export(folder, "ollama")
