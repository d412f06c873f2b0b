"""Minutes and quarter-hours, and the chunks that they and readings are stored in."""
