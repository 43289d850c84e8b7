"""Graph rewrites, one per file. Each takes an onnx.ModelProto and changes it in place or returns a new one."""
