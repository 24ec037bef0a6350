"""What an ONNX file says of itself: operators, types, multiply-adds, bytes moved."""
