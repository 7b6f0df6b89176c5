"""`i2f web`: a static page that segments in the visitor's browser alone, with onnxruntime-web."""
