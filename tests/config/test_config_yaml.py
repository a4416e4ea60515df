"""Reading YAML: the same values as OmegaConf, the line of each key, and errors that name the line."""

import pytest
from omegaconf import OmegaConf

from torchtune.config import Place, load, load_text
from torchtune.config._yaml import parse_text, parse_value
from torchtune.errors import ConfigError

SCALARS = [
    "1e-5", "2.5e-4", "1E5", "-1e-3", "1.", ".5", "-.5", ".5e3", "1_000", "0x1F", "0b11", "017", "-3", "true", "False",
    "yes",
    "off", "null", "~", "None", "1e-3x", "2024-01-02", "12:30", "1.2.3", "abc", "'1e-5'", ".inf", "-.inf", "1e", "e5",
]  # fmt: skip


@pytest.mark.parametrize("text", SCALARS)
def test_scalars_mean_what_omegaconf_says(text):
    ours = parse_text(f"k: {text}", "f")[0]["k"]
    theirs = OmegaConf.to_container(OmegaConf.create(f"k: {text}"))["k"]
    assert ours == theirs and type(ours) is type(theirs)


def test_lines_of_nested_keys_and_list_items():
    _, positions = parse_text("a:\n  b: 1\n\n  c:\n    - x: 2\n    - y: 3\n", "f.yaml")
    assert positions["a.b"] == Place("f.yaml", 2)
    assert positions["a.c.1.y"] == Place("f.yaml", 6)


def test_zero_padded_file_count_stays_text():
    assert parse_text("f: {filename_format: x, max_filename: 00191}", "f")[0]["f"]["max_filename"] == "00191"


def test_merge_keys_and_anchors_work():
    data, _ = parse_text("base: &b {x: 1, y: 2}\nother:\n  <<: *b\n  y: 3\n", "f")
    assert data["other"] == {"x": 1, "y": 3}


BAD = {
    "a: 1\nb: 2\na: 3\n": ["f:3:", "'a' stands twice", "line 1"],
    "o:\n  x: 1\n  x: 2\n": ["f:3:", "'o.x' stands twice"],
    "a: 1\n\tb: 2\n": ["f:2:", "tab"],
    "a: [1, 2\nb: 3\n": ["f:2:", "not YAML"],
    "a: !!python/object/apply:os.system ['id']\n": ["f:1:", "python/object/apply:os.system", "not allowed"],
    "a: !!python/name:os.system\n": ["f:1:", "not allowed"],
    "- 1\n- 2\n": ["f:1:", "a list"],
    "just text\n": ["f:1:", "single value"],
    "": ["f:", "no keys"],
    "# only a comment\n": ["f:", "no keys"],
    "a: 1\n---\nb: 2\n": ["f:2:"],
    "1: x\n": ["f:1:", "'1' must be a word"],
    "{[1]: 2}\n": ["f:1:", "plain word"],
    "a: &a {b: *a}\n": ["f:1:", "contains itself"],
    "a: " + "[" * 20_000 + "]" * 20_000: ["f:1:", "nested"],
    "a: " + "{b: " * 5_000 + "}" * 5_000: ["f:1:", "nested"],
    "a: *missing\n": ["f:1:"],
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_unreadable_text_names_the_line(text):
    with pytest.raises(ConfigError) as e:
        load_text(text, "f")
    assert all(part in str(e.value) for part in BAD[text]), str(e.value)


def test_a_few_bytes_of_aliases_cannot_stand_for_billions():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    with pytest.raises(ConfigError, match="counting aliases"):
        load_text("\n".join(lines))


def test_missing_file_names_a_neighbour(tmp_path):
    (tmp_path / "custom_config.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match="did you mean 'custom_config.yaml'"):
        load(tmp_path / "custm_config.yaml")
    with pytest.raises(ConfigError, match="folder"):
        load(tmp_path)
    (tmp_path / "w.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(tmp_path / "w.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("None", None), ("null", None), ("", ""), ("1e-5", 1e-5), ("[a,b]", ["a", "b"]), ("{x: 1}", {"x": 1}), ("3", 3),
        ("True", True), ("a: b", "a: b"), ("- x", "- x"), ("#5", "#5"), ("${output_dir}/x", "${output_dir}/x"),
        ("a=b=c", "a=b=c"), ("'00191'", "00191"), ("@x", "@x"), ("a.b.C", "a.b.C"), ("[1, 2.5]", [1, 2.5]),
    ],
)  # fmt: skip
def test_command_line_values(text, value):
    assert parse_value(text) == value
