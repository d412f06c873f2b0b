"""The simulated city: positions of its devices, their values, and the times of their reports. Pure: functions of a seed."""
