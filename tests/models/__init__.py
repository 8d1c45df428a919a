"""Tests of yearling.models."""
