"""What builders of datasets hand on: arguments of `datasets.load_dataset` and of the readers of that package.

Builders write ``**load_dataset_kwargs: Unpack[LoadArguments]``, so that a misspelt argument in a config is found before
anything is read. Types stand here only where they are certain.
"""

from typing import Any, TypedDict


class LoadArguments(TypedDict, total=False):
    """What every dataset of rows takes beside the arguments of its own."""

    # Read here
    data_files: str | list[str] | dict[str, str | list[str]] | None
    split: Any
    streaming: bool
    shuffle_buffer: int | None
    filter_kwargs: dict[str, Any] | None

    # `datasets.load_dataset`: which data
    name: str | None
    data_dir: str | None
    revision: str | None
    token: bool | str | None
    storage_options: dict[str, Any] | None
    features: Any
    version: Any
    description: str | None

    # The same: how it is loaded
    cache_dir: str | None
    download_config: Any
    download_mode: str | None
    verification_mode: str | None
    keep_in_memory: bool | None
    num_proc: int | None
    save_infos: bool | None
    trust_remote_code: bool | None  # old configs have it; no code of a dataset is run

    # Readers of more than one kind of file
    encoding: str | None
    encoding_errors: str | None
    chunksize: int | None
    batch_size: int | None
    columns: Any
    filters: Any
    index_col: Any
    column_names: Any
    delimiter: str | None

    # JSON
    field: str | None
    use_threads: bool | None
    block_size: int | None
    newlines_in_values: bool | None
    on_mixed_types: Any
    parse_agent_traces: Any

    # Text
    sample_by: str | None
    keep_linebreaks: bool | None

    # Parquet
    fragment_scan_options: Any
    on_bad_files: Any

    # CSV, as in pandas.read_csv
    sep: str | None
    header: Any
    names: Any
    usecols: Any
    prefix: Any
    mangle_dupe_cols: Any
    engine: Any
    converters: Any
    true_values: Any
    false_values: Any
    skipinitialspace: Any
    skiprows: Any
    nrows: Any
    na_values: Any
    keep_default_na: Any
    na_filter: Any
    verbose: Any
    skip_blank_lines: Any
    thousands: Any
    decimal: Any
    lineterminator: Any
    quotechar: Any
    quoting: Any
    escapechar: Any
    comment: Any
    dialect: Any
    error_bad_lines: Any
    warn_bad_lines: Any
    skipfooter: Any
    doublequote: Any
    memory_map: Any
    float_precision: Any
    on_bad_lines: Any
    date_format: Any

    # SQL
    sql: Any
    con: Any
    coerce_float: Any
    params: Any
    parse_dates: Any

    # CoNLL
    skip_docstart: Any
    comment_prefix: Any


class DialogueArguments(LoadArguments, total=False):
    """What a named set of dialogues hands on to ``chat_dataset`` or ``instruct_dataset``."""

    masking_strategy: Any


class TextArguments(LoadArguments, total=False):
    """What a named set of texts hands on to ``text_completion_dataset``."""

    column: str
    add_eos: bool
