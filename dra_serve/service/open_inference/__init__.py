"""/v2, the Open Inference Protocol: its clients (Triton's, KServe's) ask our models as they stand.

One version a model, "1"; one input, x, FP32 (N, C, H, W) in [0, 1]; outputs logits and probabilities. With
the binary, configuration and statistics extensions. Errors are the protocol's, {"error": sentence}.

    names.py       the words of our part of the protocol
    reading.py     a request's body -> one input tensor
    writing.py     logits -> an answer's body
    statistics.py  what each model has been asked
    schemas.py     the shapes of the other answers
    bodies.py      what /openapi.json says of bodies and errors
    routes.py      the routes
"""
