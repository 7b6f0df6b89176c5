"""From reference modules to a bundle: function bodies, graphs, manifest and the parity gate. Needs torch and onnx."""
