"""Tests of the discrete wing."""
