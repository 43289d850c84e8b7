"""A PyTorch stage as an ONNX graph: traced once where layers repeat, and the same bytes every time."""
