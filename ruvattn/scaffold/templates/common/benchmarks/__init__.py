"""What asv times of plugin-name."""
