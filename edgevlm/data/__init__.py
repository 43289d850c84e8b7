"""What recordings and live topics are held against before a model takes their data."""
