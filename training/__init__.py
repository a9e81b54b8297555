"""Training of robust classifiers with diffusion representation alignment. Needs torch; used from the checkout."""
