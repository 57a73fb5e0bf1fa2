"""What asv times of ruvattn-alibi."""
