"""Reads a truth file: Parquet, block by block, to arrays of codes (`labels.py` beside it). docs/scoring.md has the columns."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from citybeat.devices.batch import NEVER
from citybeat.simulator.errors import TruthError
from citybeat.simulator.faults.rows import FAULTS, OUTCOMES, REASONS
from citybeat.simulator.score.labels import LABELS, Labels, Names
from citybeat.simulator.score.matching import join

#: Key of the file's metadata.
KEY: Final = b"citybeat"
#: Rows of a block: 8 MB as labels.
BLOCK: Final = 131_072
_WORDS: Final = ("source", "boot", "device", "metric", "fault", "delivery", "outcome", "reason")
_TIMES: Final = ("time", "claimed", "sent_at")
_NUMBERS: Final = ("seq", "index", "event")
_COLUMNS: Final = (*_WORDS, *_TIMES, *_NUMBERS, "value", "acknowledged")


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """Description of the run in a truth file."""

    seed: int
    scenario: str
    last_seq: Mapping[tuple[str, str], int]  # the highest number sent, by (source, boot)


class TruthFile:
    """A truth file that is open.

    Raises
    ------
    TruthError
        This and below: the file cannot be read, or is no truth file; the message names what is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            absent = sorted(set(_COLUMNS) - set(pyarrow.parquet.read_schema(path).names))
            if absent:
                raise TruthError(f"{path}: no truth file: it has no column {absent[0]!r}")
            self._file = pyarrow.parquet.ParquetFile(path, read_dictionary=list(_WORDS))
        except (OSError, pa.ArrowException) as exc:
            raise TruthError(f"{path}: {exc}") from exc
        self.rows: int = self._file.metadata.num_rows
        self.about = _about(self._file.metadata.metadata or {}, path)
        self._words: dict[str, dict[str, int]] = {name: {} for name in ("source", "boot", "device", "metric")}
        self._pairs: dict[str, _Pairs] = {name: _Pairs() for name in ("start", "series")}

    @property
    def names(self) -> Names:
        """Names of the codes in the blocks that were read so far."""
        devices, metrics = list(self._words["device"]), list(self._words["metric"])
        series = [(devices[device], metrics[metric]) for device, metric in self._pairs["series"].all()]
        return Names(series=series, boots=self.boots, sources=list(self._words["source"]))

    @property
    def boots(self) -> list[tuple[str, str]]:
        """Source and boot of the codes of starts."""
        sources, boots = list(self._words["source"]), list(self._words["boot"])
        return [(sources[source], boots[boot]) for source, boot in self._pairs["start"].all()]

    def blocks(self) -> Iterator[Labels]:
        """Yield all rows, in the file's order."""
        try:
            for batch in self._file.iter_batches(BLOCK, columns=list(_COLUMNS)):
                yield self._block(batch)
        except (OSError, pa.ArrowException) as exc:
            raise TruthError(f"{self._path}: {exc}") from exc

    def _block(self, batch: Any) -> Labels:
        rows = np.empty(batch.num_rows, LABELS)
        columns = {name: batch.column(name) for name in _COLUMNS}
        for name in _TIMES:
            rows[name] = _integers(columns[name].cast(pa.timestamp("us", "UTC")).cast(pa.int64()), int(NEVER))
        for name in _NUMBERS:
            rows[name] = _integers(columns[name], -1)
        rows["value"] = columns["value"].cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        rows["acknowledged"] = columns["acknowledged"].fill_null(False).to_numpy(zero_copy_only=False)
        for name, words in (("fault", FAULTS), ("delivery", FAULTS), ("outcome", OUTCOMES), ("reason", REASONS)):
            rows[name] = self._coded(columns[name], name, {word: code for code, word in enumerate(words)})
        source, boot, device, metric = (self._placed(columns[name], name) for name in ("source", "boot", "device", "metric"))
        rows["source"] = source
        rows["boot"] = self._pairs["start"].places(source, boot)
        rows["series"] = self._pairs["series"].places(device, metric)
        return rows

    def _coded(self, column: Any, name: str, codes: Mapping[str, int]) -> NDArray[np.int64]:
        words, which = _words(column)
        unknown = [word for word in words if word not in codes]
        if unknown:
            raise TruthError(f"{self._path}: column {name!r}: {unknown[0]!r} is none of {', '.join(filter(None, codes))}")
        return np.array([codes[word] for word in words], np.int64)[which]

    def _placed(self, column: Any, name: str) -> NDArray[np.int64]:
        """Return each row's place in the list of words of this name, which grows."""
        words, which = _words(column)
        known = self._words[name]
        return np.array([known.setdefault(word, len(known)) for word in words], np.int64)[which]


class _Pairs:
    """Numbers pairs of places as they come: a day of a city has thousands of pairs, in millions of rows."""

    def __init__(self) -> None:
        self._keys = np.empty(0, np.int64)  # ascending
        self._place = np.empty(0, np.int64)

    def places(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each pair; new pairs get the next."""
        wanted = left << np.int64(32) | right
        place = join(self._keys, wanted)
        new = np.unique(wanted[place < 0])
        if len(new):
            keys = np.append(self._keys, new)
            order = np.argsort(keys)
            self._place = np.append(self._place, len(self._keys) + np.arange(len(new)))[order]
            self._keys = keys[order]
            place = join(self._keys, wanted)
        return self._place[place]

    def all(self) -> list[tuple[int, int]]:
        """Return the pairs in the order of their numbers."""
        keys = self._keys[np.argsort(self._place)].tolist()
        return [(key >> 32, key & 0xFFFFFFFF) for key in keys]


def _integers(column: Any, null: int) -> NDArray[np.int64]:
    filled: NDArray[np.int64] = column.cast(pa.int64()).fill_null(null).to_numpy(zero_copy_only=False)
    return filled


def _words(column: Any) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct words of a column of text, and the place of each row's word; null is the empty word."""
    if not isinstance(column, pa.DictionaryArray):
        column = column.dictionary_encode()
    which = _integers(pc.fill_null(column.indices, -1), -1)
    words = ["", *(word or "" for word in column.dictionary.to_pylist())]
    present, places = np.unique(which + 1, return_inverse=True)
    return [words[place] for place in present.tolist()], places.astype(np.int64)


def _about(metadata: Mapping[bytes, bytes], path: Path) -> About:
    try:
        said = json.loads(metadata[KEY])
        if said["version"] != 1:
            raise TruthError(f"{path}: a truth file of version {said['version']}; this program reads version 1")
        return About(
            seed=int(said["seed"]),
            scenario=str(said["scenario"]),
            last_seq=_last_seqs(said["sources"]),
        )
    except KeyError as exc:
        raise TruthError(f"{path}: no truth file: its metadata lack {exc.args[0]!r}") from exc
    except (ValueError, TypeError, AttributeError) as exc:
        raise TruthError(f"{path}: its metadata cannot be read: {exc}") from exc


def _last_seqs(sources: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    return {
        (source, boot): -1 if last is None else int(last)
        for source, said in sources.items()
        for boot, last in zip(said["boots"], said["last_seq"], strict=True)
    }
