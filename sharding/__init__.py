"""Where arrays live: the mesh, the logical-axis rules, placement of batches."""
