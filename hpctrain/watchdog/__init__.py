"""Brings back jobs whose coordinator is gone, and decides, with the coordinator, how often a job may start again."""
