"""What is minimised: a robust objective, and the DRA term on top."""
