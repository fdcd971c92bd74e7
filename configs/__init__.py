"""Named experiments, one a file; `flaxmill configs` lists them."""
