"""Log lines about refusals: source, number and reasons, at intervals."""

import logging
from collections import Counter

import numpy as np

from citybeat.ingest.worker import Remarks
from citybeat.ingest.writing.commit import BatchResult


def written(**refused):
    counts = {(source.replace("_", "-"), reason): n for source, reasons in refused.items() for reason, n in reasons.items()}
    return BatchResult(counts=Counter(), stored=None, same_since=np.empty(0, np.int64), refused=Counter(counts))


def test_each_source_is_named_with_counts_and_reasons_and_not_at_every_batch(caplog):
    remarks = Remarks()
    with caplog.at_level(logging.WARNING):
        remarks.say(0.0)
        assert caplog.records == []
        batch = written(gw_1={"too_old": 2, "unknown_device": 5}, gw_2={"malformed": 1})
        assert batch.reasons == {"too_old": 2, "unknown_device": 5, "malformed": 1}
        remarks.note(batch)
        remarks.say(0.0)
        told = [(record.source, record.count, record.reasons) for record in caplog.records]
        assert told == [("gw-1", 7, "unknown_device 5, too_old 2"), ("gw-2", 1, "malformed 1")]
        remarks.note(written(gw_1={"too_old": 1}))
        remarks.say(9.9)
        assert len(caplog.records) == 2
        remarks.note(written(gw_1={"too_old": 1}))
        remarks.say(10.0)
        assert [(record.source, record.count) for record in caplog.records[2:]] == [("gw-1", 2)]


def test_many_sources_are_summed_up(caplog):
    remarks = Remarks()
    with caplog.at_level(logging.WARNING):
        remarks.note(written(**{f"gw_{i}": {"too_old": i} for i in range(1, 26)}))
        remarks.say(0.0)
    assert len(caplog.records) == 21
    assert caplog.records[0].source == "gw-25"
    assert (caplog.records[-1].sources, caplog.records[-1].count, caplog.records[-1].reasons) == (5, 15, "too_old 15")
