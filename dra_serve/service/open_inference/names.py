"""The words of our part of the protocol: one version, one input, two outputs, one type."""

import numpy as np

VERSION = "1"
INPUT, OUTPUTS = "x", ("logits", "probabilities")
DATATYPE = "FP32"
FLOAT = np.dtype("<f4")
"""FP32 as the binary extension sends it."""

HEADER = "Inference-Header-Content-Length"
"""How many bytes of a body are JSON; raw tensors follow."""

LONGEST_ID = 200
