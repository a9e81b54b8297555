"""Training of robust classifiers with diffusion representation alignment; used from the checkout."""
