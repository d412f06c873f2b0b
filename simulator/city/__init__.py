"""The city: where its devices stand, what they show at any time, and when they report. Pure: functions of a seed."""
