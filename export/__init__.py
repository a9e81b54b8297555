"""From a model folder's weights to the two ONNX files that are served."""
