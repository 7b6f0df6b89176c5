"""What is built on the library: the command line, benchmarks, evaluation."""
