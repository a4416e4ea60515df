"""Streams: the rows of a whole dataset, in an order that can be taken up at any sample."""

import gzip
import json
import logging
import multiprocessing
import subprocess
import tracemalloc
from functools import partial

import datasets as hub
import pytest
import torch
from letters import Letters
from test_builders import text

from torchtune import datasets
from torchtune.data import padded_collate_packed, padded_collate_sft
from torchtune.data._stream import Order
from torchtune.data._stream_loader import StreamLoader
from torchtune.datasets._mixture import MixtureStream
from torchtune.datasets._packed_stream import PackedStream
from torchtune.errors import ConfigError, DataError

ROWS = [{"input": f"{i}?", "output": "x" * (i % 7 + 1)} for i in range(120)]
STORED, SHUFFLED = Order((), shuffle=False), Order((5, 0), shuffle=True)


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hub.disable_progress_bars()
    for number in range(3):
        rows = ROWS[40 * number : 40 * number + 40]
        (tmp_path / f"part{number}.jsonl").write_bytes(lines(rows))
        (tmp_path / f"part{number}.jsonl.gz").write_bytes(gzip.compress(lines(rows)))
        (tmp_path / f"part{number}.csv").write_text(
            "input,output\n" + "".join(f"{r['input']},{r['output']}\n" for r in rows)
        )
        hub.Dataset.from_list(rows).to_parquet(tmp_path / f"part{number}.parquet", batch_size=16)
    return tmp_path


SOURCES = {
    "lines": {"source": "json", "data_files": "part?.jsonl"},
    "compressed": {"source": "json", "data_files": "part?.jsonl.gz"},
    "csv": {"source": "part?.csv"},
    "parquet": {"source": "part?.parquet"},
    "by the datasets package": {"source": "json", "data_files": "part?.jsonl", "cache_dir": "cache"},
}


def is_short(row) -> bool:
    return len(row["output"]) < 100


def stream(options=SOURCES["lines"], **more):
    return datasets.instruct_dataset(Letters(), streaming=True, **{"shuffle_buffer": 16, **options, **more})


def said(samples) -> list[str]:
    return [text(sample["tokens"]) for sample in samples]


def drawn(source, order, at=None) -> list:
    return [(list(found.make()["tokens"]), found.position) for found in source.samples(order, at)]


@pytest.mark.parametrize("name", SOURCES)
def test_a_stream_has_the_samples_of_the_dataset(name, folder):
    whole = datasets.instruct_dataset(Letters(), **SOURCES["lines"])
    assert said(stream(SOURCES[name])) == said(whole)
    assert sorted(said(found.make() for found in stream(SOURCES[name]).samples(SHUFFLED))) == sorted(said(whole))


@pytest.mark.parametrize("order", [STORED, SHUFFLED], ids=["stored", "shuffled"])
@pytest.mark.parametrize("name", SOURCES)
def test_it_goes_on_from_every_position(name, order, folder):
    whole = drawn(stream(SOURCES[name]), order)
    assert len(whole) == 120
    for after in (0, 1, 15, 16, 17, 39, 40, 41, 100, 119):
        position = json.loads(json.dumps(whole[after][1]))
        assert drawn(stream(SOURCES[name]), order, position) == whole[after + 1 :]


def test_orders_differ_by_epoch_and_mix_files(folder):
    first, second = (said(f.make() for f in stream().samples(Order((5, epoch), True))) for epoch in (0, 1))
    assert first != second and sorted(first) == sorted(second)
    assert first == said(found.make() for found in stream().samples(SHUFFLED))
    firsts = {
        said(f.make() for f in stream().samples(Order((seed, 0), True)))[0].partition("?")[0] for seed in range(9)
    }
    assert any(int(number) >= 40 for number in firsts)  # not always the first file
    one = stream(shuffle_buffer=1)
    order = [int(s.partition("?")[0]) for s in said(f.make() for f in one.samples(SHUFFLED))]
    assert order != sorted(order) and all(b == a + 1 for a, b in zip(order, order[1:]) if b % 40)  # files, not rows


@pytest.fixture
def long(folder, monkeypatch):
    """Makes streams that are packed in several rounds."""
    monkeypatch.setattr("torchtune.datasets._packed_stream._PACKS_AT_ONCE", 4)
    return stream


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("order", [STORED, SHUFFLED], ids=["stored", "shuffled"])
def test_packs_have_every_token_once_and_go_on_from_every_position(order, split, long):
    packs = PackedStream(long(), max_seq_len=24, padding_idx=0, split_across_pack=split)
    whole = list(packs.samples(order))
    tokens = [token for found in whole for token in found.make()["tokens"].tolist() if token]
    assert sorted(tokens) == sorted(token for sample in long() for token in sample["tokens"])
    assert all(len(found.make()["tokens"]) == 24 for found in whole)
    for after in range(0, len(whole) - 1, 3):
        rest = packs.samples(order, json.loads(json.dumps(whole[after].position)))
        for found, expected in zip(rest, whole[after + 1 :], strict=True):
            assert torch.equal(found.make()["tokens"], expected.make()["tokens"])
            assert found.position == expected.position


def test_packed_and_unpacked_builders(folder):
    packed = datasets.instruct_dataset(Letters(24), streaming=True, packed=True, **SOURCES["lines"])
    assert isinstance(packed, PackedStream) and packed.packed
    texts = datasets.text_completion_dataset(Letters(24), "part0.jsonl", "output", streaming=True, packed=True)
    assert next(iter(texts))["tokens"][:5].tolist() == [2, ord("x"), 3, 2, ord("x")]
    pairs = [{"chosen": talk, "rejected": talk} for talk in [[{"role": "user", "content": "a"}]]]
    (folder / "pairs.jsonl").write_bytes(lines(pairs))
    (pair,) = datasets.preference_dataset(Letters(), source="pairs.jsonl", streaming=True)
    assert pair["chosen_input_ids"] == [ord("a")]


def test_samples_without_a_target_are_counted(folder, caplog):
    rows = [{"input": "a" * 30, "output": "b"} if i % 2 else ROWS[i] for i in range(12)]
    (folder / "cut.jsonl").write_bytes(lines(rows))

    class Cutting(Letters):
        def __call__(self, sample, inference=False):
            return {key: value[:20] for key, value in super().__call__(sample).items()}

    packed = datasets.instruct_dataset(Cutting(20), source="cut.jsonl", streaming=True, packed=True)
    with caplog.at_level(logging.WARNING):
        assert len(list(packed)) > 0
    assert "left out 4 sample(s) of the stream so far" in caplog.text


def loader(source, collate=padded_collate_sft, **changes) -> StreamLoader:
    arguments = {"batch_size": 2, "collate_fn": collate, "seed": 3, "shuffle": True, **changes}
    return StreamLoader(source, **arguments)


def tokens(steps) -> list:
    return [[batch["tokens"].tolist() for batch in step] for step in steps]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_two_processes_see_in_a_step_what_one_sees_with_twice_the_accumulation(packed, workers, long):
    source = PackedStream(long(), max_seq_len=24) if packed else long()
    collate = padded_collate_packed if packed else padded_collate_sft
    one = tokens(loader(source, collate, gradient_accumulation_steps=4).epoch(1))
    options = {"gradient_accumulation_steps": 2, "world_size": 2, "num_workers": workers}
    ranks = [tokens(loader(source, collate, rank=rank, **options).epoch(1)) for rank in range(2)]
    assert len(one) >= 4
    for whole, first, second in zip(one, *ranks, strict=True):
        assert [first[0], second[0], first[1], second[1]] == whole


@pytest.mark.parametrize("name", SOURCES)
def test_a_process_that_prepares_batches_gives_the_same(name, folder):
    here, there = (tokens(loader(stream(SOURCES[name]), num_workers=workers).epoch(2)) for workers in (0, 1))
    assert len(here) == 60 and there == here


def test_a_signal_to_all_processes_does_not_end_the_one_that_prepares_batches(folder):
    before = multiprocessing.active_children()
    steps = loader(stream(), num_workers=1).epoch(0)
    first = next(steps)
    (child,) = set(multiprocessing.active_children()) - set(before)
    subprocess.run(["kill", "-TERM", str(child.pid)], check=True)
    assert tokens([first, *steps]) == tokens(loader(stream()).epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("source", ["rows", "packs", "mixture"])
def test_a_loader_goes_on_where_another_has_stopped_also_with_other_processes(source, workers, long):
    def make():
        packs = PackedStream(long(), max_seq_len=24)
        return {"rows": long(), "packs": packs, "mixture": MixtureStream([packs, packs], [3, 1])}[source]

    collate = padded_collate_sft if source == "rows" else padded_collate_packed
    first = loader(make(), collate, gradient_accumulation_steps=2, num_workers=workers)
    steps = first.epoch(0)
    next(steps), next(steps)
    state = json.loads(json.dumps(first.state_dict()))
    assert (state["epoch"], state["step"]) == (0, 2) and len(json.dumps(state)) < 300
    rest = tokens(steps)
    second = loader(make(), collate, gradient_accumulation_steps=2)
    second.load_state_dict(state)
    assert second.state_dict() == state
    assert tokens(second.epoch(0, 2)) == rest
    assert tokens(loader(make(), collate, gradient_accumulation_steps=2).epoch(0, 2)) == rest  # without the position
    two = [loader(make(), collate, world_size=2, rank=rank) for rank in range(2)]
    for each in two:
        each.load_state_dict(state)
    assert [[*a, *b] for a, b in zip(*(tokens(each.epoch(0, 2)) for each in two), strict=True)] == rest


def test_a_row_that_cannot_be_used_is_named_before_training_or_in_it(folder):
    (folder / "bad.jsonl").write_bytes(lines(ROWS[:3]) + b'{"input": "a"}\n')
    with pytest.raises(DataError, match="bad.jsonl, line 4: .*'output'"):
        stream({"source": "bad.jsonl"})
    (folder / "late.jsonl").write_bytes(lines(ROWS) + b'{"input": "a", \n')
    for workers in (0, 1):
        with pytest.raises(DataError) as error:
            list(loader(stream({"source": "late.jsonl"}), num_workers=workers).epoch(0))
        assert str(error.value).startswith("late.jsonl, line 121, column 15: not valid JSON")
        with pytest.raises(DataError, match="late.jsonl, line 121"):  # in the middle of a step
            list(loader(stream({"source": "late.jsonl"}), num_workers=workers, gradient_accumulation_steps=7).epoch(0))
    (folder / "role.jsonl").write_bytes(lines(ROWS) + lines([{"input": "a", "output": 7}]))
    with pytest.raises(DataError, match="role.jsonl, line 121: .*7"):
        list(loader(stream({"source": "role.jsonl"})).epoch(0))


def test_what_a_stream_cannot_do(folder):
    with pytest.raises(TypeError, match="no length"):
        len(stream())
    with pytest.raises(TypeError, match="iterate over it"):
        stream()[0]
    with pytest.raises(ConfigError, match=r"split 'train\[:50%\]': .* there is train"):
        stream(split="train[:50%]")
    with pytest.raises(ConfigError, match="num_workers is 2"):
        loader(stream(), num_workers=2)
    with pytest.raises(ConfigError, match="shuffle_buffer is 0"):
        stream(shuffle_buffer=0)
    with pytest.raises(ConfigError, match="shuffle_buffer is for streaming: True"):
        datasets.instruct_dataset(Letters(), shuffle_buffer=5, **SOURCES["lines"])
    with pytest.raises(DataError, match="fewer samples .* than a step: 200"):
        list(loader(stream(), batch_size=200).epoch(0))
    (folder / "list.json").write_text(json.dumps(ROWS))
    with pytest.raises(DataError, match="list.json is one JSON value"):
        stream({"source": "list.json"})
    with pytest.raises(DataError, match="no rows"):
        stream(filter_fn=lambda row: False)


def test_rows_are_filtered(folder):
    kept = stream(filter_fn=lambda row, end: row["output"].endswith(end), filter_kwargs={"fn_kwargs": {"end": "xx"}})
    assert len(list(kept)) == sum(len(row["output"]) > 1 for row in ROWS)
    whole = drawn(kept, SHUFFLED)
    assert drawn(kept, SHUFFLED, whole[50][1]) == whole[51:]
    with pytest.raises(ConfigError, match="with_indices"):
        stream(filter_fn=lambda row, index: True, filter_kwargs={"with_indices": True})


def test_fingerprints(folder):
    first = stream().fingerprint()
    assert stream().fingerprint() == first
    assert stream({"source": "part0.jsonl"}).fingerprint() != first
    assert stream(train_on_input=True).fingerprint() != first
    others = [stream(shuffle_buffer=17), stream(filter_fn=is_short), stream(filter_fn=lambda row: True)]
    assert len({first, *(other.fingerprint() for other in others)}) == 4
    packs = [PackedStream(stream(), max_seq_len=length).fingerprint() for length in (24, 24, 32)]
    assert packs[0] == packs[1] != packs[2]


class HasOutput:
    def __call__(self, row) -> bool:
        return bool(row["output"])


def shorter_than(most: int) -> partial:
    return partial(lambda row, most: len(row["output"]) < most, most=most)


@pytest.mark.parametrize("make", [HasOutput, lambda: shorter_than(9), lambda: partial(HasOutput())])
def test_a_filter_that_is_an_object_is_known_again_by_the_process_that_goes_on(make, folder):
    first, again = make(), make()  # at two places in memory, as in two processes
    assert stream(filter_fn=first).fingerprint() == stream(filter_fn=again).fingerprint()


def test_filters_with_other_arguments_are_others(folder):
    assert stream(filter_fn=shorter_than(9)).fingerprint() != stream(filter_fn=shorter_than(10)).fingerprint()


def test_memory_stays_flat(folder):
    with (folder / "big.jsonl").open("wb") as file:
        for _ in range(10):
            file.write(lines([{"input": "a" * 1000, "output": "b" * 1000}] * 500))  # 10 MB
    source = stream({"source": "big.jsonl"}, shuffle_buffer=100)
    tracemalloc.start()
    try:
        assert sum(1 for _ in source.samples(SHUFFLED)) == 5_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
