"""Tests of the bridge wing."""
