"""What asv times of ruvattn-documents."""
