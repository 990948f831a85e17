"""`RUN/tokens.parquet`: the tokens that carry a pair's margin."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from redpencil.notebook.schema import TOKEN_SCHEMA, TOKENS

Pieces = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class TokenView:
    """Pieces of both responses, which concatenate to their texts, each with log pi - log pi_ref of
    its tokens in nats; their sum times beta is the implicit reward."""

    chosen: Pieces = ()
    rejected: Pieces = ()


def read_tokens(run_folder: Path) -> Mapping[tuple[str, int], TokenView]:
    """Token views by (split, pair); empty where the run has none, or its file is damaged."""
    path = run_folder / TOKENS
    try:
        table = parquet.ParquetFile(path).read().select(TOKEN_SCHEMA.names).cast(TOKEN_SCHEMA)
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return {}
    sides: dict[tuple[str, int], dict[str, Pieces]] = {}
    for row in table.to_pylist():
        pieces = tuple(zip(row["tokens"], row["logratio"], strict=True))
        sides.setdefault((row["split"], row["pair"]), {})[row["side"]] = pieces
    return {
        key: TokenView(each.get("chosen", ()), each.get("rejected", ()))
        for key, each in sides.items()
    }
