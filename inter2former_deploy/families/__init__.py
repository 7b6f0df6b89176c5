"""Model families beside Inter2Former, a folder each."""
