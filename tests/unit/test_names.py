"""Names of readings as texts against names as lists."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from citybeat.devices.wire import names
from citybeat.devices.wire.columns import NotPlainError
from citybeat.devices.wire.names import Names, flat, from_text, is_lines, named

words = st.text(st.characters(exclude_characters="\n"), max_size=3)


@given(st.lists(st.lists(st.tuples(words, words), max_size=6), max_size=5), st.sampled_from([1, 2, 16]))
def test_texts_say_what_lists_say(messages, many):
    counts = [len(message) for message in messages]
    device = [row[0] for message in messages for row in message]
    metric = [row[1] for message in messages for row in message]
    lines = "".join(f"{one}\n{other}\n" for one, other in zip(device, metric, strict=True))
    ends = np.cumsum([len(one) + len(other) + 2 for one, other in zip(device, metric, strict=True)], dtype=np.int64) - 1
    original = names._MANY
    names._MANY = many
    try:
        found = [named(device, metric, counts)]
        if counts and all(counts):  # a pack has records
            found.append(from_text(lines, ends, counts))
    finally:
        names._MANY = original
    for pieces in found:
        assert flat(pieces) == (device, metric)
        assert sum(piece.count for piece in pieces) == len(device)
        for piece in pieces:
            assert [len(column) for column in piece.lists()] == [piece.count] * 2
        if any(piece.text for piece in pieces):
            assert [piece.count for piece in pieces] == counts


def test_messages_of_many_readings_have_texts_and_others_have_lists():
    device, metric = ["d"] * 40, ["m"] * 40
    assert [piece.text for piece in named(device, metric, [20, 20])] == ["\n".join("dm" * 20)] * 2
    assert named(device, metric, [10] * 4) == [Names.of(device, metric)]


def test_a_name_with_a_line_end_is_no_line():
    assert is_lines(["a", "", "è"])
    assert not is_lines(["a", "b\nc"])
    with pytest.raises(NotPlainError):
        is_lines(["a", 7])
