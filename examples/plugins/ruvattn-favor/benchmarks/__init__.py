"""What asv times of ruvattn-favor."""
