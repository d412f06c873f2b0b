"""Messages to judged readings: decode, resolve, convert, validate. Pure: time and state are arguments."""
