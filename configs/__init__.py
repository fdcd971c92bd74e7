"""Named experiments, one in each file; `flaxmill configs` lists them."""
