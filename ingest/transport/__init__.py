"""Messages from the broker to the workers: MQTT, partitions, the spool, worker processes and their metrics."""
