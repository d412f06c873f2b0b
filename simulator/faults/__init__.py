"""What goes wrong in a city, on purpose and with labels: values, clocks, messages; and the truth of every reading."""
