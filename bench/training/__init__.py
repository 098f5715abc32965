"""The trainer that made the shipped draft."""
