-- Descriptions of tables and of columns whose names do not say enough; `\d+` in psql and storage/schema.sql show them.

-- Registry -----------------------------------------------------------------------------------------------------------------------

COMMENT ON TABLE metrics IS
    'The catalogue, as `citybeat migrate` last wrote it. Edit devices/catalogue.toml or the city''s own file, not this table.';
COMMENT ON COLUMN metrics.unit IS 'UCUM.';
COMMENT ON COLUMN metrics.definition IS 'Every field of the catalogue''s row.';

COMMENT ON TABLE sources IS
    'MQTT identities: gateways, and devices that speak MQTT themselves. Messages whose topic names no source are counted under '
    '''?''.';
COMMENT ON COLUMN sources.conflict_policy IS
    'When another value arrives for a series and time that is stored: keep the first one, or replace it by the last one.';

COMMENT ON TABLE devices IS 'Registered devices, each with the source that reports for it.';
COMMENT ON COLUMN devices.latitude IS 'Degrees, WGS 84.';
COMMENT ON COLUMN devices.longitude IS 'Degrees, WGS 84.';
COMMENT ON COLUMN devices.retired_at IS 'Out of service since then; NULL: in service.';

COMMENT ON TABLE series IS 'Sensors: one metric of one device. Thresholds are NULL where the catalogue''s hold.';
COMMENT ON COLUMN series.id IS 'Without gaps, so that arrays indexed by id are no longer than there are series.';
COMMENT ON COLUMN series.low IS 'A reading below is flagged RANGE.';
COMMENT ON COLUMN series.high IS 'A reading above is flagged RANGE.';
COMMENT ON COLUMN series.suspect_low IS 'A reading below is flagged SUSPECT.';
COMMENT ON COLUMN series.suspect_high IS 'A reading above is flagged SUSPECT.';
COMMENT ON COLUMN series.rating IS 'Value that the device is built for; the catalogue''s bounds can be multiples of it.';
COMMENT ON COLUMN series.interval_s IS 'Seconds between two readings, as expected.';
COMMENT ON COLUMN series.sentinels IS 'Codes for "missing" as they are sent, beside the default ones.';
COMMENT ON COLUMN series.unit IS 'Unit that the sensor sends; NULL: the metric''s own.';
COMMENT ON COLUMN series.step_floor IS 'A change by more than step_floor + step_per_minute * minutes is flagged STEP.';
COMMENT ON COLUMN series.stuck_after_s IS 'Seconds after which an unchanged value is flagged STUCK.';
COMMENT ON COLUMN series.retired_at IS 'Out of service since then, whatever its device is; NULL: in service if the device is.';

COMMENT ON TABLE calibrations IS
    'From valid_from until the next one a reading is stored as value * scale + offset, in the metric''s unit. Rows are added, '
    'never changed or deleted; of two with the same valid_from the later id holds. A calibration does not change readings that are '
    'stored.';
COMMENT ON TABLE declarations IS
    'Periods that operators declared good or bad, whatever the flags of single readings say; new readings within them are flagged '
    'too. Rows are added, never changed: of two that overlap the later one holds.';
COMMENT ON COLUMN declarations.verdict IS 'clear: as if nothing were declared.';

COMMENT ON TABLE registry_version IS
    'One row. Every change of the registry raises the version in its own transaction, so that a reader who sees the number sees '
    'the change.';

COMMENT ON TABLE audit IS
    'Changes of the registry, written by triggers. Rows are added, never changed or deleted: a device''s ETag counts them.';
COMMENT ON COLUMN audit.actor IS
    'The setting citybeat.actor of the transaction (a key, or a user of a command); without it the user of the database.';
COMMENT ON COLUMN audit.before IS 'The row before the change, without its NULLs; NULL: the row is new.';
COMMENT ON COLUMN audit.after IS 'The row after the change, without its NULLs; NULL: the row was deleted.';

COMMENT ON TABLE api_keys IS 'Keys of the HTTP API. Rows are revoked, never deleted.';
COMMENT ON COLUMN api_keys.sha256 IS
    'Hash of the secret, which has 256 random bits and is shown once; a slow hash would add nothing to that.';
COMMENT ON COLUMN api_keys.domains IS 'The key sees devices of these; NULL: of all.';
COMMENT ON COLUMN api_keys.districts IS 'The key sees devices of these; NULL: of all.';
COMMENT ON COLUMN api_keys.tags IS
    '[[name, value], …]: the key sees devices that have all of these tags; a null stands for any value.';

-- Readings -----------------------------------------------------------------------------------------------------------------------

COMMENT ON TABLE readings IS
    'Every reading. It has no foreign key: on a hypertable that deadlocks with concurrent COPY when a chunk is created '
    '(timescaledb#4800, #7429).';
COMMENT ON COLUMN readings.value IS 'In the metric''s unit, calibrated.';
COMMENT ON COLUMN readings.flags IS 'Bit mask, devices/flags.py; 0: good.';

COMMENT ON TABLE readings_1m IS 'One-minute rollups, written by the transaction that stores the readings.';
COMMENT ON COLUMN readings_1m.first_at IS 'Time of the first good reading; infinity when there is none.';
COMMENT ON COLUMN readings_1m.last_at IS 'Time of the last good reading; -infinity when there is none.';
COMMENT ON COLUMN readings_1m.vmin IS 'Lowest good value; infinity when there is none.';
COMMENT ON COLUMN readings_1m.vmax IS 'Highest good value; -infinity when there is none.';
COMMENT ON COLUMN readings_1m.s1 IS 'A sum whose meaning depends on the kind of the metric: devices/batch.py, Partials.';
COMMENT ON COLUMN readings_1m.s2 IS 'A second such sum.';
COMMENT ON COLUMN readings_1m.n IS 'Good readings.';
COMMENT ON COLUMN readings_1m.n_bad IS 'Readings that a flag keeps out.';

COMMENT ON TABLE readings_15m IS
    'Quarter-hour rollups, with the columns of readings_1m. Those that are marked in marks_15m are out of date: the view '
    'quarter_hours has all of them as they should be.';
COMMENT ON TABLE marks_15m IS
    'Quarter-hours that have to be recomputed. The transaction that changes readings_1m adds a row for all series of a '
    'quarter-hour, since one for each series would be 2,000 times as many; ingest''s housekeeping deletes it.';
COMMENT ON COLUMN marks_15m.series IS 'Ids of series.';
COMMENT ON COLUMN marks_15m.at IS
    'Time of the mark: a quarter-hour that is still being filled is recomputed later, once for many batches.';

COMMENT ON TABLE latest IS
    'The newest reading of each series. Every batch writes it: half of each page is left empty, so that an update stays on its '
    'page and touches no index.';
COMMENT ON COLUMN latest.good_at IS 'Time of the last good reading; -infinity: none yet.';
COMMENT ON COLUMN latest.same_since IS 'Since when the series has shown its newest value; -infinity: not known.';

COMMENT ON TABLE sensor_states IS
    'State of each sensor in service, as ingest found it a few seconds ago. bad: a flag keeps the newest reading out of rollups; '
    'stuck: the flag STUCK does; overdue: as the view liveness has it; silent: the sensor has never reported.';
COMMENT ON COLUMN sensor_states.since IS
    'Time of the reading by which the state was noticed; of overdue the time when it became due, of silent that of its '
    'registration.';

-- Retention ----------------------------------------------------------------------------------------------------------------------

COMMENT ON TABLE horizons IS
    'How far back each level reaches. Rows before it are gone, or go with the rest of their chunk; no reading before raw''s is '
    'accepted, and no rollup before it is recomputed. A horizon never moves back.';
COMMENT ON TABLE dropped_chunks IS
    'Chunks that retention dropped, with their rows, so that the ledger can be compared with what is and was stored.';
COMMENT ON TABLE carried_counters IS
    'The last good reading of each counter that was dropped: the increase of the first one that is left is computed from it.';

-- Ledger -------------------------------------------------------------------------------------------------------------------------

COMMENT ON TABLE ledger IS
    'Counts of messages and of what became of their readings. received = stored + duplicate + conflict + missing + quarantined.';
COMMENT ON COLUMN ledger.minute IS 'Minute of receipt.';
COMMENT ON COLUMN ledger.messages IS 'Counts messages, as the next two columns do; all others count readings.';
COMMENT ON COLUMN ledger.overflow IS 'Part of quarantined that was not kept, since the source''s quota was full.';
COMMENT ON TABLE ledger_totals IS
    'Sums of ledger over all time, written by the statement that writes ledger. Every batch writes it, and pages are half-empty as '
    'those of latest.';
COMMENT ON COLUMN ledger_totals.batch IS
    'The last transaction that wrote readings of this source. A writer that holds the source''s lock and finds another one than it '
    'remembers loads again what it knows of the source''s series.';

COMMENT ON TABLE quarantine IS 'Messages with readings that were refused, with the reasons.';
COMMENT ON COLUMN quarantine.refused IS '[[index of the reading, or null for the message; reason; detail], …]';
COMMENT ON COLUMN quarantine.readings IS 'Refused readings that the ledger has as quarantined; conflicts are not among them.';

COMMENT ON TABLE source_state IS
    'Figures of a source that change with traffic. They are not in sources, where each change would be one of the registry.';
COMMENT ON COLUMN source_state.status IS 'online or offline, as the source last said itself; NULL: it has not.';

COMMENT ON TABLE seqs IS 'Message numbers that were received, by source and boot: they tell repeated messages, and missing ones.';
COMMENT ON COLUMN seqs.seen IS 'A hole is a message that never came, or that is still under way.';
COMMENT ON COLUMN seqs.settled IS
    'Holes below this number are messages that never came: a higher number came a grace time before the newest message. NULL: none '
    'is old enough yet.';
COMMENT ON COLUMN seqs.mark IS 'Becomes settled when the next mark is made.';

COMMENT ON TABLE batches IS 'Ids of committed batches, to find out whether a COMMIT with an unknown outcome took effect.';
COMMENT ON TABLE answers IS
    'Answers to readings that were posted under an id of the client, kept in the transaction that stored them. A request with the '
    'same id gets the same answer, and nothing is counted twice.';
COMMENT ON COLUMN answers.digest IS 'SHA-256 of what was posted.';

-- Streams ------------------------------------------------------------------------------------------------------------------------

COMMENT ON TABLE outbox IS
    'Transactional outbox behind /v1/stream. Rows are read in order of (xact, id). A transaction that writes one takes the shared '
    'advisory lock (16, 0) before it gets its number; outbox_frontier() says below which number nothing can come any more.';
COMMENT ON COLUMN outbox.xact IS 'Number of the transaction that wrote the row.';
COMMENT ON COLUMN outbox.kind IS '0: readings, 1: states of sensors.';
COMMENT ON COLUMN outbox.data IS
    'Columns, storage/batches/outbox.py; uncompressed, which would take longer than all else that a batch does here.';
COMMENT ON TABLE outbox_floor IS
    'One row: the highest row of outbox that was deleted. A stream that has not come so far has missed something.';

-- Schema -------------------------------------------------------------------------------------------------------------------------

COMMENT ON TABLE schema_migrations IS 'Migrations that were applied, with the SHA-256 of their files.';
COMMENT ON TABLE schema_repeatables IS 'Repeatable files, with the SHA-256 of the text that was applied last.';
