"""Measurements of speed beside the alternatives: `fledge bench NAME`."""
