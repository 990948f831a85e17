"""Objectives: pure functions from scores to losses."""
