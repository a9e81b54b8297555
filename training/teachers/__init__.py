"""Frozen diffusion models as teachers of representations."""
