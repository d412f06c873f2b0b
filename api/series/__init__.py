"""Series queries: selection, plan, aggregates, filling of gaps, thinning."""
