"""From reference modules to a bundle: function bodies, graphs, the parity gate. Needs torch and onnx.

`bundle.export_bundle` and `bundle.verify_bundle` are what `i2f export` and `i2f verify` call.
"""
