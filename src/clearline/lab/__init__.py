"""The laboratory: measurements and comparisons around the engine."""
