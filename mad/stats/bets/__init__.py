"""Bets of the auditing test, one file each: functions of a score, fitted on past pairs only."""
